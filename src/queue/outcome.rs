//! The only way out: what a delivery attempt ended in, made durable and reported.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::codec::{self, Group, RecipientState, TaskRecord};
use super::index::{Removed, Task};
use super::intake::{Born, Prepared};
use super::ledger::{Cause, Ledger, NoLine, Waiting};
use super::notification::{self, Notification, Occasion, Plan};
use super::outline::{Standing, pinned_bytes};
use super::retry::{self, DelayNotice, retry_wait};
use super::store::{Content, Inner, LoadError, Message, Queue};
use crate::config::{LogFormat, RetryPolicy};
use crate::event::notice;
use crate::event::{self, OutcomeRecord};
use crate::journal::{Append, AppendError, Appended, Location, Record, Ticket, kind};
use crate::mail::{
    EnvelopeFlags, Outcome, Protection, RecipientOutcome, Reply, ReplyClass, status,
};
use crate::runtime::{clock, task, timer};

/// What is known of an attempt beyond its outcomes.
#[derive(Clone)]
pub struct Attempt {
    /// The next hop in words.
    pub site: Rc<str>,
    /// Whom the attempt spoke to; `None` where there was no session.
    pub remote: Option<Remote>,
    /// What protected the session.
    pub protection: Option<Protection>,
    /// From taking the task to the outcome.
    pub duration: Duration,
    /// The reply to end of data was lost: the recipient may have the message already.
    pub in_doubt: bool,
    pub reports: Reports,
    /// What held up the line before the task was taken, where some recipient is Delayed.
    pub waiting: Option<Rc<dyn Waiting>>,
}

/// The server at the other end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// None of a socket of this machine.
    pub address: Option<IpAddr>,
    /// The name by which it was found, where it was found by one.
    pub host: Option<Rc<str>>,
    /// It delivers finally, and answers for each recipient (LMTP, RFC 2033).
    pub delivers: bool,
    /// It was told what reports are wanted, and makes them from here on (RFC 3461).
    pub offers_dsn: bool,
}

/// Whether an attempt may be reported on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reports {
    /// As the envelope asks for.
    #[default]
    Wanted,
    /// Nobody is told, whatever became of the recipients.
    Suppressed,
}

impl Attempt {
    /// An end that came without asking a next hop; `site` says whose doing it was.
    pub fn without_session(site: Rc<str>) -> Self {
        let (duration, in_doubt) = (Duration::ZERO, false);
        let (remote, protection) = (None, None);
        let (reports, waiting) = (Reports::Wanted, None);
        Self { site, remote, protection, duration, in_doubt, reports, waiting }
    }
}

/// What follows from an attempt once its record is durable.
pub(super) struct Settlement {
    ticket: Ticket,
    /// The task whose STATE can be read back.
    fresh: Option<u32>,
    /// The STATE that was replaced, or settled with its task: its place on disk is free.
    replaced: Option<Location>,
    /// The message is settled: its place on disk is free.
    retired: Option<Removed>,
    /// The DSN, and what goes on: born in the same frame.
    born: Vec<Born>,
    /// Log lines of the outcomes.
    lines: Vec<u8>,
}

impl Settlement {
    /// Durable when it takes effect.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

/// Where an ending went.
struct Recorded {
    ticket: Ticket,
    /// STATE or RETIRED.
    state_at: Location,
    notification_at: Option<Location>,
    onward_at: Option<Location>,
}

/// A record of a frame.
struct Part<'p> {
    kind: u8,
    id: u64,
    number: u32,
    payload: [&'p [u8]; 1],
}

impl Part<'_> {
    fn record(&self) -> Record<'_> {
        let Self { kind, id, number, payload } = self;
        Record { kind: *kind, flags: 0, id: *id, aux: *number, payload }
    }
}

impl Queue {
    /// Ends an attempt: one outcome for each recipient the message was loaded with.
    ///
    /// Delayed recipients are scheduled again, or Failed when their lifetime is over. The record
    /// rides in the next frame; log line and DSN appear when it is durable.
    pub fn settle(
        &self,
        task: Task,
        message: &Rc<Message>,
        outcomes: Vec<RecipientOutcome>,
        attempt: Attempt,
    ) {
        self.settle_and_send_on(task, message, outcomes, attempt, None);
    }

