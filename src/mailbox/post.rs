//! The way for a message into any partition: into one of this shard at once, into one of another
//! shard by memos.
//!
//! Whoever asks another shard waits for its answer, a task for each, so that no more is under way
//! than there are sessions and deliveries. A full inbox makes the task try again; after a while
//! without an answer it gives up. What was asked for may then be done all the same: who cannot
//! have that twice gives a `DeliveryKey`.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::codec::AccountId;
use super::draft::Draft;
use super::plan::{Delivered, Delivery, Refusal};
use super::store::Store;
use super::stores::Stores;
use crate::limits::{POST_BYTES_UNDER_WAY_MAX, POST_PIECE_BYTES_MAX};
use crate::runtime::sync::{self, Notify, Sender};
use crate::runtime::timer::Deadline;
use crate::runtime::{clock, task, timer};

/// What the partitions of different shards say to one another.
pub enum MailboxMemo {
    /// Shard `from` wants something, and waits for an answer with this ticket.
    Ask {
        from: usize,
        ticket: u64,
        request: Request,
    },
    Answer {
        ticket: u64,
        answer: Answer,
    },
    /// Shard `from` gave a draft up.
    Abandon {
        from: usize,
        draft: u64,
    },
    /// Shard `from` asks for nothing any more.
    Quiet {
        from: usize,
    },
}

/// What is asked of the shard that has a partition.
pub enum Request {
    /// The next content of a draft of the asking shard; the first piece begins it.
    Piece {
        partition: u16,
        draft: u64,
        octets: Vec<u8>,
    },
    /// The last content of a draft, and where it goes.
    Commit {
        partition: u16,
        draft: u64,
        octets: Vec<u8>,
        deliveries: Vec<Delivery>,
    },
    OverQuota {
        partition: u16,
        accounts: Vec<AccountId>,
        bytes: u64,
    },
}

pub enum Answer {
    Taken(Result<(), Refusal>),
    Committed(Committed),
    OverQuota(Vec<Option<Refusal>>),
}

/// What became of each delivery of a message, or why none was made.
pub type Committed = Result<Vec<Result<Delivered, Refusal>>, Refusal>;

/// Carries a memo to a shard; gives it back when the shard's inbox is full.
pub type SendMemo = Rc<dyn Fn(usize, MailboxMemo) -> Result<(), MailboxMemo>>;

/// The way into all partitions. Clones are the same.
#[derive(Clone)]
pub struct Post {
    inner: Rc<Inner>,
}

struct Inner {
    stores: Stores,
    shard: usize,
    /// How many shards have partitions, the first ones, and how many there are.
    serving_count: usize,
    shard_count: usize,
    send: SendMemo,
    answer_wait: Duration,
    next_number: Cell<u64>,
    waiting: RefCell<HashMap<u64, Sender<Answer>>>,
    bytes_under_way: Cell<usize>,
    bytes_returned: Notify,
    /// Drafts of other shards, by shard and number; none while one is being worked on.
    drafts: RefCell<HashMap<(usize, u64), Option<Draft>>>,
    /// Requests of other shards that have no answer yet.
    answering_count: Cell<usize>,
    /// Drafts given up whose owner has not heard of it: a full inbox refused.
    abandoned: RefCell<VecDeque<(usize, u64)>>,
    quiet_count: Cell<usize>,
}

impl Post {
    /// The post of shard `shard` with its partitions; of `shard_count` shards the first
    /// `serving_count` have partitions.
    pub fn start(
        stores: Stores,
        shard: usize,
        serving_count: usize,
        shard_count: usize,
        send: SendMemo,
    ) -> Post {
        Self::new(stores, (shard, serving_count, shard_count), send, ANSWER_WAIT)
    }

    fn new(
        stores: Stores,
        (shard, serving_count, shard_count): (usize, usize, usize),
        send: SendMemo,
        answer_wait: Duration,
    ) -> Post {
        Post {
            inner: Rc::new(Inner {
                stores,
                shard,
                serving_count,
                shard_count,
                send,
                answer_wait,
                next_number: Cell::new(1),
                waiting: RefCell::default(),
                bytes_under_way: Cell::new(0),
                bytes_returned: Notify::default(),
                drafts: RefCell::default(),
                answering_count: Cell::new(0),
                abandoned: RefCell::default(),
                quiet_count: Cell::new(0),
            }),
        }
    }

    /// The partition, if this shard has it.
    pub fn owner_is_here(&self, partition: u16) -> Option<Store> {
        self.inner.stores.get(partition).cloned()
    }

