//! A holder's side of a site's leases: what it has, uses and asks for. `Pure.`

use super::cell::{Account, Ask, Grant, Kind};

/// One shard's leases of one site.
#[derive(Debug, Default)]
pub struct Holder {
    granted: [u64; Kind::ALL.len()],
    accounts: [Account; Kind::ALL.len()],
    /// Taken and not yet reported.
    in_use: [u64; Kind::ALL.len()],
    /// How many it would like to have in hand, unused.
    wish: [u32; Kind::ALL.len()],
    /// Monotonic milliseconds of the last take, or the last grant, of each kind.
    busy_ms: [u64; Kind::ALL.len()],
    grant_seq: u64,
    closed_wanted: u64,
    /// As it was given away last.
    told: Ask,
}

/// How soon the owner is to hear something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// With what else is to be said.
    Later,
    /// Somebody waits.
    Now,
}

impl Holder {
    /// Whether the owner knows of it.
    pub fn has_asked(&self) -> bool {
        self.told.seq > 0
    }

    /// In hand and unused.
    pub fn unused(&self, kind: Kind) -> u64 {
        let account = &self.accounts[kind as usize];
        let gone = account.used + account.returned + self.in_use[kind as usize];
        self.granted[kind as usize] - gone
    }

    pub fn in_use(&self, kind: Kind) -> u64 {
        self.in_use[kind as usize]
    }

    /// Takes one into use; false where none is in hand.
    pub fn take(&mut self, kind: Kind, now_ms: u64) -> bool {
        if self.unused(kind) == 0 {
            return false;
        }
        self.in_use[kind as usize] += 1;
        self.busy_ms[kind as usize] = now_ms;
        true
    }

    /// One in use was used until `end_ms` at the latest, monotonic milliseconds rounded up.
    pub fn finish(&mut self, kind: Kind, end_ms: u64) {
        assert!(self.in_use[kind as usize] > 0);
        self.in_use[kind as usize] -= 1;
        let account = &mut self.accounts[kind as usize];
        account.used += 1;
        account.used_last_ms = account.used_last_ms.max(end_ms);
    }

    /// One in use was not used: the peer saw nothing of it.
    pub fn put_back(&mut self, kind: Kind) {
        assert!(self.in_use[kind as usize] > 0);
        self.in_use[kind as usize] -= 1;
    }

    /// From now on so many are to be in hand.
    pub fn wish(&mut self, kind: Kind, count: u32) {
        self.wish[kind as usize] = count;
    }

    /// Whether others wait for a connection of ours. Holds until one is closed.
    pub fn is_to_close(&self) -> bool {
        let account = &self.accounts[Kind::Connection as usize];
        account.used + account.returned < self.closed_wanted
            && self.in_use[Kind::Connection as usize] > 0
    }

    /// Returns whether there is more in hand, or one to be closed.
    pub fn handle_grant(&mut self, grant: &Grant, now_ms: u64) -> bool {
        if grant.seq <= self.grant_seq {
            return false;
        }
        self.grant_seq = grant.seq;
        for kind in Kind::ALL {
            assert!(grant.granted[kind as usize] >= self.granted[kind as usize]);
            if grant.granted[kind as usize] > self.granted[kind as usize] {
                self.busy_ms[kind as usize] = now_ms;
            }
        }
        let is_more = grant.granted != self.granted || grant.closed > self.closed_wanted;
        self.granted = grant.granted;
        self.closed_wanted = grant.closed;
        is_more
    }

    /// Gives back what lies unused for a while: others may wait for it.
    pub fn return_idle(&mut self, now_ms: u64) {
        for kind in Kind::ALL {
            let unused = self.unused(kind);
            if unused > 0 && now_ms >= self.busy_ms[kind as usize] + IDLE_MS {
                self.wish[kind as usize] = 0;
                self.accounts[kind as usize].returned += unused;
            }
        }
    }

