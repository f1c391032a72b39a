//! What a sink counts.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::behaviour::Phase;

/// Written by one shard, read by the thread that prints.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    messages: AtomicU64,
    recipients: AtomicU64,
    bytes: AtomicU64,
    foreign: AtomicU64,
    dropped: AtomicU64,
    connections: AtomicU64,
    last_us: AtomicU64,
}

impl Counters {
    /// `now_us` in microseconds since 1970.
    pub fn on_received(&self, recipient_count: u64, bytes: u64, now_us: u64) {
        self.last_us.store(now_us, Ordering::Relaxed);
        bump(&self.messages, 1);
        bump(&self.recipients, recipient_count);
        bump(&self.bytes, bytes);
    }

    /// When the last message came; 0 before the first.
    pub fn last_us(&self) -> u64 {
        self.last_us.load(Ordering::Relaxed)
    }

    /// Received, and not a message of the run.
    pub fn on_foreign(&self) {
        bump(&self.foreign, 1);
    }

    pub fn on_dropped(&self) {
        bump(&self.dropped, 1);
    }

    pub fn on_connection(&self) {
        bump(&self.connections, 1);
    }
}

fn bump(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// The counters of all shards together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub messages: u64,
    pub recipients: u64,
    pub bytes: u64,
    pub foreign: u64,
    pub dropped: u64,
    pub connections: u64,
}

impl Totals {
    pub fn of<'a>(shards: impl IntoIterator<Item = &'a Counters>) -> Self {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        shards.into_iter().fold(Self::default(), |totals, shard| Self {
            messages: totals.messages + load(&shard.messages),
            recipients: totals.recipients + load(&shard.recipients),
            bytes: totals.bytes + load(&shard.bytes),
            foreign: totals.foreign + load(&shard.foreign),
            dropped: totals.dropped + load(&shard.dropped),
            connections: totals.connections + load(&shard.connections),
        })
    }
}

/// One shard's times and rare events.
#[derive(Default)]
pub struct Tally {
    first_us: Cell<u64>,
    last_us: Cell<u64>,
    refusals: BTreeMap<String, u64>,
}

impl Tally {
    /// `now_us` in microseconds since 1970.
    pub fn on_received_at(&self, now_us: u64) {
        if self.first_us.get() == 0 {
            self.first_us.set(now_us);
        }
        self.last_us.set(now_us);
    }

    pub fn on_refusal(&mut self, phase: Phase, code: u16) {
        *self.refusals.entry(format!("{} {code}", phase.name())).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        let first_us = match (self.first_us.get(), other.first_us.get()) {
            (0, only) | (only, 0) => only,
            (one, another) => one.min(another),
        };
        self.first_us.set(first_us);
        self.last_us.set(self.last_us.get().max(other.last_us.get()));
        for (kind, count) in &other.refusals {
            *self.refusals.entry(kind.clone()).or_default() += count;
        }
    }

    pub fn first_us(&self) -> u64 {
        self.first_us.get()
    }

    pub fn last_us(&self) -> u64 {
        self.last_us.get()
    }

    pub fn refusals(&self) -> BTreeMap<String, u64> {
        self.refusals.clone()
    }
}
