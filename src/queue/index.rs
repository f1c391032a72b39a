//! The index: what memory keeps of a queued message. Content and STATE stay on disk. `Pure.`

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use hashbrown::HashTable;

use super::codec::{Change, TaskRecord};
use super::outline::{COST_MAX, Outline, Standing, TaskOutline, pinned_bytes};
use super::place::{Millis, Place};
use super::retry::delay_notice_age_ms;
use super::schedule::{self, Chain, FlowId, Links, NONE, Schedule, Step, Waiting};
use super::slab::Slab;
use super::store::{Content, Kept};
use crate::config::RetryPolicy;
use crate::journal::{Location, Ticket};
use crate::mail::{Class, Stream};

/// Handle of a task: one message to one destination domain. It stays valid for as long as its
/// holder has the task in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    pub(super) slot: u32,
    pub(super) message: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    Ready,
    InFlight,
    Delayed,
    Held,
}

/// A message as the index keeps it. 40 bytes.
pub(super) struct MessageEntry {
    pub id: u64,
    envelope: Place,
    pub open_task_count: u16,
    /// Length of content that stands beside the envelope; 0 for chunks.
    pub content_bytes: u32,
    /// Unix seconds of acceptance, or of the release where that is later.
    since_s: u32,
    first_task: u32,
    /// Its chunks are in the table.
    has_chunks: bool,
    /// Its content is in memory.
    is_kept: bool,
    /// Somebody asked to be told of a delay.
    asks_for_delays: bool,
}

/// A task as the index keeps it. 48 bytes.
pub(super) struct TaskEntry {
    message: u32,
    /// Next task of the message, `NONE` at the end.
    sibling: u32,
    flow: u32,
    /// Neighbours among the ready ones of its flow, or in a list of the wheel.
    links: Links,
    /// List of the wheel.
    list: u16,
    pub number: u16,
    /// The next attempt, or when the one under way was begun.
    due: Millis,
    attempts: u16,
    /// The last STATE, where an attempt left one.
    record: Place,
    stage: Stage,
    /// Cost, and flags above it.
    traits: u8,
}

/// The state of a task, and whether one in flight is Held as far as is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ready,
    InFlight,
    /// An operator's order has it in hand: until that is recorded, a checkpoint says Held.
    HeldInFlight,
    Delayed,
    Held,
}

/// A delay was told of, or nobody wants to know.
const DELAY_NOTIFIED: u8 = 32;
/// Some attempt was in doubt.
const POSSIBLE_DUPLICATE: u8 = 64;
/// Some recipient is settled: who is left must be read from the STATE.
const PARTIAL: u8 = 128;

const _: () = assert!(Slab::<MessageEntry>::SLOT_BYTES == 40);
const _: () = assert!(Slab::<TaskEntry>::SLOT_BYTES == 48);
/// A STATE whose frame is not durable yet: it cannot be read back so far.
struct Fresh {
    ticket: Ticket,
    record: Rc<TaskRecord>,
}

/// All messages at home on this shard, and the schedule over their tasks.
#[derive(Default)]
pub(super) struct Index {
    messages: Slab<MessageEntry>,
    tasks: Slab<TaskEntry>,
    /// Slots by id, in several tables: one alone grows at a time.
    by_id: Ids,
    schedule: Schedule,
    counts: Counts,
    /// Messages by acceptance: how many there are of about the same age, and the age.
    ages: BTreeMap<u32, Age>,
    chunks: HashMap<u32, Rc<Vec<Location>>>,
    kept: HashMap<u32, Rc<Kept>>,
    /// Messages in the order in which they were kept, and their slots.
    kept_order: VecDeque<(u64, u32)>,
    kept_bytes: usize,
    fresh: HashMap<u32, Fresh>,
    fresh_bytes: usize,
}

/// Hashes of ids that lead to slots: the ids are in the entries.
struct Ids([HashTable<u32>; TABLES]);

/// Tasks by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub ready: usize,
    pub in_flight: usize,
    pub delayed: usize,
    pub held: usize,
}