    /// The shard that has a partition, by its place.
    pub fn owner_of(&self, partition: u16) -> usize {
        usize::from(partition) % self.inner.serving_count
    }

    /// Begins a message for mailboxes of one partition. `bytes_hint` is what was announced, 0 for
    /// nothing. For another shard's partition nothing is asked so far.
    pub fn begin(&self, partition: u16, bytes_hint: u64) -> Result<PostDraft, Refusal> {
        if let Some(store) = self.inner.stores.get(partition) {
            return Ok(PostDraft::Here(store.begin(bytes_hint)?));
        }
        let owner = self.owner_of(partition);
        if owner == self.inner.shard {
            // Nobody has it.
            return Err(Refusal::NoSuchAccount);
        }
        let (post, draft) = (self.clone(), self.inner.next_number());
        let remote =
            RemoteDraft { post, owner, partition, draft, buffer: Vec::new(), is_open: false };
        Ok(PostDraft::There(remote))
    }

    /// Why each of the accounts does not take a message of so many octets; `None` for those that
    /// do. Those of one partition go together.
    pub async fn over_quota(
        &self,
        accounts: &[(u16, AccountId)],
        bytes: u64,
    ) -> Vec<Option<Refusal>> {
        let mut by_partition: HashMap<u16, Vec<usize>> = HashMap::new();
        for (index, (partition, _)) in accounts.iter().enumerate() {
            by_partition.entry(*partition).or_default().push(index);
        }
        let asked = by_partition.into_iter().map(|(partition, indices)| async move {
            let ids = indices.iter().map(|index| accounts[*index].1).collect();
            (indices, self.over_quota_of(partition, ids, bytes).await)
        });
        let mut refusals = vec![Some(Refusal::Unavailable); accounts.len()];
        for (indices, of_partition) in task::join_all(asked).await {
            for (index, refusal) in indices.into_iter().zip(of_partition) {
                refusals[index] = refusal;
            }
        }
        refusals
    }

    async fn over_quota_of(
        &self,
        partition: u16,
        accounts: Vec<AccountId>,
        bytes: u64,
    ) -> Vec<Option<Refusal>> {
        if let Some(store) = self.inner.stores.get(partition) {
            return accounts.iter().map(|account| store.over_quota(*account, bytes)).collect();
        }
        let count = accounts.len();
        let request = Request::OverQuota { partition, accounts, bytes };
        match self.ask(self.owner_of(partition), request).await {
            Ok(Answer::OverQuota(refusals)) => refusals,
            Ok(_) => unreachable!("each request has its answer"),
            Err(refusal) => vec![Some(refusal); count],
        }
    }

    /// Takes a memo from another shard.
    pub fn on_memo(&self, memo: MailboxMemo) {
        let inner = &self.inner;
        match memo {
            MailboxMemo::Ask { from, ticket, request } => {
                inner.answering_count.set(inner.answering_count.get() + 1);
                let post = self.clone();
                task::spawn_vital(async move {
                    let answer = post.fulfil(from, request).await;
                    let memo = MailboxMemo::Answer { ticket, answer };
                    // Whoever asked has given up when this has.
                    post.inner.carry(from, memo, post.inner.answer_wait).await;
                    let count = &post.inner.answering_count;
                    count.set(count.get() - 1);
                });
            }
            MailboxMemo::Answer { ticket, answer } => {
                // Whoever asked may have given up.
                if let Some(waiting) = inner.waiting.borrow_mut().remove(&ticket) {
                    waiting.send(answer);
                }
            }
            MailboxMemo::Abandon { from, draft } => {
                let dropped = inner.drafts.borrow_mut().remove(&(from, draft));
                drop(dropped);
            }
            MailboxMemo::Quiet { .. } => inner.quiet_count.set(inner.quiet_count.get() + 1),
        }
    }

    /// Says that this shard asks for nothing any more, and suspends until no other asks for
    /// anything either, or until `end`. Call it when the last session and delivery is gone.
    pub async fn quiet(&self, end: Instant) {
        let inner = &self.inner;
        let left = || end.saturating_duration_since(clock::now());
        let others = (0..inner.shard_count).filter(|shard| *shard != inner.shard);
        let told = others
            .map(|shard| inner.carry(shard, MailboxMemo::Quiet { from: inner.shard }, left()));
        task::join_all(told).await;
        let is_quiet =
            || inner.quiet_count.get() + 1 >= inner.shard_count && inner.answering_count.get() == 0;
        while !is_quiet() && !left().is_zero() {
            timer::sleep(TRY_AGAIN).await;
        }
        inner.drafts.borrow_mut().clear();
    }

