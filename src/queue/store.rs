//! The queue of one shard: index, journal, and the tasks that keep them in step.

use std::cell::{Cell, RefCell};
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::codec;
use super::index::{Index, MessageEntry, Task, TaskState, recipients_of};
use super::outcome::Settlement;
use super::pace::Pace;
use super::recovery::{self, Recovered};
use super::schedule::DestinationId;
use crate::config::Config;
use crate::event::LogSink;
use crate::journal::{Journal, Level, Location, ReadError, RecordBuffer};
use crate::mail::{Envelope, QueueId};
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
    /// Rung when a destination has been announced.
    pub announced: Notify,
    pub draining: Cell<bool>,
    /// Room in the journal gets short.
    pub is_filling: Cell<bool>,
    /// What becomes true once its frame is durable, in order.
    pub settlements: RefCell<VecDeque<Settlement>>,
    pub settlement_added: Notify,
    /// Of the reports made here.
    pub pace: RefCell<Pace>,
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
    pub state: TaskState,
    pub attempts: u32,
    /// Unix milliseconds; 0 unless Delayed.
    pub due_ms: u64,
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
            }),
        };
        queue.inner.update_gauges();
        task::spawn_vital(queue.clone().run_clock());
        task::spawn_vital(queue.clone().run_settlements());
        queue
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

    /// Suspends until a destination has gone from no ready task to some. One waiter.
    pub async fn next_ready(&self) -> DestinationId {
        loop {
            let announced = self.inner.index.borrow_mut().schedule.poll_announcement();
            if let Some(id) = announced {
                return id;
            }
            self.inner.announced.notified().await;
        }
    }

    /// The lower-case domain of a destination that has tasks; empty for a bare `Postmaster`.
    pub fn destination(&self, id: DestinationId) -> Rc<str> {
        self.inner.index.borrow().schedule.name(id).unwrap_or_default()
    }

    /// The oldest ready task of a destination; it is in flight until settled, held or put back.
    pub fn take(&self, id: DestinationId) -> Option<Task> {
        self.inner.index.borrow_mut().take(id)
    }

    /// How many tasks `take` would give one after the other.
    pub fn ready_count(&self, id: DestinationId) -> usize {
        self.inner.index.borrow().schedule.ready_count(id)
    }

    /// A task that was not tried is ready again, behind the others.
    pub fn put_back(&self, task: Task) {
        self.inner.index.borrow_mut().make_ready(task.slot);
        self.inner.announced.notify_one();
    }

    /// A task that was not tried waits; no attempt is counted and nothing is recorded.
    pub fn put_back_until(&self, task: Task, wait: Duration) {
        let due_ms = clock::unix_ms() + wait.as_millis() as u64;
        self.inner.index.borrow_mut().make_delayed(task.slot, due_ms);
    }

    /// Envelope and content of a task in flight. Suspends only when they must be read back.
    pub async fn load(&self, task: Task) -> Result<Rc<Message>, LoadError> {
        let (kept, location, content_bytes, chunks) = {
            let index = self.inner.index.borrow();
            let entry = index.message(task.message).expect("a task in flight keeps its message");
            (entry.kept.clone(), entry.envelope, entry.content_bytes, entry.chunks.clone())
        };
        let kept = match kept {
            Some(kept) => kept,
            None => Rc::new(self.inner.read_message(location, content_bytes, chunks).await?),
        };
        Ok(Rc::new(self.inner.message_of(task, &kept)))
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
        let mut stats = Stats {
            messages: index.message_count(),
            tasks: index.task_count(),
            kept_bytes: index.kept_bytes(),
            ..Stats::default()
        };
        for entry in index.messages() {
            let oldest_ms = stats.oldest_ms.unwrap_or(u64::MAX);
            stats.oldest_ms = Some(oldest_ms.min(entry.accepted_ms));
            for slot in index.tasks_of(entry) {
                match index.task(slot).state {
                    TaskState::Ready => stats.ready += 1,
                    TaskState::InFlight => stats.in_flight += 1,
                    TaskState::Delayed => stats.delayed += 1,
                    TaskState::Held => stats.held += 1,
                }
            }
        }
        stats
    }

    /// Memory of the index, without content kept for the first attempt.
    pub fn index_bytes(&self) -> usize {
        self.inner.index.borrow().bytes()
    }

    /// The public name of a message of this queue.
    pub fn id_of(&self, message: u64) -> QueueId {
        self.inner.queue_id(message)
    }

    /// Numbers of at most `count_max` queued messages above `after`, ascending.
    pub fn list(&self, after: Option<u64>, count_max: usize) -> Vec<u64> {
        let index = self.inner.index.borrow();
        let above = index.messages().map(|entry| entry.id);
        let above = above.filter(|id| after.is_none_or(|after| *id > after));
        // The smallest so far, the largest of them on top.
        let mut ids = BinaryHeap::new();
        for id in above {
            if ids.len() < count_max || ids.peek().is_some_and(|largest| id < *largest) {
                ids.push(id);
            }
            if ids.len() > count_max {
                ids.pop();
            }
        }
        ids.into_sorted_vec()
    }

    /// A queued message in full; `None` when it is not (or no longer) queued here.
    pub async fn view(&self, id: u64) -> Option<Result<MessageView, LoadError>> {
        let (kept, location) = {
            let index = self.inner.index.borrow();
            let entry = index.message(id)?;
            (entry.kept.clone(), entry.envelope)
        };
        let envelope = match kept {
            Some(kept) => kept.envelope.clone(),
            None => match self.inner.read_envelope(location).await {
                Ok((envelope, _)) => Rc::new(envelope),
                Err(error) => return Some(Err(error)),
            },
        };
        let index = self.inner.index.borrow();
        let entry = index.message(id)?;
        let tasks = index.tasks_of(entry).into_iter().map(|slot| {
            let task = index.task(slot);
            let destination = index.schedule.name(task.destination).unwrap_or_default();
            let recipients = recipients_of(&envelope, &destination).into_iter().map(|position| {
                let group = task.record.as_ref().and_then(|record| {
                    record.groups.iter().find(|it| it.recipient_indexes.contains(&position))
                });
                RecipientView {
                    address: envelope.recipients[usize::from(position)].address.clone(),
                    state: group.map(|group| group.state),
                    reply: group.map(|group| group.reply.clone()).unwrap_or_default(),
                }
            });
            let recipients = recipients.collect();
            let (state, attempts, due_ms) = (task.state, task.attempts, task.due_ms);
            TaskView { destination, state, attempts, due_ms, recipients }
        });
        let tasks = tasks.collect();
        Some(Ok(MessageView { id: self.inner.queue_id(id), envelope, tasks }))
    }

    /// Makes tasks ready whose wait is over, and fails those whose lifetime is.
    async fn run_clock(self) {
        let mut expired = Vec::new();
        loop {
            timer::sleep(CLOCK_PERIOD).await;
            let lifetime_ms = self.inner.config.borrow().queue.lifetime.as_millis() as u64;
            let now_ms = clock::unix_ms();
            let ready_count =
                self.inner.index.borrow_mut().release_due(now_ms, lifetime_ms, &mut expired);
            if ready_count > 0 {
                self.inner.announced.notify_one();
            }
            for task in expired.drain(..) {
                self.expire(task).await;
            }
            self.inner.update_gauges();
            self.inner.is_filling.set(self.inner.journal.space().level >= Level::Slow);
        }
    }
}

