//! The queue of one shard: index, journal, and the tasks that keep them in step.

use std::cell::{Cell, RefCell};
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::codec;
use super::codec::{Group, TaskRecord};
use super::index::{Counts, Index, Overdue, Removed, Task, TaskState};
use super::ledger::{Cause, Ledger, Waiting};
use super::outcome::Settlement;
use super::outline::{pinned_bytes, recipients_of};
use super::pace::Pace;
use super::recovery::{self, Recovered};
use super::retry;
use super::schedule::{Announcement, Flow, FlowId, LineId};
use super::steering::Sites;
use crate::config::Config;
use crate::event::LogSink;
use crate::journal::upkeep::{Checkpointing, DraftChunks};
use crate::journal::{Journal, Level, Location, ReadError, RecordBuffer, Ticket};
use crate::mail::{Envelope, QueueId, Stream};
use crate::metrics::Metrics;
use crate::runtime::sync::Notify;
use crate::runtime::{clock, task, timer};

/// The queue of this shard. Clones are the same queue.
#[derive(Clone)]
pub struct Queue {
    pub(super) inner: Rc<Inner>,
}

pub(super) struct Inner {
    pub node: u16,
    pub shard: u16,
    pub config: RefCell<Arc<Config>>,
    pub journal: Journal,
    pub metrics: Rc<Metrics>,
    pub log: LogSink,
    pub index: RefCell<Index>,
    /// Rung when there may be an announcement.
    pub announced: Notify,
    pub draining: Cell<bool>,
    /// Room in the journal gets short.
    pub is_filling: Cell<bool>,
    /// What becomes true once its frame is durable, in order.
    pub settlements: RefCell<VecDeque<Settlement>>,
    pub settlement_added: Notify,
    /// Of the reports made here.
    pub pace: RefCell<Pace>,
    /// Frames with messages that the index does not know yet, in order, and how many.
    pub commits: RefCell<VecDeque<(Ticket, u32)>>,
    pub checkpointing: Checkpointing,
    /// Records that make no sense, and are kept.
    pub malformed: Vec<(u64, Location)>,
    /// Chunks of open drafts, by slot.
    pub draft_chunks: DraftChunks,
}

/// A message and what of it one task carries, as delivery gets it.
pub struct Message {
    pub id: QueueId,
    pub envelope: Rc<Envelope>,
    /// Positions of the recipients still open in this task, ascending.
    pub recipient_indexes: Vec<u16>,
    /// Attempts that have ended before this one.
    pub attempts: u32,
    pub content: Content,
    /// The recipients of the task that are settled.
    pub(super) settled: Vec<Group>,
}

/// The content of a message without its header prefix.
#[derive(Clone)]
pub enum Content {
    Whole(Octets),
    /// Large content stays on disk: read it chunk by chunk with `Queue::load_chunk`.
    Chunked {
        chunks: Rc<Vec<Location>>,
    },
}

/// Octets in memory, shared, as they came in or as they were read back.
#[derive(Clone)]
pub enum Octets {
    Fresh(Rc<Vec<u8>>),
    Read(Rc<RecordBuffer>),
}

impl Deref for Octets {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Octets::Fresh(octets) => octets,
            Octets::Read(record) => record.payload(),
        }
    }
}

impl Content {
    pub fn chunk_count(&self) -> usize {
        match self {
            Content::Whole(_) => 1,
            Content::Chunked { chunks } => chunks.len(),
        }
    }
}

/// Envelope and content of a message, in memory for the first attempt.
pub(super) struct Kept {
    pub envelope: Rc<Envelope>,
    pub content: Content,
}

/// Why a message cannot be read back. The operator must act: the task is to be held.
#[derive(Debug)]
pub enum LoadError {
    /// The journal's bytes fail their checksum or cannot be read.
    Journal(ReadError),
    /// The checksum holds and the payload makes no sense.
    Malformed,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LoadError::Journal(error) => write!(f, "{error:?}"),
            LoadError::Malformed => f.write_str("record payload malformed"),
        }
    }
}

