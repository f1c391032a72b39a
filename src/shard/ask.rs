//! What the control thread may ask of a shard, and the answers.
//!
//! Answers leave over a channel that never blocks the shard; an asker that has gone away is no
//! error. The answer types are also the lines of the control socket.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::mail_order::{MailDone, MailOrder};
use crate::config::{Config, NextHop};
use crate::delivery::known::Known;
use crate::delivery::verify::Verification;
use crate::delivery::view::{RuleSuspension, WayView};
use crate::mail::{Accounts, Stream};
use crate::mailbox::Refusal;
use crate::metrics::Snapshot;
use crate::queue::codec::RecipientState;
use crate::queue::survey::{Survey, SurveyBy};
use crate::queue::{
    LoadError, MessageView, Mode, Order, Queue, Selection, Sites, StandingOrders, Stats, Steered,
};

/// A question or an order to one shard.
pub enum Ask {
    /// A copy of every counter and histogram.
    Snapshot(Sender<Snapshot>),
    QueueStats(Sender<QueueStats>),
    /// Every task by age.
    QueueSurvey {
        by: SurveyBy,
        reply: Sender<Survey>,
    },
    /// The numbers of at most `count_max` queued messages above `after`, ascending. Looks at all
    /// that are queued.
    QueueNumbers {
        after: Option<u64>,
        count_max: usize,
        reply: Sender<Vec<u64>>,
    },
    /// Messages by their numbers; those that are not (or no longer) queued here are left out.
    QueueShow {
        messages: Vec<u64>,
        reply: Sender<Vec<QueuedMessage>>,
    },
    /// The way of mail of `stream` to `domain`, by an operator's next hop where there is one.
    Way {
        domain: Box<str>,
        stream: Stream,
        next_hop: Option<NextHop>,
        reply: Sender<WayView>,
    },
    /// What earlier deliveries tell of a mailbox, and how many seconds ago.
    KnownMailbox {
        address: Box<str>,
        reply: Sender<Option<(Known, u64)>>,
    },
    /// Ask its host for a mailbox.
    Verify {
        address: Box<str>,
        reply: Sender<Verification>,
    },
    /// What rules for replies hold back or slow down.
    RuleSuspensions(Sender<Vec<RuleSuspension>>),
    /// Carry out an order, or only count what it is for. It ends early when nobody hears how far
    /// it is.
    QueueSteer {
        selection: Arc<Selection>,
        order: Order,
        mode: Mode,
        reply: Sender<Progress>,
    },
    /// An operator's order to a partition of this shard.
    Mail {
        partition: u16,
        order: MailOrder,
        reply: Sender<Result<MailDone, Refusal>>,
    },
    /// These have mailboxes here from now on.
    Accounts(Arc<Accounts>),
    /// These are the standing orders from now on.
    Suspend(Arc<StandingOrders>),
    /// Take this configuration from now on. Sessions go on; what binds and pins needs a restart.
    Reload(Arc<Config>),
    /// Accept nothing new, finish what is open within `time_max`, make all durable, end.
    Drain {
        time_max: Duration,
    },
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub shard: usize,
    pub steered: Steered,
    /// Nothing follows, and all of it is durable.
    pub finished: bool,
}

/// One shard's queue in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStats {
    pub messages: usize,
    pub tasks: usize,
    pub ready: usize,
    pub in_flight: usize,
    pub delayed: usize,
    pub held: usize,
    /// Content in memory for the first attempt.
    pub kept_bytes: usize,
    /// Unix milliseconds at which the oldest message was accepted.
    pub oldest_ms: Option<u64>,
}

impl From<Stats> for QueueStats {
    fn from(stats: Stats) -> Self {
        let Stats { messages, tasks, ready, in_flight, delayed, held, kept_bytes, oldest_ms } =
            stats;
        Self { messages, tasks, ready, in_flight, delayed, held, kept_bytes, oldest_ms }
    }
}