#[derive(Clone, Copy)]
struct Age {
    count: u32,
    since_s: u32,
}

/// What a removed message kept on disk.
pub(super) struct Removed {
    pub envelope: Location,
    /// Length of content that stands beside it; 0 for chunks.
    pub content_bytes: u32,
    pub chunks: Option<Rc<Vec<Location>>>,
}

/// Tasks in flight for whose end, or delay, it is time.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    pub expired: Vec<Task>,
    /// Nobody was told of their delay.
    pub untold: Vec<Task>,
}

/// What it is time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeFor {
    End,
    /// To tell of a delay.
    Notice,
}

impl Overdue {
    fn push(&mut self, time: TimeFor, task: Task) {
        match time {
            TimeFor::End => self.expired.push(task),
            TimeFor::Notice => self.untold.push(task),
        }
    }
}

/// What came of letting time pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Released {
    /// Tasks that became ready.
    pub ready_count: usize,
    /// Nothing more is due.
    pub is_all: bool,
}

impl Index {
    /// Begins at `now_ms`, before the first task is scheduled.
    pub fn begin(&mut self, now_ms: u64) {
        self.schedule.begin(now_ms);
    }

    pub fn message_count(&self) -> usize {
        self.messages.len()
    }

    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Unix milliseconds at which the oldest message was accepted, or was to be released where that
    /// is later; to within a minute, never too late.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.ages.first_key_value().map(|(_, age)| u64::from(age.since_s) * 1000)
    }

    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Memory that the index and its schedule have taken, without what is kept of content.
    pub fn bytes(&self) -> usize {
        let by_id: usize = self.by_id.0.iter().map(|table| table.allocation_size()).sum();
        let chunks: usize = self.chunks.values().map(|it| it.capacity()).sum();
        let tables = map_bytes(&self.chunks) + map_bytes(&self.kept) + map_bytes(&self.fresh);
        size_of::<Self>()
            + self.messages.bytes()
            + self.tasks.bytes()
            + by_id
            + self.schedule.bytes()
            + self.ages.len() * 2 * size_of::<(u32, Age)>()
            + chunks * size_of::<Location>()
            + self.kept_order.capacity() * size_of::<(u64, u32)>()
            + tables
            + self.fresh_bytes
    }

    /// Enters a message with its tasks, none of them scheduled yet. Returns its slot.
    pub fn insert(&mut self, outline: Outline<'_>) -> u32 {
        assert!(!outline.tasks.is_empty());
        let since_s = (outline.since_ms / 1000) as u32;
        let slot = self.messages.insert(MessageEntry {
            id: outline.id,
            envelope: outline.envelope.into(),
            open_task_count: outline.tasks.len() as u16,
            content_bytes: outline.content_bytes,
            since_s,
            first_task: NONE,
            has_chunks: !outline.chunks.is_empty(),
            is_kept: false,
            asks_for_delays: outline.asks_for_delays,
        });
        if !outline.chunks.is_empty() {
            self.chunks.insert(slot, Rc::new(outline.chunks));
        }
        // From the last to the first, each before the one it leads to.
        for task in outline.tasks.iter().rev() {
            let standing = &task.standing;
            assert!(task.cost > 0 && task.cost <= COST_MAX);
            let sibling = self.messages[slot].first_task;
            let (stream, next_hop) = (task.change.apply(&outline.stream), &task.change.next_hop);
            let flow =
                self.schedule.enter(&task.domain, &stream, &outline.sender, next_hop.as_ref());
            let task = self.tasks.insert(TaskEntry {
                message: slot,
                sibling,
                flow,
                links: Links::default(),
                list: 0,
                number: task.number,
                due: 0.into(),
                attempts: 0,
                record: Place::default(),
                stage: Stage::InFlight,
                traits: task.cost,
            });
            self.messages[slot].first_task = task;
            *self.count_of(TaskState::InFlight) += 1;
            self.set_standing(task, standing);
        }
        let age = self.ages.entry(since_s / AGE_S).or_insert(Age { count: 0, since_s });
        age.count += 1;
        age.since_s = age.since_s.min(since_s);
        assert!(self.find(outline.id).is_none(), "message ids are used once");
        let messages = &self.messages;
        let hash_of_slot = |slot: &u32| hash_of(messages[*slot].id);
        self.by_id.table(outline.id).insert_unique(hash_of(outline.id), slot, hash_of_slot);
        slot
    }

    /// Removes a message whose tasks are all settled.
    pub fn remove(&mut self, slot: u32) -> Removed {
        let entry = self.messages.remove(slot);
        assert_eq!(entry.open_task_count, 0);
        let found = self.by_id.table(entry.id).find_entry(hash_of(entry.id), |it| *it == slot);
        found.expect("a message can be found by its id").remove();
        let age = self.ages.get_mut(&(entry.since_s / AGE_S)).expect("its age is counted");
        age.count -= 1;
        if age.count == 0 {
            self.ages.remove(&(entry.since_s / AGE_S));
        }
        if entry.is_kept {
            let kept = self.kept.remove(&slot).expect("what is kept is in the table");
            self.kept_bytes -= kept.bytes();
        }
        let chunks = if entry.has_chunks { self.chunks.remove(&slot) } else { None };
        let content_bytes = entry.content_bytes;
        Removed { envelope: entry.location(), content_bytes, chunks }
    }

    /// The slot of a message.
    pub fn find(&self, id: u64) -> Option<u32> {
        let messages = &self.messages;
        let table = &self.by_id.0[id as usize % TABLES];
        table.find(hash_of(id), |slot| messages[*slot].id == id).copied()
    }

    pub fn message(&self, slot: u32) -> &MessageEntry {
        &self.messages[slot]
    }

    /// The message of a task in flight.
    pub fn message_of(&self, task: Task) -> u32 {
        let slot = self.tasks[task.slot].message;
        assert_eq!(self.messages[slot].id, task.message);
        slot
    }

    /// Chunks of large content, in order; `None` where it stands beside the envelope.
    pub fn chunks(&self, slot: u32) -> Option<&Rc<Vec<Location>>> {
        self.messages[slot].has_chunks.then(|| &self.chunks[&slot])
    }

    /// Envelope and content, while the budget has room for them.
    pub fn kept(&self, slot: u32) -> Option<&Rc<Kept>> {
        self.messages[slot].is_kept.then(|| &self.kept[&slot])
    }

    /// Shows the messages in `count` slots from `from` on. Returns where to go on, `None` at the
    /// end. Messages that stay from the first call to the last are shown once.
    pub fn visit_messages(
        &self,
        from: u32,
        count: u32,
        mut visit: impl FnMut(u32, &MessageEntry),
    ) -> Option<u32> {
        let end = from.saturating_add(count).min(self.messages.slot_end());
        for slot in from..end {
            if let Some(entry) = self.messages.get(slot) {
                visit(slot, entry);
            }
        }
        (end < self.messages.slot_end()).then_some(end)
    }

    /// A message and its open tasks in plain values.
    pub fn outline(&self, slot: u32) -> Outline<'_> {
        let entry = &self.messages[slot];
        let flow = self.tasks[entry.first_task].flow;
        let tasks = self.tasks_of(slot).map(|slot| {
            let task = &self.tasks[slot];
            TaskOutline {
                number: task.number,
                domain: Cow::Borrowed(self.schedule.domain(task.flow)),
                cost: task.cost(),
                standing: task.standing(),
                change: self.change_of(slot, self.schedule.stream(flow).class),
            }
        });
        Outline {
            id: entry.id,
            envelope: entry.location(),
            content_bytes: entry.content_bytes,
            chunks: self.chunks(slot).map(|chunks| chunks.to_vec()).unwrap_or_default(),
            since_ms: u64::from(entry.since_s) * 1000,
            asks_for_delays: entry.asks_for_delays,
            stream: Cow::Borrowed(self.schedule.stream(flow)),
            sender: Cow::Borrowed(self.schedule.sender(flow)),
            tasks: tasks.collect(),
        }
    }

    /// Everything that keeps a segment for a message, and how many bytes of it.
    pub fn places_of(&self, slot: u32) -> impl Iterator<Item = (Location, u64)> {
        let entry = &self.messages[slot];
        let envelope = entry.location();
        let envelope = (envelope, pinned_bytes(envelope, entry.content_bytes));
        let chunks = self.chunks(slot).into_iter().flat_map(|chunks| chunks.iter().copied());
        let states = self.tasks_of(slot).filter_map(|task| self.tasks[task].record.get());
        let others = chunks.chain(states).map(|place| (place, pinned_bytes(place, 0)));
        std::iter::once(envelope).chain(others)
    }

    /// Slots of a message's open tasks, in order of their numbers.
    pub fn tasks_of(&self, slot: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(self.first_task(slot), |slot| self.sibling_of(*slot))
    }

    /// The open task of a message with the lowest number.
    pub fn first_task(&self, slot: u32) -> Option<u32> {
        Some(self.messages[slot].first_task).filter(|first| *first != NONE)
    }

    /// The next open task of the same message.
    pub fn sibling_of(&self, slot: u32) -> Option<u32> {
        Some(self.tasks[slot].sibling).filter(|sibling| *sibling != NONE)
    }

    pub fn task(&self, slot: u32) -> &TaskEntry {
        &self.tasks[slot]
    }

    /// Above the slot of every task.
    pub fn task_slot_end(&self) -> u32 {
        self.tasks.slot_end()
    }

    pub fn task_if_any(&self, slot: u32) -> Option<&TaskEntry> {
        self.tasks.get(slot)
    }

    /// Domain and stream of a task.
    pub fn flow_of(&self, slot: u32) -> (&str, &Stream) {
        let flow = self.tasks[slot].flow;
        (self.schedule.domain(flow), self.schedule.stream(flow))
    }

    /// Unix milliseconds of acceptance of a task's message, or of its release where that is later,
    /// to within a second.
    pub fn since_ms(&self, slot: u32) -> u64 {
        u64::from(self.messages[self.tasks[slot].message].since_s) * 1000
    }

    /// Domain of the reverse-path of a task's message, in lower case; empty where it is not known
    /// here.
    pub fn sender_of(&self, slot: u32) -> &str {
        self.schedule.sender(self.tasks[slot].flow)
    }

    /// The flow of a task.
    pub fn flow_at(&self, slot: u32) -> schedule::Flow {
        self.schedule.flow_at(self.tasks[slot].flow)
    }

    pub fn handle(&self, slot: u32) -> Task {
        let message = self.messages[self.tasks[slot].message].id;
        Task { slot, message }
    }

    /// Notes where a task in flight stands. The STATE it had is to be unpinned once the one that
    /// replaces it is durable.
    pub fn set_standing(&mut self, slot: u32, standing: &Standing) -> Option<Location> {
        assert_eq!(self.tasks[slot].state(), TaskState::InFlight);
        let task = &mut self.tasks[slot];
        let replaced = task.record.get();
        task.due = standing.due_ms.into();
        task.attempts = standing.attempts.try_into().unwrap_or(u16::MAX);
        task.traits &= COST_MAX;
        if standing.possible_duplicate {
            task.traits |= POSSIBLE_DUPLICATE;
        }
        if standing.delay_notified {
            task.traits |= DELAY_NOTIFIED;
        }
        if standing.is_partial {
            task.traits |= PARTIAL;
        }
        task.record = standing.record.map_or(Place::default(), Place::from);
        self.set_stage(slot, if standing.is_held { Stage::Held } else { Stage::InFlight });
        replaced
    }

    /// Lets a task in flight flow as an operator wants; where nothing is said of the class it
    /// stays.
    pub fn set_change(&mut self, slot: u32, change: &Change) {
        let flow = self.tasks[slot].flow;
        let stream = self.schedule.stream(flow);
        let class = change.class.unwrap_or(stream.class);
        if stream.class == class && self.schedule.next_hop(flow) == change.next_hop {
            return;
        }
        let stream = Stream { class, ..stream.clone() };
        let (domain, sender) = (self.schedule.domain(flow), self.schedule.sender(flow));
        let (domain, sender) = (domain.to_owned(), sender.to_owned());
        self.tasks[slot].flow =
            self.schedule.enter(&domain, &stream, &sender, change.next_hop.as_ref());
        self.schedule.leave(flow);
    }

    /// What an operator made different for a task of a message that came in `class`.
    pub fn change_of(&self, slot: u32, class: Class) -> Change {
        let flow = self.tasks[slot].flow;
        let now = self.schedule.stream(flow).class;
        Change { next_hop: self.schedule.next_hop(flow), class: (now != class).then_some(now) }
    }

    pub fn visit_flows(
        &self,
        from: u32,
        count: u32,
        visit: impl FnMut(FlowId, schedule::Flow),
    ) -> Option<u32> {
        self.schedule.visit_flows(from, count, visit)
    }

    /// Keeps the STATE of a task until its frame is durable.
    pub fn set_fresh(&mut self, slot: u32, ticket: Ticket, record: TaskRecord) {
        self.fresh_bytes += record.heap_bytes();
        let fresh = Fresh { ticket, record: Rc::new(record) };
        if let Some(before) = self.fresh.insert(slot, fresh) {
            self.fresh_bytes -= before.record.heap_bytes();
        }
    }

    /// The STATE of a task, while it cannot be read back.
    pub fn fresh(&self, slot: u32) -> Option<Rc<TaskRecord>> {
        self.fresh.get(&slot).map(|fresh| fresh.record.clone())
    }

    /// The frame of `ticket` is durable: a STATE of the task that went with it can be read back.
    pub fn forget_fresh(&mut self, slot: u32, ticket: Ticket) {
        if self.fresh.get(&slot).is_some_and(|fresh| fresh.ticket <= ticket) {
            let fresh = self.fresh.remove(&slot).expect("looked at above");
            self.fresh_bytes -= fresh.record.heap_bytes();
        }
    }

    /// A message stands elsewhere from now on. `chunks` is empty where its content stands beside
    /// the envelope. What is kept of a chunked one names the old places, and goes.
    pub fn relocate(&mut self, slot: u32, envelope: Location, chunks: Vec<Location>) {
        let entry = &mut self.messages[slot];
        entry.envelope = envelope.into();
        assert_eq!(entry.has_chunks, !chunks.is_empty());
        if !chunks.is_empty() {
            self.chunks.insert(slot, Rc::new(chunks));
            if std::mem::take(&mut entry.is_kept) {
                let kept = self.kept.remove(&slot).expect("what is kept is in the table");
                self.kept_bytes -= kept.bytes();
            }
        }
    }

    /// The last STATE of a task stands elsewhere from now on.
    pub fn relocate_state(&mut self, slot: u32, record: Location) {
        self.tasks[slot].record = record.into();
    }

    /// Makes a task ready now.
    pub fn make_ready(&mut self, slot: u32) {
        self.set_stage(slot, Stage::Ready);
        self.schedule.push_ready(&mut self.tasks, slot);
    }

    /// Makes a task ready now that is not to lose its place: before the others of its flow.
    pub fn make_ready_first(&mut self, slot: u32) {
        self.set_stage(slot, Stage::Ready);
        self.schedule.push_ready_first(&mut self.tasks, slot);
    }

    /// Lets a task wait until `due_ms`.
    pub fn make_delayed(&mut self, slot: u32, due_ms: u64) {
        self.set_stage(slot, Stage::Delayed);
        self.tasks[slot].due = due_ms.into();
        self.schedule.push_waiting(&mut self.tasks, slot);
    }

    /// Takes a task in flight off the schedule until an operator releases it.
    pub fn hold(&mut self, slot: u32) {
        self.set_stage(slot, Stage::Held);
        self.tasks[slot].due = 0.into();
    }

    fn set_stage(&mut self, slot: u32, stage: Stage) {
        let before = std::mem::replace(&mut self.tasks[slot].stage, stage);
        *self.count_of(before.into()) -= 1;
        *self.count_of(stage.into()) += 1;
    }

    fn count_of(&mut self, state: TaskState) -> &mut usize {
        match state {
            TaskState::Ready => &mut self.counts.ready,
            TaskState::InFlight => &mut self.counts.in_flight,
            TaskState::Delayed => &mut self.counts.delayed,
            TaskState::Held => &mut self.counts.held,
        }
    }

    /// Takes the task whose turn it is in a line into flight. That is the time it was due at.
    pub fn take(&mut self, line: schedule::LineId, now_ms: u64) -> Option<Task> {
        let slot = self.schedule.take(&mut self.tasks, line)?;
        self.set_stage(slot, Stage::InFlight);
        self.tasks[slot].due = now_ms.into();
        Some(self.handle(slot))
    }

    /// Whether a task that was not in flight all the time still is.
    pub fn is_there(&self, task: Task) -> bool {
        let entry = self.tasks.get(task.slot);
        entry.is_some_and(|entry| self.messages[entry.message].id == task.message)
    }

    /// Takes a task into flight out of turn, if it is still there and `wanted` takes its state,
    /// which is returned.
    pub fn claim(
        &mut self,
        task: Task,
        wanted: impl FnOnce(TaskState) -> bool,
    ) -> Option<TaskState> {
        if !self.is_there(task) {
            return None;
        }
        let state = self.tasks[task.slot].state();
        let claimed = state != TaskState::InFlight && wanted(state);
        claimed.then(|| {
            self.claim_slot(task.slot);
            state
        })
    }

    /// Takes a task into flight, whatever its state.
    pub fn claim_slot(&mut self, slot: u32) {
        let stage = self.tasks[slot].stage;
        match stage {
            Stage::Ready => self.schedule.remove_ready(&mut self.tasks, slot),
            Stage::Delayed => self.schedule.remove_waiting(&mut self.tasks, slot),
            Stage::Held | Stage::HeldInFlight | Stage::InFlight => {}
        }
        let is_held = matches!(stage, Stage::Held | Stage::HeldInFlight);
        self.set_stage(slot, if is_held { Stage::HeldInFlight } else { Stage::InFlight });
    }

    /// Shows the tasks in `count` slots from `from` on. Returns where to go on, `None` at the end.
    pub fn visit_tasks(
        &self,
        from: u32,
        count: u32,
        mut visit: impl FnMut(Task, &TaskEntry, &str, &Stream),
    ) -> Option<u32> {
        let end = from.saturating_add(count).min(self.tasks.slot_end());
        for slot in from..end {
            if let Some(entry) = self.tasks.get(slot) {
                let (domain, stream) = self.flow_of(slot);
                visit(self.handle(slot), entry, domain, stream);
            }
        }
        (end < self.tasks.slot_end()).then_some(end)
    }

    /// Nothing is to be told of a delay of this task any more.
    pub fn set_delay_notified(&mut self, slot: u32) {
        self.tasks[slot].traits |= DELAY_NOTIFIED;
    }

    /// Makes tasks ready whose wait is over, in at most `steps_max` steps. Those whose lifetime is
    /// over by the policy for their domain and stream, or whose delay is to be told of, go in
    /// flight instead, into `overdue`.
    pub fn release_due(
        &mut self,
        now_ms: u64,
        policy_of: impl Fn(&str, &Stream) -> RetryPolicy,
        steps_max: usize,
        overdue: &mut Overdue,
    ) -> Released {
        let mut ready_count = 0;
        for _ in 0..steps_max {
            let slot = match self.schedule.step(&mut self.tasks, now_ms) {
                Step::Due(slot) => slot,
                Step::Moved => continue,
                Step::Idle => return Released { ready_count, is_all: true },
            };
            match self.overdue(slot, now_ms, &policy_of) {
                Some(time) => {
                    self.set_stage(slot, Stage::InFlight);
                    overdue.push(time, self.handle(slot));
                }
                None => {
                    self.make_ready(slot);
                    ready_count += 1;
                }
            }
        }
        Released { ready_count, is_all: false }
    }

    /// Looks at the tasks in `count` slots from `from` on. Ready ones for whose end it is time, or
    /// to tell of whose delay, go in flight and into `overdue`: nobody may come to serve them.
    /// Returns where to go on, the start after the last.
    pub fn claim_overdue(
        &mut self,
        from: u32,
        count: u32,
        now_ms: u64,
        policy_of: impl Fn(&str, &Stream) -> RetryPolicy,
        overdue: &mut Overdue,
    ) -> u32 {
        if self.counts.ready == 0 {
            return 0;
        }
        let end = from.saturating_add(count).min(self.tasks.slot_end());
        for slot in from..end {
            let is_ready = self.tasks.get(slot).is_some_and(|it| it.state() == TaskState::Ready);
            if is_ready && let Some(time) = self.overdue(slot, now_ms, &policy_of) {
                self.claim_slot(slot);
                overdue.push(time, self.handle(slot));
            }
        }
        if end < self.tasks.slot_end() { end } else { 0 }
    }

    /// What of a task it is time for, by the policy for its domain and stream.
    fn overdue(
        &self,
        slot: u32,
        now_ms: u64,
        policy_of: impl Fn(&str, &Stream) -> RetryPolicy,
    ) -> Option<TimeFor> {
        let (domain, stream) = self.flow_of(slot);
        let policy = policy_of(domain, stream);
        let message = &self.messages[self.tasks[slot].message];
        if now_ms >= message.end_ms(policy.lifetime.as_millis() as u64) {
            return Some(TimeFor::End);
        }
        let is_told = self.tasks[slot].traits & DELAY_NOTIFIED != 0;
        let may_tell = policy.delay_notice.is_some() || message.asks_for_delays;
        let is_time = now_ms >= message.end_ms(delay_notice_age_ms(&policy));
        (may_tell && !is_told && is_time).then_some(TimeFor::Notice)
    }

    /// Removes a settled task in flight. Returns its STATE, which is to be unpinned, and its
    /// message if it was the last of it.
    pub fn close_task(&mut self, slot: u32) -> (Option<Location>, Option<u32>) {
        let entry = self.tasks.remove(slot);
        assert_eq!(entry.state(), TaskState::InFlight);
        *self.count_of(TaskState::InFlight) -= 1;
        if let Some(fresh) = self.fresh.remove(&slot) {
            self.fresh_bytes -= fresh.record.heap_bytes();
        }
        let message = &mut self.messages[entry.message];
        message.open_task_count -= 1;
        let is_last = message.open_task_count == 0;
        if message.first_task == slot {
            message.first_task = entry.sibling;
        } else {
            let mut before = message.first_task;
            while self.tasks[before].sibling != slot {
                before = self.tasks[before].sibling;
            }
            self.tasks[before].sibling = entry.sibling;
        }
        self.schedule.leave(entry.flow);
        (entry.record.get(), is_last.then_some(entry.message))
    }

    /// Keeps envelope and content in memory within `budget_bytes`; the oldest make room.
    pub fn keep(&mut self, slot: u32, kept: Rc<Kept>, budget_bytes: usize) {
        if kept.bytes() > budget_bytes {
            return;
        }
        self.kept_bytes += kept.bytes();
        let entry = &mut self.messages[slot];
        entry.is_kept = true;
        self.kept_order.push_back((entry.id, slot));
        self.kept.insert(slot, kept);
        // Entries of messages long settled go as well, so the list stays as short as the keep.
        while self.kept_bytes > budget_bytes || self.kept_order.len() > 2 * self.kept.len() + 64 {
            let Some((id, slot)) = self.kept_order.pop_front() else { break };
            if let Some(entry) = self.messages.get_mut(slot)
                && entry.id == id
                && std::mem::take(&mut entry.is_kept)
            {
                let kept = self.kept.remove(&slot).expect("what is kept is in the table");
                self.kept_bytes -= kept.bytes();
            }
        }
    }

    pub fn poll_announcement(&mut self) -> Option<schedule::Announcement> {
        self.schedule.poll_announcement()
    }

    pub fn flow(&self, id: FlowId) -> Option<schedule::Flow> {
        self.schedule.flow(id)
    }

    pub fn open_line(&mut self) -> schedule::LineId {
        self.schedule.open_line()
    }

    pub fn close_line(&mut self, line: schedule::LineId) {
        self.schedule.close_line(line);
    }

    pub fn assign(&mut self, flow: FlowId, line: schedule::LineId) {
        self.schedule.assign(flow, line);
    }

    pub fn ready_count(&self, line: schedule::LineId) -> usize {
        self.schedule.ready_count(line)
    }
}

