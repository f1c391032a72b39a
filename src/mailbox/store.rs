//! A partition over its journal: what is asked for becomes records, and answers come when these are
//! durable.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::codec::{
    AccountId, Body, BodyId, BodyPayload, FlagsChanged, MailboxId, Operation, Quota, SpecialUses,
};
use super::index::Mailbox;
use super::mend::Mend;
use super::partition::{Change, Partition};
use super::plan::{Expunging, Part, Planned, Refusal};
use super::recovery::Recovered;
use super::summaries::Summaries;
use crate::journal::upkeep::{Checkpointing, DraftChunks};
use crate::journal::{
    Append, AppendError, Journal, Level, Location, Record, Recovery, Ticket, kind,
};
use crate::mail;
use crate::metrics::{self, Latency};
use crate::proto::imap::flag::Flags;
use crate::proto::imap::mailbox::MailboxName;
use crate::proto::imap::set::NumberSet;
use crate::proto::imap::store::FlagChange;
use crate::runtime::sync::Notify;
use crate::runtime::{clock, task, timer};

/// A partition of mailboxes. Clones are the same partition.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Rc<Inner>,
}

pub(super) struct Inner {
    pub journal: Journal,
    pub partition: RefCell<Partition>,
    /// The frame of the last change, and of the last one to each mailbox that is not durable.
    newest: Cell<Ticket>,
    pending: RefCell<HashMap<MailboxId, Ticket>>,
    /// Changes in the order of their frames, until those who watch have been told.
    changes: RefCell<VecDeque<(Ticket, MailboxId)>>,
    changed: Notify,
    watches: RefCell<HashMap<MailboxId, Rc<Bell>>>,
    /// Who makes the change that is being applied.
    author: RefCell<Option<Author>>,
    /// The UID from which on nobody was told of messages, by mailbox. What was told before this
    /// process began is not known: it counts as recent then (RFC 3501 §2.3.2).
    recent: RefCell<HashMap<MailboxId, u32>>,
    /// Bodies that are no longer on disk whole.
    lost: RefCell<HashSet<BodyId>>,
    /// What recovery mended and no record says: it is written before anything that builds on it.
    mends: RefCell<VecDeque<Mend>>,
    /// From a change to it being durable.
    commit_latency: Latency,
    /// How long an expunged message is kept.
    undelete: Duration,
    pub summaries: Summaries,
    /// Chunks of open drafts, by slot.
    pub draft_chunks: DraftChunks,
    pub checkpointing: Checkpointing,
    is_stopping: Cell<bool>,
}

/// What became of STORE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Messages whose flags are different now.
    pub changed: NumberSet,
    /// Messages that were left alone because they had changed since.
    pub modified: NumberSet,
}

/// What became of COPY or MOVE: as many UIDs on either side, in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub uid_validity: u32,
    pub source_uids: NumberSet,
    pub target_uids: NumberSet,
}

/// Why a partition does not start. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// No checkpoint is whole, and what stood in segments that were used again is not known:
    /// mailboxes may be missing. The operator must bring the directory back from a copy.
    Degraded,
}

impl Store {
    /// The partition of an opened journal, and its tasks on the calling executor. An expunged
    /// message is kept for `undelete`.
    pub fn start(
        journal: Journal,
        recovered: Recovered,
        recovery: &Recovery,
        undelete: Duration,
    ) -> Result<Store, StartError> {
        if recovery.is_degraded {
            return Err(StartError::Degraded);
        }
        for location in recovered.malformed() {
            // What is not understood is kept.
            journal.pin_recovered(*location, location.record_bytes.into());
        }
        let mut partition = recovered.end(recovery);
        let mends = partition.mend(now_s(), || journal.next_message_id());
        let lost = pin_bodies(&partition, &journal);
        let store = Store {
            inner: Rc::new(Inner {
                journal,
                partition: RefCell::new(partition),
                newest: Cell::new(Ticket(0)),
                pending: RefCell::default(),
                changes: RefCell::default(),
                changed: Notify::default(),
                watches: RefCell::default(),
                author: RefCell::default(),
                recent: RefCell::default(),
                lost: RefCell::new(lost),
                mends: RefCell::new(mends.into()),
                commit_latency: Latency::default(),
                undelete,
                summaries: Summaries::default(),
                draft_chunks: DraftChunks::default(),
                checkpointing: Checkpointing::default(),
                is_stopping: Cell::new(false),
            }),
        };
        store.inner.journal.begin();
        task::spawn_vital(store.clone().run_changes());
        task::spawn_vital(store.clone().run_release());
        task::spawn_vital(store.clone().run_checkpoints());
        task::spawn_vital(store.clone().run_compaction());
        Ok(store)
    }

