//! What a next hop sees of us, and counts: whatever second it looks at, it never sees more than its
//! limits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ringpost_sim::config::SiteLimits;
use ringpost_sim::delivery::lease::cell::Kind;

use crate::truth::ensure;

/// Microseconds.
pub type Time = u64;

#[derive(Default)]
pub struct Peer {
    pub limits: SiteLimits,
    open: BTreeSet<u64>,
    accepted: VecDeque<Time>,
    /// By the length of a window.
    mail: BTreeMap<u64, VecDeque<Time>>,
    end: BTreeMap<u64, VecDeque<Time>>,
}

impl Peer {
    pub fn new(limits: SiteLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub fn on_accepted(&mut self, connection: u64, now: Time) -> Result<(), String> {
        self.open.insert(connection);
        let open = self.open.len();
        if let Some(max) = self.limits.connections {
            ensure(open <= max as usize, || format!("{open} connections of {max}"))?;
        }
        let max = self.limits.connections_per_second;
        within(&mut self.accepted, now, 1_000, max, "connections")
    }

    pub fn on_closed(&mut self, connection: u64) {
        self.open.remove(&connection);
    }

    pub fn on_mail(&mut self, now: Time) -> Result<(), String> {
        count(&mut self.mail, &self.limits, now, "MAIL")
    }

    pub fn on_end(&mut self, now: Time) -> Result<(), String> {
        count(&mut self.end, &self.limits, now, "end of data")
    }
}

fn count(
    times: &mut BTreeMap<u64, VecDeque<Time>>,
    limits: &SiteLimits,
    now: Time,
    what: &str,
) -> Result<(), String> {
    for bound in Kind::Message.bounds(limits) {
        let times = times.entry(bound.window_ms).or_default();
        within(times, now, bound.window_ms, Some(bound.count_max), what)?;
    }
    Ok(())
}

/// Counts an event, and how many the window that ends with it holds.
fn within(
    times: &mut VecDeque<Time>,
    now: Time,
    window_ms: u64,
    max: Option<u32>,
    what: &str,
) -> Result<(), String> {
    times.push_back(now);
    while times.front().is_some_and(|first| now - first >= window_ms * 1000) {
        times.pop_front();
    }
    let (count, max) = (times.len(), max.unwrap_or(u32::MAX) as usize);
    ensure(count <= max, || format!("{count} {what} within {window_ms} ms, {max} are allowed"))
}