impl Inner {
    pub fn queue_id(&self, message: u64) -> QueueId {
        QueueId { node: self.node, shard: self.shard, message }
    }

    pub fn update_gauges(&self) {
        let index = self.index.borrow();
        self.metrics.queue.messages.set(index.message_count() as u64);
        self.metrics.queue.tasks.set(index.task_count() as u64);
    }

    /// Unpins everything a settled message kept on disk.
    pub fn unpin(&self, entry: &MessageEntry) {
        self.journal.unpin(entry.envelope);
        for chunk in entry.chunks.iter().flat_map(|chunks| chunks.iter()) {
            self.journal.unpin(*chunk);
        }
    }

    fn message_of(&self, task: Task, kept: &Kept) -> Message {
        let index = self.index.borrow();
        let entry = index.task(task.slot);
        let recipient_indexes = match &entry.record {
            Some(record) => record.open_recipients(),
            None => {
                let destination = index.schedule.name(entry.destination).unwrap_or_default();
                recipients_of(&kept.envelope, &destination)
            }
        };
        Message {
            id: self.queue_id(task.message),
            envelope: kept.envelope.clone(),
            recipient_indexes,
            attempts: entry.attempts,
            content: kept.content.clone(),
        }
    }

    async fn read_envelope(
        &self,
        location: Location,
    ) -> Result<(Envelope, Vec<Location>), LoadError> {
        let record = self.journal.read(location).await.map_err(LoadError::Journal)?;
        codec::read_envelope(record.payload()).map_err(|_| LoadError::Malformed)
    }

    /// One read for a message whose content stands beside its envelope.
    async fn read_message(
        &self,
        location: Location,
        content_bytes: u32,
        chunks: Option<Rc<Vec<Location>>>,
    ) -> Result<Kept, LoadError> {
        let (envelope, content) = match chunks {
            Some(chunks) => {
                let (envelope, _) = self.read_envelope(location).await?;
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
        Ok(Kept { envelope: Rc::new(envelope), content })
    }

    async fn read_content(&self, location: Location) -> Result<Octets, LoadError> {
        let record = self.journal.read(location).await.map_err(LoadError::Journal)?;
        Ok(Octets::Read(Rc::new(record)))
    }
}

/// How often waiting tasks are looked at.
const CLOCK_PERIOD: Duration = Duration::from_millis(50);
/// How often a drain looks whether all is durable.
const SETTLE_POLL: Duration = Duration::from_millis(10);
