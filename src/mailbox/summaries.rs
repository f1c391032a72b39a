//! Summaries of messages: what lists and most searches need, so that they need no look at content.
//!
//! All of it is derived from the octets of the messages, and made anew where it is missing. It is
//! made when a message comes in, while its octets are at hand, and written down by a thread a
//! little later, once the message is durable. The newest and the last ones asked for are in memory.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::codec::{BodyId, MailboxId};
use super::content::{Content, ContentError};
use super::index::Mailbox;
use super::partition::Partition;
use super::store::Store;
use super::summary_files::{Files, Slot};
use crate::limits::{
    SUMMARIES_BYTES_MAX, SUMMARIES_WAITING_BYTES_MAX, SUMMARY_BYTES_MAX, SUMMARY_SLOTS_MAX,
};
use crate::proto::imap::summary::{Summary, write_summary};
use crate::proto::mime::scan::Scanner;
use crate::proto::mime::structure::Structure;
use crate::runtime::blocking::Pool;
use crate::runtime::sync::Notify;
use crate::runtime::{task, timer};

/// A summary in memory.
#[derive(Clone)]
pub struct KeptSummary {
    /// Octets of several may stand together.
    block: Rc<[u8]>,
    range: Range<usize>,
}

impl KeptSummary {
    /// `None` unless it is a summary, of a message of so many octets.
    fn new(block: Rc<[u8]>, range: Range<usize>, message_bytes: u32) -> Option<Self> {
        let summary = Summary::read(block.get(range.clone())?)?;
        (summary.message_bytes == message_bytes).then_some(Self { block, range })
    }

    pub fn get(&self) -> Summary<'_> {
        Summary::read(self.octets()).expect("it was one when it was kept")
    }

    fn octets(&self) -> &[u8] {
        &self.block[self.range.clone()]
    }
}

/// The summaries of a partition.
#[derive(Default)]
pub(super) struct Summaries {
    memory: RefCell<Memory>,
    /// None where nothing is written down.
    disk: OnceCell<Disk>,
}

struct Disk {
    /// One thread: what it is given is done in order.
    pool: Pool,
    files: Arc<Files>,
    waiting: RefCell<Waiting>,
    /// Rung when the first summary waits.
    wanted: Notify,
    /// What stands on disk, as far as that is known.
    indices: RefCell<HashMap<MailboxId, Index>>,
    /// Mailboxes of which something is being read.
    gates: RefCell<HashMap<MailboxId, Rc<Gate>>>,
}

/// Summaries that are not on disk yet.
#[derive(Default)]
struct Waiting {
    bytes: usize,
    by_mailbox: HashMap<MailboxId, (Vec<u8>, Vec<Slot>)>,
}

/// What stands on disk of a mailbox.
#[derive(Default)]
struct Index {
    slots: Vec<Slot>,
    /// The last slot of each body.
    by_body: HashMap<BodyId, u32>,
}

/// Summaries by body. When the younger half is full, what is in the older one and was not asked for
/// again is forgotten.
#[derive(Default)]
struct Memory {
    young: HashMap<BodyId, KeptSummary>,
    young_bytes: usize,
    old: HashMap<BodyId, KeptSummary>,
}

impl Memory {
    fn get(&mut self, body: BodyId) -> Option<KeptSummary> {
        if let Some(summary) = self.young.get(&body) {
            return Some(summary.clone());
        }
        let summary = self.old.remove(&body)?;
        self.put(body, summary.clone());
        Some(summary)
    }

    fn put(&mut self, body: BodyId, summary: KeptSummary) {
        let bytes = summary.range.len() + ENTRY_BYTES;
        if self.young_bytes + bytes > SUMMARIES_BYTES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(body, summary);
    }
}

impl Index {
    fn new(slots: Vec<Slot>) -> Self {
        let mut index = Self::default();
        slots.into_iter().for_each(|slot| index.add(slot));
        index
    }

    fn add(&mut self, slot: Slot) {
        self.by_body.insert(slot.body, self.slots.len() as u32);
        self.slots.push(slot);
    }

    /// The slot of a body, and those that stand right behind it, as far as they are to be read.
    fn slice(&self, body: BodyId, bytes_max: usize) -> Option<Vec<Slot>> {
        let first = *self.by_body.get(&body)? as usize;
        let start = self.slots[first].offset;
        let mut end = start;
        let is_next = |slot: &&Slot| {
            let is_next = slot.offset == end && slot.bytes as usize <= SUMMARY_BYTES_MAX;
            end += u64::from(slot.bytes);
            is_next && (slot.offset == start || end - start <= bytes_max as u64)
        };
        let slice: Vec<Slot> = self.slots[first..].iter().take_while(is_next).copied().collect();
        (!slice.is_empty()).then_some(slice)
    }