    /// The same, and `onward` is in the queue from the same frame on: what some recipients lead on
    /// to goes there once, whenever the process ends.
    pub fn settle_and_send_on(
        &self,
        task: Task,
        message: &Rc<Message>,
        outcomes: Vec<RecipientOutcome>,
        attempt: Attempt,
        onward: Option<Prepared>,
    ) {
        assert_eq!(outcomes.len(), message.recipient_indexes.len());
        let reason = Reason::Attempt;
        let ending = Ending::new(&self.inner, reason, task, message.clone(), outcomes, attempt);
        self.finish(task, Ending { onward, ..ending });
    }

    fn finish(&self, task: Task, ending: Ending) {
        if let Some(ending) = self.inner.finish(task, ending, None) {
            // What must be read back takes a while, and so does a journal without room.
            task::spawn_vital(self.clone().finish_later(task, ending));
        }
    }

    /// Takes a task in flight that cannot be read back out of the schedule until an operator acts;
    /// over restarts too where its envelope, or its STATE, can be read.
    pub fn hold(&self, task: Task, reason: &LoadError) {
        let id = self.inner.queue_id(task.message);
        notice!("ringpost: {id}: held, its content cannot be read back: {reason}");
        self.inner.metrics.queue.held.add(1);
        task::spawn_vital(self.clone().record_held(task, format!("Cannot be read back: {reason}")));
    }

    async fn finish_later(self, task: Task, mut ending: Ending) {
        if ending.is_open() && ending.past.is_none() {
            // What cannot be read costs the ledger its rows, not its sum.
            let record = self.inner.read_record(task.slot).await.unwrap_or(None);
            let accepted_ms = ending.message.envelope.accepted_ms;
            ending.past = Some(Past::new(record.as_deref(), accepted_ms));
        }
        let mut first_chunk = None;
        if ending.needs_chunk() {
            first_chunk = self.load_chunk(&ending.message, 0).await.ok();
            ending.chunk_missing = first_chunk.is_none();
        }
        while let Some(again) = self.inner.finish(task, ending, first_chunk.as_deref()) {
            ending = again;
            if ending.is_too_large
                && let Some(onward) = ending.onward.take()
            {
                // A crash between the two frames sends it on twice, which beats not at all.
                match onward.append().await {
                    Ok(appended) => drop(self.enter_when_durable(onward, appended).await),
                    Err(_) => ending.onward = Some(onward),
                }
                if ending.onward.is_none() {
                    continue;
                }
            }
            timer::sleep(NO_SPACE_WAIT).await;
        }
    }

    /// Lets what was settled take effect as its frames become durable.
    pub(super) async fn run_settlements(self) {
        loop {
            let ticket = self.inner.settlements.borrow().front().map(|it| it.ticket);
            match ticket {
                Some(ticket) => {
                    self.inner.journal.durable(ticket).await;
                    self.inner.apply_settlements(ticket);
                }
                None => self.inner.settlement_added.notified().await,
            }
        }
    }

    /// Fails tasks whose lifetime ended while they waited.
    pub(super) async fn expire(&self, task: Task) {
        match self.load(task).await {
            Ok(message) => {
                let text = match self.inner.last_reply(task).await {
                    Some(reply) => format!("Message expired; last reply: {reply}"),
                    None => "Message expired before it could be tried".to_owned(),
                };
                let reply = Reply::with_text(451, status::DELIVERY_TIME_EXPIRED, text);
                let outcomes = all(&message, Outcome::Failed, &reply, Some(ReplyClass::Expired));
                self.settle(task, &message, outcomes, Attempt::without_session("queue".into()));
            }
            Err(error) => self.hold(task, &error),
        }
    }