    /// Bodies that are no longer on disk whole: their messages are listed and cannot be read.
    pub fn lost_count(&self) -> usize {
        self.inner.lost.borrow().len()
    }

    /// What recovery mended and no record says so far, a line each.
    pub fn mended(&self) -> Vec<String> {
        self.inner.mends.borrow().iter().map(|mend| mend.words.clone()).collect()
    }

    /// What the partition of this number and its journal came to. Flushes are counted where they
    /// are made at all.
    pub fn numbers(&self, number: u16, is_durable: bool) -> metrics::Partition {
        let inner = &self.inner;
        let (counters, space) = (inner.journal.counters(), inner.journal.space());
        let (pool_bytes, live_bytes) = inner.journal.pool_bytes();
        let flushes = counters.frames + counters.segments_activated;
        let partition = inner.partition.borrow();
        let numbers = metrics::PartitionNumbers {
            frames: counters.frames,
            flushes: if is_durable { flushes } else { 0 },
            records: counters.records,
            bytes: counters.bytes,
            checkpoints: counters.checkpoints,
            moved_bytes: counters.moved_bytes,
            segments: space.slots as u64,
            segments_free: space.slots_free as u64,
            pool_bytes,
            live_bytes,
            accounts: partition.accounts.len() as u64,
            mailboxes: partition.mailboxes.len() as u64,
            messages: partition.message_count(),
            messages_kept: partition.expunged_count() as u64,
            messages_lost: inner.lost.borrow().len() as u64,
            index_bytes: partition.memory_bytes() as u64,
        };
        metrics::Partition { number, numbers, commit_latency: inner.commit_latency.snapshot() }
    }

    /// All accounts, as those of partition `partition`.
    pub fn accounts(&self, partition: u16) -> Vec<mail::Account> {
        let known = self.inner.partition.borrow();
        let accounts = known.accounts().map(|(id, account)| mail::Account {
            name: account.name.to_ascii_lowercase().into(),
            id: id.0,
            partition,
            secret: account.secret.clone(),
            revision: 0,
        });
        accounts.collect()
    }

    pub fn message_count(&self) -> u64 {
        self.inner.partition.borrow().message_count()
    }

    /// What is the same for two messages only when their octets are (RFC 8474): the store, and the
    /// number of the body in it.
    pub fn email_id(&self, body: BodyId) -> u128 {
        let store = u128::from_be_bytes(self.inner.journal.store_id().0);
        store & !u128::from(u64::MAX) | u128::from(body.0)
    }

    /// What `read` finds, given out once all of it is durable.
    pub async fn read<T>(&self, read: impl FnOnce(&Partition) -> T) -> T {
        let value = read(&self.inner.partition.borrow());
        self.inner.newest_durable().await;
        value
    }

    /// What `read` finds in a mailbox, given out once all of it is durable; `None` where there is
    /// no such mailbox. Suspends only after a change to this mailbox.
    pub async fn read_mailbox<T>(
        &self,
        mailbox: MailboxId,
        read: impl FnOnce(&Mailbox) -> T,
    ) -> Option<T> {
        self.read_with_bodies(mailbox, |_, mailbox| read(mailbox)).await
    }

    /// Like `read_mailbox`, with what is known beside the mailbox: bodies, and what was expunged.
    pub async fn read_with_bodies<T>(
        &self,
        mailbox: MailboxId,
        read: impl FnOnce(&Partition, &Mailbox) -> T,
    ) -> Option<T> {
        let value = {
            let partition = self.inner.partition.borrow();
            partition.mailbox(mailbox).map(|mailbox| read(&partition, mailbox))
        };
        let pending = match value {
            Some(_) => self.inner.pending.borrow().get(&mailbox).copied(),
            None => Some(self.inner.newest.get()),
        };
        if let Some(ticket) = pending {
            self.inner.journal.durable(ticket).await;
        }
        value
    }

