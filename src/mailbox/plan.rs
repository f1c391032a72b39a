//! What is asked of a partition, turned into the operations that do it, or refused. `Pure.`
//!
//! A plan holds for the state that it was made from: it is appended and applied without a pause.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::bodies::BodyHandle;
use super::codec::{
    AccountId, BodyId, Copy, DeliveryKey, FlagsChanged, MODSEQ_MAX, MailboxId, Message, Operation,
    Quota, RANGE_BYTES, SpecialUses,
};
use super::date::InternalDate;
use super::index::Mailbox;
use super::partition::{Account, Kept, Partition, Usage};
use crate::limits::{
    ACCOUNT_NAME_BYTES_MAX, ACCOUNT_SECRET_BYTES_MAX, KEYWORD_BYTES_MAX, KEYWORDS_MAX,
    MAILBOX_MESSAGES_AT_ONCE, MAILBOX_NAME_BYTES_MAX, MAILBOX_RECORD_BYTES_MAX, MAILBOXES_MAX,
    SUBSCRIPTIONS_MAX,
};
use crate::proto::imap::flag::{Flags, SystemFlags};
use crate::proto::imap::mailbox::{HIERARCHY_SEPARATOR, MailboxName};
use crate::proto::imap::set::NumberSet;
use crate::proto::imap::store::FlagChange;

/// Why something is not done. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoSuchAccount,
    NoSuchMailbox,
    /// The account or mailbox is there already.
    Exists,
    /// INBOX is neither deleted nor renamed.
    IsInbox,
    /// An empty name, or one longer than a limit.
    BadName,
    /// An empty secret, or one longer than a limit.
    BadSecret,
    TooManyMailboxes,
    TooManySubscriptions,
    /// The mailbox has as many keywords as it may.
    TooManyKeywords,
    /// The account would hold more than it may.
    OverQuota,
    /// The mailbox has given out all UIDs there are.
    UidsUsedUp,
    /// The records do not fit one frame.
    TooLarge,
    /// The journal is full; it passes when expunged messages are let go.
    NoSpace,
    /// Messages that are being received hold too many segments.
    TooManyDrafts,
    /// The shard that has the partition does not answer, or is about to stop. It passes.
    Unavailable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoSuchAccount => "no such account",
            Refusal::NoSuchMailbox => "no such mailbox",
            Refusal::Exists => "there is one of this name already",
            Refusal::IsInbox => "INBOX is neither deleted nor renamed",
            Refusal::BadName => "a name that is empty or too long",
            Refusal::BadSecret => "a secret that is empty or too long",
            Refusal::TooManyMailboxes => "the account has as many mailboxes as it may",
            Refusal::TooManySubscriptions => "the account has as many subscriptions as it may",
            Refusal::TooManyKeywords => "the mailbox has as many keywords as it may",
            Refusal::OverQuota => "the account would hold more than it may",
            Refusal::UidsUsedUp => "the mailbox has given out all UIDs there are",
            Refusal::TooLarge => "too large",
            Refusal::NoSpace => "no space left for mailboxes",
            Refusal::TooManyDrafts => "too many messages are being received",
            Refusal::Unavailable => "the mailboxes are not available now",
        })
    }
}

/// Which messages of a mailbox are expunged.
#[derive(Clone, Copy, Debug)]
pub enum Expunging<'a> {
    /// Those with `\Deleted`.
    Deleted,
    /// Those of them in a set (UID EXPUNGE).
    DeletedOf(&'a NumberSet),
    /// All of a set, whatever their flags (POP3).
    All(&'a NumberSet),
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Mailbox(MailboxId),
    Inbox(AccountId),
    /// The mailbox of this name, as `MailboxName` has it, or INBOX where there is none.
    Named(AccountId, Box<str>),
}

/// One recipient of a message, or the mailbox of an APPEND.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub to: Target,
    /// Header fields in front of the content, with their line ends.
    pub prefix: Vec<u8>,
    pub date: InternalDate,
    pub flags: Flags,
    /// By which a second delivery of the same is known.
    pub key: Option<DeliveryKey>,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It has this UID.
    As { uid_validity: u32, uid: u32 },
    /// It was there already.
    Before,
}

/// Operations that belong into one frame, and what is told of them.
#[derive(Debug)]
pub struct Planned<T> {
    pub operations: Vec<Operation>,
    pub told: T,
}