    /// Tells of a delay that it is time to tell of, where somebody wants to know, and makes the
    /// task ready, before the others of its flow. No attempt is counted.
    pub(super) async fn tell_of_delay(&self, task: Task) {
        match self.load(task).await {
            Ok(message) => {
                let text = match self.inner.last_reply(task).await {
                    Some(reply) => format!("Message is queued; last reply: {reply}"),
                    None => "Message is queued and could not be tried yet".to_owned(),
                };
                let reply = Reply::with_text(451, status::OTHER_TRANSIENT, text);
                let outcomes = all(&message, Outcome::Delayed, &reply, None);
                let attempt = Attempt::without_session("queue".into());
                let reason = Reason::Delay;
                let ending = Ending::new(&self.inner, reason, task, message, outcomes, attempt);
                if ending.tells_of_delay() {
                    self.finish(task, ending);
                } else {
                    self.inner.index.borrow_mut().set_delay_notified(task.slot);
                    self.put_back_first(task);
                }
            }
            Err(error) => self.hold(task, &error),
        }
    }
}

/// The same outcome for every recipient that is left.
fn all(
    message: &Message,
    outcome: Outcome,
    reply: &Reply,
    class: Option<ReplyClass>,
) -> Vec<RecipientOutcome> {
    let of_one = |index: &u16| RecipientOutcome {
        recipient_index: *index,
        outcome,
        reply: reply.clone(),
        class,
    };
    message.recipient_indexes.iter().map(of_one).collect()
}

/// An attempt that has ended, or a delay to tell of, that is not yet recorded.
pub(super) struct Ending {
    message: Rc<Message>,
    outcomes: Vec<RecipientOutcome>,
    attempt: Attempt,
    reason: Reason,
    now_ms: u64,
    policy: RetryPolicy,
    /// End of the lifetime, Unix milliseconds.
    expires_ms: u64,
    /// When the delay is still to be told of, Unix milliseconds; `None` where nobody wants it.
    delay_notice_ms: Option<u64>,
    /// The report that is due.
    report: Option<Plan>,
    /// When it may go, Unix milliseconds.
    report_ms: u64,
    /// The DSN goes without the original: it cannot be read.
    chunk_missing: bool,
    /// Where the task stood before; only one that stays open needs to know.
    past: Option<Past>,
    /// What goes into the queue with it.
    onward: Option<Prepared>,
    /// That does not fit the frame.
    is_too_large: bool,
}

/// Where a task stood before an attempt.
struct Past {
    ledger: Ledger,
    /// Unix milliseconds at which the attempt was due.
    due_ms: u64,
}

impl Past {
    /// Of a task whose last STATE is `record`, of a message accepted at `accepted_ms`.
    fn new(record: Option<&TaskRecord>, accepted_ms: u64) -> Past {
        let ledger = record.and_then(|record| record.ledger.clone());
        Past {
            ledger: ledger.unwrap_or_else(|| Ledger::new(accepted_ms)),
            due_ms: record.map_or(0, |record| record.due_ms),
        }
    }
}

/// Why a task is recorded anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// An attempt has ended: it is counted and logged.
    Attempt,
    /// It is time to tell of its delay.
    Delay,
}

