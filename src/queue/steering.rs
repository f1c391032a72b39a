//! What an operator does to queued messages: try now, hold, release, give up, send elsewhere, send
//! sooner or later.

use std::rc::Rc;

use super::codec::{Change, Group, RecipientState, TaskRecord};
use super::index::{Task, TaskState};
use super::ledger::{Ledger, NoLine, Waiting};
use super::outcome::{Attempt, Reports};
use super::outline::recipients_of;
use super::schedule::Flow;
use super::selection::{ReversePathPattern, Selection};
use super::store::{Message, Queue};
use crate::config::NextHop;
use crate::mail::{Class, EnhancedStatusCode, Outcome, RecipientOutcome, Reply, ReplyClass};
use crate::runtime::{clock, task};

/// What is to be done to tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Delayed tasks are ready now. No attempt is counted.
    Retry(Obstacles),
    /// Ready and Delayed tasks wait until they are released, over restarts too.
    Hold,
    /// Held tasks are ready now.
    Release,
    /// The open recipients of ready, Delayed and Held tasks are Failed; DSNs say so where they are
    /// wanted.
    Bounce(Reports),
    /// Tasks go to this next hop whatever routes say, over restarts too; `None` takes that back.
    /// Delayed ones are ready now.
    Reroute(Option<NextHop>),
    /// Tasks are of this class, over restarts too.
    Class(Class),
}

/// What an order to try again does about what rules for replies said of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacles {
    Respected,
    /// Nothing of it holds any more for the mail that is meant.
    Lifted,
}

/// What has come of an order so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steered {
    /// Tasks that the order is for.
    pub matched: usize,
    /// Of these, those it was carried out on; the others changed meanwhile or cannot be read.
    pub done: usize,
}

/// Whether an order is carried out or only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    CarryOut,
    Count,
}

impl Order {
    /// Whether it is for a task that stands so and goes this way.
    fn is_for(&self, state: TaskState, flow: &Flow) -> bool {
        match self {
            Order::Reroute(next_hop) if flow.next_hop == *next_hop => false,
            Order::Class(class) if flow.stream.class == *class => false,
            order => order.is_for_state(state),
        }
    }

    fn is_for_state(&self, state: TaskState) -> bool {
        match self {
            Order::Retry(_) => state == TaskState::Delayed,
            Order::Hold => matches!(state, TaskState::Ready | TaskState::Delayed),
            Order::Release => state == TaskState::Held,
            Order::Bounce(_) | Order::Reroute(_) | Order::Class(_) => state != TaskState::InFlight,
        }
    }
}

/// What delivery knows of the way a flow takes.
pub trait Sites {
    /// The next hop in words; `None` where there is none.
    fn site_of(&self, flow: &Flow) -> Option<String>;
    /// What held up its line.
    fn waiting_of(&self, flow: &Flow) -> Rc<dyn Waiting>;
}