    /// What is to be said, if anything is that is urgent enough.
    pub fn poll_ask(&mut self, urgency: Urgency) -> Option<Ask> {
        let mut accounts = self.accounts;
        let mut is_wanting = false;
        for kind in Kind::ALL {
            let account = &mut accounts[kind as usize];
            let gone = account.used + account.returned + self.in_use[kind as usize];
            account.wanted = gone + u64::from(self.wish[kind as usize]);
            let is_more = account.wanted > self.told.accounts[kind as usize].wanted;
            is_wanting |= is_more && account.wanted > self.granted[kind as usize];
        }
        let is_due = match urgency {
            Urgency::Now => is_wanting,
            Urgency::Later => accounts != self.told.accounts,
        };
        if !is_due {
            return None;
        }
        self.accounts = accounts;
        self.told = Ask { seq: self.told.seq + 1, accounts };
        Some(self.told)
    }

    /// The ask of the last `poll_ask` did not get on its way.
    pub fn refuse_ask(&mut self) {
        // Whatever it said is news again; its number is not used twice.
        self.told.accounts = [Account { wanted: u64::MAX, ..Account::default() }; Kind::ALL.len()];
    }
}

/// What lies unused for so long is given back.
const IDLE_MS: u64 = 50;

#[cfg(test)]
mod tests {
    use super::super::cell::{Cell, LeaseCell};
    use super::*;
    use crate::config::SiteLimits;

    fn exchange(cell: &mut Cell, holders: &mut [Holder], now_ms: u64) {
        for (index, holder) in holders.iter_mut().enumerate() {
            if let Some(ask) = holder.poll_ask(Urgency::Later) {
                cell.handle_ask(index, &ask);
            }
        }
        while let Some((index, grant)) = cell.poll_grant(now_ms) {
            holders[index].handle_grant(&grant, now_ms);
        }
    }

    fn take_all(holder: &mut Holder, kind: Kind, now_ms: u64) -> usize {
        std::iter::from_fn(|| holder.take(kind, now_ms).then_some(())).count()
    }

    fn messages(count: u32) -> SiteLimits {
        SiteLimits { messages_per_second: Some(count), ..SiteLimits::default() }
    }

    fn connections(count: u32) -> SiteLimits {
        SiteLimits { connections: Some(count), ..SiteLimits::default() }
    }

    fn holders(count: usize) -> Vec<Holder> {
        (0..count).map(|_| Holder::default()).collect()
    }

    #[test]
    fn those_who_want_share_equally_and_nobody_gets_more_than_it_wants() {
        let mut cell = Cell::new(&messages(50), 3, 0, &[]);
        let mut holders = holders(3);
        holders[0].wish(Kind::Message, 100);
        holders[1].wish(Kind::Message, 100);
        holders[2].wish(Kind::Message, 4);
        exchange(&mut cell, &mut holders, 0);
        let mut taken = [0; 3];
        for (holder, taken) in holders.iter_mut().zip(&mut taken) {
            *taken = take_all(holder, Kind::Message, 0);
        }
        assert_eq!(taken.iter().sum::<usize>(), 50);
        assert_eq!((taken[2], taken[0].abs_diff(taken[1]) <= 1), (4, true), "{taken:?}");
    }

    #[test]
    fn unused_tokens_go_back_and_used_ones_after_their_window() {
        let mut cell = Cell::new(&messages(4), 2, 0, &[]);
        let mut holders = holders(2);
        holders[0].wish(Kind::Message, 4);
        exchange(&mut cell, &mut holders, 0);
        assert!(holders[0].take(Kind::Message, 0));
        holders[0].finish(Kind::Message, 10);
        holders[1].wish(Kind::Message, 4);
        exchange(&mut cell, &mut holders, 40);
        assert_eq!(holders[1].unused(Kind::Message), 0);
        holders[0].return_idle(49);
        assert_eq!(holders[0].unused(Kind::Message), 3, "not yet idle");
        holders[0].return_idle(50);
        exchange(&mut cell, &mut holders, 50);
        assert_eq!(holders[1].unused(Kind::Message), 3);
        exchange(&mut cell, &mut holders, 1007);
        assert_eq!(holders[1].unused(Kind::Message), 3);
        exchange(&mut cell, &mut holders, 1012);
        assert_eq!(holders[1].unused(Kind::Message), 4);
    }

