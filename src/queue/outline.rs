//! A message as it enters the index, in plain values: from its envelope, or as it was kept.
//! `Pure.`

use std::borrow::Cow;
use std::collections::HashMap;

use super::codec::{Change, TaskRecord};
use super::retry::{DelayNotice, since_ms};
use crate::journal::Location;
use crate::limits::{CHUNK_BYTES_MAX, RECIPIENTS_MAX};
use crate::mail::{Envelope, Recipient, Stream};

/// All there is to an entry, in plain values: what a message is entered from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outline<'a> {
    pub id: u64,
    pub envelope: Location,
    /// Length of content that stands beside the envelope; 0 for chunks.
    pub content_bytes: u32,
    pub chunks: Vec<Location>,
    /// Unix milliseconds of acceptance, or of the release where that is later; kept in seconds.
    pub since_ms: u64,
    /// Some recipient's NOTIFY=DELAY is to be obeyed.
    pub asks_for_delays: bool,
    pub stream: Cow<'a, Stream>,
    /// Domain of the reverse-path in lower case; it counts where no campaign is named.
    pub sender: Cow<'a, str>,
    /// Not empty; in order of their numbers.
    pub tasks: Vec<TaskOutline<'a>>,
}

/// An open task in plain values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TaskOutline<'a> {
    pub number: u16,
    /// Lower case; empty for a bare `Postmaster`.
    pub domain: Cow<'a, str>,
    pub cost: u8,
    pub standing: Standing,
    /// What an operator made different from the stream of the message.
    pub change: Change,
}

/// Where an open task stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Unix milliseconds of the next attempt; 0 for at once.
    pub due_ms: u64,
    pub attempts: u32,
    pub is_held: bool,
    /// Some attempt was in doubt.
    pub possible_duplicate: bool,
    /// A delay was told of, or nobody wants to know.
    pub delay_notified: bool,
    /// Some recipient is settled: who is left must be read from the STATE.
    pub is_partial: bool,
    /// The last STATE, where an attempt left one.
    pub record: Option<Location>,
}

impl Standing {
    /// As `record`, which stands at `location`, says.
    pub fn of(record: &TaskRecord, location: Location) -> Standing {
        Standing {
            due_ms: record.due_ms,
            attempts: record.attempts,
            is_held: record.is_held(),
            possible_duplicate: record.possible_duplicate,
            delay_notified: record.delay_notified,
            is_partial: record.groups.iter().any(|group| group.state.is_final()),
            record: Some(location),
        }
    }
}

impl<'a> Outline<'a> {
    /// Of a message nobody has tried yet.
    pub fn of_fresh(
        id: u64,
        location: Location,
        chunks: Vec<Location>,
        envelope: &'a Envelope,
    ) -> Outline<'a> {
        let standing = Standing { due_ms: envelope.release_ms, ..Standing::default() };
        let domains = destination_domains(envelope).into_iter().enumerate();
        let tasks = domains.map(|(number, (domain, recipient_count))| TaskOutline {
            number: number as u16,
            domain,
            cost: cost(recipient_count, envelope.content_bytes),
            standing,
            change: Change::default(),
        });
        let tasks = tasks.collect();
        let sender = envelope.reverse_path.rsplit_once('@').map_or("", |(_, domain)| domain);
        Outline {
            id,
            envelope: location,
            content_bytes: if chunks.is_empty() { envelope.content_bytes as u32 } else { 0 },
            chunks,
            since_ms: since_ms(envelope),
            asks_for_delays: asks_for_delays(envelope),
            stream: Cow::Borrowed(&envelope.stream),
            sender: lower_case(sender),
            tasks,
        }
    }

    /// The same with texts of its own.
    pub fn into_owned(self) -> Outline<'static> {
        let tasks = self
            .tasks
            .into_iter()
            .map(|task| TaskOutline { domain: Cow::Owned(task.domain.into_owned()), ..task });
        Outline {
            stream: Cow::Owned(self.stream.into_owned()),
            sender: Cow::Owned(self.sender.into_owned()),
            tasks: tasks.collect(),
            ..self
        }
    }
}

fn asks_for_delays(envelope: &Envelope) -> bool {
    let asks = |recipient: &Recipient| DelayNotice::AskedFor.is_for(recipient.notify);
    !envelope.reverse_path.is_empty() && envelope.recipients.iter().any(asks)
}

/// What a task takes from its stream's share: 1, and 1 more for every 8 recipients and for every
/// 64 KiB of content, at most `COST_MAX`.
fn cost(recipient_count: usize, content_bytes: u64) -> u8 {
    let cost = 1 + recipient_count as u64 / 8 + content_bytes / (64 * 1024);
    cost.min(COST_MAX.into()) as u8
}

/// Highest cost of a task.
pub(super) const COST_MAX: u8 = 31;
/// The distinct destination domains of an envelope in lower case, in order of first appearance,
/// and how many recipients each has: the position is the task number.
fn destination_domains(envelope: &Envelope) -> Vec<(Cow<'_, str>, usize)> {
    let mut domains: Vec<(Cow<'_, str>, usize)> = Vec::with_capacity(1);
    let mut positions: HashMap<Cow<'_, str>, usize> = HashMap::new();
    let is_one = envelope.recipients.len() == 1;
    for recipient in &envelope.recipients {
        let domain = recipient.domain();
        if let Some((last, count)) = domains.last_mut()
            && last.eq_ignore_ascii_case(domain)
        {
            *count += 1;
            continue;
        }
        let domain = lower_case(domain);
        if !is_one {
            if let Some(position) = positions.get(&domain) {
                domains[*position].1 += 1;
                continue;
            }
            positions.insert(domain.clone(), domains.len());
        }
        domains.push((domain, 1));
    }
    domains
}

/// What a record keeps of its segment, with `content_bytes` of content beside it.
pub(super) fn pinned_bytes(place: Location, content_bytes: u32) -> u64 {
    u64::from(place.record_bytes) + u64::from(content_bytes)
}

/// Positions of the recipients that a task to `domain` carries.
pub(super) fn recipients_of(envelope: &Envelope, domain: &str) -> Vec<u16> {
    let recipients = envelope.recipients.iter().enumerate();
    recipients
        .filter(|(_, recipient)| recipient.domain().eq_ignore_ascii_case(domain))
        .map(|(index, _)| index as u16)
        .collect()
}

fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

const _: () = assert!(RECIPIENTS_MAX <= u16::MAX as usize);
const _: () = assert!(CHUNK_BYTES_MAX <= u32::MAX as usize);
