//! The index: what memory keeps of a queued message. Content stays on disk. `Pure.`

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use slab::Slab;

use super::codec::TaskRecord;
use super::schedule::{DestinationId, Schedule};
use super::store::{Content, Kept};
use crate::journal::Location;
use crate::mail::Envelope;

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

pub(super) struct MessageEntry {
    pub id: u64,
    pub envelope: Location,
    pub accepted_ms: u64,
    pub first_task: u32,
    pub open_task_count: u16,
    /// Length of content that stands beside the envelope; 0 for chunks.
    pub content_bytes: u32,
    /// Chunks of large content, in order.
    pub chunks: Option<Rc<Vec<Location>>>,
    /// Envelope and content while the budget has room for them.
    pub kept: Option<Rc<Kept>>,
}

pub(super) struct TaskEntry {
    pub message: u32,
    /// Next task of the message, `NONE` at the end.
    pub next: u32,
    pub destination: DestinationId,
    pub due_ms: u64,
    pub attempts: u32,
    pub number: u16,
    pub state: TaskState,
    /// The last STATE, where an attempt left one.
    pub record: Option<Box<TaskRecord>>,
}

/// End of a list of tasks.
const NONE: u32 = u32::MAX;

/// All messages at home on this shard, and the schedule over their tasks.
#[derive(Default)]
pub(super) struct Index {
    messages: Slab<MessageEntry>,
    tasks: Slab<TaskEntry>,
    by_id: HashMap<u64, u32>,
    pub schedule: Schedule,
    /// Messages in the order in which they were kept.
    kept_order: VecDeque<u64>,
    kept_bytes: usize,
    /// Memory of the last STATEs.
    record_bytes: usize,
}

impl Index {
    pub fn message_count(&self) -> usize {
        self.messages.len()
    }

    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Memory that the index and its schedule have taken, without what is kept of content.
    pub fn bytes(&self) -> usize {
        // A slab's slot holds the value or the number of the next free slot.
        let message = size_of::<Result<MessageEntry, usize>>();
        let task = size_of::<Result<TaskEntry, usize>>();
        let id = size_of::<(u64, u32)>() + 1;
        self.messages.capacity() * message
            + self.tasks.capacity() * task
            + self.by_id.capacity() * id * 8 / 7
            + self.kept_order.capacity() * size_of::<u64>()
            + self.record_bytes
            + self.schedule.bytes()
    }

    /// Where a task stands after an attempt.
    pub fn set_record(&mut self, slot: u32, record: Box<TaskRecord>) {
        self.record_bytes += record.heap_bytes();
        let task = &mut self.tasks[slot as usize];
        if let Some(before) = task.record.replace(record) {
            self.record_bytes -= before.heap_bytes();
        }
    }

    /// Enters a message with one task for each destination domain, none of them scheduled yet.
    /// Returns the task slots in task-number order.
    pub fn insert(
        &mut self,
        id: u64,
        location: Location,
        chunks: Vec<Location>,
        envelope: &Envelope,
    ) -> Vec<u32> {
        let mut slots: Vec<u32> = Vec::with_capacity(1);
        let message_slot = self.messages.vacant_key() as u32;
        for domain in destination_domains(envelope) {
            let slot = self.tasks.insert(TaskEntry {
                message: message_slot,
                next: NONE,
                destination: self.schedule.enter(&domain),
                due_ms: 0,
                attempts: 0,
                number: slots.len() as u16,
                state: TaskState::InFlight,
                record: None,
            }) as u32;
            if let Some(last) = slots.last() {
                self.tasks[*last as usize].next = slot;
            }
            slots.push(slot);
        }
        self.messages.insert(MessageEntry {
            id,
            envelope: location,
            accepted_ms: envelope.accepted_ms,
            first_task: slots[0],
            open_task_count: slots.len() as u16,
            content_bytes: if chunks.is_empty() { envelope.content_bytes as u32 } else { 0 },
            chunks: if chunks.is_empty() { None } else { Some(Rc::new(chunks)) },
            kept: None,
        });
        let earlier = self.by_id.insert(id, message_slot);
        assert!(earlier.is_none(), "message ids are used once");
        slots
    }

