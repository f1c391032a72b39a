//! Sessions of each client address, counted exactly over all shards.
//!
//! The shard that owns an address (by hash) counts; the others ask it before the greeting and tell
//! it at the end. What must arrive, answers and releases, waits here while an inbox is full.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::mail::client::ClientKey;
use crate::runtime::sync::{self, Sender};
use crate::runtime::{task, timer};

/// What the counts of different shards say to one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMemo {
    /// May shard `from` have one more session of this client?
    Ask {
        client: ClientKey,
        from: usize,
        ticket: u64,
    },
    Answer {
        client: ClientKey,
        ticket: u64,
        granted: bool,
    },
    /// A session that was granted has ended.
    Release {
        client: ClientKey,
    },
}

/// The shard that counts a client.
fn owner(client: ClientKey, shard_count: usize) -> usize {
    client.spread() as usize % shard_count
}

/// Carries a memo to a shard; gives it back when the shard's inbox is full.
pub type SendMemo = Rc<dyn Fn(usize, ClientMemo) -> Result<(), ClientMemo>>;

/// The answer to a new session.
pub enum Admission {
    /// For as long as the guard lives.
    Granted(Held),
    Refused,
    /// The owner cannot be asked now.
    Unknown,
}

/// Counts of the clients this shard owns. `Pure.`
#[derive(Default)]
struct Counts {
    sessions: HashMap<ClientKey, usize>,
}

impl Counts {
    fn take(&mut self, client: ClientKey, sessions_max: usize) -> bool {
        let count = self.sessions.entry(client).or_insert(0);
        let granted = *count < sessions_max;
        *count += usize::from(granted);
        granted
    }

    fn give_back(&mut self, client: ClientKey) {
        let count = self.sessions.get_mut(&client).expect("what is given back was taken");
        *count -= 1;
        if *count == 0 {
            self.sessions.remove(&client);
        }
    }
}

/// Admission of clients on one shard. Clones are the same.
#[derive(Clone)]
pub struct Clients {
    inner: Rc<Inner>,
}

struct Inner {
    shard: usize,
    shard_count: usize,
    sessions_max: Cell<usize>,
    send: SendMemo,
    counts: RefCell<Counts>,
    asked: RefCell<HashMap<u64, Sender<bool>>>,
    next_ticket: Cell<u64>,
    /// Answers and releases that a full inbox refused: at most one for each session.
    outbox: RefCell<VecDeque<(usize, ClientMemo)>>,
}

impl Clients {
    pub fn start(shard: usize, shard_count: usize, sessions_max: usize, send: SendMemo) -> Self {
        let clients = Self::new(shard, shard_count, sessions_max, send);
        if shard_count > 1 {
            task::spawn(clients.clone().run_outbox());
        }
        clients
    }

    fn new(shard: usize, shard_count: usize, sessions_max: usize, send: SendMemo) -> Self {
        Self {
            inner: Rc::new(Inner {
                shard,
                shard_count,
                sessions_max: Cell::new(sessions_max),
                send,
                counts: RefCell::default(),
                asked: RefCell::default(),
                next_ticket: Cell::new(0),
                outbox: RefCell::default(),
            }),
        }
    }

    pub fn set_sessions_max(&self, sessions_max: usize) {
        self.inner.sessions_max.set(sessions_max);
    }

    /// Counts one more session of `address`. Suspends only when another shard owns the count.
    pub async fn admit(&self, address: IpAddr) -> Admission {
        let inner = &self.inner;
        let client = ClientKey::new(address);
        let owner = owner(client, inner.shard_count);
        let granted = if owner == inner.shard {
            inner.counts.borrow_mut().take(client, inner.sessions_max.get())
        } else {
            let ticket = inner.next_ticket.get();
            inner.next_ticket.set(ticket + 1);
            let (sender, answer) = sync::oneshot();
            inner.asked.borrow_mut().insert(ticket, sender);
            let ask = ClientMemo::Ask { client, from: inner.shard, ticket };
            if (inner.send)(owner, ask).is_err() {
                inner.asked.borrow_mut().remove(&ticket);
                return Admission::Unknown;
            }
            answer.await.unwrap_or(false)
        };
        if granted {
            Admission::Granted(Held { inner: inner.clone(), client, owner, is_leaving: false })
        } else {
            Admission::Refused
        }
    }

    /// Takes the place of a session that comes from another shard.
    pub fn take(&self, held: HeldElsewhere) -> Held {
        let (inner, client) = (self.inner.clone(), held.client);
        let owner = owner(client, inner.shard_count);
        Held { inner, client, owner, is_leaving: false }
    }

