//! The journal of a shard: the core, its log thread, and those who wait.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::core::{
    Append, AppendError, Appended, Core, Counters, Effect, Location, Ticket, WriteTag,
};
use super::format::{BLOCK_BYTES, Record, RecordRef, StoreId};
use super::open::Maker;
use super::space::Space;
use crate::event::notice;
use crate::runtime::aligned::AlignedBuffer;
use crate::runtime::inbox::Inbox;
use crate::runtime::log_ring::{Command, Completion, LogRing};
use crate::runtime::segment_file::Access;
use crate::runtime::sync::{self, Notify};
use crate::runtime::{clock, task, timer};

/// The journal of this shard. Clones are the same journal.
#[derive(Clone)]
pub struct Journal {
    inner: Rc<Inner>,
}

struct Inner {
    core: RefCell<Core>,
    ring: LogRing,
    /// Orders the log thread had no room for yet.
    overflow: RefCell<VecDeque<Command>>,
    maker: Maker,
    /// Who waits for which seq; only a handful of seqs are open at a time.
    waiters: RefCell<VecDeque<(u64, Vec<Waker>)>>,
    /// Rung when a frame came back or a slot was made.
    room: Notify,
    submit: Notify,
    patient: Notify,
    reads: RefCell<HashMap<u64, sync::Sender<ReadDone>>>,
    next_read: Cell<u64>,
    stopped: Cell<bool>,
}

/// What a read ended in.
type ReadDone = (AlignedBuffer, std::io::Result<()>);

/// Why a record cannot be given back.
#[derive(Debug)]
pub enum ReadError {
    Io(std::io::Error),
    /// What stands there is not what was written.
    Checksum(Location),
}

/// A record in memory.
pub struct RecordBuffer {
    memory: Memory,
    /// Of the payload.
    range: Range<usize>,
}

enum Memory {
    /// The record alone.
    Record(Vec<u8>),
    /// Blocks that it stands in, with others perhaps.
    Blocks(Rc<AlignedBuffer>),
}

impl RecordBuffer {
    pub fn payload(&self) -> &[u8] {
        match &self.memory {
            Memory::Record(octets) => &octets[self.range.clone()],
            Memory::Blocks(blocks) => &blocks[self.range.clone()],
        }
    }
}

impl Journal {
    /// Starts the tasks of an opened journal on the calling executor.
    pub(super) fn start(
        core: Core,
        ring: LogRing,
        completions: Inbox<Completion>,
        maker: Maker,
    ) -> Journal {
        let journal = Journal {
            inner: Rc::new(Inner {
                core: RefCell::new(core),
                ring,
                overflow: RefCell::default(),
                maker,
                waiters: RefCell::default(),
                room: Notify::default(),
                submit: Notify::default(),
                patient: Notify::default(),
                reads: RefCell::default(),
                next_read: Cell::new(0),
                stopped: Cell::new(false),
            }),
        };
        task::spawn_vital(journal.clone().run_completions(completions));
        task::spawn_vital(journal.clone().run_submit());
        task::spawn_vital(journal.clone().run_patient());
        task::spawn_vital(journal.clone().run_upkeep());
        journal
    }

    /// What no other store has.
    pub fn store_id(&self) -> StoreId {
        self.inner.core.borrow().store_id()
    }

    /// A message id never used before in this journal.
    pub fn next_message_id(&self) -> u64 {
        self.inner.core.borrow_mut().next_message_id()
    }