    /// Does what another shard asks for.
    async fn fulfil(&self, from: usize, request: Request) -> Answer {
        match request {
            Request::Piece { partition, draft, octets } => {
                Answer::Taken(self.take_piece(partition, (from, draft), &octets).await)
            }
            Request::Commit { partition, draft, octets, deliveries } => {
                let committed = self.commit(partition, (from, draft), &octets, &deliveries).await;
                Answer::Committed(committed)
            }
            Request::OverQuota { partition, accounts, bytes } => {
                let store = self.inner.stores.get(partition);
                let refusal = |account: &AccountId| match store {
                    Some(store) => store.over_quota(*account, bytes),
                    None => Some(Refusal::NoSuchAccount),
                };
                Answer::OverQuota(accounts.iter().map(refusal).collect())
            }
        }
    }

    async fn take_piece(
        &self,
        partition: u16,
        key: (usize, u64),
        octets: &[u8],
    ) -> Result<(), Refusal> {
        let mut draft = self.draft_at_work(partition, key)?;
        append_all(&mut draft, octets).await?;
        // Its shard may have given it up meanwhile.
        if let Some(place) = self.inner.drafts.borrow_mut().get_mut(&key) {
            *place = Some(draft);
        }
        Ok(())
    }

    async fn commit(
        &self,
        partition: u16,
        key: (usize, u64),
        octets: &[u8],
        deliveries: &[Delivery],
    ) -> Committed {
        let draft = self.draft_at_work(partition, key);
        self.inner.drafts.borrow_mut().remove(&key);
        let mut draft = draft?;
        append_all(&mut draft, octets).await?;
        draft.commit(deliveries).await
    }

    /// A draft of another shard, to be put back into its place; one that is not known begins.
    fn draft_at_work(&self, partition: u16, key: (usize, u64)) -> Result<Draft, Refusal> {
        let mut drafts = self.inner.drafts.borrow_mut();
        if let Some(place) = drafts.get_mut(&key) {
            return place.take().ok_or(Refusal::Unavailable);
        }
        let store = self.inner.stores.get(partition).ok_or(Refusal::NoSuchAccount)?;
        let draft = store.begin(0)?;
        drafts.insert(key, None);
        Ok(draft)
    }

    /// Suspends until the shard has answered.
    async fn ask(&self, owner: usize, request: Request) -> Result<Answer, Refusal> {
        let inner = &self.inner;
        let _under_way = inner.under_way(request.bytes()).await?;
        let ticket = inner.next_number();
        let (sender, answer) = sync::oneshot();
        inner.waiting.borrow_mut().insert(ticket, sender);
        let _waiting = Waiting { inner, ticket };
        let memo = MailboxMemo::Ask { from: inner.shard, ticket, request };
        if !inner.carry(owner, memo, inner.answer_wait).await {
            return Err(Refusal::Unavailable);
        }
        let answered = timer::timeout(&Deadline::default(), inner.answer_wait, answer).await;
        answered.ok().flatten().ok_or(Refusal::Unavailable)
    }
}

/// A message on its way in. Dropped, it leaves nothing behind but dead chunks.
pub enum PostDraft {
    Here(Draft),
    There(RemoteDraft),
}

impl PostDraft {
    /// Takes content from the front of `octets` and says how much; with less than all taken, await
    /// `room` and come again. Never suspends.
    pub fn append(&mut self, octets: &[u8]) -> usize {
        match self {
            PostDraft::Here(draft) => draft.append(octets),
            PostDraft::There(draft) => draft.append(octets),
        }
    }

    /// Makes room where there is none. Suspends until content before is taken care of.
    pub async fn room(&mut self) -> Result<(), Refusal> {
        match self {
            PostDraft::Here(draft) => draft.room().await,
            PostDraft::There(draft) => draft.room().await,
        }
    }

    /// As `Draft::commit`. With `Refusal::Unavailable` as a whole the message may be there all the
    /// same, or come there yet.
    pub async fn commit(self, deliveries: Vec<Delivery>) -> Committed {
        match self {
            PostDraft::Here(draft) => draft.commit(&deliveries).await,
            PostDraft::There(draft) => draft.commit(deliveries).await,
        }
    }
}

/// A message for another shard's partition.
pub struct RemoteDraft {
    post: Post,
    owner: usize,
    partition: u16,
    draft: u64,
    /// At most `POST_PIECE_BYTES_MAX`.
    buffer: Vec<u8>,
    /// The owner may have something of it.
    is_open: bool,
}