    /// The mailbox of this name, which is as `MailboxName` has it. It may not be durable yet: read
    /// it before anything is told of it. Suspends only where there is none.
    pub async fn find_mailbox(&self, account: AccountId, name: &str) -> Option<MailboxId> {
        let found = self.inner.partition.borrow().find_mailbox(account, name).map(|it| it.id);
        if found.is_none() {
            self.inner.newest_durable().await;
        }
        found
    }

    /// The UID from which on no session was told of messages of a mailbox, as far as this process
    /// knows.
    pub fn recent_from(&self, mailbox: MailboxId) -> u32 {
        self.inner.recent.borrow().get(&mailbox).copied().unwrap_or(1)
    }

    /// Messages below `uid_next` are recent to the caller alone from now on, from the UID that is
    /// returned.
    pub fn claim_recent(&self, mailbox: MailboxId, uid_next: u32) -> u32 {
        let mut recent = self.inner.recent.borrow_mut();
        let partition = self.inner.partition.borrow();
        if recent.len() > 2 * partition.mailboxes.len() + RECENT_KEPT_MIN {
            recent.retain(|mailbox, _| partition.mailboxes.contains_key(mailbox));
        }
        let from = recent.entry(mailbox).or_insert(1);
        std::mem::replace(from, uid_next.max(*from))
    }

    /// Tells of changes to the mailbox from now on.
    pub fn watch(&self, mailbox: MailboxId) -> Watch {
        let mut watches = self.inner.watches.borrow_mut();
        let bell = watches.entry(mailbox).or_default().clone();
        let collected: Rc<RefCell<Changes>> = Rc::default();
        bell.collected.borrow_mut().push(collected.clone());
        let seen = Cell::new(bell.count.get());
        Watch { store: self.clone(), mailbox, bell, seen, collected }
    }

    /// Begins an account with its INBOX; both are there when this returns. Without a secret nobody
    /// logs in.
    pub async fn add_account(
        &self,
        name: &str,
        secret: Option<&str>,
    ) -> Result<AccountId, Refusal> {
        let journal = &self.inner.journal;
        let account = AccountId(journal.next_message_id());
        let inbox = MailboxId(journal.next_message_id());
        let plan = |partition: &Partition| {
            partition.plan_account((account, inbox), name, secret, now_s()).map(of(account))
        };
        self.run(plan).await
    }

    /// Ends an account. Its messages are kept for a while, as expunged ones are.
    pub async fn remove_account(&self, account: AccountId) -> Result<(), Refusal> {
        self.run(|partition| partition.plan_account_removal(account, now_s()).map(of(()))).await
    }

    /// A password of the account is checked against `secret` from now on.
    pub async fn set_secret(&self, account: AccountId, secret: &str) -> Result<(), Refusal> {
        self.run(|partition| partition.plan_secret(account, secret).map(of(()))).await
    }

    /// How much accounts may hold that have no limit of their own. Not remembered over a restart.
    pub fn set_default_quota(&self, quota: Quota) {
        self.inner.partition.borrow_mut().default_quota = quota;
    }

    /// Why an account does not take a message of so many octets, as far as is known now.
    pub fn over_quota(&self, account: AccountId, bytes: u64) -> Option<Refusal> {
        self.inner.partition.borrow().over_quota(account, bytes)
    }

    /// How much an account may hold from now on; it keeps what it has.
    pub async fn set_quota(&self, account: AccountId, quota: Quota) -> Result<(), Refusal> {
        self.run(|partition| partition.plan_quota(account, quota).map(of(()))).await
    }

    pub async fn create_mailbox(
        &self,
        account: AccountId,
        name: &MailboxName,
        special_uses: SpecialUses,
    ) -> Result<MailboxId, Refusal> {
        let id = MailboxId(self.inner.journal.next_message_id());
        let plan = |partition: &Partition| {
            partition.plan_mailbox(id, account, name, special_uses, now_s()).map(of(id))
        };
        self.run(plan).await
    }