    pub fn on_memo(&self, memo: ClientMemo) {
        let inner = &self.inner;
        match memo {
            ClientMemo::Ask { client, from, ticket } => {
                let granted = inner.counts.borrow_mut().take(client, inner.sessions_max.get());
                inner.post(from, ClientMemo::Answer { client, ticket, granted });
            }
            ClientMemo::Answer { client, ticket, granted } => {
                let asked = inner.asked.borrow_mut().remove(&ticket);
                match asked {
                    Some(sender) => sender.send(granted),
                    // Whoever asked is gone: its place is free again.
                    None if granted => {
                        let owner = owner(client, inner.shard_count);
                        inner.post(owner, ClientMemo::Release { client });
                    }
                    None => {}
                }
            }
            ClientMemo::Release { client } => inner.counts.borrow_mut().give_back(client),
        }
    }

    async fn run_outbox(self) {
        loop {
            timer::sleep(OUTBOX_PERIOD).await;
            self.inner.flush();
        }
    }
}

impl Inner {
    /// Sends what must arrive, after what waits already.
    fn post(&self, shard: usize, memo: ClientMemo) {
        self.outbox.borrow_mut().push_back((shard, memo));
        self.flush();
    }

    fn flush(&self) {
        let waiting = std::mem::take(&mut *self.outbox.borrow_mut());
        for (shard, memo) in waiting {
            if let Err(memo) = (self.send)(shard, memo) {
                self.outbox.borrow_mut().push_back((shard, memo));
            }
        }
    }
}

/// One session's place in the count; given back when dropped.
pub struct Held {
    inner: Rc<Inner>,
    client: ClientKey,
    owner: usize,
    is_leaving: bool,
}

/// The place of a session that goes to another shard. It is not given back before it is taken.
#[derive(Debug)]
pub struct HeldElsewhere {
    client: ClientKey,
}

impl Held {
    /// The session goes to another shard, and its place with it.
    pub fn leave(mut self) -> HeldElsewhere {
        self.is_leaving = true;
        HeldElsewhere { client: self.client }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_leaving {
            return;
        }
        if self.owner == self.inner.shard {
            self.inner.counts.borrow_mut().give_back(self.client);
        } else {
            self.inner.post(self.owner, ClientMemo::Release { client: self.client });
        }
    }
}

/// How often a full inbox is tried again.
const OUTBOX_PERIOD: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Two shards whose inboxes hold `capacity` memos.
    struct Pair {
        clients: [Clients; 2],
        inboxes: [Rc<RefCell<VecDeque<ClientMemo>>>; 2],
    }

    fn pair(capacity: usize, sessions_max: usize) -> Pair {
        let inboxes: [Rc<RefCell<VecDeque<ClientMemo>>>; 2] = Default::default();
        let to = inboxes.clone();
        let send: SendMemo = Rc::new(move |shard, memo| {
            let mut inbox = to[shard].borrow_mut();
            if inbox.len() >= capacity {
                return Err(memo);
            }
            inbox.push_back(memo);
            Ok(())
        });
        let shard = |shard| Clients::new(shard, 2, sessions_max, send.clone());
        Pair { clients: [shard(0), shard(1)], inboxes }
    }

    impl Pair {
        fn exchange(&self) {
            for _ in 0..100 {
                for (clients, inbox) in self.clients.iter().zip(&self.inboxes) {
                    let memo = inbox.borrow_mut().pop_front();
                    if let Some(memo) = memo {
                        clients.on_memo(memo);
                    }
                    clients.inner.flush();
                }
            }
        }

        fn admit(&self, shard: usize, address: IpAddr) -> Option<Held> {
            let mut admission = pin!(self.clients[shard].admit(address));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..3 {
                match admission.as_mut().poll(&mut context) {
                    Poll::Ready(Admission::Granted(held)) => return Some(held),
                    Poll::Ready(_) => return None,
                    Poll::Pending => self.exchange(),
                }
            }
            panic!("no answer");
        }
    }

    #[test]
    fn the_limit_holds_over_both_shards_and_places_come_back() {
        for (capacity, last_octet) in [(1, 1), (1, 2), (100, 3), (100, 4)] {
            let pair = pair(capacity, 3);
            let address = IpAddr::from([192, 0, 2, last_octet]);
            let held: Vec<Option<Held>> =
                (0..5).map(|index| pair.admit(index % 2, address)).collect();
            assert_eq!(held.iter().filter(|it| it.is_some()).count(), 3);
            assert!(pair.admit(0, IpAddr::from([192, 0, 2, 77])).is_some(), "another client");
            // A session that goes from one shard to the other has one place all the time.
            let mut held = held;
            let left = held[0].take().map(Held::leave).expect("granted");
            assert!(pair.admit(0, address).is_none(), "its place is not free");
            held[0] = Some(pair.clients[1].take(left));
            assert!(pair.admit(0, address).is_none(), "its place is not free");
            drop(held);
            pair.exchange();
            let again: Vec<Option<Held>> =
                (0..4).map(|index| pair.admit(index % 2, address)).collect();
            assert_eq!(again.iter().filter(|it| it.is_some()).count(), 3, "all came back");
        }
    }
}