/// A part of a command over messages.
#[derive(Debug, Default)]
pub struct Part {
    /// UIDs that it is about.
    pub uids: NumberSet,
    /// UIDs left to the next part.
    pub left: NumberSet,
    /// Messages that were changed since, and so are left alone (RFC 7162 §3.1.3).
    pub modified: NumberSet,
    /// UIDs of a copy, in the order of `uids`.
    pub target_uids: NumberSet,
}

impl Partition {
    /// A mod-sequence that no command had. Above 1, which is what a client is told of a mailbox
    /// that never had a message: HIGHESTMODSEQ is not 0 (RFC 7162 §7).
    fn next_modseq(&self) -> u64 {
        (self.modseq + 1).clamp(2, MODSEQ_MAX)
    }

    /// Above all that were given out, also where those were lost.
    pub(super) fn next_uid_validity(&self, now_s: u32) -> u32 {
        now_s.max(self.uid_validity.saturating_add(1))
    }

    fn known(&self, mailbox: MailboxId) -> Result<&Mailbox, Refusal> {
        self.mailbox(mailbox).ok_or(Refusal::NoSuchMailbox)
    }

    /// The mailbox that a delivery is for.
    fn target(&self, target: &Target) -> Result<&Mailbox, Refusal> {
        let (account, name) = match target {
            Target::Mailbox(mailbox) => return self.known(*mailbox),
            Target::Inbox(account) => (*account, INBOX),
            Target::Named(account, name) => (*account, &**name),
        };
        self.known_account(account)?;
        let found = self.find_mailbox(account, name).or_else(|| self.find_mailbox(account, INBOX));
        found.ok_or(Refusal::NoSuchMailbox)
    }

    /// Why an account does not take a message of so many octets.
    pub fn over_quota(&self, account: AccountId, bytes: u64) -> Option<Refusal> {
        if self.account(account).is_none() {
            return Some(Refusal::NoSuchAccount);
        }
        let with_it = self.usage(account).with(Usage { bytes, messages: 1 });
        (!with_it.fits(self.quota(account))).then_some(Refusal::OverQuota)
    }

    fn known_account(&self, account: AccountId) -> Result<&Account, Refusal> {
        self.account(account).ok_or(Refusal::NoSuchAccount)
    }

    /// An account with its INBOX.
    pub fn plan_account(
        &self,
        (account, inbox): (AccountId, MailboxId),
        name: &str,
        secret: Option<&str>,
        now_s: u32,
    ) -> Result<Vec<Operation>, Refusal> {
        if name.is_empty() || name.len() > ACCOUNT_NAME_BYTES_MAX {
            return Err(Refusal::BadName);
        }
        if self.find_account(name).is_some() {
            return Err(Refusal::Exists);
        }
        let created = Operation::MailboxCreated {
            mailbox: inbox,
            account,
            name: INBOX.into(),
            uid_validity: self.next_uid_validity(now_s),
            special_uses: SpecialUses::default(),
        };
        let mut operations = vec![Operation::AccountAdded { account, name: name.into() }, created];
        if let Some(secret) = secret {
            check_secret(secret)?;
            operations.push(Operation::SecretSet { account, secret: secret.into() });
        }
        Ok(operations)
    }

    pub fn plan_secret(&self, account: AccountId, secret: &str) -> Result<Vec<Operation>, Refusal> {
        self.known_account(account)?;
        check_secret(secret)?;
        Ok(vec![Operation::SecretSet { account, secret: secret.into() }])
    }

    /// An account with all it has is no more.
    pub fn plan_account_removal(
        &self,
        account: AccountId,
        now_s: u32,
    ) -> Result<Vec<Operation>, Refusal> {
        self.known_account(account)?;
        Ok(vec![Operation::AccountRemoved { account, at_s: now_s }])
    }

    pub fn plan_quota(&self, account: AccountId, quota: Quota) -> Result<Vec<Operation>, Refusal> {
        self.known_account(account)?;
        Ok(vec![Operation::QuotaSet { account, quota }])
    }

