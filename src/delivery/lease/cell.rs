//! The owner's side of a site's leases: who has how many tokens, and who gets the next. `Pure.`
//!
//! Asks and grants say absolute values: a lost one is repaired by the next, and a repeated or
//! late one changes nothing.

use super::meter::{Bound, Cooling, Meter, Record};
use crate::config::SiteLimits;

/// What leases are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A connection, until the peer's FIN was seen.
    Connection,
    /// The opening of one.
    Opening,
    /// A mail transaction, until the reply to end of data.
    Message,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Connection, Kind::Opening, Kind::Message];

    /// What the limits say of it; nothing where they leave it free.
    pub fn bounds(self, limits: &SiteLimits) -> Vec<Bound> {
        let windows: &[(u64, Option<u32>)] = match self {
            Kind::Connection => &[(0, limits.connections)],
            Kind::Opening => &[(SECOND_MS, limits.connections_per_second)],
            Kind::Message => &[
                (SECOND_MS, limits.messages_per_second),
                (60 * SECOND_MS, limits.messages_per_minute),
                (3_600 * SECOND_MS, limits.messages_per_hour),
                (86_400 * SECOND_MS, limits.messages_per_day),
            ],
        };
        let bound = |(window_ms, count_max): &(u64, Option<u32>)| {
            count_max.map(|count_max| Bound { window_ms: *window_ms, count_max })
        };
        windows.iter().filter_map(bound).collect()
    }

    /// The name in the configuration of a limit of this kind.
    fn key_of(self, window_ms: u64) -> &'static str {
        match (self, window_ms / SECOND_MS) {
            (Kind::Connection, _) => "connections",
            (Kind::Opening, _) => "connections_per_second",
            (Kind::Message, 1) => "messages_per_second",
            (Kind::Message, 60) => "messages_per_minute",
            (Kind::Message, 3_600) => "messages_per_hour",
            (Kind::Message, _) => "messages_per_day",
        }
    }
}

/// What is used of a limit, over all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitUse {
    pub key: &'static str,
    /// Held by shards or used within its window.
    pub used: u32,
    /// What the limit comes to while a rule slows the site down.
    pub allowed: u32,
}

/// A holder's account of one kind. Everything counts from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// It would like to have been granted so many.
    pub wanted: u64,
    pub used: u64,
    /// Monotonic milliseconds at which the last use was over.
    pub used_last_ms: u64,
    /// Given back unused.
    pub returned: u64,
}

/// What a holder says to the owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Grows; an ask that was overtaken is ignored.
    pub seq: u64,
    pub accounts: [Account; Kind::ALL.len()],
}

/// What the owner says to a holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Grows; a grant that was overtaken is ignored.
    pub seq: u64,
    pub granted: [u64; Kind::ALL.len()],
    /// Others wait: the holder is to have closed so many connections.
    pub closed: u64,
}

/// Where leases of one site come from. The local one is `Cell`; one that asks a store shared by
/// several hosts takes its place without a change to holders.
pub trait LeaseCell {
    fn handle_ask(&mut self, holder: usize, ask: &Ask);
    /// A grant to be sent, and to whom.
    fn poll_grant(&mut self, now_ms: u64) -> Option<(usize, Grant)>;
    /// The grant did not get on its way: `poll_grant` gives it again.
    fn refuse_grant(&mut self, holder: usize);
}

/// Leases of one site out of this process's memory.
#[derive(Debug)]
pub struct Cell {
    /// `None` where the limits leave the kind free.
    meters: [Option<Meter>; Kind::ALL.len()],
    holders: Vec<Holding>,
    /// Whose turn it is, of each kind.
    turns: [usize; Kind::ALL.len()],
}

/// What the owner knows of one holder.
#[derive(Clone, Debug, Default)]
struct Holding {
    ask: Ask,
    grant: Grant,
    /// The grant has changed since it was given away.
    is_news: bool,
    /// Monotonic milliseconds of the last grant of a connection.
    connected_ms: u64,
}

