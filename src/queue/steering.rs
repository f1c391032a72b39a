//! What an operator does to queued messages: try now, hold, release, give up.

use std::rc::Rc;

use super::codec::{Group, RecipientState, TaskRecord};
use super::index::{Task, TaskState};
use super::outcome::Attempt;
use super::store::{Message, Queue};
use crate::journal::Ticket;
use crate::mail::{
    Class, EnhancedStatusCode, Outcome, RecipientOutcome, Reply, ReplyClass, Stream,
};
use crate::runtime::task;

/// Which tasks are meant. Conditions that are there all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// One message of this shard, by its number.
    pub message: Option<u64>,
    /// Destination domain in any case: `a.test`, or `*.a.test` for what is below it.
    pub domain: Option<String>,
    /// Exactly as it was named; empty for mail without one.
    pub tenant: Option<String>,
    /// Exactly as it was named; empty for mail without one.
    pub campaign: Option<String>,
    pub class: Option<Class>,
}

/// What is to be done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Delayed tasks are ready now. No attempt is counted.
    Retry,
    /// Ready and Delayed tasks wait until they are released, over restarts too.
    Hold,
    /// Held tasks are ready now.
    Release,
    /// The open recipients of ready, Delayed and Held tasks are Failed; DSNs say so.
    Bounce,
}

/// What came of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steered {
    /// Tasks that the order is for.
    pub matched: usize,
    /// Of these, those it was carried out on; the others changed meanwhile or cannot be read.
    pub done: usize,
}

impl Selection {
    /// Whether it takes what goes to `domain` in `stream`; `message` is not looked at.
    fn takes_flow(&self, domain: &str, stream: &Stream) -> bool {
        self.domain.as_deref().is_none_or(|pattern| is_below(domain, pattern))
            && self.tenant.as_deref().is_none_or(|wanted| *wanted == *stream.tenant)
            && self.campaign.as_deref().is_none_or(|wanted| *wanted == *stream.campaign)
            && self.class.is_none_or(|wanted| wanted == stream.class)
    }
}

fn is_below(domain: &str, pattern: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => domain.eq_ignore_ascii_case(pattern),
        Some(suffix) => {
            let dot = domain.len().checked_sub(suffix.len() + 1);
            dot.is_some_and(|dot| {
                domain.as_bytes()[dot] == b'.'
                    && domain.as_bytes()[dot + 1..].eq_ignore_ascii_case(suffix.as_bytes())
            })
        }
    }
}

impl Order {
    fn is_for(self, state: TaskState) -> bool {
        match self {
            Order::Retry => state == TaskState::Delayed,
            Order::Hold => matches!(state, TaskState::Ready | TaskState::Delayed),
            Order::Release => state == TaskState::Held,
            Order::Bounce => state != TaskState::InFlight,
        }
    }
}

impl Queue {
    /// How many tasks `order` is for. Suspends now and then.
    pub async fn count(&self, selection: &Selection, order: Order) -> Steered {
        Steered { matched: self.select(selection, order).await.len(), done: 0 }
    }

    /// Carries `order` out on what `selection` takes, and resolves when it is durable.
    pub async fn steer(&self, selection: &Selection, order: Order) -> Steered {
        let selected = self.select(selection, order).await;
        let mut steered = Steered { matched: selected.len(), done: 0 };
        let mut last = None;
        for (position, selected) in selected.into_iter().enumerate() {
            if (position + 1).is_multiple_of(TASKS_AT_ONCE as usize) {
                task::yield_now().await;
            }
            // What is no longer as it was selected is left alone.
            let claimed = self.inner.index.borrow_mut().claim(selected, |it| order.is_for(it));
            if claimed && let Some(ticket) = self.carry_out(selected, order).await {
                steered.done += 1;
                last = last.max(ticket);
            }
        }
        if let Some(ticket) = last {
            self.inner.journal.durable(ticket).await;
        }
        if order == Order::Bounce {
            self.flushed().await;
        }
        steered
    }

    async fn select(&self, selection: &Selection, order: Order) -> Vec<Task> {
        let mut selected = Vec::new();
        if let Some(message) = selection.message {
            let index = self.inner.index.borrow();
            let tasks = index.find(message).into_iter().flat_map(|slot| index.tasks_of(slot));
            selected.extend(tasks.filter_map(|slot| {
                let (domain, stream) = index.flow_of(slot);
                let is_meant =
                    order.is_for(index.task(slot).state()) && selection.takes_flow(domain, stream);
                is_meant.then(|| index.handle(slot))
            }));
            return selected;
        }
        let mut from = 0;
        loop {
            let next = self.inner.index.borrow().visit_tasks(
                from,
                TASKS_AT_ONCE,
                |task, entry, domain, stream| {
                    if order.is_for(entry.state()) && selection.takes_flow(domain, stream) {
                        selected.push(task);
                    }
                },
            );
            let Some(next) = next else { return selected };
            from = next;
            task::yield_now().await;
        }
    }

