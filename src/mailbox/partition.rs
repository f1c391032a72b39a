//! The state of a partition: accounts, mailboxes, messages, and what is kept of expunged ones.
//! `Pure.`
//!
//! `apply` alone moves it, in operation and in replay. Replay may begin at a checkpoint, whose
//! items come after records that speak of what they will tell of: what is not known is passed over.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;

use super::bodies::{Bodies, BodyHandle};
use super::codec::{
    AccountId, Body, Copy, DeliveryKey, MODSEQ_MAX, MailboxId, Message, Operation, Quota,
    SpecialUses,
};
use super::date::InternalDate;
use super::index::{Entry, Mailbox};
use crate::limits::{DELETED_MAILBOXES_MAX, DELIVERY_KEYS_MAX, EXPUNGED_KEPT_MAX};
use crate::proto::imap::flag::SystemFlags;

#[derive(Default)]
pub struct Partition {
    /// The highest ever given out.
    pub(super) modseq: u64,
    pub(super) uid_validity: u32,
    pub(super) accounts: BTreeMap<AccountId, Account>,
    by_name: HashMap<Box<str>, AccountId>,
    pub(super) mailboxes: BTreeMap<MailboxId, Mailbox>,
    pub(super) bodies: Bodies,
    pub(super) expunged: Expunged,
    pub(super) deleted: BTreeMap<MailboxId, Deleted>,
    pub(super) keys: Keys,
    /// Of accounts that have no limit of their own; not part of what records say.
    pub(super) default_quota: Quota,
}

/// An account, and its mailboxes by name.
#[derive(Clone, Default)]
pub struct Account {
    pub name: Box<str>,
    /// Its own, which `Partition::quota` may fill up.
    pub quota: Quota,
    /// What a password is checked against, as `auth` writes it.
    pub secret: Option<Box<str>>,
    pub mailboxes: BTreeMap<Box<str>, MailboxId>,
    pub subscriptions: BTreeSet<Box<str>>,
}

/// What is kept of a deleted mailbox for as long as its messages are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub account: AccountId,
    pub name: Box<str>,
    pub special_uses: SpecialUses,
    /// When it was deleted, Unix seconds.
    pub at_s: u32,
}

/// Messages of an account, and their octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub messages: u64,
}

impl Usage {
    pub fn with(self, other: Usage) -> Usage {
        let bytes = self.bytes.saturating_add(other.bytes);
        Usage { bytes, messages: self.messages.saturating_add(other.messages) }
    }

    pub fn fits(self, quota: Quota) -> bool {
        (quota.bytes == 0 || self.bytes <= quota.bytes)
            && (quota.messages == 0 || self.messages <= quota.messages.into())
    }
}

/// The mailboxes that `apply` has made, changed or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    Mailbox(MailboxId),
    Both(MailboxId, MailboxId),
    Each(Vec<MailboxId>),
}

impl Partition {
    pub fn account(&self, id: AccountId) -> Option<&Account> {
        self.accounts.get(&id)
    }

    /// The account of this name, in any case.
    pub fn find_account(&self, name: &str) -> Option<AccountId> {
        self.by_name.get(&*name.to_ascii_lowercase()).copied()
    }

    /// How much an account may hold: what it has no limit for has the common one.
    pub fn quota(&self, account: AccountId) -> Quota {
        let own = self.account(account).map(|account| account.quota).unwrap_or_default();
        let common = self.default_quota;
        Quota {
            bytes: if own.bytes == 0 { common.bytes } else { own.bytes },
            messages: if own.messages == 0 { common.messages } else { own.messages },
        }
    }

    /// What an account holds in its mailboxes, by their headers.
    pub fn usage(&self, account: AccountId) -> Usage {
        let account = self.accounts.get(&account);
        let mailboxes = account.into_iter().flat_map(|account| account.mailboxes.values());
        let statuses = mailboxes.filter_map(|id| self.mailboxes.get(id)).map(Mailbox::status);
        statuses.fold(Usage::default(), |usage, status| Usage {
            bytes: usage.bytes + status.bytes,
            messages: usage.messages + u64::from(status.exists),
        })
    }

    pub fn accounts(&self) -> impl Iterator<Item = (AccountId, &Account)> {
        self.accounts.iter().map(|(id, account)| (*id, account))
    }