impl Ending {
    fn new(
        inner: &Inner,
        reason: Reason,
        task: Task,
        message: Rc<Message>,
        mut outcomes: Vec<RecipientOutcome>,
        attempt: Attempt,
    ) -> Self {
        let now_ms = clock::unix_ms();
        let envelope = &message.envelope;
        let config = inner.config.borrow();
        let (policy, is_told) = {
            let index = inner.index.borrow();
            let (domain, stream) = index.flow_of(task.slot);
            let is_told = index.task(task.slot).standing().delay_notified;
            (config.retry_of(domain, stream), is_told)
        };
        let expires_ms = retry::expires_ms(envelope, &policy);
        for outcome in &mut outcomes {
            if outcome.outcome == Outcome::Delayed && now_ms >= expires_ms {
                outcome.outcome = Outcome::Failed;
            }
        }
        let plan =
            |delay_notice| notification::plan(&config, envelope, &outcomes, &attempt, delay_notice);
        let delay_notice = retry::delay_notice(&policy);
        let delay_notice_ms = retry::since_ms(envelope) + retry::delay_notice_age_ms(&policy);
        let is_due = !is_told && now_ms >= delay_notice_ms;
        let report = plan(if is_due { delay_notice } else { DelayNotice::No });
        let is_wanted = |plan: Plan| plan.tells_of_delay(&outcomes);
        let is_to_come = !is_told && !is_due && plan(delay_notice).is_some_and(is_wanted);
        let delay_notice_ms = is_to_come.then_some(delay_notice_ms);
        let per_minute = config.queue.notifications_per_minute;
        let report_ms = report
            .as_ref()
            .map_or(now_ms, |plan| inner.pace.borrow_mut().next(&plan.address, per_minute, now_ms));
        let numbers = &inner.metrics.queue;
        if reason == Reason::Attempt {
            numbers.count_outcomes(&outcomes);
        }
        numbers.notifications.add(u64::from(report.is_some()));
        numbers.notifications_paced.add(u64::from(report_ms > now_ms));
        if envelope.flags.has(EnvelopeFlags::NOTIFICATION) {
            let failed = outcomes.iter().filter(|it| it.outcome == Outcome::Failed);
            numbers.notifications_failed.add(failed.count() as u64);
        }
        drop(config);
        Self {
            message,
            outcomes,
            attempt,
            reason,
            now_ms,
            policy,
            expires_ms,
            delay_notice_ms,
            report,
            report_ms,
            chunk_missing: false,
            past: None,
            onward: None,
            is_too_large: false,
        }
    }

    fn tells_of_delay(&self) -> bool {
        self.report.as_ref().is_some_and(|plan| plan.tells_of_delay(&self.outcomes))
    }

    fn needs_chunk(&self) -> bool {
        self.report.is_some()
            && !self.chunk_missing
            && matches!(self.message.content, Content::Chunked { .. })
    }

    /// Where the time went up to now.
    fn ledger_after(&self, past: &Past) -> Ledger {
        let mut ledger = past.ledger.clone();
        if self.reason == Reason::Delay {
            // What it waits for is accounted for by whoever serves it.
            return ledger;
        }
        let taken_ms = self.now_ms.saturating_sub(self.attempt.duration.as_millis() as u64);
        ledger.add(Cause::Scheduled, self.message.envelope.release_ms.min(taken_ms));
        ledger.add(Cause::BackOff, past.due_ms.min(taken_ms));
        let waiting = self.attempt.waiting.as_deref();
        ledger.add_waiting(waiting.unwrap_or(&NoLine), taken_ms);
        ledger.add(Cause::Attempt, self.now_ms);
        ledger
    }

    fn is_open(&self) -> bool {
        self.outcomes.iter().any(|outcome| outcome.outcome == Outcome::Delayed)
    }
}