    /// Puts all of `records` into one frame and sees to it that the frame goes off. Never suspends.
    pub fn append(&self, records: &[Record<'_>], class: Append) -> Result<Appended, AppendError> {
        let inner = &self.inner;
        let appended = inner.core.borrow_mut().append(records, class, clock::unix_ms());
        inner.perform();
        if appended.is_ok() {
            match class {
                Append::Message => inner.submit.notify_one(),
                Append::Settle | Append::Checkpoint => inner.patient.notify_one(),
            }
        }
        appended
    }

    /// Like `append`, and waits where that says `Later`.
    pub async fn append_when_possible(
        &self,
        records: &[Record<'_>],
        class: Append,
    ) -> Result<Appended, AppendError> {
        loop {
            match self.append(records, class) {
                Err(AppendError::Later) => self.room().await,
                result => return result,
            }
        }
    }

    /// Copies `records` of live messages to the segment of survivors, in a frame of their own that
    /// goes off at once. Never suspends; with `Later`, await `room` and decide anew what is alive.
    pub fn append_moved(&self, records: &[Record<'_>]) -> Result<Appended, AppendError> {
        let appended = self.inner.core.borrow_mut().append_moved(records, clock::unix_ms());
        self.inner.perform();
        appended
    }

    /// Whether a checkpoint is worth its while.
    pub fn checkpoint_is_due(&self) -> bool {
        self.inner.core.borrow().checkpoint_is_due()
    }

    /// Log that the next start would have to read beside the newest checkpoint, in bytes.
    pub fn log_bytes_behind_checkpoint(&self) -> u64 {
        self.inner.core.borrow().log_bytes_behind_checkpoint()
    }

    /// Appends BEGIN of a checkpoint. Before the first ITEMS, the caller must know of every message
    /// whose frame is not after the one returned.
    pub fn begin_checkpoint(&self) -> Result<Ticket, AppendError> {
        self.checkpoint_step(|core, now_ms| core.begin_checkpoint(now_ms))
    }

    /// Appends one ITEMS: what holds at its place in the log, in words of the caller's.
    pub fn append_items(&self, payload: &[u8]) -> Result<Ticket, AppendError> {
        self.checkpoint_step(|core, now_ms| core.append_items(payload, now_ms))
    }

    /// Appends END. The checkpoint is complete when that is durable.
    pub fn end_checkpoint(&self) -> Result<Ticket, AppendError> {
        self.checkpoint_step(|core, now_ms| core.end_checkpoint(now_ms))
    }

    fn checkpoint_step(
        &self,
        step: impl FnOnce(&mut Core, u64) -> Result<Ticket, AppendError>,
    ) -> Result<Ticket, AppendError> {
        let ticket = step(&mut self.inner.core.borrow_mut(), clock::unix_ms());
        self.inner.perform();
        if ticket.is_ok() {
            self.inner.patient.notify_one();
        }
        ticket
    }

    /// The slot that compaction should empty next, if any.
    pub fn victim(&self) -> Option<u16> {
        self.inner.core.borrow().victim(clock::coarse_ms())
    }

    /// What is live in the slot could not be moved: it is no victim for `wait`.
    pub fn spare(&self, slot: u16, wait: Duration) {
        let until_ms = clock::coarse_ms() + wait.as_millis() as u64;
        self.inner.core.borrow_mut().spare(slot, until_ms);
    }

    /// Pinned things in a slot.
    pub fn live_count(&self, slot: u16) -> u32 {
        self.inner.core.borrow().live_count(slot)
    }

    /// Suspends until the frame of `ticket` and every earlier one are durable. A journal that
    /// cannot write ends the process, so this never fails.
    pub async fn durable(&self, ticket: Ticket) {
        poll_fn(|context| {
            if self.inner.core.borrow().durable_seq() >= ticket.0 {
                return Poll::Ready(());
            }
            let mut waiters = self.inner.waiters.borrow_mut();
            match waiters.iter_mut().find(|(seq, _)| *seq == ticket.0) {
                Some((_, wakers)) => wakers.push(context.waker().clone()),
                None => waiters.push_back((ticket.0, vec![context.waker().clone()])),
            }
            Poll::Pending
        })
        .await;
    }

    /// Suspends until a frame has come back or a segment is ready.
    pub async fn room(&self) {
        self.inner.submit.notify_one();
        self.inner.room.notified().await;
    }

    /// Reads a record back past the page cache and checks it. Suspends.
    pub async fn read(&self, location: Location) -> Result<RecordBuffer, ReadError> {
        self.written(location).await;
        let (buffer, start) = self.read_blocks(location, location, Access::Direct).await?;
        checked(Memory::Blocks(buffer), start, location)
    }

    /// Reads a record that is likely to be asked for again by way of the page cache, and checks it
    /// each time. Suspends unless it stands there.
    ///
    /// Writes pass that cache by. The kernel drops what a write makes old, but does not promise to
    /// (open(2), O_DIRECT): what is not as it was written counts only once it was read from disk.
    pub async fn read_cached(&self, location: Location) -> Result<RecordBuffer, ReadError> {
        self.written(location).await;
        let mut octets = vec![0; location.record_bytes as usize];
        let (slot, offset) = (location.slot, location.offset());
        let cached = match self.inner.ring.read_from_cache(slot, offset, &mut octets) {
            true => checked(Memory::Record(octets), offset, location),
            false => {
                let blocks = self.read_blocks(location, location, Access::Buffered).await;
                blocks.and_then(|(blocks, start)| checked(Memory::Blocks(blocks), start, location))
            }
        };
        match cached {
            Ok(record) => Ok(record),
            Err(_) => self.read(location).await,
        }
    }

    /// Reads two neighbours of one frame back in one read, and checks both. Suspends.
    pub async fn read_pair(
        &self,
        first: Location,
        second: Location,
    ) -> Result<(RecordBuffer, RecordBuffer), ReadError> {
        self.written(first).await;
        let (buffer, start) = self.read_blocks(first, second, Access::Direct).await?;
        let of = |location| checked(Memory::Blocks(buffer.clone()), start, location);
        Ok((of(first)?, of(second)?))
    }

    /// Waits for the frame of a record to be durable.
    async fn written(&self, location: Location) {
        let awaited = self.inner.core.borrow().awaited(location);
        if let Some(ticket) = awaited {
            self.durable(ticket).await;
        }
        assert!(self.inner.core.borrow().is_used(location), "only what is pinned is read");
    }

    /// The blocks from `first` to the end of `last`, and their offset in the segment. Their frame
    /// is durable.
    async fn read_blocks(
        &self,
        first: Location,
        last: Location,
        access: Access,
    ) -> Result<(Rc<AlignedBuffer>, u64), ReadError> {
        let start = first.offset() - first.offset() % BLOCK_BYTES as u64;
        let end = last.offset() + u64::from(last.record_bytes);
        let bytes = (end - start).next_multiple_of(BLOCK_BYTES as u64) as usize;
        let tag = self.inner.next_read.get();
        self.inner.next_read.set(tag + 1);
        let (sender, receiver) = sync::oneshot();
        self.inner.reads.borrow_mut().insert(tag, sender);
        let buffer = AlignedBuffer::new(bytes);
        let file_index = first.slot;
        self.inner.order(Command::Read { tag, file_index, access, offset: start, buffer, bytes });
        let (buffer, result) = receiver.await.expect("every read completes");
        result.map_err(ReadError::Io)?;
        Ok((Rc::new(buffer), start))
    }

    /// One more live thing of `bytes` at `location`: its segment stays.
    pub fn pin(&self, location: Location, bytes: u64) {
        self.inner.core.borrow_mut().pin(location, bytes);
    }

    /// Pins what recovery found; false when it is not there.
    pub fn pin_recovered(&self, location: Location, bytes: u64) -> bool {
        self.inner.core.borrow_mut().pin_recovered(location, bytes)
    }

    /// Whether `pin_recovered` would find it.
    pub fn is_there(&self, location: Location) -> bool {
        self.inner.core.borrow().may_hold(location)
    }

    /// One less; only once the record that freed it is durable, and nobody reads it.
    pub fn unpin(&self, location: Location, bytes: u64) {
        self.inner.core.borrow_mut().unpin(location, bytes);
    }

    /// Frees what nobody pinned after recovery, and lets the pool grow.
    pub fn begin(&self) {
        self.inner.core.borrow_mut().begin();
        self.inner.perform();
    }

    /// Octets of all segments, and of what in them is still needed.
    pub fn pool_bytes(&self) -> (u64, u64) {
        self.inner.core.borrow().pool_bytes()
    }

    pub fn space(&self) -> Space {
        self.inner.core.borrow().space()
    }

    pub fn counters(&self) -> Counters {
        self.inner.core.borrow().counters
    }

    /// Sends everything off, waits until it is durable, sees to it that the next start finds the
    /// newest checkpoint, and ends the log thread.
    pub async fn close(&self) {
        self.settled().await;
        self.inner.core.borrow_mut().name_checkpoints();
        self.settled().await;
        self.inner.stopped.set(true);
        self.inner.order(Command::Stop);
    }

    async fn settled(&self) {
        while !self.inner.core.borrow().is_settled() {
            self.inner.core.borrow_mut().submit();
            self.inner.perform();
            timer::sleep(CLOSE_POLL).await;
        }
    }

    async fn run_completions(self, mut completions: Inbox<Completion>) {
        while !self.inner.stopped.get() {
            match completions.recv().await {
                Completion::Written { tag, buffer } => {
                    let tag = from_order_tag(tag);
                    let moved = self.inner.core.borrow_mut().on_durable(tag, buffer);
                    if moved {
                        self.inner.wake_durable();
                    }
                }
                Completion::Read { tag, buffer, result } => {
                    let sender = self.inner.reads.borrow_mut().remove(&tag);
                    sender.expect("every read was asked for").send((buffer, result));
                }
            }
            self.inner.perform();
            self.inner.room.notify_all();
        }
    }

    /// Runs after the tasks that were ready when the first of them appended: their records share
    /// the frame.
    async fn run_submit(self) {
        while !self.inner.stopped.get() {
            self.inner.submit.notified().await;
            task::yield_once().await;
            self.inner.core.borrow_mut().submit();
            self.inner.perform();
        }
    }

    /// Sends off outcomes that no message came to take along.
    async fn run_patient(self) {
        while !self.inner.stopped.get() {
            self.inner.patient.notified().await;
            timer::sleep_exactly(PATIENCE).await;
            if self.inner.core.borrow().has_patient_records() {
                self.inner.core.borrow_mut().submit();
                self.inner.perform();
            }
        }
    }

    async fn run_upkeep(self) {
        while !self.inner.stopped.get() {
            timer::sleep(UPKEEP_PERIOD).await;
            self.inner.take_made_slots();
            self.inner.core.borrow_mut().upkeep(clock::unix_ms());
            self.inner.perform();
        }
    }
}

impl Inner {
    /// Carries out what the core wants.
    fn perform(&self) {
        let effects = self.core.borrow_mut().take_effects();
        for effect in effects {
            match effect {
                Effect::Write { tag, slot, offset, buffer, bytes } => self.order(Command::Write {
                    tag: to_order_tag(tag),
                    file_index: slot,
                    offset,
                    buffer,
                    bytes,
                }),
                Effect::MakeSlot => self.maker.ask(),
            }
        }
        self.flush_overflow();
    }

    fn order(&self, command: Command) {
        let mut overflow = self.overflow.borrow_mut();
        overflow.push_back(command);
        drop(overflow);
        self.flush_overflow();
    }

    fn flush_overflow(&self) {
        let mut overflow = self.overflow.borrow_mut();
        while let Some(command) = overflow.pop_front() {
            if let Err(command) = self.ring.send(command) {
                overflow.push_front(command);
                return;
            }
        }
    }

    fn wake_durable(&self) {
        let durable_seq = self.core.borrow().durable_seq();
        let mut waiters = self.waiters.borrow_mut();
        let mut index = 0;
        while index < waiters.len() {
            if waiters[index].0 <= durable_seq {
                let (_, wakers) = waiters.remove(index).expect("the index is in range");
                for waker in wakers {
                    waker.wake();
                }
            } else {
                index += 1;
            }
        }
    }

    fn take_made_slots(&self) {
        while let Some(made) = self.maker.poll_made() {
            match made {
                Ok(slot) => {
                    let command = Command::AddFile { file_index: slot.file_index, file: slot.file };
                    self.order(command);
                    self.core.borrow_mut().on_slot_made(slot.capacity);
                }
                Err(error) => {
                    if let Some(error) = error {
                        notice!("ringpost: the journal cannot grow: {error}");
                    }
                    self.core.borrow_mut().on_slot_refused();
                }
            }
            self.room.notify_all();
        }
        let space = self.core.borrow().space();
        if let Some(slots_max) = self.maker.slots_max_now(space) {
            self.core.borrow_mut().set_slots_max(slots_max);
        }
    }
}

/// The record at `location` in octets that were read from offset `start` of its segment.
fn checked(memory: Memory, start: u64, location: Location) -> Result<RecordBuffer, ReadError> {
    let octets = match &memory {
        Memory::Record(octets) => &octets[..],
        Memory::Blocks(blocks) => &blocks[..],
    };
    let at = (location.offset() - start) as usize;
    let end = at + location.record_bytes as usize;
    let record = octets.get(at..end);
    match record.and_then(|record| RecordRef::read(u64::from(location.epoch_low), record)) {
        Some((record, _)) => {
            let start = end - record.payload.len();
            Ok(RecordBuffer { memory, range: start..end })
        }
        None => Err(ReadError::Checksum(location)),
    }
}

/// Epochs and seqs both stay far below the top bit.
fn to_order_tag(tag: WriteTag) -> u64 {
    match tag {
        WriteTag::Frame { seq } => seq << 1,
        WriteTag::SegmentHeader { epoch } => epoch << 1 | 1,
    }
}

fn from_order_tag(tag: u64) -> WriteTag {
    if tag & 1 == 0 {
        WriteTag::Frame { seq: tag >> 1 }
    } else {
        WriteTag::SegmentHeader { epoch: tag >> 1 }
    }
}

/// How long an outcome waits for a message to share a frame with.
const PATIENCE: Duration = Duration::from_millis(2);
/// How often new segments are taken in and idleness is looked at.
const UPKEEP_PERIOD: Duration = Duration::from_millis(20);
const CLOSE_POLL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::open::{JournalConfig, Owner};
    use super::super::recovery::{Replay, Replayed};
    use super::*;
    use crate::runtime::executor;
    use crate::runtime::log_ring::Durability;
    use crate::runtime::segment_file::{self, SegmentFile};

    struct Nothing;

    impl Replay for Nothing {
        fn visit(&mut self, _: Replayed<'_>) {}
        fn restart(&mut self) {}
    }

    /// The kernel does not promise what is in the page cache; here it is of another file.
    #[test]
    fn what_the_cache_has_wrong_is_read_from_disk_and_what_is_wrong_there_is_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().to_owned();
        let body = move || async move {
            let config = JournalConfig {
                data_dir: data_dir.clone(),
                owner: Owner::Partition(0),
                segment_bytes: 4 << 20,
                bytes_max: 64 << 20,
                min_free_bytes: 0,
                durability: Durability::None,
                log_core: None,
            };
            let (journal, _) = Journal::open(&config, &mut Nothing).expect("a journal");
            journal.begin();
            let payload = vec![7; 10_000];
            let record = Record { kind: 0x60, flags: 0, id: 1, aux: 0, payload: &[&payload] };
            let appended = journal.append(&[record], Append::Message).expect("room");
            let place = appended.first;
            journal.pin(place, 0);
            for turn in 0..3 {
                let read = journal.read_cached(place).await.expect("as written");
                assert_eq!(read.payload(), payload, "{turn}");
            }

            let path = data_dir.join(format!("mail/p00/seg.{:06}", place.slot));
            let other = data_dir.join("other");
            let zeros = vec![0; 4 << 20];
            std::fs::write(&other, &zeros).expect("written");
            let cached = segment_file::open_cached(&other).expect("opened");
            let has_other = segment_file::read_from_cache(&cached, 0, &mut [0; 4096]);
            for cached in [&cached, &segment_file::open_cached("/dev/null".as_ref()).expect("one")]
            {
                let (file, _) = segment_file::open(&path).expect("opened");
                let file = SegmentFile { file, cached: Some(cached.clone()) };
                journal.inner.order(Command::AddFile { file_index: place.slot, file });
                let read = journal.read_cached(place).await.expect("as written");
                assert_eq!(read.payload(), payload, "the other file is cached: {has_other}");
            }

            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("there");
            file.write_all_at(b"x", place.offset() + 5_000).expect("written");
            for _ in 0..3 {
                let read = journal.read_cached(place).await;
                assert!(matches!(read, Err(ReadError::Checksum(at)) if at == place));
            }
            journal.unpin(place, 0);
            journal.close().await;
        };
        let thread = executor::spawn("log-test", None, body).expect("a thread");
        thread.join().expect("no panic").expect("no error");
    }
}