/// Counts for operators.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub messages: usize,
    pub tasks: usize,
    pub ready: usize,
    pub in_flight: usize,
    pub delayed: usize,
    pub held: usize,
    pub kept_bytes: usize,
    /// Unix milliseconds of the oldest message.
    pub oldest_ms: Option<u64>,
}

/// One message as `ringpost queue` shows it.
pub struct MessageView {
    pub id: QueueId,
    pub envelope: Rc<Envelope>,
    pub tasks: Vec<TaskView>,
}

pub struct TaskView {
    pub destination: Rc<str>,
    pub flow: Flow,
    /// The next hop in words; `None` where there is none.
    pub site: Option<String>,
    /// Where the time went up to now.
    pub ledger: Ledger,
    pub state: TaskState,
    pub attempts: u32,
    /// Unix milliseconds; 0 unless Delayed.
    pub due_ms: u64,
    /// Unix milliseconds at which the lifetime is over by the configuration in force.
    pub expires_ms: u64,
    /// Unix milliseconds at which the reverse-path is to be told of a delay; `None` where it was,
    /// or does not want to be.
    pub delay_notice_ms: Option<u64>,
    pub recipients: Vec<RecipientView>,
}

pub struct RecipientView {
    pub address: Box<str>,
    pub state: Option<codec::RecipientState>,
    /// The last reply, empty before the first attempt.
    pub reply: Box<str>,
}

impl Queue {
    /// The queue of `shard` over its journal, with what recovery read from it, and its background
    /// tasks on the calling executor. Overdue tasks are ready at once.
    pub fn start(
        shard: u16,
        config: Arc<Config>,
        journal: Journal,
        recovered: Recovered,
        metrics: Rc<Metrics>,
        log: LogSink,
    ) -> Queue {
        let malformed = recovered.malformed().to_vec();
        let index = recovery::into_index(recovered, clock::unix_ms(), &journal);
        let queue = Queue {
            inner: Rc::new(Inner {
                node: config.node,
                shard,
                config: RefCell::new(config),
                journal,
                metrics,
                log,
                index: RefCell::new(index),
                announced: Notify::default(),
                draining: Cell::new(false),
                is_filling: Cell::new(false),
                settlements: RefCell::default(),
                settlement_added: Notify::default(),
                pace: RefCell::new(Pace::new(clock::random_u64())),
                commits: RefCell::default(),
                checkpointing: Checkpointing::default(),
                malformed,
                draft_chunks: DraftChunks::default(),
            }),
        };
        task::spawn_vital(queue.clone().run_clock());
        task::spawn_vital(queue.clone().run_settlements());
        task::spawn_vital(queue.clone().run_checkpoints());
        task::spawn_vital(queue.clone().run_compaction());
        queue
    }

    /// The id of its journal, which no other one has.
    pub fn store_id(&self) -> u128 {
        u128::from_be_bytes(self.inner.journal.store_id().0)
    }

    /// Swaps the configuration; waits already running keep their length.
    pub fn reload(&self, config: Arc<Config>) {
        self.inner.config.replace(config);
    }

    /// No message is accepted from now on.
    pub fn drain(&self) {
        self.inner.draining.set(true);
    }

    /// Suspends until everything settled so far is durable.
    pub async fn flushed(&self) {
        while !self.inner.settlements.borrow().is_empty() {
            timer::sleep(SETTLE_POLL).await;
        }
    }

    /// Suspends until there is a flow with ready tasks and no line, or a line that has some again.
    /// One waiter.
    pub async fn next_announcement(&self) -> Announcement {
        loop {
            let announcement = self.inner.index.borrow_mut().poll_announcement();
            if let Some(announcement) = announcement {
                return announcement;
            }
            self.inner.announced.notified().await;
        }
    }