impl Inner {
    /// Records an ending. Gives it back when it must wait: for a chunk to quote, for an earlier
    /// STATE, or for room.
    fn finish(&self, task: Task, mut ending: Ending, chunk: Option<&[u8]>) -> Option<Ending> {
        if ending.needs_chunk() && chunk.is_none() {
            return Some(ending);
        }
        if ending.is_open() && ending.past.is_none() {
            ending.past = self.past_in_memory(task, &ending.message);
            if ending.past.is_none() {
                return Some(ending);
            }
        }
        let record = self.record_of(task, &ending);
        let plan = ending.report.as_ref();
        let notification = plan.map(|plan| self.notify(&ending, plan, chunk));
        let appended = match self.append_ending(task, &ending, &record, notification.as_ref()) {
            Ok(appended) => appended,
            Err(AppendError::NoSpace | AppendError::Later) => return Some(ending),
            Err(AppendError::TooLarge) if ending.onward.is_some() => {
                ending.is_too_large = true;
                return Some(ending);
            }
            Err(AppendError::TooLarge) => unreachable!("limits let a STATE and a DSN fit a frame"),
        };
        let Recorded { ticket, state_at, notification_at, onward_at } = appended;
        let notification = notification.zip(notification_at).map(|(notification, location)| {
            self.journal.pin(location, pinned_bytes(location, notification.content.len() as u32));
            let (id, chunks) = (notification.id, Vec::new());
            Born { id, location, chunks, kept: notification.into_kept() }
        });
        let onward = ending.onward.take().zip(onward_at);
        let onward = onward.map(|(onward, location)| onward.into_born(location));
        let born: Vec<Born> = notification.into_iter().chain(onward).collect();
        born.iter().for_each(|_| self.expect_commit(ticket));
        let lines = self.log_lines(task, &ending);
        let mut settlement =
            Settlement { ticket, fresh: None, replaced: None, retired: None, born, lines };
        if ending.is_open() {
            let due_ms = record.due_ms;
            self.set_record(task, record, state_at, &mut settlement);
            let mut index = self.index.borrow_mut();
            match ending.reason {
                Reason::Attempt => index.make_delayed(task.slot, due_ms),
                Reason::Delay => {
                    index.make_ready_first(task.slot);
                    self.announced.notify_one();
                }
            }
        } else {
            let mut index = self.index.borrow_mut();
            let (replaced, last_of) = index.close_task(task.slot);
            settlement.replaced = replaced;
            settlement.retired = last_of.map(|message| index.remove(message));
        }
        self.add_settlement(settlement);
        None
    }

    /// Notes the STATE that a task in flight has from now on.
    fn set_record(
        &self,
        task: Task,
        record: TaskRecord,
        location: Location,
        settlement: &mut Settlement,
    ) {
        self.journal.pin(location, pinned_bytes(location, 0));
        let mut index = self.index.borrow_mut();
        index.set_change(task.slot, &record.change);
        settlement.replaced = index.set_standing(task.slot, &Standing::of(&record, location));
        index.set_fresh(task.slot, settlement.ticket, record);
        settlement.fresh = Some(task.slot);
    }

    fn add_settlement(&self, settlement: Settlement) {
        self.settlements.borrow_mut().push_back(settlement);
        self.settlement_added.notify_one();
    }

    /// Records where a task in flight stands from now on. It stays in flight, unless some recipient
    /// is Held.
    pub(super) async fn append_state(
        &self,
        task: Task,
        record: TaskRecord,
    ) -> Result<Ticket, AppendError> {
        let number = u32::from(self.index.borrow().task(task.slot).number);
        let mut payload = Vec::new();
        codec::write_state(&record, &mut payload);
        let payload = [payload.as_slice()];
        let state = Record {
            kind: kind::STATE,
            flags: 0,
            id: task.message,
            aux: number,
            payload: &payload,
        };
        let appended = self.journal.append_when_possible(&[state], Append::Settle).await?;
        let mut settlement = Settlement {
            ticket: appended.ticket,
            fresh: None,
            replaced: None,
            retired: None,
            born: Vec::new(),
            lines: Vec::new(),
        };
        self.set_record(task, record, appended.first, &mut settlement);
        self.add_settlement(settlement);
        Ok(appended.ticket)
    }

