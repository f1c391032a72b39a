//! Summaries of messages: what lists and most searches need, so that they need no look at content.
//!
//! All of it is derived from the octets of the messages, and made anew where it is missing. It is
//! made when a message comes in, while its octets are at hand, and written down by a thread a
//! little later, once the message is durable. The newest and the last ones asked for are in memory.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::codec::{BodyId, MailboxId, Message};
use super::content::{Content, ContentError};
use super::store::Store;
use super::summary_blocks::{Batch, Block, Index};
use super::summary_files::{Files, Rewriting};
use crate::limits::{
    SUMMARIES_BYTES_MAX, SUMMARIES_WAITING_BYTES_MAX, SUMMARY_BLOCKS_MAX, SUMMARY_BYTES_MAX,
};
use crate::proto::imap::set::NumberSet;
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
    /// Files of one mailbox are being written anew.
    is_rewriting: Cell<bool>,
}

/// Summaries that are not on disk yet.
#[derive(Default)]
struct Waiting {
    bytes: usize,
    by_mailbox: HashMap<MailboxId, Batch>,
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

impl Summaries {
    /// Keeps the summary of a message of the mailbox, which has so many octets.
    pub fn put(&self, mailbox: MailboxId, message: &Message, octets: Vec<u8>, message_bytes: u32) {
        let block: Rc<[u8]> = octets.into();
        let range = 0..block.len();
        if let Some(summary) = KeptSummary::new(block, range, message_bytes) {
            self.write_down(mailbox, message.uid, message.body, &summary);
            self.memory.borrow_mut().put(message.body, summary);
        }
    }

    /// A message of the mailbox has a body that one of another has.
    pub fn on_copied(&self, mailbox: MailboxId, message: &Message) {
        let known = self.memory.borrow_mut().get(message.body);
        if let Some(summary) = known {
            self.write_down(mailbox, message.uid, message.body, &summary);
        }
    }

    pub fn on_deleted(&self, mailbox: MailboxId) {
        let Some(disk) = self.disk.get() else { return };
        disk.indices.borrow_mut().remove(&mailbox);
        let mut waiting = disk.waiting.borrow_mut();
        if let Some(batch) = waiting.by_mailbox.remove(&mailbox) {
            waiting.bytes -= batch.bytes();
        }
        let (pool, files) = (disk.pool.clone(), disk.files.clone());
        task::spawn(async move {
            // What is not removed now is swept away at the next start.
            let _ = pool.run(move || files.remove(mailbox)).await;
        });
    }