impl MessageEntry {
    pub fn location(&self) -> Location {
        self.envelope.get().expect("a message has an envelope")
    }

    /// Unix milliseconds at which a time of `ms` is over that began with acceptance, or with the
    /// release where that is later.
    fn end_ms(&self, ms: u64) -> u64 {
        // Seconds were rounded down, and nothing is to end early.
        ((u64::from(self.since_s) + 1) * 1000).saturating_add(ms)
    }
}

impl TaskEntry {
    pub fn state(&self) -> TaskState {
        self.stage.into()
    }

    pub fn standing(&self) -> Standing {
        Standing {
            due_ms: self.due.get(),
            attempts: self.attempts.into(),
            is_held: matches!(self.stage, Stage::Held | Stage::HeldInFlight),
            possible_duplicate: self.traits & POSSIBLE_DUPLICATE != 0,
            delay_notified: self.traits & DELAY_NOTIFIED != 0,
            is_partial: self.traits & PARTIAL != 0,
            record: self.record.get(),
        }
    }

    fn cost(&self) -> u8 {
        self.traits & COST_MAX
    }
}

impl From<Stage> for TaskState {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Ready => TaskState::Ready,
            Stage::InFlight | Stage::HeldInFlight => TaskState::InFlight,
            Stage::Delayed => TaskState::Delayed,
            Stage::Held => TaskState::Held,
        }
    }
}

