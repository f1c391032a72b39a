//! What a source counts: live counters for the progress line, and a tally for the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::latency::{Latencies, LatencySummary};

/// Written by one shard, read by the thread that prints.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    accepted: AtomicU64,
    accepted_recipients: AtomicU64,
    refused: AtomicU64,
    in_doubt: AtomicU64,
    connections: AtomicU64,
    connection_errors: AtomicU64,
    given_up: AtomicU64,
}

impl Counters {
    pub fn on_accepted(&self, recipient_count: u64) {
        bump(&self.accepted, 1);
        bump(&self.accepted_recipients, recipient_count);
    }

    pub fn on_refused(&self) {
        bump(&self.refused, 1);
    }

    /// Content went out and no reply came back.
    pub fn on_in_doubt(&self) {
        bump(&self.in_doubt, 1);
    }

    pub fn on_connection(&self) {
        bump(&self.connections, 1);
    }

    pub fn on_connection_error(&self) {
        bump(&self.connection_errors, 1);
    }

    /// A connection of the run ended because the server stayed away.
    pub fn on_given_up(&self) {
        bump(&self.given_up, 1);
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// There is one writer, so no read-modify-write instruction is needed.
fn bump(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// The counters of all shards together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub accepted: u64,
    pub accepted_recipients: u64,
    pub refused: u64,
    pub in_doubt: u64,
    pub connections: u64,
    pub connection_errors: u64,
    pub given_up: u64,
}

impl Totals {
    pub fn of<'a>(shards: impl IntoIterator<Item = &'a Counters>) -> Self {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        shards.into_iter().fold(Self::default(), |totals, shard| Self {
            accepted: totals.accepted + load(&shard.accepted),
            accepted_recipients: totals.accepted_recipients + load(&shard.accepted_recipients),
            refused: totals.refused + load(&shard.refused),
            in_doubt: totals.in_doubt + load(&shard.in_doubt),
            connections: totals.connections + load(&shard.connections),
            connection_errors: totals.connection_errors + load(&shard.connection_errors),
            given_up: totals.given_up + load(&shard.given_up),
        })
    }
}

/// What was being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Connect,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    End,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Ehlo => "ehlo",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::End => "end",
        }
    }
}

/// One shard's histograms and rare events; merged when the shard has ended.
pub struct Tally {
    /// From the last octet of content to its 250.
    pub end_of_data: Latencies,
    /// From MAIL, or from the intended start in an open loop, to the 250.
    pub transaction: Latencies,
    pub last_accepted_at: Option<Instant>,
    refusals: BTreeMap<(Phase, u16), (u64, String)>,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            end_of_data: Latencies::new(),
            transaction: Latencies::new(),
            last_accepted_at: None,
            refusals: BTreeMap::new(),
            errors: BTreeMap::new(),
        }
    }

    /// Counts a 4xx or 5xx; the first text of each kind is kept.
    pub fn on_refusal(&mut self, phase: Phase, code: u16, text: Option<String>) {
        let text = text.unwrap_or_default();
        self.refusals.entry((phase, code)).or_insert((0, text)).0 += 1;
    }

    pub fn on_error(&mut self, text: String) {
        if self.errors.len() < ERROR_KINDS_MAX || self.errors.contains_key(&text) {
            *self.errors.entry(text).or_default() += 1;
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.end_of_data.add(&other.end_of_data);
        self.transaction.add(&other.transaction);
        self.last_accepted_at = self.last_accepted_at.max(other.last_accepted_at);
        for (kind, (count, text)) in &other.refusals {
            self.refusals.entry(*kind).or_insert((0, text.clone())).0 += count;
        }
        for (text, count) in &other.errors {
            *self.errors.entry(text.clone()).or_default() += count;
        }
    }

    pub fn latencies(&self) -> (LatencySummary, LatencySummary) {
        (self.end_of_data.summary(), self.transaction.summary())
    }

    /// Refusals by phase and code, with the first text of each: `rcpt 450`.
    pub fn refusals(&self) -> BTreeMap<String, Refusal> {
        let named = |(kind, refusal): (&(Phase, u16), &(u64, String))| {
            let (count, first) = refusal.clone();
            (format!("{} {}", kind.0.name(), kind.1), Refusal { count, first })
        };
        self.refusals.iter().map(named).collect()
    }

    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.clone()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub count: u64,
    pub first: String,
}

const ERROR_KINDS_MAX: usize = 20;