    /// STATE, or RETIRED with the last task of the message, the DSN, and what goes on: one frame.
    fn append_ending(
        &self,
        task: Task,
        ending: &Ending,
        record: &TaskRecord,
        notification: Option<&Notification>,
    ) -> Result<Recorded, AppendError> {
        let (is_last, number) = {
            let index = self.index.borrow();
            let message = index.message(index.message_of(task));
            let is_last = message.open_task_count == 1 && !ending.is_open();
            (is_last, u32::from(index.task(task.slot).number))
        };
        let mut payload = Vec::new();
        if !is_last {
            codec::write_state(record, &mut payload);
        }
        let kind = if is_last { kind::RETIRED } else { kind::STATE };
        let state = Part { kind, id: task.message, number, payload: [&payload] };
        if notification.is_none() && ending.onward.is_none() {
            let appended = self.journal.append(&[state.record()], Append::Settle)?;
            let Appended { ticket, first } = appended;
            return Ok(Recorded {
                ticket,
                state_at: first,
                notification_at: None,
                onward_at: None,
            });
        }
        let mut envelope = Vec::new();
        let mut parts: Vec<Part<'_>> = Vec::new();
        if let Some(notification) = notification {
            codec::write_envelope(&notification.envelope, &[], &mut envelope);
            let (id, number) = (notification.id, 0);
            let content = &notification.content;
            parts.push(Part { kind: kind::ENVELOPE, id, number, payload: [&envelope] });
            parts.push(Part { kind: kind::CONTENT, id, number, payload: [content] });
        }
        let onward_index = parts.len();
        if let Some(onward) = &ending.onward {
            let (id, number) = (onward.id(), 0);
            let of_onward = onward.parts();
            parts.extend(of_onward.map(|(kind, it)| Part { kind, id, number, payload: [it] }));
        }
        parts.push(state);
        let records: Vec<Record<'_>> = parts.iter().map(Part::record).collect();
        let appended = self.journal.append(&records, Append::Settle)?;
        let mut places = vec![appended.first];
        for part in &parts[1..] {
            let before = *places.last().expect("there is one");
            places.push(before.following(part.payload[0].len()));
        }
        Ok(Recorded {
            ticket: appended.ticket,
            state_at: places[parts.len() - 1],
            notification_at: notification.map(|_| places[0]),
            onward_at: ending.onward.as_ref().map(|_| places[onward_index]),
        })
    }

    /// The absolute state of the task after this attempt.
    fn record_of(&self, task: Task, ending: &Ending) -> TaskRecord {
        let earlier = self.index.borrow().task(task.slot).standing();
        let mut record = TaskRecord {
            attempts: ending.message.attempts + u32::from(ending.reason == Reason::Attempt),
            due_ms: due_ms(ending),
            delay_notified: earlier.delay_notified || ending.tells_of_delay(),
            possible_duplicate: ending.attempt.in_doubt || earlier.possible_duplicate,
            groups: ending.message.settled.clone(),
            change: self.index.borrow().change_of(task.slot, ending.message.envelope.stream.class),
            ledger: ending.past.as_ref().map(|past| ending.ledger_after(past)),
        };
        for outcome in &ending.outcomes {
            let state = match outcome.outcome {
                Outcome::Delivered => RecipientState::Delivered,
                Outcome::Relayed => RecipientState::Relayed,
                Outcome::Delayed => RecipientState::Delayed,
                Outcome::Failed => RecipientState::Failed,
            };
            let reply = outcome.reply.to_string();
            match record.groups.iter_mut().find(|it| it.state == state && *it.reply == *reply) {
                Some(group) => group.recipient_indexes.push(outcome.recipient_index),
                None => record.groups.push(Group {
                    state,
                    reply: reply.into(),
                    recipient_indexes: vec![outcome.recipient_index],
                }),
            }
        }
        record
    }

    /// Where a task stood before its attempt; `None` where that must be read back.
    fn past_in_memory(&self, task: Task, message: &Message) -> Option<Past> {
        let index = self.index.borrow();
        let record = index.fresh(task.slot);
        let is_known = record.is_some() || index.task(task.slot).standing().record.is_none();
        is_known.then(|| Past::new(record.as_deref(), message.envelope.accepted_ms))
    }

    fn notify(&self, ending: &Ending, plan: &Plan, chunk: Option<&[u8]>) -> Notification {
        let content: &[u8] = match (&ending.message.content, chunk) {
            (Content::Whole(content), _) => content,
            (Content::Chunked { .. }, Some(chunk)) => chunk,
            (Content::Chunked { .. }, None) => &[],
        };
        let occasion = Occasion {
            message: &ending.message,
            outcomes: &ending.outcomes,
            attempt: &ending.attempt,
            content,
            now_ms: ending.now_ms,
            release_ms: ending.report_ms,
            retry_until_ms: ending.expires_ms,
        };
        let id = self.journal.next_message_id();
        notification::compose(id, &self.config.borrow(), plan, &occasion)
    }