    /// What a flow is; `None` when its last task is settled.
    pub fn flow(&self, id: FlowId) -> Option<Flow> {
        self.inner.index.borrow().flow(id)
    }

    /// Shows flows that have tasks, from `from` on, `count` of them at most. Returns where to go
    /// on, `None` at the end.
    pub fn visit_flows(
        &self,
        from: u32,
        count: u32,
        visit: impl FnMut(FlowId, Flow),
    ) -> Option<u32> {
        self.inner.index.borrow().visit_flows(from, count, visit)
    }

    /// The flow of a task in flight.
    pub fn flow_of(&self, task: Task) -> Flow {
        self.inner.index.borrow().flow_at(task.slot)
    }

    /// Opens a line, to which no flow is assigned yet.
    pub fn open_line(&self) -> LineId {
        self.inner.index.borrow_mut().open_line()
    }

    /// Ends a line. Its flows are announced anew when they have ready tasks.
    pub fn close_line(&self, line: LineId) {
        self.inner.index.borrow_mut().close_line(line);
        self.inner.announced.notify_one();
    }

    /// Puts the ready tasks of a flow, now and later, into a line, and announces the line if it had
    /// none. A flow or line that is no more is passed over.
    pub fn assign(&self, flow: FlowId, line: LineId) {
        self.inner.index.borrow_mut().assign(flow, line);
        self.inner.announced.notify_one();
    }

    /// The task whose turn it is in a line; it is in flight until settled, held or put back. After
    /// `None` the line is announced when it has one again.
    pub fn take(&self, line: LineId) -> Option<Task> {
        self.inner.index.borrow_mut().take(line, clock::unix_ms())
    }

    /// How many tasks `take` would give one after the other.
    pub fn ready_count(&self, line: LineId) -> usize {
        self.inner.index.borrow().ready_count(line)
    }

    /// A task that was not tried is ready again, behind the others.
    pub fn put_back(&self, task: Task) {
        self.inner.index.borrow_mut().make_ready(task.slot);
        self.inner.announced.notify_one();
    }

    /// A task that was not tried is ready again, before the others of its flow.
    pub(super) fn put_back_first(&self, task: Task) {
        self.inner.index.borrow_mut().make_ready_first(task.slot);
        self.inner.announced.notify_one();
    }

    /// A task that was not tried waits; no attempt is counted and nothing is recorded.
    pub fn put_back_until(&self, task: Task, wait: Duration) {
        let due_ms = clock::unix_ms() + wait.as_millis() as u64;
        self.inner.index.borrow_mut().make_delayed(task.slot, due_ms);
    }

    /// Envelope and content of a task in flight. Suspends only when they must be read back.
    pub async fn load(&self, task: Task) -> Result<Rc<Message>, LoadError> {
        let (slot, standing) = {
            let index = self.inner.index.borrow();
            (index.message_of(task), index.task(task.slot).standing())
        };
        let kept = self.inner.read_message(slot).await?;
        // Where nobody is settled yet, all recipients of the domain are left.
        let record = match standing.is_partial {
            true => self.inner.read_record(task.slot).await?,
            false => None,
        };
        let recipient_indexes = match &record {
            Some(record) => record.open_recipients(),
            None => {
                let index = self.inner.index.borrow();
                recipients_of(&kept.envelope, index.flow_of(task.slot).0)
            }
        };
        let groups = record.iter().flat_map(|record| &record.groups);
        Ok(Rc::new(Message {
            id: self.inner.queue_id(task.message),
            envelope: kept.envelope.clone(),
            recipient_indexes,
            attempts: standing.attempts,
            content: kept.content.clone(),
            settled: groups.filter(|group| group.state.is_final()).cloned().collect(),
        }))
    }

    /// One chunk of large content, at most `limits::CHUNK_BYTES_MAX`.
    pub async fn load_chunk(
        &self,
        message: &Message,
        chunk_index: usize,
    ) -> Result<Octets, LoadError> {
        match &message.content {
            Content::Whole(content) => Ok(content.clone()),
            Content::Chunked { chunks } => self.inner.read_content(chunks[chunk_index]).await,
        }
    }