    fn write_down(&self, mailbox: MailboxId, uid: u32, body: BodyId, summary: &KeptSummary) {
        let Some(disk) = self.disk.get() else { return };
        let octets = summary.octets();
        let mut waiting = disk.waiting.borrow_mut();
        // What finds no room is made anew when it is asked for.
        if octets.len() > SUMMARY_BYTES_MAX || waiting.bytes >= SUMMARIES_WAITING_BYTES_MAX {
            return;
        }
        let batch = waiting.by_mailbox.entry(mailbox).or_default();
        let before = batch.bytes();
        batch.add(uid, body, octets);
        let added = batch.bytes() - before;
        waiting.bytes += added;
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
            is_rewriting: Cell::new(false),
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
        let write = move || -> Vec<(MailboxId, Vec<Block>)> {
            let waiting = waiting.by_mailbox.into_iter();
            let written = waiting.map(|(mailbox, batch)| {
                // What cannot be written is made anew when it is asked for.
                (mailbox, files.append(mailbox, batch).unwrap_or_default())
            });
            written.collect()
        };
        let Ok(written) = disk.pool.run(write).await else { return };
        let mut indices = disk.indices.borrow_mut();
        for (mailbox, blocks) in written {
            if let Some(index) = indices.get_mut(&mailbox) {
                blocks.into_iter().for_each(|block| index.add(block));
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
            && let Some(summary) = self.summary_on_disk(disk, mailbox, (uid, body), ahead).await
        {
            return Ok(summary);
        }
        let content = self.content(mailbox, uid).await.ok_or(ContentError::Lost)?;
        let octets = summarize(&content).await?;
        let block: Rc<[u8]> = octets.into();
        let range = 0..block.len();
        let summary = KeptSummary::new(block, range, content.bytes());
        let summary = summary.ok_or(ContentError::Malformed)?;
        summaries.write_down(mailbox, uid, body, &summary);
        summaries.memory.borrow_mut().put(body, summary.clone());
        Ok(summary)
    }

    async fn summary_on_disk(
        &self,
        disk: &Disk,
        mailbox: MailboxId,
        (uid, body): (u32, BodyId),
        ahead: usize,
    ) -> Option<KeptSummary> {
        let memory = &self.inner.summaries.memory;
        // Whoever comes while something is read finds it in memory afterwards, most likely.
        let _turn = loop {
            if let Some(summary) = memory.borrow_mut().get(body) {
                return Some(summary);
            }
            let lacks = |index: &Index| index.slice(uid, u64::MAX, 0).is_empty();
            if disk.indices.borrow().get(&mailbox).is_some_and(lacks) {
                return None;
            }
            match Turn::take(disk, mailbox) {
                Ok(turn) => break turn,
                Err(gate) => gate.freed.notified().await,
            }
        };
        if !disk.indices.borrow().contains_key(&mailbox) {
            self.load_index(disk, mailbox).await;
        }
        let mut before = u64::MAX;
        for _ in 0..SLICES_TRIED_MAX {
            let slice = disk.indices.borrow().get(&mailbox)?.slice(uid, before, ahead).to_vec();
            before = slice.first()?.offset;
            self.read_slice(disk, mailbox, &slice).await;
            if let Some(summary) = memory.borrow_mut().get(body) {
                return Some(summary);
            }
        }
        None
    }

    /// Brings blocks that stand one behind the other into memory.
    async fn read_slice(&self, disk: &Disk, mailbox: MailboxId, slice: &[Block]) {
        let (start, end) = (slice[0].offset, slice[slice.len() - 1].end());
        let files = disk.files.clone();
        let read = move || files.read(mailbox, start, (end - start) as usize);
        let octets: Rc<[u8]> = disk.pool.run(read).await.unwrap_or_default().into();
        for block in slice {
            let at = (block.offset - start) as usize;
            let of_block = octets.get(at..).unwrap_or_default();
            let of_block = &of_block[..of_block.len().min(block.bytes as usize)];
            let mut is_any = false;
            for record in disk.files.records(of_block) {
                is_any = true;
                let range = at + record.summary.start..at + record.summary.end;
                self.remember(record.body, octets.clone(), range);
            }
            if !is_any && let Some(index) = disk.indices.borrow_mut().get_mut(&mailbox) {
                index.forget(block);
            }
            task::yield_now().await;
        }
    }

    /// Keeps a summary in memory, if it is of a body that is there.
    fn remember(&self, body: BodyId, octets: Rc<[u8]>, range: Range<usize>) {
        let partition = self.inner.partition.borrow();
        let bodies = partition.bodies();
        let Some(handle) = bodies.find(body) else { return };
        if let Some(summary) = KeptSummary::new(octets, range, bodies.bytes(handle)) {
            self.inner.summaries.memory.borrow_mut().put(body, summary);
        }
    }

    /// Learns what stands on disk of a mailbox, and has it written anew where most of it is of
    /// messages that are gone.
    async fn load_index(&self, disk: &Disk, mailbox: MailboxId) {
        let files = disk.files.clone();
        let load = move || Index::new(files.blocks(mailbox));
        let Ok(index) = disk.pool.run(load).await else { return };
        let exists = self.inner.partition.borrow().mailbox(mailbox).map_or(0, |it| it.uids().len());
        if index.record_count() > 2 * exists as u64 + RECORDS_SPARED && !disk.is_rewriting.get() {
            disk.is_rewriting.set(true);
            task::spawn(self.clone().run_rewriting(mailbox));
        }
        let mut indices = disk.indices.borrow_mut();
        let known: usize = indices.values().map(Index::block_count).sum();
        if known + index.block_count() > SUMMARY_BLOCKS_MAX {
            // Read again where they are needed.
            indices.clear();
        }
        indices.insert(mailbox, index);
    }

    async fn run_rewriting(self, mailbox: MailboxId) {
        let disk = self.inner.summaries.disk.get().expect("something was read of it");
        if let Some(live) = self.live_uids(mailbox).await {
            // What cannot be written anew stays as it was.
            let _ = self.rewrite(disk, mailbox, live).await;
        }
        disk.is_rewriting.set(false);
    }

    async fn rewrite(&self, disk: &Disk, mailbox: MailboxId, live: NumberSet) -> io::Result<()> {
        let not_done = |_| io::Error::other("not done");
        let files = disk.files.clone();
        let begin = move || Rewriting::begin(files, mailbox, live);
        let mut rewriting = disk.pool.run(begin).await.map_err(not_done)??;
        let mut is_more = true;
        while is_more {
            let step = move || rewriting.step().map(|is_more| (rewriting, is_more));
            (rewriting, is_more) = disk.pool.run(step).await.map_err(not_done)??;
            // Others come first.
            timer::sleep(REWRITING_PAUSE).await;
            if self.inner.is_stopping() {
                return Ok(());
            }
        }
        let _turn = loop {
            match Turn::take(disk, mailbox) {
                Ok(turn) => break turn,
                Err(gate) => gate.freed.notified().await,
            }
        };
        let ended = disk.pool.run(move || rewriting.end()).await.map_err(not_done)?;
        disk.indices.borrow_mut().remove(&mailbox);
        ended
    }

    /// UIDs of all messages of a mailbox, if it is there.
    async fn live_uids(&self, mailbox: MailboxId) -> Option<NumberSet> {
        let mut live = NumberSet::default();
        let mut next = 0;
        loop {
            {
                let partition = self.inner.partition.borrow();
                let uids = partition.mailbox(mailbox)?.uids();
                let rest = &uids[uids.partition_point(|uid| *uid < next)..];
                let rest = &rest[..rest.len().min(UIDS_AT_ONCE)];
                let Some(last) = rest.last() else { return Some(live) };
                rest.iter().for_each(|uid| live.insert(*uid));
                next = last + 1;
            }
            task::yield_now().await;
        }
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
    /// Where it is another's turn, the gate to wait at.
    fn take(disk: &'d Disk, mailbox: MailboxId) -> Result<Self, Rc<Gate>> {
        let gate = disk.gates.borrow_mut().entry(mailbox).or_default().clone();
        if gate.is_taken.replace(true) { Err(gate) } else { Ok(Self { disk, mailbox, gate }) }
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
/// Blocks in which a message is looked for.
const SLICES_TRIED_MAX: usize = 4;
/// Records of messages that are gone and do no harm.
const RECORDS_SPARED: u64 = 1024;
/// Between steps of writing files anew.
const REWRITING_PAUSE: Duration = Duration::from_millis(10);
/// Messages that are looked at before others get a turn.
const UIDS_AT_ONCE: usize = 16 * 1024;