    /// The mailbox for what comes from elsewhere, with its UIDVALIDITY and UIDNEXT. It has the
    /// UIDVALIDITY given where it is begun by this, or never had a message.
    pub async fn open_for_import(
        &self,
        account: AccountId,
        name: &MailboxName,
        uid_validity: u32,
    ) -> Result<(MailboxId, u32, u32), Refusal> {
        let id = MailboxId(self.inner.journal.next_message_id());
        let plan = |partition: &Partition| {
            let planned = partition.plan_import(id, account, name, uid_validity, now_s());
            planned.map(of(()))
        };
        self.run(plan).await?;
        let find = |partition: &Partition| {
            let mailbox = partition.find_mailbox(account, name.as_str())?;
            Some((mailbox.id, mailbox.uid_validity, mailbox.uid_next))
        };
        self.read(find).await.ok_or(Refusal::NoSuchMailbox)
    }

    /// Renames a mailbox and its inferiors.
    pub async fn rename_mailbox(
        &self,
        account: AccountId,
        from: &MailboxName,
        to: &MailboxName,
    ) -> Result<(), Refusal> {
        self.run(|partition| partition.plan_rename(account, from, to).map(of(()))).await
    }

    pub async fn delete_mailbox(&self, mailbox: MailboxId) -> Result<(), Refusal> {
        self.run(|partition| partition.plan_deletion(mailbox, now_s()).map(of(()))).await
    }

    pub async fn set_special_uses(
        &self,
        mailbox: MailboxId,
        special_uses: SpecialUses,
    ) -> Result<(), Refusal> {
        self.run(|partition| partition.plan_special_use(mailbox, special_uses).map(of(()))).await
    }

    pub async fn subscribe(
        &self,
        account: AccountId,
        name: &MailboxName,
        is_subscribed: bool,
    ) -> Result<(), Refusal> {
        let plan = |partition: &Partition| {
            partition.plan_subscription(account, name, is_subscribed).map(of(()))
        };
        self.run(plan).await
    }

    /// STORE. A command over many messages may be done in parts, each durable as a whole.
    pub async fn store_flags(
        &self,
        mailbox: MailboxId,
        uids: &NumberSet,
        change: FlagChange,
        flags: &Flags,
        unchanged_since: Option<u64>,
    ) -> Result<Stored, Refusal> {
        self.store_flags_as(None, mailbox, uids, (change, flags), unchanged_since).await
    }

    /// STORE by a session, whose watch does not hear of it.
    pub async fn store_flags_as(
        &self,
        author: Option<&Author>,
        mailbox: MailboxId,
        uids: &NumberSet,
        change: (FlagChange, &Flags),
        unchanged_since: Option<u64>,
    ) -> Result<Stored, Refusal> {
        let mut stored = Stored::default();
        let mut left = uids.clone();
        loop {
            let plan = |partition: &Partition| {
                partition.plan_flags(mailbox, &left, change, unchanged_since)
            };
            let part = self.run_as(author, plan).await?;
            stored.changed = stored.changed.union(&part.uids);
            stored.modified = stored.modified.union(&part.modified);
            if part.left.is_empty() {
                return Ok(stored);
            }
            left = part.left;
            task::yield_now().await;
        }
    }

    /// Expunges messages and returns their UIDs. In parts where they are very many.
    pub async fn expunge(
        &self,
        mailbox: MailboxId,
        which: Expunging<'_>,
    ) -> Result<NumberSet, Refusal> {
        let mut expunged = NumberSet::default();
        let mut from = 1;
        loop {
            let plan =
                |partition: &Partition| partition.plan_expunge(mailbox, which, from, now_s());
            let part = self.run(plan).await?;
            expunged = expunged.union(&part.uids);
            let Some(next) = part.left.first() else { return Ok(expunged) };
            from = next;
            task::yield_now().await;
        }
    }