    /// What is said of a body is wrong.
    fn forget(&mut self, body: BodyId) {
        self.by_body.remove(&body);
    }
}

impl Summaries {
    /// Keeps the summary of a body that a message of the mailbox has.
    pub fn put(&self, mailbox: MailboxId, body: BodyId, octets: Vec<u8>, message_bytes: u32) {
        let block: Rc<[u8]> = octets.into();
        let range = 0..block.len();
        if let Some(summary) = KeptSummary::new(block, range, message_bytes) {
            self.write_down(mailbox, body, &summary);
            self.memory.borrow_mut().put(body, summary);
        }
    }

    /// A message of another mailbox has the body too.
    pub fn on_copied(&self, mailbox: MailboxId, body: BodyId) {
        let known = self.memory.borrow_mut().get(body);
        if let Some(summary) = known {
            self.write_down(mailbox, body, &summary);
        }
    }

    pub fn on_deleted(&self, mailbox: MailboxId) {
        let Some(disk) = self.disk.get() else { return };
        disk.indices.borrow_mut().remove(&mailbox);
        let mut waiting = disk.waiting.borrow_mut();
        if let Some((octets, _)) = waiting.by_mailbox.remove(&mailbox) {
            waiting.bytes -= octets.len();
        }
        let (pool, files) = (disk.pool.clone(), disk.files.clone());
        task::spawn(async move {
            // What is not removed now is swept away at the next start.
            let _ = pool.run(move || files.remove(mailbox)).await;
        });
    }

    fn write_down(&self, mailbox: MailboxId, body: BodyId, summary: &KeptSummary) {
        let Some(disk) = self.disk.get() else { return };
        let octets = summary.octets();
        let mut waiting = disk.waiting.borrow_mut();
        // What finds no room is made anew when it is asked for.
        if octets.len() > SUMMARY_BYTES_MAX
            || waiting.bytes + octets.len() > SUMMARIES_WAITING_BYTES_MAX
        {
            return;
        }
        waiting.bytes += octets.len();
        let (data, slots) = waiting.by_mailbox.entry(mailbox).or_default();
        let checksum = disk.files.checksum(body, octets);
        let offset = data.len() as u64;
        slots.push(Slot { body, offset, bytes: octets.len() as u32, checksum });
        data.extend_from_slice(octets);
        disk.wanted.notify_one();
    }
}

impl Store {
    /// Writes summaries down in `directory` from now on, and uses those that are there. Without
    /// the thread that this takes, they are made whenever they are not in memory.
    pub fn keep_summaries(&self, directory: &Path) -> std::io::Result<()> {
        let disk = Disk {
            pool: Pool::start("summaries", 1, JOBS_WAITING_MAX)?,
            files: Arc::new(Files::new(directory, &self.inner.journal.store_id().0)),
            waiting: RefCell::default(),
            wanted: Notify::default(),
            indices: RefCell::default(),
            gates: RefCell::default(),
        };
        assert!(self.inner.summaries.disk.set(disk).is_ok(), "kept in one place");
        task::spawn(self.clone().run_summaries());
        Ok(())
    }

    async fn run_summaries(self) {
        let disk = self.inner.summaries.disk.get().expect("set before this runs");
        let mailboxes: HashSet<MailboxId> = self.inner.partition.borrow().mailbox_ids().collect();
        let files = disk.files.clone();
        // There may be nothing to sweep.
        let _ = disk.pool.run(move || files.sweep(&mailboxes)).await;
        while !self.inner.is_stopping() {
            disk.wanted.notified().await;
            for _ in 0..GATHER_PERIODS {
                timer::sleep(GATHER_PERIOD).await;
                if disk.waiting.borrow().bytes > SUMMARIES_WAITING_BYTES_MAX / 4 {
                    break;
                }
            }
            self.flush_summaries().await;
        }
    }

    /// Writes down what waits.
    pub(super) async fn flush_summaries(&self) {
        let Some(disk) = self.inner.summaries.disk.get() else { return };
        let waiting = std::mem::take(&mut *disk.waiting.borrow_mut());
        // A number that a crash takes back may be given to another body.
        self.inner.newest_durable().await;
        let files = disk.files.clone();
        let write = move || -> Vec<(MailboxId, Vec<Slot>)> {
            let waiting = waiting.by_mailbox.into_iter();
            let written = waiting.map(|(mailbox, (octets, slots))| {
                // What cannot be written is made anew when it is asked for.
                (mailbox, files.append(mailbox, &octets, slots).unwrap_or_default())
            });
            written.collect()
        };
        let Ok(written) = disk.pool.run(write).await else { return };
        let mut indices = disk.indices.borrow_mut();
        for (mailbox, slots) in written {
            if let Some(index) = indices.get_mut(&mailbox) {
                slots.into_iter().for_each(|slot| index.add(slot));
            }
        }
    }