    /// Removes a message whose tasks are all settled.
    pub fn remove(&mut self, id: u64) -> MessageEntry {
        let slot = self.by_id.remove(&id).expect("the message is in the index");
        let mut entry = self.messages.remove(slot as usize);
        assert_eq!(entry.open_task_count, 0);
        debug_assert!(!self.messages.is_empty() || self.record_bytes == 0);
        if let Some(kept) = entry.kept.take() {
            self.kept_bytes -= kept.bytes();
        }
        entry
    }

    pub fn message(&self, id: u64) -> Option<&MessageEntry> {
        self.by_id.get(&id).map(|slot| &self.messages[*slot as usize])
    }

    pub fn messages(&self) -> impl Iterator<Item = &MessageEntry> {
        self.messages.iter().map(|(_, entry)| entry)
    }

    /// Slots of a message's open tasks.
    pub fn tasks_of(&self, entry: &MessageEntry) -> Vec<u32> {
        let mut slots = Vec::with_capacity(1);
        let mut slot = entry.first_task;
        while slot != NONE {
            slots.push(slot);
            slot = self.tasks[slot as usize].next;
        }
        slots
    }

    pub fn task(&self, slot: u32) -> &TaskEntry {
        &self.tasks[slot as usize]
    }

    pub fn task_mut(&mut self, slot: u32) -> &mut TaskEntry {
        &mut self.tasks[slot as usize]
    }

    pub fn handle(&self, slot: u32) -> Task {
        let message = self.messages[self.tasks[slot as usize].message as usize].id;
        Task { slot, message }
    }

    /// Makes a task ready now.
    pub fn make_ready(&mut self, slot: u32) {
        let task = &mut self.tasks[slot as usize];
        task.state = TaskState::Ready;
        let destination = task.destination;
        self.schedule.push_ready(destination, slot);
    }

    /// Lets a task wait until `due_ms`.
    pub fn make_delayed(&mut self, slot: u32, due_ms: u64) {
        let task = &mut self.tasks[slot as usize];
        task.state = TaskState::Delayed;
        task.due_ms = due_ms;
        self.schedule.push_waiting(due_ms, slot);
    }

    /// Takes a task off the schedule until an operator releases it.
    pub fn hold(&mut self, slot: u32) {
        let task = &mut self.tasks[slot as usize];
        task.state = TaskState::Held;
        task.due_ms = 0;
    }

    /// Takes the oldest ready task of a destination into flight.
    pub fn take(&mut self, destination: DestinationId) -> Option<Task> {
        loop {
            let slot = self.schedule.take(destination)?;
            // What was claimed while it was ready has left its place in the line behind.
            let task = self.tasks.get_mut(slot as usize);
            let ready =
                task.filter(|it| it.state == TaskState::Ready && it.destination == destination);
            if let Some(task) = ready {
                task.state = TaskState::InFlight;
                return Some(self.handle(slot));
            }
        }
    }

    /// Takes a task into flight out of turn, if it is still there and `wanted` takes its state.
    pub fn claim(&mut self, task: Task, wanted: impl FnOnce(TaskState) -> bool) -> bool {
        let Some(entry) = self.tasks.get_mut(task.slot as usize) else { return false };
        let same = self.messages[entry.message as usize].id == task.message;
        let claimed = same && entry.state != TaskState::InFlight && wanted(entry.state);
        if claimed {
            entry.state = TaskState::InFlight;
        }
        claimed
    }

    /// Shows the tasks in `count` slots from `from` on. Returns where to go on, `None` at the end.
    pub fn visit_tasks(
        &self,
        from: usize,
        count: usize,
        mut visit: impl FnMut(Task, &TaskEntry, &str),
    ) -> Option<usize> {
        let end = (from + count).min(self.tasks.capacity());
        for slot in from..end {
            if let Some(entry) = self.tasks.get(slot) {
                let domain = self.schedule.name(entry.destination).unwrap_or_default();
                visit(self.handle(slot as u32), entry, &domain);
            }
        }
        (end < self.tasks.capacity()).then_some(end)
    }