    /// COPY, or MOVE where the messages leave `source`. A message is in either or both, whatever
    /// happens; very many go in parts.
    pub async fn copy(
        &self,
        source: MailboxId,
        target: MailboxId,
        uids: &NumberSet,
        is_move: bool,
    ) -> Result<Copied, Refusal> {
        let plan = |partition: &Partition, uids: &NumberSet| {
            partition.plan_copy(source, target, uids, is_move, now_s())
        };
        // What it puts there itself, where that is the source, is none of it.
        let uid_next = self.inner.partition.borrow().mailbox(source).map_or(1, |it| it.uid_next);
        let mut known = NumberSet::default();
        if uid_next > 1 {
            known.insert_range(1, uid_next - 1);
        }
        self.copy_in_parts(target, &uids.intersection(&known), plan).await
    }

    /// Brings messages back that were expunged from `source` and are still kept, into a mailbox of
    /// the same account.
    pub async fn restore(
        &self,
        source: MailboxId,
        target: MailboxId,
        uids: &NumberSet,
    ) -> Result<Copied, Refusal> {
        let plan = |partition: &Partition, uids: &NumberSet| {
            partition.plan_restore(source, target, uids, now_s())
        };
        self.copy_in_parts(target, uids, plan).await
    }

    /// Brings back what was deleted under this name, into the mailbox `to`, which is begun where it
    /// is not there: mailboxes of this name that were deleted, with what they had in them then, or
    /// where there was none, the messages that were expunged from the mailbox of this name. Returns
    /// how many messages came, or `None` where nothing of that is kept. What is in `to` already
    /// does not come again.
    pub async fn undelete(
        &self,
        account: AccountId,
        name: &MailboxName,
        to: &MailboxName,
    ) -> Result<Option<u64>, Refusal> {
        let find = |partition: &Partition| {
            let deleted = partition.deleted_of(account);
            let deleted = deleted.filter(|(_, deleted)| *deleted.name == *name.as_str());
            let mut sources: Vec<MailboxId> = deleted.map(|(id, _)| id).collect();
            if sources.is_empty() {
                let there = partition.find_mailbox(account, name.as_str()).map(|it| it.id);
                let is_kept = |id: &MailboxId| partition.expunged_from(*id, 1).next().is_some();
                sources.extend(there.filter(is_kept));
            }
            sources
        };
        let sources = self.read(find).await;
        if sources.is_empty() {
            return Ok(None);
        }
        let mut all = NumberSet::default();
        all.insert_range(1, u32::MAX - 1);
        let mut count = 0;
        for source in sources {
            let new = MailboxId(self.inner.journal.next_message_id());
            let plan = |partition: &Partition| partition.plan_undeleted(new, source, to, now_s());
            let target = self.run(plan).await?;
            count += self.restore(source, target, &all).await?.target_uids.count();
        }
        Ok(Some(count))
    }

    async fn copy_in_parts(
        &self,
        target: MailboxId,
        uids: &NumberSet,
        plan: impl Fn(&Partition, &NumberSet) -> Result<Planned<Part>, Refusal>,
    ) -> Result<Copied, Refusal> {
        let mut copied = Copied::default();
        let mut left = uids.clone();
        loop {
            let plan_part = |partition: &Partition| {
                let Planned { operations, told } = plan(partition, &left)?;
                let uid_validity = partition.mailbox(target).map_or(0, |it| it.uid_validity);
                Ok(Planned { operations, told: (told, uid_validity) })
            };
            let (part, uid_validity) = self.run(plan_part).await?;
            copied.uid_validity = uid_validity;
            copied.source_uids = copied.source_uids.union(&part.uids);
            copied.target_uids = copied.target_uids.union(&part.target_uids);
            if part.left.is_empty() {
                return Ok(copied);
            }
            left = part.left;
            task::yield_now().await;
        }
    }

    /// Does what `plan` says of the newest state, and returns when that is durable.
    async fn run<T>(
        &self,
        plan: impl FnMut(&Partition) -> Result<Planned<T>, Refusal>,
    ) -> Result<T, Refusal> {
        self.run_as(None, plan).await
    }