    /// Those behind `after`, by number.
    pub fn accounts_after(&self, after: AccountId) -> impl Iterator<Item = (AccountId, &Account)> {
        let behind = self.accounts.range((Bound::Excluded(after), Bound::Unbounded));
        behind.map(|(id, account)| (*id, account))
    }

    pub fn mailbox(&self, id: MailboxId) -> Option<&Mailbox> {
        self.mailboxes.get(&id)
    }

    pub fn mailbox_ids(&self) -> impl Iterator<Item = MailboxId> {
        self.mailboxes.keys().copied()
    }

    /// The mailbox of this name, which is as `MailboxName` has it.
    pub fn find_mailbox(&self, account: AccountId, name: &str) -> Option<&Mailbox> {
        let id = self.accounts.get(&account)?.mailboxes.get(name)?;
        self.mailboxes.get(id)
    }

    /// The body of a message, which may have been expunged for a while.
    pub fn body_of(&self, mailbox: MailboxId, uid: u32) -> Option<Body> {
        let entry = self.mailboxes.get(&mailbox).and_then(|mailbox| mailbox.find(uid));
        let handle = entry.map(|entry| entry.body).or_else(|| self.expunged.find(mailbox, uid))?;
        Some(self.bodies.body(handle))
    }

    pub fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// Whether this delivery was made, as far back as that is remembered.
    pub fn has_delivered(&self, key: DeliveryKey) -> bool {
        self.keys.known.contains(&key)
    }

    pub fn message_count(&self) -> u64 {
        self.mailboxes.values().map(|mailbox| u64::from(mailbox.status().exists)).sum()
    }

    /// Expunged messages of a mailbox that are kept for a while, by UID from `first` on.
    pub fn expunged_from(
        &self,
        mailbox: MailboxId,
        first: u32,
    ) -> impl Iterator<Item = (u32, Kept)> {
        let kept = self.expunged.after((mailbox, first.saturating_sub(1)));
        let kept = kept.take_while(move |((of, _), _)| *of == mailbox);
        kept.map(|((_, uid), kept)| (uid, kept))
    }

    /// An expunged message that is kept for a while.
    pub fn expunged(&self, mailbox: MailboxId, uid: u32) -> Option<Kept> {
        self.expunged.by_message.get(&(mailbox, uid)).copied()
    }

    /// A mailbox that was deleted a while ago.
    pub fn deleted(&self, mailbox: MailboxId) -> Option<&Deleted> {
        self.deleted.get(&mailbox)
    }

    /// Mailboxes of an account that were deleted a while ago, by number.
    pub fn deleted_of(&self, account: AccountId) -> impl Iterator<Item = (MailboxId, &Deleted)> {
        let deleted = self.deleted.iter().filter(move |(_, it)| it.account == account);
        deleted.map(|(mailbox, deleted)| (*mailbox, deleted))
    }

    /// How many of all mailboxes are kept.
    pub fn expunged_count(&self) -> usize {
        self.expunged.by_message.len()
    }

    /// Memory of the index in bytes.
    pub fn memory_bytes(&self) -> usize {
        let mailboxes = self.mailboxes.values().map(Mailbox::memory_bytes).sum::<usize>();
        mailboxes + self.bodies.memory_bytes()
    }