    pub fn plan_mailbox(
        &self,
        mailbox: MailboxId,
        account: AccountId,
        name: &MailboxName,
        special_uses: SpecialUses,
        now_s: u32,
    ) -> Result<Vec<Operation>, Refusal> {
        let mailboxes = &self.known_account(account)?.mailboxes;
        check_name(name.as_str())?;
        if mailboxes.contains_key(name.as_str()) {
            return Err(Refusal::Exists);
        }
        if mailboxes.len() >= MAILBOXES_MAX {
            return Err(Refusal::TooManyMailboxes);
        }
        Ok(vec![Operation::MailboxCreated {
            mailbox,
            account,
            name: name.as_str().into(),
            uid_validity: self.next_uid_validity(now_s),
            special_uses,
        }])
    }

    /// A mailbox for what comes from elsewhere, where it had this UIDVALIDITY: it is begun so, or,
    /// where it is there and never had a message, begun anew. Any other stays as it is.
    pub fn plan_import(
        &self,
        mailbox: MailboxId,
        account: AccountId,
        name: &MailboxName,
        uid_validity: u32,
        now_s: u32,
    ) -> Result<Vec<Operation>, Refusal> {
        let (id, special_uses) = match self.find_mailbox(account, name.as_str()) {
            Some(known) if known.uid_validity == uid_validity || known.uid_next > 1 => {
                return Ok(Vec::new());
            }
            Some(known) => (known.id, known.special_uses),
            None => {
                // As for any other one.
                self.plan_mailbox(mailbox, account, name, SpecialUses::default(), now_s)?;
                (mailbox, SpecialUses::default())
            }
        };
        let name = name.as_str().into();
        let uid_validity = uid_validity.max(1);
        let mailbox = id;
        Ok(vec![Operation::MailboxCreated { mailbox, account, name, uid_validity, special_uses }])
    }

    /// A mailbox and its inferiors get other names, all or none (RFC 9051 §6.3.6).
    pub fn plan_rename(
        &self,
        account: AccountId,
        from: &MailboxName,
        to: &MailboxName,
    ) -> Result<Vec<Operation>, Refusal> {
        let mailboxes = &self.known_account(account)?.mailboxes;
        check_name(to.as_str())?;
        if from.is_inbox() {
            return Err(Refusal::IsInbox);
        }
        if from == to {
            return Err(Refusal::Exists);
        }
        let below = format!("{}{HIERARCHY_SEPARATOR}", from.as_str());
        // Also where `from` is no mailbox itself and has inferiors only.
        if mailboxes.contains_key(to.as_str()) && !to.as_str().starts_with(&below) {
            return Err(Refusal::Exists);
        }
        let mut operations = Vec::new();
        let inferiors = inferiors(mailboxes, &below);
        for (name, mailbox) in mailboxes.get_key_value(from.as_str()).into_iter().chain(inferiors) {
            let name = [to.as_str(), &name[from.as_str().len()..]].concat();
            check_name(&name)?;
            // One that moves away itself is in nobody's way.
            let moves_away = name == from.as_str() || name.starts_with(&below);
            if mailboxes.contains_key(name.as_str()) && !moves_away {
                return Err(Refusal::Exists);
            }
            operations.push(Operation::MailboxRenamed { mailbox: *mailbox, name: name.into() });
        }
        if operations.is_empty() { Err(Refusal::NoSuchMailbox) } else { Ok(operations) }
    }

    /// Inferiors stay (RFC 9051 §6.3.5).
    pub fn plan_deletion(&self, mailbox: MailboxId, now_s: u32) -> Result<Vec<Operation>, Refusal> {
        if &*self.known(mailbox)?.name == INBOX {
            return Err(Refusal::IsInbox);
        }
        Ok(vec![Operation::MailboxDeleted { mailbox, at_s: now_s }])
    }

    pub fn plan_special_use(
        &self,
        mailbox: MailboxId,
        special_uses: SpecialUses,
    ) -> Result<Vec<Operation>, Refusal> {
        self.known(mailbox)?;
        Ok(vec![Operation::SpecialUseSet { mailbox, special_uses }])
    }