    async fn run_as<T>(
        &self,
        author: Option<&Author>,
        mut plan: impl FnMut(&Partition) -> Result<Planned<T>, Refusal>,
    ) -> Result<T, Refusal> {
        let inner = &self.inner;
        let begun = clock::now();
        loop {
            let planned = plan(&inner.partition.borrow());
            let planned = match planned {
                Ok(planned) => planned,
                Err(refusal) => {
                    // What it was refused for may not be durable yet.
                    inner.newest_durable().await;
                    return Err(refusal);
                }
            };
            inner.author.replace(author.cloned());
            let appended = inner.append(&[], planned.operations, Append::Settle);
            inner.author.take();
            match appended {
                Ok(()) => {
                    inner.committed(begun).await;
                    return Ok(planned.told);
                }
                Err(AppendError::Later) => inner.journal.room().await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells those who watch, in the order of frames.
    async fn run_changes(self) {
        let inner = &self.inner;
        loop {
            let next = inner.changes.borrow_mut().pop_front();
            let Some((ticket, mailbox)) = next else {
                inner.changed.notified().await;
                continue;
            };
            inner.journal.durable(ticket).await;
            inner.pending.borrow_mut().retain(|_, pending| *pending > ticket);
            if let Some(bell) = inner.watches.borrow().get(&mailbox) {
                bell.count.set(bell.count.get() + 1);
                bell.rung.notify_all();
            }
        }
    }

    /// Lets bodies go whose time is over, or all expunged ones when mail finds no room.
    async fn run_release(self) {
        let inner = &self.inner;
        loop {
            timer::sleep(RELEASE_PERIOD).await;
            let kept_s = match inner.journal.space().level {
                Level::Refuse => 0,
                Level::Normal | Level::Slow => inner.undelete.as_secs() as u32,
            };
            let before_s = now_s().saturating_sub(kept_s);
            let mut is_more = true;
            while is_more {
                let released;
                (released, is_more) =
                    inner.partition.borrow_mut().release_expunged(before_s, RELEASED_AT_ONCE);
                // The record that expunged the last of them may not be durable yet.
                inner.newest_durable().await;
                released.iter().for_each(|body| inner.unpin(body));
                task::yield_now().await;
            }
        }
    }

    /// No checkpoint and no copy is begun from now on; ends when everything is durable.
    pub async fn close(&self) {
        self.checkpoint_at_stop().await;
        self.flush_summaries().await;
        self.inner.is_stopping.set(true);
        self.inner.journal.close().await;
    }
}

impl Inner {
    /// Appends `bodies` and `operations` as one frame's worth of records, and applies them. Never
    /// suspends. Nothing is to be told of it before `newest` is durable.
    pub fn append(
        &self,
        bodies: &[NewBody<'_>],
        operations: Vec<Operation>,
        class: Append,
    ) -> Result<(), AppendError> {
        if operations.is_empty() && bodies.is_empty() {
            return Ok(());
        }
        self.write_mends()?;
        let fronts: Vec<Vec<u8>> = bodies.iter().map(NewBody::front).collect();
        let octets = bodies.iter().zip(&fronts);
        let octets = octets.map(|(body, front)| [front.as_slice(), body.prefix, body.content]);
        let octets: Vec<[&[u8]; 3]> = octets.collect();
        let payloads = operations.iter().map(|operation| {
            let mut payload = Vec::new();
            operation.write(&mut payload);
            payload
        });
        let payloads: Vec<Vec<u8>> = payloads.collect();
        let payloads: Vec<[&[u8]; 1]> = payloads.iter().map(|it| [it.as_slice()]).collect();
        let body_records = bodies.iter().zip(&octets).map(|(body, octets)| Record {
            kind: kind::BODY,
            flags: 0,
            id: body.id.0,
            aux: 0,
            payload: octets,
        });
        let others = operations.iter().zip(&payloads).map(|(operation, payload)| {
            let (kind, id) = operation.kind_and_id();
            Record { kind, flags: 0, id, aux: 0, payload }
        });
        let records: Vec<Record<'_>> = body_records.chain(others).collect();
        let appended = self.journal.append(&records, class)?;
        let mut place = appended.first;
        for (index, (body, record)) in bodies.iter().zip(&records).enumerate() {
            if index > 0 {
                place = place.following(record.payload_bytes());
            }
            let body = body.placed(place);
            self.pin(&body);
            self.partition.borrow_mut().apply(&Operation::BodyPlaced(body));
        }
        for operation in &operations {
            let change = self.partition.borrow_mut().apply(operation);
            self.note(change, appended.ticket);
            self.collect(operation);
            self.summarize(operation);
        }
        self.newest.set(self.newest.get().max(appended.ticket));
        Ok(())
    }

    fn write_mends(&self) -> Result<(), AppendError> {
        loop {
            let mend = self.mends.borrow().front().cloned();
            let Some(Mend { operation, .. }) = mend else { return Ok(()) };
            let mut payload = Vec::new();
            operation.write(&mut payload);
            let (kind, id) = operation.kind_and_id();
            let record = Record { kind, flags: 0, id, aux: 0, payload: &[&payload] };
            let appended = self.journal.append(&[record], Append::Settle)?;
            self.newest.set(self.newest.get().max(appended.ticket));
            self.mends.borrow_mut().pop_front();
        }
    }

    fn note(&self, change: Change, ticket: Ticket) {
        let mailboxes = match change {
            Change::None => Vec::new(),
            Change::Mailbox(mailbox) => vec![mailbox],
            Change::Both(source, target) => vec![source, target],
            Change::Each(mailboxes) => mailboxes,
        };
        for mailbox in mailboxes {
            self.pending.borrow_mut().insert(mailbox, ticket);
            self.changes.borrow_mut().push_back((ticket, mailbox));
        }
        self.changed.notify_one();
    }

    /// Lets summaries follow their messages.
    fn summarize(&self, operation: &Operation) {
        match operation {
            Operation::Copied { target, copies, .. } => {
                copies.iter().for_each(|copy| self.summaries.on_copied(*target, &copy.message));
            }
            Operation::MailboxDeleted { mailbox, .. } => self.summaries.on_deleted(*mailbox),
            _ => {}
        }
    }

    /// Keeps for those who watch which messages were concerned.
    fn collect(&self, operation: &Operation) {
        let (mailbox, uids, collect): (_, _, fn(&mut Changes) -> &mut NumberSet) = match operation {
            Operation::Expunged { mailbox, uids, .. } => {
                (mailbox, Cow::Borrowed(uids), |changes| &mut changes.vanished)
            }
            Operation::Copied { source, is_move: true, copies, .. } => {
                let uids = copies.iter().map(|copy| (copy.source_uid, copy.source_uid)).collect();
                (source, Cow::Owned(uids), |changes| &mut changes.vanished)
            }
            Operation::FlagsChanged(FlagsChanged { mailbox, uids, .. }) => {
                (mailbox, Cow::Borrowed(uids), |changes| &mut changes.flagged)
            }
            _ => return,
        };
        let watches = self.watches.borrow();
        let Some(bell) = watches.get(mailbox) else { return };
        let author = self.author.borrow();
        let is_author = |collected: &Rc<RefCell<Changes>>| {
            author.as_ref().is_some_and(|author| Rc::ptr_eq(&author.0, collected))
        };
        for collected in bell.collected.borrow().iter().filter(|it| !is_author(it)) {
            let mut collected = collected.borrow_mut();
            let set = collect(&mut collected);
            *set = set.union(&uids);
        }
    }

    /// Suspends until everything that was appended is durable.
    pub async fn newest_durable(&self) {
        self.journal.durable(self.newest.get()).await;
    }

    /// Suspends until what was begun then and appended since is durable.
    pub async fn committed(&self, begun: Instant) {
        self.newest_durable().await;
        self.commit_latency.record(clock::now().saturating_duration_since(begun));
    }

    pub fn pin(&self, body: &Body) {
        body.pins().for_each(|(place, bytes)| self.journal.pin(place, bytes));
    }

    /// The body is forgotten; what it held is let go.
    pub fn unpin(&self, body: &Body) {
        if !self.lost.borrow_mut().remove(&body.id) {
            body.pins().for_each(|(place, bytes)| self.journal.unpin(place, bytes));
        }
    }

    pub fn is_lost(&self, body: BodyId) -> bool {
        self.lost.borrow().contains(&body)
    }

    pub fn is_stopping(&self) -> bool {
        self.is_stopping.get()
    }
}

/// A body that is about to be written.
pub(super) struct NewBody<'a> {
    pub id: BodyId,
    pub prefix: &'a [u8],
    /// Empty where it stands in `chunks`.
    pub content: &'a [u8],
    pub chunks: &'a [Location],
    /// Octets of prefix and content.
    pub bytes: u32,
}

impl NewBody<'_> {
    fn front(&self) -> Vec<u8> {
        let mut front = Vec::new();
        let (bytes, chunks) = (self.bytes, self.chunks.to_vec());
        BodyPayload { octets: &[], bytes, chunks }.write_front(&mut front);
        front
    }

    fn placed(&self, place: Location) -> Body {
        Body { id: self.id, place, bytes: self.bytes, chunks: self.chunks.to_vec() }
    }
}

/// Rung for each durable change to a mailbox.
#[derive(Default)]
struct Bell {
    count: Cell<u64>,
    rung: Notify,
    /// Of each watch.
    collected: RefCell<Vec<Rc<RefCell<Changes>>>>,
}

/// Messages of a mailbox that were changed, as ranges of UIDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub vanished: NumberSet,
    /// Those that vanished afterwards may be among them.
    pub flagged: NumberSet,
}

/// Who changes something and need not be told of it.
#[derive(Clone)]
pub struct Author(Rc<RefCell<Changes>>);

/// Who is told of changes to a mailbox.
pub struct Watch {
    store: Store,
    mailbox: MailboxId,
    bell: Rc<Bell>,
    /// Changes told of so far.
    seen: Cell<u64>,
    collected: Rc<RefCell<Changes>>,
}

impl Watch {
    /// Suspends until a change has become durable that this was not told of.
    pub async fn changed(&self) {
        while self.seen.replace(self.bell.count.get()) == self.bell.count.get() {
            self.bell.rung.notified().await;
        }
    }