    /// Moves the state by one record. Nothing in it is refused: whoever appends has asked `plan`.
    pub fn apply(&mut self, operation: &Operation) -> Change {
        match operation {
            Operation::AccountAdded { account, name } => {
                self.add_account(*account, name);
                Change::None
            }
            Operation::AccountRemoved { account, at_s } => {
                let mailboxes = self.mailboxes.values().filter(|it| it.account == *account);
                let mailboxes: Vec<MailboxId> = mailboxes.map(|mailbox| mailbox.id).collect();
                for mailbox in &mailboxes {
                    self.delete(*mailbox, *at_s);
                }
                self.deleted.retain(|_, deleted| deleted.account != *account);
                if let Some(removed) = self.accounts.remove(account)
                    && self.find_account(&removed.name) == Some(*account)
                {
                    self.by_name.remove(&*removed.name.to_ascii_lowercase());
                }
                Change::Each(mailboxes)
            }
            Operation::QuotaSet { account, quota } => {
                if let Some(known) = self.accounts.get_mut(account) {
                    known.quota = *quota;
                }
                Change::None
            }
            Operation::SecretSet { account, secret } => {
                if let Some(known) = self.accounts.get_mut(account) {
                    known.secret = Some(secret.clone());
                }
                Change::None
            }
            Operation::Subscribed { account, name, is_subscribed } => {
                let Some(known) = self.accounts.get_mut(account) else { return Change::None };
                if *is_subscribed {
                    known.subscriptions.insert(name.clone());
                } else {
                    known.subscriptions.remove(name);
                }
                Change::None
            }
            Operation::MailboxCreated { mailbox, account, name, uid_validity, special_uses } => {
                self.uid_validity = self.uid_validity.max(*uid_validity);
                let mut created = Mailbox::new(*mailbox, *account, name.clone(), *uid_validity);
                created.special_uses = *special_uses;
                self.put_mailbox(created);
                Change::Mailbox(*mailbox)
            }
            Operation::MailboxRenamed { mailbox, name } => {
                let Some(renamed) = self.mailboxes.get_mut(mailbox) else { return Change::None };
                let before = std::mem::replace(&mut renamed.name, name.clone());
                let account = renamed.account;
                if let Some(account) = self.accounts.get_mut(&account) {
                    account.forget(&before, *mailbox);
                    account.mailboxes.insert(name.clone(), *mailbox);
                }
                Change::Mailbox(*mailbox)
            }
            Operation::MailboxDeleted { mailbox, at_s } => match self.delete(*mailbox, *at_s) {
                true => Change::Mailbox(*mailbox),
                false => Change::None,
            },
            Operation::SpecialUseSet { mailbox, special_uses } => {
                let Some(known) = self.mailboxes.get_mut(mailbox) else { return Change::None };
                known.special_uses = *special_uses;
                Change::Mailbox(*mailbox)
            }
            Operation::BodyPlaced(body) => {
                self.bodies.place(body);
                Change::None
            }
            Operation::Appended { mailbox, message, key } => {
                self.modseq = self.modseq.max(message.modseq);
                if let Some(key) = key {
                    self.keys.add(*key);
                }
                let Some(body) = self.bodies.find(message.body) else { return Change::None };
                self.put(*mailbox, message, body)
            }
            Operation::FlagsChanged(changed) => {
                self.modseq = self.modseq.max(changed.modseq);
                let Some(mailbox) = self.mailboxes.get_mut(&changed.mailbox) else {
                    return Change::None;
                };
                mailbox.change_flags(changed);
                Change::Mailbox(changed.mailbox)
            }
            Operation::Expunged { mailbox, modseq, at_s, uids } => {
                self.modseq = self.modseq.max(*modseq);
                let Some(known) = self.mailboxes.get_mut(mailbox) else { return Change::None };
                let expunged = known.expunge(uids, *modseq);
                self.keep(*mailbox, &expunged, *at_s);
                Change::Mailbox(*mailbox)
            }
            Operation::Copied { source, target, is_move, copies } => {
                self.copy(*source, *target, *is_move, copies)
            }
            Operation::KeywordAdded { mailbox, bit, keyword } => {
                let Some(known) = self.mailboxes.get_mut(mailbox) else { return Change::None };
                let bit = usize::from(*bit);
                if known.keywords.len() <= bit {
                    known.keywords.resize(bit + 1, "".into());
                }
                known.keywords[bit] = keyword.clone();
                Change::Mailbox(*mailbox)
            }
        }
    }

    fn copy(
        &mut self,
        source: MailboxId,
        target: MailboxId,
        is_move: bool,
        copies: &[Copy],
    ) -> Change {
        let modseq = copies.iter().map(|copy| copy.message.modseq).max().unwrap_or(0);
        self.modseq = self.modseq.max(modseq);
        for copy in copies {
            if self.mailboxes.contains_key(&target) {
                let body = self.bodies.place(&copy.body);
                self.put(target, &copy.message, body);
            }
        }
        if !is_move {
            return Change::Mailbox(target);
        }
        if let Some(source) = self.mailboxes.get_mut(&source) {
            let uids = copies.iter().map(|copy| (copy.source_uid, copy.source_uid)).collect();
            for moved in source.expunge(&uids, modseq) {
                // Where the target is not known yet, what tells of it brings the body again.
                self.bodies.drop_use(moved.body);
            }
        }
        Change::Both(source, target)
    }