impl Holding {
    fn wants(&self, kind: Kind) -> u64 {
        self.ask.accounts[kind as usize].wanted.saturating_sub(self.grant.granted[kind as usize])
    }

    fn in_use(&self, kind: Kind) -> u64 {
        let account = &self.ask.accounts[kind as usize];
        self.grant.granted[kind as usize] - account.used - account.returned
    }

    /// Connections that will be left once those it is to close are closed.
    fn connections_kept(&self) -> u64 {
        let account = &self.ask.accounts[Kind::Connection as usize];
        let closed = account.used + account.returned;
        self.in_use(Kind::Connection).saturating_sub(self.grant.closed.saturating_sub(closed))
    }
}

impl Cell {
    /// Leases for `holder_count` shards; nothing before `quiet_until_ms`. `restored` is what an
    /// earlier process recorded of messages.
    pub fn new(
        limits: &SiteLimits,
        holder_count: usize,
        quiet_until_ms: u64,
        restored: &[(u64, Vec<Cooling>)],
    ) -> Self {
        let meter = |kind: Kind| {
            let bounds = kind.bounds(limits);
            let restored = if kind == Kind::Message { restored } else { &[] };
            (!bounds.is_empty()).then(|| Meter::new(&bounds, quiet_until_ms, restored))
        };
        Self {
            meters: Kind::ALL.map(meter),
            holders: vec![Holding::default(); holder_count],
            turns: [0; Kind::ALL.len()],
        }
    }

    /// Other limits. A kind that was free begins after `quiet_until_ms`: what went out without a
    /// lease counts at the peer too.
    pub fn set_limits(&mut self, limits: &SiteLimits, quiet_until_ms: u64) {
        for kind in Kind::ALL {
            let bounds = kind.bounds(limits);
            let in_use: u64 = self.holders.iter().map(|holder| holder.in_use(kind)).sum();
            let meter = &mut self.meters[kind as usize];
            match meter {
                _ if bounds.is_empty() => *meter = None,
                Some(meter) => meter.set_bounds(&bounds),
                None => {
                    let mut fresh = Meter::new(&bounds, quiet_until_ms, &[]);
                    fresh.grant(in_use as u32);
                    *meter = Some(fresh);
                }
            }
        }
    }

    /// Of each limit one in `divisor`, at least one.
    pub fn set_divisor(&mut self, divisor: u32) {
        self.meters.iter_mut().flatten().for_each(|meter| meter.set_divisor(divisor));
    }

    /// Tokens that holders have.
    pub fn in_use(&self, kind: Kind) -> u64 {
        self.holders.iter().map(|holder| holder.in_use(kind)).sum()
    }

    /// What is used of each limit, by its name in the configuration.
    pub fn uses(&mut self, now_ms: u64) -> Vec<LimitUse> {
        let mut uses = Vec::new();
        for (kind, meter) in Kind::ALL.into_iter().zip(&mut self.meters) {
            for (window_ms, used, allowed) in meter.iter_mut().flat_map(|it| it.uses(now_ms)) {
                uses.push(LimitUse { key: kind.key_of(window_ms), used, allowed });
            }
        }
        uses
    }

    /// See `Meter::poll_record`.
    pub fn poll_record(&mut self, now_ms: u64) -> Option<Record> {
        self.meters[Kind::Message as usize].as_mut()?.poll_record(now_ms)
    }

    /// See `Meter::on_recorded`.
    pub fn on_recorded(&mut self, durable: bool) {
        // The limit may have gone while the record was written.
        if let Some(meter) = self.meters[Kind::Message as usize].as_mut() {
            meter.on_recorded(durable);
        }
    }