    /// Stands for whoever watches, where it makes changes itself.
    pub fn author(&self) -> Author {
        Author(self.collected.clone())
    }

    /// The UID from which on messages are recent, which they are to nobody else then if they are
    /// claimed.
    pub fn recent_from(&self, uid_next: u32, is_claimed: bool) -> u32 {
        match is_claimed {
            true => self.store.claim_recent(self.mailbox, uid_next),
            false => self.store.recent_from(self.mailbox),
        }
    }

    /// What has been changed since the call before, or since the watch began, as the newest state
    /// has it. Call it where the mailbox is read: both are of the same moment then, and become
    /// durable together.
    pub fn take(&self) -> Changes {
        self.collected.take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bell.collected.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.collected));
        let mut watches = self.store.inner.watches.borrow_mut();
        // The map has one, this has the other.
        if Rc::strong_count(&self.bell) == 2 {
            watches.remove(&self.mailbox);
        }
    }
}

/// Pins what bodies have on disk; returns those that are not there whole.
fn pin_bodies(partition: &Partition, journal: &Journal) -> HashSet<BodyId> {
    let mut lost = HashSet::new();
    partition.bodies().visit(0, u32::MAX, |handle| {
        let body = partition.bodies().body(handle);
        let mut pinned = Vec::new();
        for (place, bytes) in body.pins() {
            if !journal.pin_recovered(place, bytes) {
                lost.insert(body.id);
                break;
            }
            pinned.push((place, bytes));
        }
        if lost.contains(&body.id) {
            pinned.into_iter().for_each(|(place, bytes)| journal.unpin(place, bytes));
        }
    });
    lost
}

/// Operations of which something is told that is known before.
fn of<T: std::marker::Copy>(told: T) -> impl Fn(Vec<Operation>) -> Planned<T> {
    move |operations| Planned { operations, told }
}

/// The wall clock in Unix seconds.
pub(super) fn now_s() -> u32 {
    (clock::unix_ms() / 1000) as u32
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            // Waited for by the caller; what remains is that there is no room.
            AppendError::NoSpace | AppendError::Later => Refusal::NoSpace,
            AppendError::TooLarge => Refusal::TooLarge,
        }
    }
}

/// Mailboxes that are remembered by what was recent in them before it is looked which are gone.
const RECENT_KEPT_MIN: usize = 1000;
/// How often it is looked for expunged messages whose time is over.
const RELEASE_PERIOD: Duration = Duration::from_secs(10);
/// Messages let go before others get a turn.
const RELEASED_AT_ONCE: usize = 4096;
