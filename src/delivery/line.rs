//! A line: ready mail for one place by one pool, and the sites that pull from it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::history::History;
use super::site::Site;
use super::wanted::Wanted;
use crate::mail::WaitCause;
use crate::queue::ledger::CauseTimes;
use crate::queue::{LineId, Queue, Task};
use crate::routing::Hop;
use crate::runtime::clock;

/// What the mail of a line has in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LineKey {
    pub hop: Hop,
    /// What is asked of hosts before this mail goes to them.
    pub wanted: Wanted,
    /// `None` where no `[[egress]]` says: the kernel chooses the address.
    pub pool: Option<Box<str>>,
    /// Only while the mail of this tenant is suspended by itself.
    pub tenant: Option<Box<str>>,
}

pub(super) struct Line {
    pub id: LineId,
    pub key: LineKey,
    /// Not empty.
    pub members: Vec<Member>,
    /// Monotonic milliseconds at which it last had mail.
    pub used_ms: Cell<u64>,
    /// Monotonic milliseconds at which its flows are to be asked where they belong.
    pub renew_ms: Cell<u64>,
    /// Somebody puts its tasks back or fails them.
    pub being_emptied: Cell<bool>,
    history: Rc<RefCell<History>>,
}

/// A site of the pool.
pub(super) struct Member {
    pub site: Rc<Site>,
    weight: u32,
    /// Work taken, in parts of the weight: who has the least goes first.
    pass: Cell<u64>,
    taken_ms: Cell<u64>,
}

impl Member {
    pub fn new(site: Rc<Site>, weight: u32) -> Self {
        Self { site, weight, pass: Cell::new(0), taken_ms: Cell::new(0) }
    }
}

impl Line {
    pub fn new(
        id: LineId,
        key: LineKey,
        members: Vec<Member>,
        history: Option<Rc<RefCell<History>>>,
    ) -> Self {
        assert!(!members.is_empty());
        let new = || Rc::new(RefCell::new(History::new(clock::coarse_ms())));
        let history = history.unwrap_or_else(new);
        let used_ms = Cell::new(clock::coarse_ms());
        let (renew_ms, being_emptied) = (Cell::new(u64::MAX), Cell::new(false));
        Self { id, key, members, used_ms, renew_ms, being_emptied, history }
    }

    /// Whether it has had no mail for long, and nobody is busy with any of it.
    pub fn is_unused(&self, queue: &Queue, now_ms: u64) -> bool {
        let is_idle = self.members.iter().all(|member| member.site.connection_count() == 0);
        let is_old = now_ms >= self.used_ms.get() + UNUSED_MS;
        is_old && is_idle && !self.has_work(queue) && !self.being_emptied.get()
    }

    pub fn has_work(&self, queue: &Queue) -> bool {
        queue.ready_count(self.id) > 0
    }

    /// Why it waits, or `Turn` while it is served.
    pub fn note(&self, cause: WaitCause) {
        self.history.borrow_mut().set(cause, clock::coarse_ms());
    }

    pub fn cause(&self) -> WaitCause {
        self.history.borrow().cause()
    }

    pub fn causes(&self, from_ms: u64, to_ms: u64) -> CauseTimes {
        self.history.borrow().causes(from_ms, to_ms)
    }

    /// For the line that comes after this one.
    pub fn history(&self) -> Rc<RefCell<History>> {
        self.history.clone()
    }

    /// The members in turn, from the one that has had the least by its weight.
    pub fn members_by_turn(&self) -> impl Iterator<Item = &Member> {
        let first = (0..self.members.len()).min_by_key(|index| self.members[*index].pass.get());
        let (before, from) = self.members.split_at(first.expect("a line has a member"));
        from.iter().chain(before)
    }

    /// The next task for `site`; `None` as well when others are to have a turn first.
    pub fn take(&self, site: &Site, queue: &Queue) -> Option<Task> {
        if let [_] = self.members.as_slice() {
            return queue.take(self.id);
        }
        let now_ms = clock::coarse_ms();
        let index = self.members.iter().position(|member| std::ptr::eq(&*member.site, site))?;
        let member = &self.members[index];
        let able =
            |it: &&Member| !std::ptr::eq(*it, member) && it.site.is_able(now_ms, it.taken_ms.get());
        let others = self.members.iter().filter(able);
        let least = others.map(|it| it.pass.get()).min();
        if least.is_some_and(|least| member.pass.get() > least + SLACK) {
            return None;
        }
        let task = queue.take(self.id)?;
        member.taken_ms.set(now_ms);
        let pass = member.pass.get();
        member.pass.set(pass + PASS_SCALE / u64::from(member.weight));
        for other in self.members.iter().filter(|it| !std::ptr::eq(*it, member)) {
            if !other.site.is_able(now_ms, other.taken_ms.get()) {
                // It has no claim on what went by while it could not send.
                other.pass.set(other.pass.get().max(pass));
            } else if other.site.has_idle() && other.pass.get() <= member.pass.get() + SLACK {
                other.site.work.notify_one();
            }
        }
        Some(task)
    }
}

/// A line without mail is forgotten after this.
const UNUSED_MS: u64 = 600_000;
const PASS_SCALE: u64 = 1_000_000;
/// How far a member may run ahead of the others: so many messages where weights are one.
const SLACK: u64 = 4 * PASS_SCALE;