    pub fn stats(&self) -> Stats {
        let index = self.inner.index.borrow();
        let Counts { ready, in_flight, delayed, held } = index.counts();
        Stats {
            messages: index.message_count(),
            tasks: index.task_count(),
            ready,
            in_flight,
            delayed,
            held,
            kept_bytes: index.kept_bytes(),
            oldest_ms: index.oldest_ms(),
        }
    }

    /// Sets the gauges to what is queued at this moment.
    pub fn update_gauges(&self) {
        let (index, gauges) = (self.inner.index.borrow(), &self.inner.metrics.queue);
        gauges.messages.set(index.message_count() as u64);
        gauges.tasks.set(index.task_count() as u64);
        gauges.index_bytes.set(index.bytes() as u64);
    }

    /// The public name of a message of this queue.
    pub fn id_of(&self, message: u64) -> QueueId {
        self.inner.queue_id(message)
    }

    /// Numbers of at most `count_max` queued messages above `after`, ascending. Suspends now and
    /// then.
    pub async fn numbers(&self, after: Option<u64>, count_max: usize) -> Vec<u64> {
        // The smallest so far, the largest of them on top.
        let mut ids = BinaryHeap::new();
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.inner.index.borrow().visit_messages(from, ENTRIES_AT_ONCE, |_, entry| {
                if after.is_none_or(|after| entry.id > after) {
                    if ids.len() < count_max {
                        ids.push(entry.id);
                    } else if let Some(mut largest) = ids.peek_mut()
                        && entry.id < *largest
                    {
                        *largest = entry.id;
                    }
                }
            });
            task::yield_now().await;
        }
        ids.into_sorted_vec()
    }

    /// A queued message in full; `None` when it is not (or no longer) queued here.
    pub async fn view(&self, id: u64, sites: &dyn Sites) -> Option<Result<MessageView, LoadError>> {
        let slot = self.inner.index.borrow().find(id)?;
        let result = self.read_view(id, slot, sites).await;
        // What was settled meanwhile is no longer queued, whatever was read of it.
        self.inner.index.borrow().find(id)?;
        Some(result)
    }

    async fn read_view(
        &self,
        id: u64,
        slot: u32,
        sites: &dyn Sites,
    ) -> Result<MessageView, LoadError> {
        let envelope = self.inner.envelope(slot).await?;
        let mut view = MessageView { id: self.inner.queue_id(id), envelope, tasks: Vec::new() };
        let mut after = None;
        loop {
            // Tasks may be settled while another one's STATE is read.
            let task = {
                let index = self.inner.index.borrow();
                let tasks = index.find(id).into_iter().flat_map(|slot| index.tasks_of(slot));
                let numbered = |slot: &u32| Some(index.task(*slot).number) > after;
                let Some(slot) = tasks.into_iter().find(numbered) else { return Ok(view) };
                index.handle(slot)
            };
            let record = self.inner.read_record(task.slot).await?;
            let index = self.inner.index.borrow();
            if !index.is_there(task) {
                continue;
            }
            let entry = index.task(task.slot);
            after = Some(entry.number);
            let standing = entry.standing();
            let flow = index.flow_at(task.slot);
            let policy = self.inner.config.borrow().retry_of(&flow.domain, &flow.stream);
            let destination = flow.domain.clone();
            let recipients = recipients_of(&view.envelope, &destination).into_iter();
            let recipients = recipients.map(|position| {
                let mut groups = record.iter().flat_map(|record| &record.groups);
                let group = groups.find(|group| group.recipient_indexes.contains(&position));
                RecipientView {
                    address: view.envelope.recipients[usize::from(position)].address.clone(),
                    state: group.map(|group| group.state),
                    reply: group.map(|group| group.reply.clone()).unwrap_or_default(),
                }
            });
            let recipients = recipients.collect();
            let envelope = &view.envelope;
            let is_to_come = !standing.delay_notified && retry::tells_of_delay(envelope, &policy);
            let notice_ms = retry::since_ms(envelope) + retry::delay_notice_age_ms(&policy);
            let due_ms = if entry.state() == TaskState::Delayed { standing.due_ms } else { 0 };
            let begun_ms = (entry.state() == TaskState::InFlight).then_some(standing.due_ms);
            let ledger =
                ledger_now(record.as_deref(), &view.envelope, &*sites.waiting_of(&flow), begun_ms);
            view.tasks.push(TaskView {
                site: sites.site_of(&flow),
                flow,
                ledger,
                destination,
                state: entry.state(),
                attempts: standing.attempts,
                due_ms,
                expires_ms: retry::expires_ms(&view.envelope, &policy),
                delay_notice_ms: is_to_come.then_some(notice_ms),
                recipients,
            });
        }
    }

    /// Makes tasks ready whose wait is over, fails those whose lifetime is, and tells of delays:
    /// of those that wait for their time, and of those that wait for somebody to serve them.
    async fn run_clock(self) {
        let mut overdue = Overdue::default();
        let mut next_slot = 0;
        loop {
            timer::sleep(CLOCK_PERIOD).await;
            let config = self.inner.config.borrow().clone();
            loop {
                let released = self.inner.index.borrow_mut().release_due(
                    clock::unix_ms(),
                    |domain, stream| config.retry_of(domain, stream),
                    STEPS_AT_ONCE,
                    &mut overdue,
                );
                if released.ready_count > 0 {
                    self.inner.announced.notify_one();
                }
                self.on_overdue(&mut overdue).await;
                if released.is_all {
                    break;
                }
                task::yield_now().await;
            }
            next_slot = {
                let mut index = self.inner.index.borrow_mut();
                let count = (index.task_slot_end() / CLOCK_PERIODS_A_PASS).max(SLOTS_AT_ONCE_MIN);
                let policy_of = |domain: &str, stream: &Stream| config.retry_of(domain, stream);
                index.claim_overdue(next_slot, count, clock::unix_ms(), policy_of, &mut overdue)
            };
            self.on_overdue(&mut overdue).await;
            self.inner.is_filling.set(self.inner.journal.space().level >= Level::Slow);
        }
    }
}