    /// What is subscribed to is there, or has inferiors (RFC 9051 §6.3.7 leaves it to the server);
    /// it stays subscribed to when it goes.
    pub fn plan_subscription(
        &self,
        account: AccountId,
        name: &MailboxName,
        is_subscribed: bool,
    ) -> Result<Vec<Operation>, Refusal> {
        let Account { subscriptions, mailboxes, .. } = self.known_account(account)?;
        check_name(name.as_str())?;
        if subscriptions.contains(name.as_str()) == is_subscribed {
            return Ok(Vec::new());
        }
        let below = format!("{}{HIERARCHY_SEPARATOR}", name.as_str());
        let is_there = mailboxes.contains_key(name.as_str());
        if is_subscribed && !is_there && inferiors(mailboxes, &below).next().is_none() {
            return Err(Refusal::NoSuchMailbox);
        }
        if is_subscribed && subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(Refusal::TooManySubscriptions);
        }
        let name = name.as_str().into();
        Ok(vec![Operation::Subscribed { account, name, is_subscribed }])
    }

    /// One message of `content_bytes` for several mailboxes, each of which takes it or not.
    /// `bodies` are the numbers of its bodies, one a delivery; one that was made before, or is
    /// refused, has no operation.
    pub fn plan_deliveries(
        &self,
        deliveries: &[Delivery],
        content_bytes: u64,
        bodies: &[BodyId],
        now_s: u32,
    ) -> Planned<Vec<Result<Delivered, Refusal>>> {
        let mut batch = Batch::new(self, now_s);
        let told = deliveries.iter().zip(bodies).map(|(delivery, body)| {
            let bytes = content_bytes + delivery.prefix.len() as u64;
            batch.add(delivery, bytes, *body, None)
        });
        let told = told.collect();
        Planned { operations: batch.operations, told }
    }

    /// Several messages for a mailbox each, all or none. `bodies` are the numbers of their bodies;
    /// each message comes with its octets without the fields of the delivery, and with its UID
    /// where that is to be kept.
    pub fn plan_appends(
        &self,
        appends: &[(&Delivery, u64, Option<u32>)],
        bodies: &[BodyId],
        now_s: u32,
    ) -> Result<Planned<Vec<Delivered>>, Refusal> {
        let mut batch = Batch::new(self, now_s);
        let told = appends.iter().zip(bodies).map(|((delivery, content_bytes, uid), body)| {
            batch.add(delivery, content_bytes + delivery.prefix.len() as u64, *body, *uid)
        });
        let told = told.collect::<Result<Vec<Delivered>, Refusal>>()?;
        Ok(Planned { operations: batch.operations, told })
    }

    /// STORE on messages of `uids` that are there. Those that it would not change are left out.
    pub fn plan_flags(
        &self,
        mailbox: MailboxId,
        uids: &NumberSet,
        (change, flags): (FlagChange, &Flags),
        unchanged_since: Option<u64>,
    ) -> Result<Planned<Part>, Refusal> {
        let known = self.known(mailbox)?;
        let mut operations = Vec::new();
        let mut front = Front::of(known);
        let keywords = match change {
            FlagChange::Remove => front.known_bits(flags),
            FlagChange::Replace | FlagChange::Add => front.bits(flags, &mut operations)?,
        };
        let (modseq, flags) = (self.next_modseq(), flags.system);
        let uids_of = NumberSet::default();
        let mut changed = FlagsChanged { mailbox, modseq, change, flags, keywords, uids: uids_of };
        let mut part = Part::default();
        for (index, entry) in known.entries_of(uids).enumerate() {
            if index == MAILBOX_MESSAGES_AT_ONCE {
                part.left.insert_range(entry.uid, uids.last().unwrap_or(entry.uid));
                break;
            }
            if unchanged_since.is_some_and(|since| entry.modseq > since) {
                part.modified.insert(entry.uid);
            } else if changed.result(entry.flags, entry.keywords) != (entry.flags.0, entry.keywords)
            {
                changed.uids.insert(entry.uid);
            }
        }
        part.left = part.left.intersection(uids);
        part.uids = changed.uids.clone();
        if changed.uids.is_empty() {
            operations.clear();
        } else {
            operations.push(Operation::FlagsChanged(changed));
        }
        Ok(Planned { operations, told: part })
    }

    /// EXPUNGE from UID `from` on. What is left begins where the next part does.
    pub fn plan_expunge(
        &self,
        mailbox: MailboxId,
        which: Expunging<'_>,
        from: u32,
        now_s: u32,
    ) -> Result<Planned<Part>, Refusal> {
        let known = self.known(mailbox)?;
        let mut part = Part::default();
        let mut behind = NumberSet::default();
        behind.insert_range(from, u32::MAX);
        let (uids, only_deleted) = match which {
            Expunging::Deleted => (behind, true),
            Expunging::DeletedOf(uids) => (uids.intersection(&behind), true),
            Expunging::All(uids) => (uids.intersection(&behind), false),
        };
        for (index, entry) in known.entries_of(&uids).enumerate() {
            if index == MAILBOX_MESSAGES_AT_ONCE {
                part.left.insert_range(entry.uid, u32::MAX);
                break;
            }
            if !only_deleted || entry.flags.has(SystemFlags::DELETED) {
                part.uids.insert(entry.uid);
            }
        }
        let (modseq, uids) = (self.next_modseq(), part.uids.clone());
        let operation = Operation::Expunged { mailbox, modseq, at_s: now_s, uids };
        let operations = if part.uids.is_empty() { Vec::new() } else { vec![operation] };
        Ok(Planned { operations, told: part })
    }

    /// COPY or MOVE of messages of `uids` that are there. Flags and dates go along (RFC 9051
    /// §6.4.7), keywords by their names.
    pub fn plan_copy(
        &self,
        source: MailboxId,
        target: MailboxId,
        uids: &NumberSet,
        is_move: bool,
        now_s: u32,
    ) -> Result<Planned<Part>, Refusal> {
        let (from, to) = (self.known(source)?, self.known(target)?);
        let modseq = self.next_modseq();
        let mut operations = Vec::new();
        let mut front = Front::of(to);
        let (mut copies, mut bytes) = (Vec::new(), 0);
        if from.account != to.account || !is_move {
            let added = from.entries_of(uids).fold(Usage::default(), |usage, entry| {
                usage.with(Usage { bytes: entry.bytes.into(), messages: 1 })
            });
            if !self.usage(to.account).with(added).fits(self.quota(to.account)) {
                return Err(Refusal::OverQuota);
            }
        }
        let mut part = Part::default();
        for entry in from.entries_of(uids) {
            let body = self.bodies().body(entry.body);
            bytes += 4 + Message::BYTES + body.written_bytes();
            if bytes > MAILBOX_RECORD_BYTES_MAX && !copies.is_empty() {
                part.left.insert_range(entry.uid, uids.last().unwrap_or(entry.uid));
                break;
            }
            let keywords = from.keyword_names(entry.keywords);
            let flags = Flags { system: entry.flags, keywords };
            let message = Message {
                uid: front.uid()?,
                modseq,
                date: entry.date,
                saved_s: now_s,
                flags: entry.flags,
                keywords: front.bits(&flags, &mut operations)?,
                body: body.id,
            };
            front.uid_next = message.uid + 1;
            part.uids.insert(entry.uid);
            part.target_uids.insert(message.uid);
            copies.push(Copy { source_uid: entry.uid, message, body });
        }
        part.left = part.left.intersection(uids);
        if copies.is_empty() {
            return Ok(Planned { operations: Vec::new(), told: part });
        }
        operations.push(Operation::Copied { source, target, is_move, copies });
        Ok(Planned { operations, told: part })
    }

    /// The account of a mailbox, which may have been deleted a while ago.
    fn account_of(&self, mailbox: MailboxId) -> Result<AccountId, Refusal> {
        match self.deleted(mailbox) {
            Some(deleted) => Ok(deleted.account),
            None => Ok(self.known(mailbox)?.account),
        }
    }

    /// The mailbox called `name` that messages of `source` come back to: begun, unless it is there.
    /// Where the source was deleted it is for what that was for, as far as no other is by now.
    pub fn plan_undeleted(
        &self,
        new: MailboxId,
        source: MailboxId,
        name: &MailboxName,
        now_s: u32,
    ) -> Result<Planned<MailboxId>, Refusal> {
        let account = self.account_of(source)?;
        if let Some(there) = self.find_mailbox(account, name.as_str()) {
            return Ok(Planned { operations: Vec::new(), told: there.id });
        }
        let ids = self.known_account(account)?.mailboxes.values();
        let taken =
            ids.filter_map(|id| self.mailbox(*id)).fold(0, |uses, it| uses | it.special_uses.0);
        let uses = self.deleted(source).map_or(0, |deleted| deleted.special_uses.0);
        let operations =
            self.plan_mailbox(new, account, name, SpecialUses(uses & !taken), now_s)?;
        Ok(Planned { operations, told: new })
    }

    /// Expunged messages of `uids` that are still kept come into a mailbox of the same account,
    /// without `\Deleted` and keywords. What is in there already does not come again. Of a mailbox
    /// that was deleted come those that were in it then.
    pub fn plan_restore(
        &self,
        source: MailboxId,
        target: MailboxId,
        uids: &NumberSet,
        now_s: u32,
    ) -> Result<Planned<Part>, Refusal> {
        let to = self.known(target)?;
        if self.account_of(source)? != to.account {
            return Err(Refusal::NoSuchMailbox);
        }
        let mut part = Part::default();
        let (Some(first), Some(last)) = (uids.first(), uids.last()) else {
            return Ok(Planned { operations: Vec::new(), told: part });
        };
        let wanted = self.expunged_from(source, first).filter(|(uid, _)| uids.contains(*uid));
        let mut wanted: Vec<(u32, Kept)> = wanted.take(MAILBOX_MESSAGES_AT_ONCE + 1).collect();
        if wanted.len() > MAILBOX_MESSAGES_AT_ONCE
            && let Some((uid, _)) = wanted.pop()
        {
            part.left.insert_range(uid, last);
        }
        let deleted_s = self.deleted(source).map_or(0, |deleted| deleted.at_s);
        let there = self.bodies_in(to, &wanted);
        wanted.retain(|(_, kept)| kept.at_s >= deleted_s && !there.contains(&kept.body));
        let mut front = Front::of(to);
        let (mut copies, mut bytes) = (Vec::new(), 0);
        let mut usage = self.usage(to.account);
        for (uid, kept) in wanted {
            let body = self.bodies().body(kept.body);
            bytes += 4 + Message::BYTES + body.written_bytes();
            if bytes > MAILBOX_RECORD_BYTES_MAX && !copies.is_empty() {
                part.left.insert_range(uid, last);
                break;
            }
            usage = usage.with(Usage { bytes: body.bytes.into(), messages: 1 });
            let message = Message {
                uid: front.uid()?,
                modseq: self.next_modseq(),
                date: kept.date,
                saved_s: now_s,
                flags: SystemFlags(kept.flags.0 & !SystemFlags::DELETED.0),
                keywords: 0,
                body: body.id,
            };
            front.uid_next = message.uid + 1;
            part.uids.insert(uid);
            part.target_uids.insert(message.uid);
            copies.push(Copy { source_uid: uid, message, body });
        }
        if !copies.is_empty() && !usage.fits(self.quota(to.account)) {
            return Err(Refusal::OverQuota);
        }
        part.left = part.left.intersection(uids);
        let is_move = false;
        let operation = Operation::Copied { source, target, is_move, copies };
        let operations = if part.uids.is_empty() { Vec::new() } else { vec![operation] };
        Ok(Planned { operations, told: part })
    }

    /// Those bodies of expunged messages that a mailbox has in it.
    fn bodies_in(&self, mailbox: &Mailbox, kept: &[(u32, Kept)]) -> HashSet<BodyHandle> {
        let bodies = kept.iter().map(|(_, kept)| kept.body);
        let shared: HashSet<BodyHandle> =
            bodies.filter(|body| self.bodies().use_count(*body) > 1).collect();
        if shared.is_empty() {
            return shared;
        }
        let there = mailbox.entries(0..u32::MAX).map(|entry| entry.body);
        there.filter(|body| shared.contains(body)).collect()
    }
}