    /// Puts a message into a mailbox, if that is known.
    pub(super) fn put(&mut self, id: MailboxId, message: &Message, body: BodyHandle) -> Change {
        self.modseq = self.modseq.max(message.modseq);
        let Some(mailbox) = self.mailboxes.get_mut(&id) else { return Change::None };
        self.bodies.add_use(body);
        let replaced = mailbox.put(entry(message, body, &self.bodies));
        if let Some(replaced) = replaced {
            self.bodies.drop_use(replaced.body);
        }
        Change::Mailbox(id)
    }

    /// Puts messages with ascending UIDs of a range in the place of those that a mailbox has
    /// there, if that is known.
    pub(super) fn put_range(
        &mut self,
        id: MailboxId,
        range: (u32, u32),
        messages: &[(Message, Body)],
    ) {
        let Some(mailbox) = self.mailboxes.get_mut(&id) else { return };
        let mut entries = Vec::with_capacity(messages.len());
        for (message, body) in messages {
            self.modseq = self.modseq.max(message.modseq);
            let body = self.bodies.place(body);
            self.bodies.add_use(body);
            entries.push(entry(message, body, &self.bodies));
        }
        for replaced in mailbox.put_range(range, &entries) {
            self.bodies.drop_use(replaced.body);
        }
    }

    pub(super) fn add_account(&mut self, id: AccountId, name: &str) -> &mut Account {
        self.by_name.insert(name.to_ascii_lowercase().into(), id);
        let account = self.accounts.entry(id).or_default();
        account.name = name.into();
        account
    }

    /// A mailbox begins. One that is known keeps its messages.
    pub(super) fn put_mailbox(&mut self, mut mailbox: Mailbox) {
        let (id, name) = (mailbox.id, mailbox.name.clone());
        if let Some(known) = self.mailboxes.get_mut(&id) {
            let account = self.accounts.get_mut(&known.account);
            account.expect("every mailbox has one").forget(&known.name, id);
            mailbox.take_messages(known);
        }
        let account = self.accounts.entry(mailbox.account).or_default();
        account.mailboxes.insert(name, id);
        self.mailboxes.insert(id, mailbox);
    }

    /// Takes a mailbox out; its messages are kept for a while.
    fn delete(&mut self, id: MailboxId, at_s: u32) -> bool {
        let Some(mailbox) = self.mailboxes.remove(&id) else { return false };
        if let Some(account) = self.accounts.get_mut(&mailbox.account) {
            account.forget(&mailbox.name, id);
        }
        let Mailbox { account, special_uses, .. } = mailbox;
        self.put_deleted(id, Deleted { account, name: mailbox.name.clone(), special_uses, at_s });
        let entries: Vec<Entry> = mailbox.entries(0..u32::MAX).collect();
        self.keep(id, &entries, at_s);
        true
    }

    /// A deleted mailbox is remembered; where there are too many, the oldest no longer.
    pub(super) fn put_deleted(&mut self, id: MailboxId, deleted: Deleted) {
        self.deleted.insert(id, deleted);
        if self.deleted.len() > DELETED_MAILBOXES_MAX {
            let oldest = self.deleted.iter().min_by_key(|(id, deleted)| (deleted.at_s, **id));
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.deleted.remove(&oldest);
            }
        }
    }

    /// Expunged messages keep their bodies for a while.
    fn keep(&mut self, mailbox: MailboxId, entries: &[Entry], at_s: u32) {
        for entry in entries {
            let Entry { date, flags, body, .. } = *entry;
            let is_new = self.expunged.add(mailbox, entry.uid, Kept { at_s, date, flags, body });
            if !is_new {
                self.bodies.drop_use(entry.body);
            }
        }
    }

    /// Forgets `count` expunged messages at most, those from `before_s` and earlier and those that
    /// are too many; returns the bodies that nobody has any more, and whether there may be more.
    /// What is not durable yet must not be let go on disk.
    pub fn release_expunged(&mut self, before_s: u32, count: usize) -> (Vec<Body>, bool) {
        self.deleted.retain(|_, deleted| deleted.at_s > before_s);
        let mut released = Vec::new();
        for _ in 0..count {
            let Some(body) = self.expunged.pop(before_s) else { return (released, false) };
            released.extend(self.bodies.drop_use(body));
        }
        (released, true)
    }

    /// Gives out none of the next `count` UIDs, mod-sequences and UIDVALIDITYs: they may have been
    /// given out. Keywords whose name is not known get one, so that no other comes to be theirs.
    pub(super) fn pass_over(&mut self, count: u64) {
        self.modseq = self.modseq.saturating_add(count).min(MODSEQ_MAX);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.uid_validity = self.uid_validity.saturating_add(count);
        self.mailboxes.values_mut().for_each(Mailbox::name_keywords);
        for mailbox in self.mailboxes.values_mut() {
            mailbox.uid_next = mailbox.uid_next.saturating_add(count);
        }
    }

    /// What replay met and nothing told of in the end is forgotten.
    pub fn end_replay(&mut self) {
        self.bodies.drop_unused();
    }
}