    #[test]
    fn a_late_ask_or_grant_changes_nothing() {
        let mut cell = Cell::new(&messages(10), 1, 0, &[]);
        let mut holder = Holder::default();
        holder.wish(Kind::Message, 2);
        let early = holder.poll_ask(Urgency::Now).expect("it wants some");
        cell.handle_ask(0, &early);
        let (_, first) = cell.poll_grant(0).expect("a grant");
        holder.handle_grant(&first, 0);
        assert!(holder.take(Kind::Message, 0));
        let late = holder.poll_ask(Urgency::Now).expect("one more");
        cell.handle_ask(0, &late);
        cell.handle_ask(0, &early);
        let (_, second) = cell.poll_grant(0).expect("a grant");
        holder.handle_grant(&second, 0);
        assert!(!holder.handle_grant(&first, 0));
        assert_eq!(holder.unused(Kind::Message), 2);
    }

    #[test]
    fn a_refused_ask_and_a_refused_grant_come_again() {
        let mut cell = Cell::new(&connections(1), 1, 0, &[]);
        let mut holder = Holder::default();
        holder.wish(Kind::Connection, 1);
        let ask = holder.poll_ask(Urgency::Now).expect("it wants one");
        assert_eq!(holder.poll_ask(Urgency::Later), None);
        holder.refuse_ask();
        let again = holder.poll_ask(Urgency::Later).expect("refused before");
        assert_eq!((again.accounts, again.seq), (ask.accounts, ask.seq + 1));
        cell.handle_ask(0, &again);
        assert!(cell.poll_grant(0).is_some());
        assert_eq!(cell.poll_grant(0), None);
        cell.refuse_grant(0);
        let (_, grant) = cell.poll_grant(0).expect("refused before");
        assert!(holder.handle_grant(&grant, 0));
    }

    #[test]
    fn who_waits_without_a_connection_gets_that_of_another_in_turn() {
        let mut cell = Cell::new(&connections(3), 4, 0, &[]);
        let mut holders = holders(4);
        for holder in &mut holders[..3] {
            holder.wish(Kind::Connection, 1);
        }
        exchange(&mut cell, &mut holders, 0);
        for holder in &mut holders[..3] {
            assert!(holder.take(Kind::Connection, 0));
            holder.wish(Kind::Connection, 0);
        }
        holders[3].wish(Kind::Connection, 1);
        exchange(&mut cell, &mut holders, 500);
        assert!(holders.iter().all(|holder| !holder.is_to_close()), "its turn is not over");
        exchange(&mut cell, &mut holders, 1000);
        let closing = holders.iter().filter(|holder| holder.is_to_close()).count();
        assert_eq!(closing, 1, "one is enough");
        let index = holders.iter().position(Holder::is_to_close).expect("one");
        holders[index].finish(Kind::Connection, 1100);
        exchange(&mut cell, &mut holders, 1099);
        assert_eq!(holders[3].unused(Kind::Connection), 0, "its FIN has not been seen");
        exchange(&mut cell, &mut holders, 1100);
        assert_eq!(holders[3].unused(Kind::Connection), 1);
        assert!(holders.iter().all(|holder| !holder.is_to_close()));
    }

    #[test]
    fn who_has_many_connections_gives_some_to_who_has_none_at_once() {
        let mut cell = Cell::new(&connections(4), 2, 0, &[]);
        let mut holders = holders(2);
        holders[0].wish(Kind::Connection, 4);
        exchange(&mut cell, &mut holders, 0);
        assert_eq!(take_all(&mut holders[0], Kind::Connection, 0), 4);
        holders[0].wish(Kind::Connection, 0);
        for round in 0..2 {
            holders[1].wish(Kind::Connection, 1);
            exchange(&mut cell, &mut holders, 1);
            assert!(holders[0].is_to_close(), "round {round}");
            holders[0].finish(Kind::Connection, 1);
            exchange(&mut cell, &mut holders, 1);
            assert!(holders[1].take(Kind::Connection, 1));
        }
        exchange(&mut cell, &mut holders, 5000);
        assert!(!holders[0].is_to_close(), "two each");
    }
}