impl RemoteDraft {
    fn append(&mut self, octets: &[u8]) -> usize {
        let taken = octets.len().min(POST_PIECE_BYTES_MAX - self.buffer.len());
        self.buffer.extend_from_slice(&octets[..taken]);
        taken
    }

    async fn room(&mut self) -> Result<(), Refusal> {
        if self.buffer.len() < POST_PIECE_BYTES_MAX {
            return Ok(());
        }
        let octets = std::mem::take(&mut self.buffer);
        let request = Request::Piece { partition: self.partition, draft: self.draft, octets };
        self.is_open = true;
        match self.post.ask(self.owner, request).await? {
            Answer::Taken(taken) => taken,
            _ => unreachable!("each request has its answer"),
        }
    }

    async fn commit(mut self, deliveries: Vec<Delivery>) -> Committed {
        let octets = std::mem::take(&mut self.buffer);
        let (partition, draft) = (self.partition, self.draft);
        let request = Request::Commit { partition, draft, octets, deliveries };
        match self.post.ask(self.owner, request).await? {
            Answer::Committed(committed) => {
                self.is_open = false;
                committed
            }
            _ => unreachable!("each request has its answer"),
        }
    }
}

impl Drop for RemoteDraft {
    fn drop(&mut self) {
        if self.is_open {
            self.post.inner.abandon(self.owner, self.draft);
        }
    }
}

impl Inner {
    fn next_number(&self) -> u64 {
        self.next_number.replace(self.next_number.get() + 1)
    }

    /// Brings a memo to a shard, trying for `time_max` while its inbox is full; whether it is
    /// there.
    async fn carry(&self, to: usize, memo: MailboxMemo, time_max: Duration) -> bool {
        let end = clock::now() + time_max;
        let mut memo = memo;
        loop {
            self.say_abandoned();
            match (self.send)(to, memo) {
                Ok(()) => return true,
                Err(refused) => memo = refused,
            }
            if clock::now() >= end {
                return false;
            }
            timer::sleep(TRY_AGAIN).await;
        }
    }

    /// Suspends until so many octets may be under way beside what is.
    async fn under_way(&self, bytes: usize) -> Result<UnderWay<'_>, Refusal> {
        let end = clock::now() + self.answer_wait;
        let has_room = || {
            let before = self.bytes_under_way.get();
            before == 0 || before + bytes <= POST_BYTES_UNDER_WAY_MAX
        };
        while !has_room() {
            let left = end.saturating_duration_since(clock::now());
            let deadline = Deadline::default();
            let returned = timer::timeout(&deadline, left, self.bytes_returned.notified()).await;
            if returned.is_err() {
                return Err(Refusal::Unavailable);
            }
        }
        self.bytes_under_way.set(self.bytes_under_way.get() + bytes);
        Ok(UnderWay { inner: self, bytes })
    }

    /// The owner lets a draft of ours go, now or with the next memo that it gets.
    fn abandon(&self, owner: usize, draft: u64) {
        self.abandoned.borrow_mut().push_back((owner, draft));
        self.say_abandoned();
    }

    fn say_abandoned(&self) {
        let from = self.shard;
        self.abandoned.borrow_mut().retain(|(owner, draft)| {
            (self.send)(*owner, MailboxMemo::Abandon { from, draft: *draft }).is_err()
        });
    }
}

/// Octets of a request that has no answer yet.
struct UnderWay<'a> {
    inner: &'a Inner,
    bytes: usize,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.inner.bytes_under_way.set(self.inner.bytes_under_way.get() - self.bytes);
        self.inner.bytes_returned.notify_all();
    }
}

/// Somebody who waits for an answer.
struct Waiting<'a> {
    inner: &'a Inner,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.waiting.borrow_mut().remove(&self.ticket);
    }
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Request::Piece { octets, .. } => octets.len(),
            Request::Commit { octets, deliveries, .. } => {
                let prefixes = deliveries.iter().map(|delivery| delivery.prefix.len());
                octets.len() + prefixes.sum::<usize>()
            }
            Request::OverQuota { accounts, .. } => size_of_val(accounts.as_slice()),
        }
    }
}

async fn append_all(draft: &mut Draft, octets: &[u8]) -> Result<(), Refusal> {
    let mut rest = octets;
    while !rest.is_empty() {
        let taken = draft.append(rest);
        rest = &rest[taken..];
        draft.room().await?;
    }
    Ok(())
}

/// Longest wait for another shard: for room in its inbox, then for its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Between two looks at a full inbox.
const TRY_AGAIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