impl Chain for Slab<TaskEntry> {
    fn links(&mut self, slot: u32) -> &mut Links {
        &mut self[slot].links
    }
}

impl Waiting for Slab<TaskEntry> {
    fn due_ms(&self, slot: u32) -> u64 {
        self[slot].due.get()
    }

    fn list(&mut self, slot: u32) -> &mut u16 {
        &mut self[slot].list
    }
}

impl schedule::Tasks for Slab<TaskEntry> {
    fn flow(&self, slot: u32) -> u32 {
        self[slot].flow
    }

    fn cost(&self, slot: u32) -> u8 {
        self[slot].cost()
    }
}

impl Kept {
    /// What it counts against the budget.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Whole(content) => content.len() + 512,
            Content::Chunked { .. } => 512,
        }
    }
}

impl Ids {
    fn table(&mut self, id: u64) -> &mut HashTable<u32> {
        &mut self.0[id as usize % TABLES]
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self(std::array::from_fn(|_| HashTable::new()))
    }
}

fn hash_of(id: u64) -> u64 {
    schedule::mix(id / TABLES as u64, 0)
}

fn map_bytes<K, V>(map: &HashMap<K, V>) -> usize {
    map.capacity() * 8 / 7 * (size_of::<(K, V)>() + 1)
}

/// Tables of ids.
const TABLES: usize = 64;
/// Messages whose age is told apart.
const AGE_S: u32 = 60;

#[cfg(test)]
mod tests;