    fn log_lines(&self, task: Task, ending: &Ending) -> Vec<u8> {
        let mut lines = Vec::new();
        let config = self.config.borrow();
        if !config.log.outcomes || ending.reason == Reason::Delay {
            return lines;
        }
        let format = match config.log.format {
            LogFormat::Text => event::Format::Text,
            LogFormat::Json => event::Format::Json,
        };
        let envelope = &ending.message.envelope;
        // As an operator made it, where one did.
        let index = self.index.borrow();
        let (_, stream) = index.flow_of(task.slot);
        for outcome in &ending.outcomes {
            let recipient = &envelope.recipients[usize::from(outcome.recipient_index)];
            let record = OutcomeRecord {
                time_ms: ending.now_ms,
                queue_id: ending.message.id,
                reverse_path: &envelope.reverse_path,
                recipient: &recipient.address,
                stream,
                site: &ending.attempt.site,
                protection: ending.attempt.protection,
                outcome: outcome.outcome,
                class: outcome.class,
                reply: &outcome.reply,
                attempt_count: ending.message.attempts + 1,
                queued: Duration::from_millis(ending.now_ms.saturating_sub(envelope.accepted_ms)),
                attempt: ending.attempt.duration,
                possible_duplicate: ending.attempt.in_doubt,
                content_bytes: envelope.content_bytes,
            };
            record.write(format, &mut lines);
        }
        lines
    }

    /// Lets every settlement up to `ticket` take effect.
    fn apply_settlements(&self, ticket: Ticket) {
        loop {
            let mut settlements = self.settlements.borrow_mut();
            if settlements.front().is_none_or(|next| next.ticket > ticket) {
                return;
            }
            let settlement = settlements.pop_front().expect("looked at above");
            drop(settlements);
            if let Some(slot) = settlement.fresh {
                self.index.borrow_mut().forget_fresh(slot, settlement.ticket);
            }
            if let Some(location) = settlement.replaced {
                self.journal.unpin(location, pinned_bytes(location, 0));
            }
            if let Some(removed) = settlement.retired {
                self.unpin(&removed);
                self.metrics.queue.settled.add(1);
            }
            for born in settlement.born {
                self.enter(born);
                self.commit_is_known(settlement.ticket);
            }
            self.log.append(settlement.lines);
        }
    }

    /// The reply of the last attempt, in words.
    async fn last_reply(&self, task: Task) -> Option<Box<str>> {
        // That the reply cannot be read keeps nobody from being told that the time is over.
        let record = self.read_record(task.slot).await.unwrap_or(None);
        let mut groups = record.iter().flat_map(|record| &record.groups);
        let last = groups.find(|group| group.state == RecipientState::Delayed);
        last.map(|group| group.reply.clone()).filter(|reply| !reply.is_empty())
    }
}

/// When the task is to be looked at again: for the next attempt, and no later than its lifetime
/// ends or its delay is to be told of.
fn due_ms(ending: &Ending) -> u64 {
    let soon_ms = ending.now_ms + 1;
    if let (Reason::Delay, Some(past)) = (ending.reason, &ending.past) {
        return past.due_ms;
    }
    let attempt_count = ending.message.attempts + 1;
    let mut wait = retry_wait(attempt_count, clock::random_u64(), &ending.policy);
    let mut notice_ms = ending.delay_notice_ms;
    if ending.attempt.in_doubt {
        wait = wait.max(IN_DOUBT_WAIT);
        notice_ms = None;
    }
    let due_ms = ending.now_ms + wait.as_millis() as u64;
    due_ms.min(ending.expires_ms.max(soon_ms)).min(notice_ms.unwrap_or(u64::MAX))
}

/// Pause before a record is tried again that found no room.
const NO_SPACE_WAIT: Duration = Duration::from_secs(1);
/// Least wait when the message may have been taken: whoever took it has answered by then.
pub const IN_DOUBT_WAIT: Duration = Duration::from_secs(15 * 60);