/// One message on its way into several mailboxes.
struct Batch<'a> {
    partition: &'a Partition,
    now_s: u32,
    fronts: HashMap<MailboxId, Front>,
    usages: HashMap<AccountId, Usage>,
    keys: Vec<DeliveryKey>,
    operations: Vec<Operation>,
}

impl<'a> Batch<'a> {
    fn new(partition: &'a Partition, now_s: u32) -> Self {
        Self {
            partition,
            now_s,
            fronts: HashMap::new(),
            usages: HashMap::new(),
            keys: Vec::new(),
            operations: Vec::new(),
        }
    }

    fn add(
        &mut self,
        delivery: &Delivery,
        bytes: u64,
        body: BodyId,
        wanted_uid: Option<u32>,
    ) -> Result<Delivered, Refusal> {
        let known = self.partition.target(&delivery.to)?;
        let mailbox = known.id;
        let is_known = |key| self.partition.has_delivered(key) || self.keys.contains(&key);
        if delivery.key.is_some_and(is_known) {
            return Ok(Delivered::Before);
        }
        let account = known.account;
        let usage = self.usages.entry(account).or_insert_with(|| self.partition.usage(account));
        let with_it = usage.with(Usage { bytes, messages: 1 });
        if !with_it.fits(self.partition.quota(account)) {
            return Err(Refusal::OverQuota);
        }
        let front = self.fronts.entry(mailbox).or_insert_with(|| Front::of(known));
        let uid = match wanted_uid {
            Some(uid) if uid < front.uid_next => return Err(Refusal::Exists),
            Some(uid) => {
                front.uid_next = uid;
                front.uid()?
            }
            None => front.uid()?,
        };
        let keywords = front.bits(&delivery.flags, &mut self.operations)?;
        let message = Message {
            uid,
            modseq: self.partition.next_modseq(),
            date: delivery.date,
            saved_s: self.now_s,
            flags: delivery.flags.system,
            keywords,
            body,
        };
        *usage = with_it;
        front.uid_next = uid + 1;
        self.keys.extend(delivery.key);
        let uid_validity = known.uid_validity;
        self.operations.push(Operation::Appended { mailbox, message, key: delivery.key });
        Ok(Delivered::As { uid_validity, uid })
    }
}