    /// The task is in flight, and ends this in another state. `None` when it cannot be done; else
    /// what is to be durable first, if anything.
    async fn carry_out(&self, task: Task, order: Order) -> Option<Option<Ticket>> {
        match order {
            Order::Retry => {
                self.put_back(task);
                Some(None)
            }
            Order::Release => {
                let ticket = self.rewrite(task, RecipientState::Held, RecipientState::Delayed);
                let ticket = ticket.await;
                self.put_back(task);
                ticket
            }
            Order::Hold => {
                let (from, to) = (RecipientState::Delayed, RecipientState::Held);
                let ticket = self.rewrite(task, from, to).await;
                if !matches!(ticket, Some(Some(_))) {
                    self.put_back(task);
                }
                ticket
            }
            Order::Bounce => {
                let (from, to) = (RecipientState::Held, RecipientState::Delayed);
                let ticket = self.rewrite(task, from, to).await;
                if ticket.is_none() {
                    self.put_back(task);
                    return None;
                }
                match self.load(task).await {
                    Err(error) => {
                        self.hold(task, &error);
                        None
                    }
                    Ok(message) => {
                        self.bounce(task, &message);
                        ticket
                    }
                }
            }
        }
    }

    fn bounce(&self, task: Task, message: &Rc<Message>) {
        let outcomes = message.recipient_indexes.iter().map(|index| RecipientOutcome {
            recipient_index: *index,
            outcome: Outcome::Failed,
            class: Some(ReplyClass::Other),
            reply: BOUNCED,
        });
        let outcomes = outcomes.collect();
        self.settle(task, message, outcomes, Attempt::without_session("operator".into()));
    }

    /// Records that recipients in state `from` are in state `to`; with one of them Held, the task
    /// is. A task that was never tried has no record: its recipients are Delayed. `None` when there
    /// is no room, or the message cannot be read.
    async fn rewrite(
        &self,
        task: Task,
        from: RecipientState,
        to: RecipientState,
    ) -> Option<Option<Ticket>> {
        let mut record = match self.inner.read_record(task.slot).await.ok()? {
            Some(record) => TaskRecord::clone(&record),
            None if from == RecipientState::Held => return Some(None),
            None => {
                let message = self.load(task).await.ok()?;
                let recipient_indexes = message.recipient_indexes.clone();
                let group = Group { state: from, reply: Box::default(), recipient_indexes };
                TaskRecord {
                    attempts: 0,
                    due_ms: 0,
                    possible_duplicate: false,
                    groups: vec![group],
                }
            }
        };
        if !record.groups.iter().any(|group| group.state == from) {
            return Some(None);
        }
        for group in record.groups.iter_mut().filter(|group| group.state == from) {
            group.state = to;
        }
        record.due_ms = 0;
        self.inner.append_state(task, record).await.ok().map(Some)
    }
}

const BOUNCED: Reply =
    Reply::new(554, EnhancedStatusCode::new(5, 7, 0), "Given up by the operator of this server");
/// Tasks looked at before others get a turn.
const TASKS_AT_ONCE: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_takes_a_domain_or_what_is_below_it() {
        for (pattern, domain, expected) in [
            ("A.test", "a.test", true),
            ("a.test", "b.a.test", false),
            ("*.a.test", "b.a.test", true),
            ("*.a.test", "a.test", false),
            ("*.a.test", "xa.test", false),
            ("*.a.test", "", false),
        ] {
            let selection = Selection { domain: Some(pattern.to_owned()), ..Selection::default() };
            let takes = selection.takes_flow(domain, &Stream::default());
            assert_eq!(takes, expected, "{pattern} {domain}");
        }
        assert!(Selection::default().takes_flow("a.test", &Stream::default()));
    }

    #[test]
    fn all_conditions_of_a_selection_hold() {
        let stream = Stream {
            tenant: "acme".into(),
            campaign: "spring".into(),
            class: Class::Transactional,
        };
        let takes = |tenant: Option<&str>, campaign: Option<&str>, class| {
            let [tenant, campaign] = [tenant, campaign].map(|name| name.map(str::to_owned));
            let selection = Selection { tenant, campaign, class, ..Selection::default() };
            selection.takes_flow("a.test", &stream)
        };
        assert!(takes(Some("acme"), Some("spring"), Some(Class::Transactional)));
        assert!(takes(Some("acme"), None, None));
        assert!(!takes(Some("acme"), Some("autumn"), None));
        assert!(!takes(Some("ac"), None, None));
        assert!(!takes(None, None, Some(Class::Bulk)));
        assert!(!takes(Some(""), None, None), "empty is for mail without a tenant");
    }
}