    /// Gives what is free to those who want it, in turn and in equal parts.
    fn deal(&mut self, kind: Kind, now_ms: u64) {
        let holder_count = self.holders.len();
        loop {
            let wanting = self.holders.iter().filter(|holder| holder.wants(kind) > 0).count();
            if wanting == 0 {
                return;
            }
            let meter = self.meters[kind as usize].as_mut();
            let mut free = meter.map_or(u32::MAX, |meter| meter.free(now_ms));
            if free == 0 {
                break;
            }
            let share = (free / wanting as u32).max(1);
            let start = self.turns[kind as usize];
            for index in (start..start + holder_count).map(|index| index % holder_count) {
                let holder = &mut self.holders[index];
                let count = holder.wants(kind).min(u64::from(share.min(free)));
                if count == 0 {
                    continue;
                }
                holder.grant.granted[kind as usize] += count;
                holder.is_news = true;
                holder.connected_ms =
                    if kind == Kind::Connection { now_ms } else { holder.connected_ms };
                free -= count as u32;
                self.turns[kind as usize] = (index + 1) % holder_count;
                if let Some(meter) = self.meters[kind as usize].as_mut() {
                    meter.grant(count as u32);
                }
            }
        }
        if kind == Kind::Connection {
            self.take_turns(now_ms);
        }
    }

    /// Has connections closed by those who have more, or have had one for a while, for those who
    /// wait without.
    fn take_turns(&mut self, now_ms: u64) {
        let kept: u64 = self.holders.iter().map(Holding::connections_kept).sum();
        let in_use: u64 = self.holders.iter().map(|it| it.in_use(Kind::Connection)).sum();
        let cooling = self.meters[Kind::Connection as usize].as_ref().map_or(0, Meter::cooling);
        let mut coming = in_use - kept + u64::from(cooling);
        let mut waiting: Vec<u64> = self
            .holders
            .iter()
            .filter(|holder| holder.wants(Kind::Connection) > 0)
            .map(Holding::connections_kept)
            .collect();
        waiting.sort_unstable();
        for has in waiting {
            if coming > 0 {
                coming -= 1;
                continue;
            }
            let candidates = self.holders.iter_mut().filter(|it| it.connections_kept() > has);
            let richest =
                candidates.max_by_key(|it| (it.connections_kept(), u64::MAX - it.connected_ms));
            let Some(richest) = richest else { return };
            let turn_over = now_ms >= richest.connected_ms + TURN_MS;
            let is_fair = richest.connections_kept() > has + 1 || (has == 0 && turn_over);
            if !is_fair {
                return;
            }
            let account = &richest.ask.accounts[Kind::Connection as usize];
            let closed = account.used + account.returned;
            richest.grant.closed = richest.grant.closed.max(closed) + 1;
            richest.is_news = true;
        }
    }
}

impl LeaseCell for Cell {
    /// What came back is dealt by the next `poll_grant`, with what others have returned by then.
    fn handle_ask(&mut self, holder: usize, ask: &Ask) {
        let holding = &mut self.holders[holder];
        if ask.seq <= holding.ask.seq {
            return;
        }
        for kind in Kind::ALL {
            let (old, new) = (&holding.ask.accounts[kind as usize], &ask.accounts[kind as usize]);
            assert!(new.used >= old.used && new.returned >= old.returned);
            assert!(new.used + new.returned <= holding.grant.granted[kind as usize]);
            if let Some(meter) = self.meters[kind as usize].as_mut() {
                meter.spend((new.used - old.used) as u32, new.used_last_ms);
                meter.give_back((new.returned - old.returned) as u32);
            }
        }
        holding.ask = *ask;
    }

    fn poll_grant(&mut self, now_ms: u64) -> Option<(usize, Grant)> {
        for kind in Kind::ALL {
            self.deal(kind, now_ms);
        }
        let index = self.holders.iter().position(|holder| holder.is_news)?;
        let holder = &mut self.holders[index];
        holder.is_news = false;
        holder.grant.seq += 1;
        Some((index, holder.grant))
    }

    fn refuse_grant(&mut self, holder: usize) {
        self.holders[holder].is_news = true;
    }
}

const SECOND_MS: u64 = 1000;
/// How long a connection stays with its holder while others wait without any.
const TURN_MS: u64 = 1000;