/// What a mailbox gives out next.
struct Front {
    mailbox: MailboxId,
    uid_next: u32,
    keywords: Vec<Box<str>>,
}

impl Front {
    fn of(mailbox: &Mailbox) -> Self {
        let keywords = mailbox.keywords.clone();
        Self { mailbox: mailbox.id, uid_next: mailbox.uid_next, keywords }
    }

    /// The next UID, which is free until `uid_next` is set behind it.
    fn uid(&self) -> Result<u32, Refusal> {
        if self.uid_next < u32::MAX - 1 { Ok(self.uid_next) } else { Err(Refusal::UidsUsedUp) }
    }

    fn bit(&self, keyword: &str) -> Option<usize> {
        self.keywords.iter().position(|known| known.eq_ignore_ascii_case(keyword))
    }

    fn known_bits(&self, flags: &Flags) -> u64 {
        let bits = flags.keywords.iter().filter_map(|keyword| self.bit(keyword));
        bits.fold(0, |bits, bit| bits | 1 << bit)
    }

    /// The bits of keywords, with an operation for each that the mailbox had not. None of these is
    /// there when it is refused.
    fn bits(&mut self, flags: &Flags, operations: &mut Vec<Operation>) -> Result<u64, Refusal> {
        let unknown = flags.keywords.iter().filter(|keyword| self.bit(keyword).is_none());
        let unknown: Vec<Box<str>> = unknown.cloned().collect();
        let is_good = |name: &str| !name.is_empty() && name.len() <= KEYWORD_BYTES_MAX;
        if !unknown.iter().all(|name| is_good(name)) {
            return Err(Refusal::BadName);
        }
        if self.keywords.len() + unknown.len() > KEYWORDS_MAX {
            return Err(Refusal::TooManyKeywords);
        }
        for keyword in unknown {
            let (mailbox, bit) = (self.mailbox, self.keywords.len() as u8);
            self.keywords.push(keyword.clone());
            operations.push(Operation::KeywordAdded { mailbox, bit, keyword });
        }
        Ok(self.known_bits(flags))
    }
}

/// Mailboxes whose names begin with `below`, which ends in a separator.
fn inferiors<'m>(
    mailboxes: &'m BTreeMap<Box<str>, MailboxId>,
    below: &'m str,
) -> impl Iterator<Item = (&'m Box<str>, &'m MailboxId)> {
    mailboxes.range(Box::from(below)..).take_while(move |(name, _)| name.starts_with(below))
}

fn check_secret(secret: &str) -> Result<(), Refusal> {
    let is_good = !secret.is_empty() && secret.len() <= ACCOUNT_SECRET_BYTES_MAX;
    if is_good { Ok(()) } else { Err(Refusal::BadSecret) }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let is_good = !name.is_empty() && name.len() <= MAILBOX_NAME_BYTES_MAX;
    if is_good { Ok(()) } else { Err(Refusal::BadName) }
}

pub(super) const INBOX: &str = "INBOX";
// Each message that a step takes may be a range of its own.
const _: () = assert!(MAILBOX_MESSAGES_AT_ONCE * RANGE_BYTES <= MAILBOX_RECORD_BYTES_MAX);