/// A message as the index keeps it.
fn entry(message: &Message, body: BodyHandle, bodies: &Bodies) -> Entry {
    Entry {
        uid: message.uid,
        modseq: message.modseq,
        date: message.date,
        saved_s: message.saved_s,
        flags: message.flags,
        keywords: message.keywords,
        body,
        bytes: bodies.bytes(body),
    }
}

impl Account {
    /// A mailbox is no longer called that.
    fn forget(&mut self, name: &str, mailbox: MailboxId) {
        if self.mailboxes.get(name) == Some(&mailbox) {
            self.mailboxes.remove(name);
        }
    }
}

/// Expunged messages that are kept for a while.
#[derive(Default)]
pub(super) struct Expunged {
    by_message: BTreeMap<(MailboxId, u32), Kept>,
    by_time: BTreeSet<(u32, MailboxId, u32)>,
}

/// What is kept of an expunged message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When it was expunged, Unix seconds.
    pub at_s: u32,
    pub date: InternalDate,
    pub flags: SystemFlags,
    pub body: BodyHandle,
}

impl Expunged {
    /// Whether it was not kept before.
    pub fn add(&mut self, mailbox: MailboxId, uid: u32, kept: Kept) -> bool {
        let is_new = !self.by_message.contains_key(&(mailbox, uid));
        if is_new {
            self.by_message.insert((mailbox, uid), kept);
            self.by_time.insert((kept.at_s, mailbox, uid));
        }
        is_new
    }

    fn find(&self, mailbox: MailboxId, uid: u32) -> Option<BodyHandle> {
        self.by_message.get(&(mailbox, uid)).map(|kept| kept.body)
    }

    fn pop(&mut self, before_s: u32) -> Option<BodyHandle> {
        let is_full = self.by_time.len() > EXPUNGED_KEPT_MAX;
        let &(at_s, mailbox, uid) = self.by_time.first()?;
        if at_s > before_s && !is_full {
            return None;
        }
        self.by_time.pop_first();
        self.by_message.remove(&(mailbox, uid)).map(|kept| kept.body)
    }

    /// Those behind `after`, by mailbox and UID.
    pub fn after(&self, after: (MailboxId, u32)) -> impl Iterator<Item = ((MailboxId, u32), Kept)> {
        let kept = self.by_message.range((Bound::Excluded(after), Bound::Unbounded));
        kept.map(|(message, kept)| (*message, *kept))
    }
}

/// Deliveries that would be known again, the oldest first.
#[derive(Default)]
pub(super) struct Keys {
    order: VecDeque<DeliveryKey>,
    /// How many went before the first of these.
    forgotten: u64,
    known: HashSet<DeliveryKey>,
}

impl Keys {
    pub fn add(&mut self, key: DeliveryKey) {
        if !self.known.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > DELIVERY_KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
            self.forgotten += 1;
        }
    }

    /// `count` keys at most from the one with this number on, and the number of the next, if there
    /// is one.
    pub fn from(
        &self,
        number: u64,
        count: usize,
    ) -> (impl Iterator<Item = DeliveryKey>, Option<u64>) {
        let start = number.saturating_sub(self.forgotten) as usize;
        let end = start.saturating_add(count).min(self.order.len());
        let next = (end < self.order.len()).then_some(self.forgotten + end as u64);
        (self.order.range(start.min(end)..end).copied(), next)
    }
}

#[cfg(test)]
mod tests;