impl Queue {
    async fn on_overdue(&self, overdue: &mut Overdue) {
        for task in overdue.expired.drain(..) {
            self.expire(task).await;
        }
        for task in overdue.untold.drain(..) {
            self.tell_of_delay(task).await;
        }
    }
}

impl Inner {
    pub fn queue_id(&self, message: u64) -> QueueId {
        QueueId { node: self.node, shard: self.shard, message }
    }

    /// Unpins everything a settled message kept on disk.
    pub fn unpin(&self, removed: &Removed) {
        let bytes = pinned_bytes(removed.envelope, removed.content_bytes);
        self.journal.unpin(removed.envelope, bytes);
        for chunk in removed.chunks.iter().flat_map(|chunks| chunks.iter()) {
            self.journal.unpin(*chunk, pinned_bytes(*chunk, 0));
        }
    }

    /// The envelope of a message; suspends where it must be read back.
    pub async fn envelope(&self, slot: u32) -> Result<Rc<Envelope>, LoadError> {
        let kept = self.index.borrow().kept(slot).cloned();
        match kept {
            Some(kept) => Ok(kept.envelope.clone()),
            None => self.read_envelope(slot).await.map(Rc::new),
        }
    }

    async fn read_envelope(&self, slot: u32) -> Result<Envelope, LoadError> {
        let location = self.index.borrow().message(slot).location();
        let record = self.read_pinned(location).await?;
        let envelope = codec::read_envelope(record.payload()).map_err(|_| LoadError::Malformed)?;
        Ok(envelope.0)
    }