    /// Makes every task ready whose wait is over. Those whose message is older than `lifetime_ms`
    /// go in flight instead, into `expired`. Returns how many became ready.
    pub fn release_due(&mut self, now_ms: u64, lifetime_ms: u64, expired: &mut Vec<Task>) -> usize {
        let mut ready_count = 0;
        while let Some((due_ms, slot)) = self.schedule.pop_due(now_ms) {
            let Some(task) = self.tasks.get_mut(slot as usize) else { continue };
            if task.state != TaskState::Delayed || task.due_ms != due_ms {
                continue;
            }
            let accepted_ms = self.messages[task.message as usize].accepted_ms;
            if now_ms >= accepted_ms.saturating_add(lifetime_ms) {
                task.state = TaskState::InFlight;
                expired.push(self.handle(slot));
            } else {
                self.make_ready(slot);
                ready_count += 1;
            }
        }
        ready_count
    }

    /// Removes a settled task. Returns whether it was the last of its message.
    pub fn close_task(&mut self, task: Task) -> bool {
        let entry = self.tasks.remove(task.slot as usize);
        self.record_bytes -= entry.record.as_ref().map_or(0, |record| record.heap_bytes());
        let message = &mut self.messages[entry.message as usize];
        assert_eq!(message.id, task.message);
        message.open_task_count -= 1;
        if message.first_task == task.slot {
            message.first_task = entry.next;
        } else {
            let mut slot = message.first_task;
            while self.tasks[slot as usize].next != task.slot {
                slot = self.tasks[slot as usize].next;
            }
            self.tasks[slot as usize].next = entry.next;
        }
        let last = message.open_task_count == 0;
        self.schedule.leave(entry.destination);
        last
    }

    /// Keeps envelope and content in memory within `budget_bytes`; the oldest make room.
    pub fn keep(&mut self, id: u64, kept: Rc<Kept>, budget_bytes: usize) {
        if kept.bytes() > budget_bytes {
            return;
        }
        self.kept_bytes += kept.bytes();
        let slot = self.by_id[&id];
        self.messages[slot as usize].kept = Some(kept);
        self.kept_order.push_back(id);
        // Entries of messages long settled go as well, so the list stays as short as the keep.
        while self.kept_bytes > budget_bytes || self.kept_order.len() > 2 * self.messages.len() + 64
        {
            let Some(oldest) = self.kept_order.pop_front() else { break };
            if let Some(slot) = self.by_id.get(&oldest)
                && let Some(kept) = self.messages[*slot as usize].kept.take()
            {
                self.kept_bytes -= kept.bytes();
            }
        }
    }
}

/// The distinct destination domains of an envelope, lower case, in order of first appearance:
/// the position is the task number.
pub(super) fn destination_domains(envelope: &Envelope) -> Vec<String> {
    let mut domains: Vec<String> = Vec::with_capacity(1);
    let mut seen: HashSet<String> = HashSet::new();
    for recipient in &envelope.recipients {
        let domain = recipient.domain();
        if domains.last().is_some_and(|last| last.eq_ignore_ascii_case(domain)) {
            continue;
        }
        let domain = domain.to_ascii_lowercase();
        if domains.is_empty() || seen.insert(domain.clone()) {
            if domains.is_empty() && envelope.recipients.len() > 1 {
                seen.insert(domain.clone());
            }
            domains.push(domain);
        }
    }
    domains
}

/// Positions of the recipients that a task to `domain` carries.
pub(super) fn recipients_of(envelope: &Envelope, domain: &str) -> Vec<u16> {
    let recipients = envelope.recipients.iter().enumerate();
    recipients
        .filter(|(_, recipient)| recipient.domain().eq_ignore_ascii_case(domain))
        .map(|(index, _)| index as u16)
        .collect()
}

const _: () = assert!(crate::limits::RECIPIENTS_MAX <= u16::MAX as usize);

impl Kept {
    /// What it counts against the budget.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Whole(content) => content.len() + 512,
            Content::Chunked { .. } => 512,
        }
    }
}