impl Queue {
    /// Carries `order` out on what `selection` takes of the messages that are queued now, a few at
    /// a time, and resolves when all of it is durable. `go_on` hears how far it is, again and
    /// again; when it says no, the rest stays as it is.
    pub async fn steer(
        &self,
        selection: &Selection,
        order: &Order,
        mode: Mode,
        sites: &dyn Sites,
        mut go_on: impl FnMut(Steered) -> bool,
    ) -> Steered {
        // What an order brings about, reports for one, is not meant by it.
        let end = self.inner.journal.next_message_id();
        let mut steered = Steered::default();
        let mut from = 0;
        let mut selected = Vec::new();
        'slices: loop {
            let is_for = |state, flow: &Flow| order.is_for(state, flow);
            let next = self.select(selection, is_for, end, sites, from, &mut selected).await;
            steered.matched += selected.len();
            // Several at a time, so that what must be read back comes back together.
            for tasks in selected.chunks(TASKS_TOGETHER) {
                if !go_on(steered) {
                    break 'slices;
                }
                if mode == Mode::Count {
                    continue;
                }
                let carried_out = tasks.iter().map(|task| self.carry_out(*task, order, sites));
                let carried_out = task::join_all(carried_out).await;
                steered.done += carried_out.into_iter().filter(|is_done| *is_done).count();
            }
            selected.clear();
            let Some(next) = next.filter(|_| go_on(steered)) else { break };
            from = next;
            task::yield_now().await;
        }
        // What was recorded takes effect in order: the last is behind all others.
        let last = self.inner.settlements.borrow().back().map(|it| it.ticket());
        if let Some(ticket) = last.filter(|_| mode == Mode::CarryOut) {
            self.inner.journal.durable(ticket).await;
        }
        steered
    }

    /// Shows the flows of the tasks that `selection` takes, whatever their state, a few at a time.
    /// `go_on` is asked in between; when it says no, the rest is not shown.
    pub async fn visit_selected(
        &self,
        selection: &Selection,
        sites: &dyn Sites,
        mut visit: impl FnMut(&Flow),
        mut go_on: impl FnMut() -> bool,
    ) {
        let end = self.inner.journal.next_message_id();
        let mut next = Some(0);
        let mut selected = Vec::new();
        while let Some(from) = next.filter(|_| go_on()) {
            next = self.select(selection, |_, _| true, end, sites, from, &mut selected).await;
            {
                let index = self.inner.index.borrow();
                let selected = selected.drain(..).filter(|task| index.is_there(*task));
                selected.for_each(|task| visit(&index.flow_at(task.slot)));
            }
            task::yield_now().await;
        }
    }

    /// Adds the next few tasks that are meant, of messages below `end`. Returns where to go on.
    /// Reads envelopes back where reverse-paths count.
    async fn select(
        &self,
        selection: &Selection,
        is_for: impl Fn(TaskState, &Flow) -> bool,
        end: u64,
        sites: &dyn Sites,
        from: u32,
        selected: &mut Vec<Task>,
    ) -> Option<u32> {
        let next = self.select_by_index(selection, is_for, end, sites, from, selected);
        if let Some(reverse_path) = &selection.reverse_path {
            let mut last = None;
            for task in std::mem::take(selected) {
                let is_meant = match last {
                    Some((message, is_meant)) if message == task.message => is_meant,
                    _ => self.is_from(task.message, reverse_path).await,
                };
                last = Some((task.message, is_meant));
                selected.extend(Some(task).filter(|_| is_meant));
            }
        }
        next
    }

    /// Whether a message has one of these reverse-paths; one that cannot be read has none of them.
    async fn is_from(&self, message: u64, reverse_path: &ReversePathPattern) -> bool {
        let Some(slot) = self.inner.index.borrow().find(message) else { return false };
        let envelope = self.inner.envelope(slot).await;
        envelope.is_ok_and(|envelope| reverse_path.takes(&envelope.reverse_path))
    }

    fn select_by_index(
        &self,
        selection: &Selection,
        is_for: impl Fn(TaskState, &Flow) -> bool,
        end: u64,
        sites: &dyn Sites,
        from: u32,
        selected: &mut Vec<Task>,
    ) -> Option<u32> {
        let index = self.inner.index.borrow();
        let may_be_from = |task: Task| {
            let reverse_path = selection.reverse_path.as_ref();
            reverse_path.is_none_or(|it| it.may_take(index.sender_of(task.slot)))
        };
        let is_meant = |task: Task| {
            let flow = index.flow_at(task.slot);
            let site = || sites.site_of(&flow);
            is_for(index.task(task.slot).state(), &flow)
                && selection.takes_age(index.since_ms(task.slot))
                && may_be_from(task)
                && selection.flows.takes(&flow.domain, &flow.stream, site)
        };
        if let Some(message) = selection.message {
            let tasks = index.find(message).into_iter().flat_map(|slot| index.tasks_of(slot));
            selected.extend(tasks.map(|slot| index.handle(slot)).filter(|task| is_meant(*task)));
            return None;
        }
        index.visit_tasks(from, TASKS_AT_ONCE, |task, _, _, _| {
            if task.message < end && is_meant(task) {
                selected.push(task);
            }
        })
    }

    /// Claims a task and lets it end this in another state than in flight; one that is no longer as
    /// it was selected is left alone. Returns whether the order could be carried out; what is to be
    /// durable has its settlement.
    async fn carry_out(&self, task: Task, order: &Order, sites: &dyn Sites) -> bool {
        let claimed = {
            let mut index = self.inner.index.borrow_mut();
            index.claim(task, |state| order.is_for_state(state))
        };
        let Some(before) = claimed else { return false };
        if let Order::Retry(_) = order {
            self.put_back(task);
            return true;
        }
        if let Order::Bounce(reports) = order
            && before != TaskState::Held
        {
            return self.give_up(task, *reports).await;
        }
        let due_ms = self.inner.index.borrow().task(task.slot).standing().due_ms;
        let Some(mut record) = self.record_now(task, sites).await else {
            // Held because it could not be read: released, it is tried anew.
            if *order == Order::Release {
                self.put_back(task);
                return true;
            }
            self.stand(task, before, due_ms);
            return false;
        };
        match order {
            Order::Hold => record.turn(RecipientState::Delayed, RecipientState::Held),
            Order::Release | Order::Bounce(_) => {
                record.turn(RecipientState::Held, RecipientState::Delayed);
            }
            Order::Reroute(next_hop) => record.change.next_hop.clone_from(next_hop),
            Order::Class(class) => record.change.class = Some(*class),
            Order::Retry(_) => unreachable!("it needs no record"),
        }
        // With a recipient Held the task is, as of its STATE; one without stays in flight.
        let can_hold = *order != Order::Hold || record.is_held();
        if !can_hold || self.inner.append_state(task, record).await.is_err() {
            self.stand(task, before, due_ms);
            return false;
        }
        match order {
            Order::Bounce(reports) => return self.give_up(task, *reports).await,
            Order::Release => self.put_back(task),
            Order::Reroute(_) if before == TaskState::Delayed => self.put_back(task),
            Order::Hold => {}
            Order::Retry(_) | Order::Reroute(_) | Order::Class(_) => {
                self.stand(task, before, due_ms);
            }
        }
        true
    }

    /// A task in flight stands as it did.
    fn stand(&self, task: Task, before: TaskState, due_ms: u64) {
        let mut index = self.inner.index.borrow_mut();
        match before {
            TaskState::Held => index.hold(task.slot),
            TaskState::Delayed => index.make_delayed(task.slot, due_ms),
            TaskState::Ready | TaskState::InFlight => {
                index.make_ready(task.slot);
                self.inner.announced.notify_one();
            }
        }
    }

    async fn give_up(&self, task: Task, reports: Reports) -> bool {
        match self.load(task).await {
            Err(error) => {
                self.hold(task, &error);
                false
            }
            Ok(message) => {
                self.bounce(task, &message, reports);
                true
            }
        }
    }

    fn bounce(&self, task: Task, message: &Rc<Message>, reports: Reports) {
        let outcomes = message.recipient_indexes.iter().map(|index| RecipientOutcome {
            recipient_index: *index,
            outcome: Outcome::Failed,
            class: Some(ReplyClass::Other),
            reply: BOUNCED,
        });
        let outcomes = outcomes.collect();
        let mut attempt = Attempt::without_session("operator".into());
        attempt.reports = reports;
        self.settle(task, message, outcomes, attempt);
    }

    /// A task in flight whose content cannot be read is Held from now on; `reply` says why.
    pub(super) async fn record_held(self, task: Task, reply: String) {
        let begun_ms = self.inner.index.borrow().task(task.slot).standing().due_ms;
        let mut is_recorded = false;
        if let Some(mut record) = self.record_or_first(task).await {
            if let Some(mut ledger) = record.ledger.take() {
                record.account_for(&mut ledger, &NoLine, Some(begun_ms), clock::unix_ms());
                record.ledger = Some(ledger);
            }
            record.turn(RecipientState::Delayed, RecipientState::Held);
            let held = record.groups.iter_mut().filter(|it| it.state == RecipientState::Held);
            held.filter(|it| it.reply.is_empty()).for_each(|it| it.reply = reply.as_str().into());
            is_recorded = record.is_held() && self.inner.append_state(task, record).await.is_ok();
        }
        if !is_recorded {
            self.inner.index.borrow_mut().hold(task.slot);
        }
    }

    /// The STATE of a task as of now, its ledger included. One that was never tried has none: its
    /// recipients are Delayed. `None` when it cannot be read.
    async fn record_now(&self, task: Task, sites: &dyn Sites) -> Option<TaskRecord> {
        let mut record = self.record_or_first(task).await?;
        let flow = self.inner.index.borrow().flow_at(task.slot);
        let waiting = sites.waiting_of(&flow);
        if let Some(mut ledger) = record.ledger.take() {
            record.account_for(&mut ledger, &*waiting, None, clock::unix_ms());
            record.ledger = Some(ledger);
        }
        Some(record)
    }

    /// The last STATE of a task, with a ledger. One that was never tried has none: its recipients
    /// are Delayed. `None` when it, or the envelope where that is needed, cannot be read.
    async fn record_or_first(&self, task: Task) -> Option<TaskRecord> {
        let record = self.inner.read_record(task.slot).await.ok()?;
        if let Some(record) = record.as_ref().filter(|record| record.ledger.is_some()) {
            return Some(TaskRecord::clone(record));
        }
        let slot = self.inner.index.borrow().message_of(task);
        let envelope = self.inner.envelope(slot).await.ok()?;
        let ledger = Some(Ledger::new(envelope.accepted_ms));
        if let Some(record) = record {
            return Some(TaskRecord { ledger, ..TaskRecord::clone(&record) });
        }
        let index = self.inner.index.borrow();
        let recipient_indexes = recipients_of(&envelope, index.flow_of(task.slot).0);
        let group =
            Group { state: RecipientState::Delayed, reply: Box::default(), recipient_indexes };
        Some(TaskRecord {
            attempts: 0,
            due_ms: envelope.release_ms,
            possible_duplicate: false,
            delay_notified: false,
            groups: vec![group],
            change: Change::default(),
            ledger,
        })
    }
}

const BOUNCED: Reply =
    Reply::new(554, EnhancedStatusCode::new(5, 7, 0), "Given up by the operator of this server");
/// Tasks whose records are read back at the same time.
const TASKS_TOGETHER: usize = 64;
/// Tasks looked at before others get a turn.
const TASKS_AT_ONCE: u32 = 256;