/// A queued message without its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedMessage {
    /// The queue id as everybody writes it.
    pub id: String,
    /// Empty for the null reverse-path.
    pub reverse_path: String,
    pub content_bytes: u64,
    /// Unix milliseconds.
    pub accepted_ms: u64,
    /// Unix milliseconds at which the last of its tasks expires.
    pub expires_ms: u64,
    pub tasks: Vec<QueuedTask>,
    /// Why the message cannot be read back; everything but `id` is then empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// The recipients of one destination domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedTask {
    /// Empty for a bare `Postmaster`.
    pub destination: String,
    /// `ready`, `in flight`, `delayed` or `held`.
    pub state: String,
    pub attempts: u32,
    /// Unix milliseconds of the next attempt while delayed, else 0.
    pub due_ms: u64,
    pub recipients: Vec<QueuedRecipient>,
    /// The next hop in words; none where there is no route any more.
    pub site: Option<String>,
    /// Unix milliseconds at which its lifetime is over.
    pub expires_ms: u64,
    /// Unix milliseconds at which the reverse-path is told of a delay; `None` where it was or does
    /// not want to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_notice_ms: Option<u64>,
    /// An operator wants this next hop.
    pub rerouted_to: Option<String>,
    pub tenant: String,
    pub campaign: String,
    pub class: String,
    /// The TLS that the message asks for: empty, `required`, `required-where-offered` or
    /// `optional`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tls: String,
    /// Where the time from acceptance to `as_of_ms` went: these add up to it.
    pub waited: Vec<Waited>,
    /// Unix milliseconds.
    pub as_of_ms: u64,
}

/// How long one cause kept a task from being delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    pub cause: String,
    pub ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedRecipient {
    pub address: String,
    /// `new` before the first attempt has ended.
    pub state: String,
    /// The last reply, empty before the first attempt.
    pub reply: String,
}

/// Answers `Ask::QueueShow`. Suspends for messages that must be read back from the journal.
pub async fn show(queue: &Queue, sites: &dyn Sites, messages: Vec<u64>) -> Vec<QueuedMessage> {
    let mut shown = Vec::with_capacity(messages.len());
    for message in messages {
        let id = queue.id_of(message).to_string();
        match queue.view(message, sites).await {
            Some(Ok(view)) => shown.push(readable(id, &view)),
            Some(Err(error)) => shown.push(unreadable(id, &error)),
            None => {}
        }
    }
    shown
}

fn readable(id: String, view: &MessageView) -> QueuedMessage {
    let tasks = view.tasks.iter().map(|task| QueuedTask {
        destination: task.destination.to_string(),
        state: task.state.as_str().to_owned(),
        attempts: task.attempts,
        due_ms: task.due_ms,
        recipients: task
            .recipients
            .iter()
            .map(|recipient| QueuedRecipient {
                address: recipient.address.to_string(),
                state: recipient.state.map_or("new", recipient_state).to_owned(),
                reply: recipient.reply.to_string(),
            })
            .collect(),
        site: task.site.clone(),
        expires_ms: task.expires_ms,
        delay_notice_ms: task.delay_notice_ms,
        rerouted_to: task.flow.next_hop.as_ref().map(|next_hop| next_hop.to_string()),
        tenant: task.flow.stream.tenant.to_string(),
        campaign: task.flow.stream.campaign.to_string(),
        class: task.flow.stream.class.as_str().to_owned(),
        tls: task.flow.stream.tls.as_str().to_owned(),
        waited: task
            .ledger
            .spent()
            .map(|(cause, ms)| Waited { cause: cause.as_str().to_owned(), ms })
            .collect(),
        as_of_ms: task.ledger.until_ms(),
    });
    QueuedMessage {
        id,
        reverse_path: view.envelope.reverse_path.to_string(),
        content_bytes: view.envelope.content_bytes,
        accepted_ms: view.envelope.accepted_ms,
        expires_ms: view.tasks.iter().map(|task| task.expires_ms).max().unwrap_or_default(),
        tasks: tasks.collect(),
        unreadable: None,
    }
}

fn unreadable(id: String, error: &LoadError) -> QueuedMessage {
    QueuedMessage { id, unreadable: Some(error.to_string()), ..QueuedMessage::default() }
}

fn recipient_state(state: RecipientState) -> &'static str {
    match state {
        RecipientState::Delayed => "delayed",
        RecipientState::Held => "held",
        RecipientState::Delivered => "delivered",
        RecipientState::Relayed => "relayed",
        RecipientState::Failed => "failed",
    }
}