    /// One read for a message whose content stands beside its envelope, none for one that is kept.
    async fn read_message(&self, slot: u32) -> Result<Rc<Kept>, LoadError> {
        let (location, content_bytes, chunks) = {
            let index = self.index.borrow();
            if let Some(kept) = index.kept(slot) {
                return Ok(kept.clone());
            }
            let entry = index.message(slot);
            (entry.location(), entry.content_bytes, index.chunks(slot).cloned())
        };
        let (envelope, content) = match chunks {
            Some(chunks) => {
                let envelope = self.read_envelope(slot).await?;
                (envelope, Content::Chunked { chunks })
            }
            None => {
                let content_at = location.following(content_bytes as usize);
                let pair = self.journal.read_pair(location, content_at).await;
                let (envelope, content) = pair.map_err(LoadError::Journal)?;
                let envelope = codec::read_envelope(envelope.payload());
                let (envelope, _) = envelope.map_err(|_| LoadError::Malformed)?;
                (envelope, Content::Whole(Octets::Read(Rc::new(content))))
            }
        };
        Ok(Rc::new(Kept { envelope: Rc::new(envelope), content }))
    }

    /// The last STATE of a task, `None` before the first. Suspends when it must be read back.
    pub async fn read_record(&self, slot: u32) -> Result<Option<Rc<TaskRecord>>, LoadError> {
        let location = {
            let index = self.index.borrow();
            if let Some(record) = index.fresh(slot) {
                return Ok(Some(record));
            }
            index.task(slot).standing().record
        };
        let Some(location) = location else { return Ok(None) };
        let record = self.read_pinned(location).await?;
        let record = codec::read_state(record.payload()).map_err(|_| LoadError::Malformed)?;
        Ok(Some(Rc::new(record)))
    }

    /// Reads a record whose place may be given up meanwhile.
    pub async fn read_pinned(&self, location: Location) -> Result<RecordBuffer, LoadError> {
        self.journal.pin(location, 0);
        let result = self.journal.read(location).await;
        self.journal.unpin(location, 0);
        result.map_err(LoadError::Journal)
    }

    async fn read_content(&self, location: Location) -> Result<Octets, LoadError> {
        let record = self.journal.read(location).await.map_err(LoadError::Journal)?;
        Ok(Octets::Read(Rc::new(record)))
    }
}

/// Where the time of a task went up to now, of which `record` is the last STATE. `begun_ms` is when
/// the attempt was begun that is under way.
fn ledger_now(
    record: Option<&TaskRecord>,
    envelope: &Envelope,
    line: &dyn Waiting,
    begun_ms: Option<u64>,
) -> Ledger {
    let mut ledger = Ledger::new(envelope.accepted_ms);
    let now_ms = clock::unix_ms();
    match record {
        Some(record) => {
            ledger = record.ledger.clone().unwrap_or(ledger);
            record.account_for(&mut ledger, line, begun_ms, now_ms);
        }
        None => {
            let waited_ms = begun_ms.unwrap_or(now_ms).min(now_ms);
            ledger.add(Cause::Scheduled, envelope.release_ms.min(waited_ms));
            ledger.add_waiting(line, waited_ms);
            ledger.add(Cause::Attempt, now_ms);
        }
    }
    ledger
}

/// How often waiting tasks are looked at.
const CLOCK_PERIOD: Duration = Duration::from_millis(50);
/// In so many of them every ready task is looked at: once a minute.
const CLOCK_PERIODS_A_PASS: u32 = 1200;
/// Of a short queue all at once.
const SLOTS_AT_ONCE_MIN: u32 = 256;
/// Steps towards the present before others get a turn.
const STEPS_AT_ONCE: usize = 512;
/// Entries looked at before others get a turn.
const ENTRIES_AT_ONCE: u32 = 4096;
/// How often a drain looks whether all is durable.
const SETTLE_POLL: Duration = Duration::from_millis(10);