    /// The summary of a message, which may have been expunged for a while. Of this mailbox,
    /// `ahead` messages are likely to be asked for next, this one included.
    pub async fn summary(
        &self,
        mailbox: MailboxId,
        uid: u32,
        body: BodyId,
        ahead: usize,
    ) -> Result<KeptSummary, ContentError> {
        let summaries = &self.inner.summaries;
        if let Some(summary) = summaries.memory.borrow_mut().get(body) {
            return Ok(summary);
        }
        if let Some(disk) = summaries.disk.get()
            && let Some(summary) = self.summary_on_disk(disk, mailbox, body, ahead).await
        {
            return Ok(summary);
        }
        let content = self.content(mailbox, uid).await.ok_or(ContentError::Lost)?;
        let octets = summarize(&content).await?;
        let block: Rc<[u8]> = octets.into();
        let range = 0..block.len();
        let summary = KeptSummary::new(block, range, content.bytes());
        let summary = summary.ok_or(ContentError::Malformed)?;
        summaries.write_down(mailbox, body, &summary);
        summaries.memory.borrow_mut().put(body, summary.clone());
        Ok(summary)
    }

    async fn summary_on_disk(
        &self,
        disk: &Disk,
        mailbox: MailboxId,
        body: BodyId,
        ahead: usize,
    ) -> Option<KeptSummary> {
        let memory = &self.inner.summaries.memory;
        let gate = disk.gates.borrow_mut().entry(mailbox).or_default().clone();
        // Whoever comes while something is read finds it in memory afterwards, most likely.
        let turn = loop {
            if let Some(summary) = memory.borrow_mut().get(body) {
                return Some(summary);
            }
            let lacks = |index: &Index| !index.by_body.contains_key(&body);
            if disk.indices.borrow().get(&mailbox).is_some_and(lacks) {
                return None;
            }
            match Turn::take(disk, mailbox, &gate) {
                Some(turn) => break turn,
                None => gate.freed.notified().await,
            }
        };
        if !disk.indices.borrow().contains_key(&mailbox) {
            self.load_index(disk, mailbox).await;
        }
        let bytes_max = ahead.saturating_mul(AHEAD_BYTES).clamp(SLICE_BYTES_MIN, SLICE_BYTES_MAX);
        let slice = disk.indices.borrow().get(&mailbox)?.slice(body, bytes_max)?;
        let (offset, files) = (slice[0].offset, disk.files.clone());
        let bytes = slice.iter().map(|slot| slot.bytes as usize).sum();
        let octets = disk.pool.run(move || files.read(mailbox, offset, bytes)).await;
        let block: Rc<[u8]> = octets.unwrap_or_default().into();
        let partition = self.inner.partition.borrow();
        let bodies = partition.bodies();
        let mut at = 0;
        for slot in &slice {
            let range = at..at + slot.bytes as usize;
            at = range.end;
            let octets = block.get(range.clone());
            let is_sound =
                octets.is_some_and(|it| disk.files.checksum(slot.body, it) == slot.checksum);
            let summary = bodies
                .find(slot.body)
                .filter(|_| is_sound)
                .and_then(|handle| KeptSummary::new(block.clone(), range, bodies.bytes(handle)));
            match summary {
                Some(summary) => memory.borrow_mut().put(slot.body, summary),
                None => {
                    if let Some(index) = disk.indices.borrow_mut().get_mut(&mailbox) {
                        index.forget(slot.body);
                    }
                }
            }
        }
        drop(turn);
        memory.borrow_mut().get(body)
    }

    /// Learns what stands on disk of a mailbox, and has it written anew where most of it is of
    /// messages that are gone.
    async fn load_index(&self, disk: &Disk, mailbox: MailboxId) {
        let files = disk.files.clone();
        let Ok(slots) = disk.pool.run(move || files.index(mailbox)).await else { return };
        let mut index = Index::new(slots);
        let exists = |mailbox: &Mailbox| mailbox.uids().len();
        let exists = self.inner.partition.borrow().mailbox(mailbox).map_or(0, exists);
        if index.slots.len() > 2 * exists + SLOTS_SPARED {
            let live = self.live_bodies(mailbox).await;
            let is_kept = |(at, slot): (usize, &Slot)| {
                let is_last = index.by_body.get(&slot.body) == Some(&(at as u32));
                (is_last && live.contains(&slot.body)).then_some(*slot)
            };
            let kept: Vec<Slot> = index.slots.iter().enumerate().filter_map(is_kept).collect();
            let files = disk.files.clone();
            let rewrite = move || match files.rewrite(mailbox, &kept) {
                Ok(()) => files.index(mailbox),
                Err(_) => {
                    files.remove(mailbox);
                    Vec::new()
                }
            };
            index = Index::new(disk.pool.run(rewrite).await.unwrap_or_default());
        }
        let mut indices = disk.indices.borrow_mut();
        let known: usize = indices.values().map(|index| index.slots.len()).sum();
        if known + index.slots.len() > SUMMARY_SLOTS_MAX {
            // Read again where they are needed.
            indices.clear();
        }
        indices.insert(mailbox, index);
    }

    async fn live_bodies(&self, mailbox: MailboxId) -> HashSet<BodyId> {
        let mut live = HashSet::new();
        let mut next = Some(0);
        while let Some(uid_from) = next {
            let read = |partition: &Partition, mailbox: &Mailbox| {
                let entries = mailbox.entries(uid_from..u32::MAX).take(ENTRIES_AT_ONCE);
                let mut last = None;
                for entry in entries {
                    live.insert(partition.bodies().id(entry.body));
                    last = Some(entry.uid + 1);
                }
                last
            };
            next = self.read_with_bodies(mailbox, read).await.flatten();
            task::yield_now().await;
        }
        live
    }
}

/// Who reads of a mailbox: one at a time.
#[derive(Default)]
struct Gate {
    is_taken: Cell<bool>,
    freed: Notify,
}

struct Turn<'d> {
    disk: &'d Disk,
    mailbox: MailboxId,
    gate: Rc<Gate>,
}

impl<'d> Turn<'d> {
    fn take(disk: &'d Disk, mailbox: MailboxId, gate: &Rc<Gate>) -> Option<Self> {
        let is_free = !gate.is_taken.replace(true);
        is_free.then(|| Self { disk, mailbox, gate: gate.clone() })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.gate.is_taken.set(false);
        self.gate.freed.notify_all();
        self.disk.gates.borrow_mut().remove(&self.mailbox);
    }
}

/// A summary in the making, while the octets of its message come in.
#[derive(Default)]
pub(super) struct Summarizing {
    scanner: Scanner,
    /// The beginning of the message, in which its first words are looked for.
    front: Vec<u8>,
}

impl Summarizing {
    /// Looks at the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.scanner.feed(piece);
        let room = FRONT_BYTES - self.front.len();
        self.front.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    pub fn finish(self) -> Summarized {
        Summarized { structure: self.scanner.finish(), front: self.front }
    }
}

/// What summaries of one message are made of, whatever stands in front of it.
pub(super) struct Summarized {
    structure: Structure,
    front: Vec<u8>,
}

impl Summarized {
    /// The summary behind trace fields of so many octets.
    pub fn octets(&self, trace_bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(2048);
        write_summary(self.structure.clone(), &self.front, trace_bytes as u32, &mut out);
        out
    }
}

/// The summary of content that is read for it.
async fn summarize(content: &Content) -> Result<Vec<u8>, ContentError> {
    let mut summarizing = Summarizing::default();
    let mut at = 0;
    while let Some(piece) = content.piece(at).await? {
        summarizing.feed(&piece);
        at += piece.len() as u32;
        task::yield_now().await;
    }
    Ok(summarizing.finish().octets(0))
}

const FRONT_BYTES: usize = 64 * 1024;
/// What is kept of a summary in memory beside its octets.
const ENTRY_BYTES: usize = 64;
/// Jobs that wait for the thread.
const JOBS_WAITING_MAX: usize = 256;
/// How long summaries are gathered before they are written down, unless they are many.
const GATHER_PERIOD: Duration = Duration::from_millis(100);
const GATHER_PERIODS: usize = 10;
/// Octets that are read for each message that is likely to be asked for, and in all.
const AHEAD_BYTES: usize = 4096;
const SLICE_BYTES_MIN: usize = 16 * 1024;
const SLICE_BYTES_MAX: usize = 256 * 1024;
/// Slots of messages that are gone and do no harm.
const SLOTS_SPARED: usize = 1024;
/// Messages that are looked at before others get a turn.
const ENTRIES_AT_ONCE: usize = 16 * 1024;
