//! What an operator asks of a partition of mailboxes, and the answers.

use serde::{Deserialize, Serialize};

use crate::limits::MAILBOX_MESSAGES_AT_ONCE;
use crate::mailbox::codec::{AccountId, DeliveryKey, MailboxId, Quota, SpecialUses};
use crate::mailbox::{
    Delivered, Delivery, InternalDate, Mailbox, Partition, Refusal, Store, Target,
};
use crate::proto::imap::flag::{Flags, SystemFlags};
use crate::proto::imap::mailbox::{MailboxName, SpecialUse};
use crate::runtime::task;

/// An order to the shard that has the partition.
pub enum MailOrder {
    AddAccount {
        name: Box<str>,
        secret: Option<Box<str>>,
        quota: Quota,
    },
    RemoveAccount(AccountId),
    SetSecret(AccountId, Box<str>),
    SetQuota(AccountId, Quota),
    /// At most `count_max` accounts behind `after`, in the order of their numbers.
    Accounts {
        after: AccountId,
        count_max: usize,
    },
    Mailboxes(AccountId),
    CreateMailbox(AccountId, MailboxName, SpecialUses),
    RenameMailbox(AccountId, MailboxName, MailboxName),
    DeleteMailbox(AccountId, MailboxName),
    SetSpecialUses(AccountId, MailboxName, SpecialUses),
    /// What can be brought back.
    Deleted(AccountId),
    /// Brings back what was deleted under the first name into the mailbox of the second.
    Undelete(AccountId, MailboxName, MailboxName),
    /// A mailbox for what comes from elsewhere, where it had this UIDVALIDITY.
    Open(AccountId, MailboxName, u32),
    /// Letters into an opened mailbox, all or none. UIDs are those of `source_validity`, and kept
    /// where that is the mailbox's own.
    Import {
        account: AccountId,
        name: MailboxName,
        source_validity: u32,
        letters: Vec<Letter>,
    },
    /// Letters from this UID on, as many as make a page.
    Export(AccountId, MailboxName, u32),
}

/// What came of it. It is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailDone {
    Done,
    Account(AccountId),
    Accounts(Vec<(AccountId, AccountView)>),
    Mailboxes(Vec<MailboxView>),
    Deleted(Vec<DeletedView>),
    /// How many messages came back; `None` where nothing of that name is kept.
    Undeleted(Option<u64>),
    Opened(OpenedView),
    /// The UID of each; 0 where it was imported before.
    Imported(Vec<u32>),
    Exported(OpenedView, Vec<Letter>),
}

/// Numbers of a mailbox that letters come into, or from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedView {
    pub uid_validity: u32,
    pub uid_next: u32,
}

/// A message on its way between this server and files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    pub uid: u32,
    /// INTERNALDATE, Unix seconds.
    pub date_s: u32,
    /// `\Seen` and keywords.
    pub flags: Vec<String>,
    /// It cannot be read back from the disk, or not whole.
    #[serde(default)]
    pub is_lost: bool,
    #[serde(with = "octets")]
    pub content: Vec<u8>,
}

/// Octets as BASE64.
mod octets {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::proto::sasl::base64;

    pub fn serialize<S: Serializer>(octets: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        base64::encode(octets, &mut text);
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        base64::decode(text.as_bytes()).ok_or_else(|| de::Error::custom("not BASE64"))
    }
}

/// An account as an operator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    pub name: String,
    pub partition: u16,
    pub messages: u64,
    pub bytes: u64,
    /// Octets that it may hold, its own or the common limit; 0 for no limit.
    pub quota_bytes: u64,
    pub quota_messages: u32,
    pub has_password: bool,
}

/// A mailbox as an operator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailboxView {
    pub name: String,
    pub messages: u32,
    pub unseen: u32,
    pub bytes: u64,
    pub uid_validity: u32,
    pub uid_next: u32,
    pub is_subscribed: bool,
    /// Attributes of RFC 6154.
    pub special_uses: Vec<String>,
}

/// A mailbox that was deleted, or of which messages were expunged, and what can be brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedView {
    pub name: String,
    /// The mailbox itself was deleted.
    pub is_deleted: bool,
    pub messages: u32,
    pub bytes: u64,
    /// When the last of them went, Unix seconds.
    pub at_s: u32,
}

/// Carries an order out. Suspends until what it did is durable.
pub async fn carry_out(
    store: &Store,
    partition: u16,
    order: MailOrder,
) -> Result<MailDone, Refusal> {
    match order {
        MailOrder::AddAccount { name, secret, quota } => {
            let account = store.add_account(&name, secret.as_deref()).await?;
            if quota != Quota::default() {
                store.set_quota(account, quota).await?;
            }
            return Ok(MailDone::Account(account));
        }
        MailOrder::RemoveAccount(account) => store.remove_account(account).await?,
        MailOrder::SetSecret(account, secret) => store.set_secret(account, &secret).await?,
        MailOrder::SetQuota(account, quota) => store.set_quota(account, quota).await?,
        MailOrder::Accounts { after, count_max } => {
            let look = |known: &Partition| accounts(known, partition, after, count_max);
            return Ok(MailDone::Accounts(store.read(look).await));
        }
        MailOrder::Mailboxes(account) => {
            let mailboxes = store.read(|known| mailboxes(known, account)).await?;
            return Ok(MailDone::Mailboxes(mailboxes));
        }
        MailOrder::CreateMailbox(account, name, special_uses) => {
            store.create_mailbox(account, &name, special_uses).await?;
        }
        MailOrder::RenameMailbox(account, from, to) => {
            store.rename_mailbox(account, &from, &to).await?;
        }
        MailOrder::DeleteMailbox(account, name) => {
            store.delete_mailbox(find(store, account, &name).await?).await?;
        }
        MailOrder::Deleted(account) => {
            return Ok(MailDone::Deleted(deleted(store, account).await?));
        }
        MailOrder::Undelete(account, name, to) => {
            return Ok(MailDone::Undeleted(store.undelete(account, &name, &to).await?));
        }
        MailOrder::Open(account, name, uid_validity) => {
            let opened = store.open_for_import(account, &name, uid_validity).await?;
            let (_, uid_validity, uid_next) = opened;
            return Ok(MailDone::Opened(OpenedView { uid_validity, uid_next }));
        }
        MailOrder::Import { account, name, source_validity, letters } => {
            let mailbox = find(store, account, &name).await?;
            return import(store, mailbox, source_validity, letters).await;
        }
        MailOrder::Export(account, name, from) => {
            return export(store, find(store, account, &name).await?, from).await;
        }
        MailOrder::SetSpecialUses(account, name, special_uses) => {
            let mailbox = find(store, account, &name).await?;
            store.set_special_uses(mailbox, special_uses).await?;
        }
    }
    Ok(MailDone::Done)
}

async fn import(
    store: &Store,
    mailbox: MailboxId,
    source_validity: u32,
    letters: Vec<Letter>,
) -> Result<MailDone, Refusal> {
    let own = store.read_mailbox(mailbox, |mailbox| mailbox.uid_validity).await;
    let keeps_uids = own == Some(source_validity);
    let (mut messages, mut uids) = (Vec::new(), Vec::new());
    for letter in letters {
        let mut draft = store.begin(letter.content.len() as u64)?;
        let mut rest = letter.content.as_slice();
        while !rest.is_empty() {
            rest = &rest[draft.append(rest)..];
            draft.room().await?;
        }
        // A kept UID says by itself what was imported before.
        let source = format!("import {} {source_validity} {}", mailbox.0, letter.uid);
        let key = DeliveryKey(xxhash_rust::xxh3::xxh3_128(source.as_bytes()));
        let (to, prefix) = (Target::Mailbox(mailbox), Vec::new());
        let (date, flags) = (InternalDate::utc(letter.date_s), flags_of(&letter.flags));
        let key = (!keeps_uids).then_some(key);
        messages.push((draft, Delivery { to, prefix, date, flags, key }));
        uids.push(keeps_uids.then_some(letter.uid));
    }
    let told = store.commit_as(messages, &uids).await?;
    let told = told.into_iter().map(|told| match told {
        Delivered::As { uid, .. } => uid,
        Delivered::Before => 0,
    });
    Ok(MailDone::Imported(told.collect()))
}

async fn export(store: &Store, mailbox: MailboxId, from: u32) -> Result<MailDone, Refusal> {
    let look = |mailbox: &Mailbox| {
        let entries = mailbox.entries(from..u32::MAX).take(LETTERS_AT_ONCE);
        let letters = entries.map(|entry| {
            let names = mailbox.keyword_names(entry.keywords);
            let flags = Flags { system: entry.flags, keywords: names };
            (entry.uid, entry.date.unix_s, names_of(&flags))
        });
        let letters: Vec<_> = letters.collect();
        let (uid_validity, uid_next) = (mailbox.uid_validity, mailbox.uid_next);
        (OpenedView { uid_validity, uid_next }, letters)
    };
    let read = store.read_mailbox(mailbox, look).await;
    let (opened, found) = read.ok_or(Refusal::NoSuchMailbox)?;
    let (mut letters, mut bytes) = (Vec::new(), 0);
    for (uid, date_s, flags) in found {
        if bytes >= PAGE_BYTES {
            break;
        }
        let mut content = Vec::new();
        // One that is expunged meanwhile is left out.
        let Some(stored) = store.content(mailbox, uid).await else { continue };
        let is_lost = loop {
            match stored.piece(content.len() as u32).await {
                Ok(Some(piece)) => content.extend_from_slice(&piece),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        bytes += content.len();
        letters.push(Letter { uid, date_s, flags, is_lost, content });
    }
    Ok(MailDone::Exported(opened, letters))
}

fn flags_of(names: &[String]) -> Flags {
    let mut flags = Flags::default();
    for name in names {
        match SystemFlags::from_name(name.as_bytes()) {
            Some(flag) => flags.system = flags.system.with(flag),
            None => flags.add_keyword(name),
        }
    }
    flags
}

fn names_of(flags: &Flags) -> Vec<String> {
    let system = SystemFlags::ALL.into_iter().filter(|(_, flag)| flags.system.has(*flag));
    let keywords = flags.keywords.iter().map(|keyword| keyword.to_string());
    system.map(|(name, _)| name.to_owned()).chain(keywords).collect()
}

/// Letters and octets of one answer, one letter more at the most.
const LETTERS_AT_ONCE: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

async fn find(store: &Store, account: AccountId, name: &MailboxName) -> Result<MailboxId, Refusal> {
    let find = |known: &Partition| known.find_mailbox(account, name.as_str()).map(|it| it.id);
    store.read(find).await.ok_or(Refusal::NoSuchMailbox)
}

fn accounts(
    known: &Partition,
    partition: u16,
    after: AccountId,
    count_max: usize,
) -> Vec<(AccountId, AccountView)> {
    let behind = known.accounts_after(after).take(count_max);
    let views = behind.map(|(id, account)| {
        let (usage, quota) = (known.usage(id), known.quota(id));
        let view = AccountView {
            name: account.name.to_string(),
            partition,
            messages: usage.messages,
            bytes: usage.bytes,
            quota_bytes: quota.bytes,
            quota_messages: quota.messages,
            has_password: account.secret.is_some(),
        };
        (id, view)
    });
    views.collect()
}

fn mailboxes(known: &Partition, account: AccountId) -> Result<Vec<MailboxView>, Refusal> {
    let account = known.account(account).ok_or(Refusal::NoSuchAccount)?;
    let mailboxes = account.mailboxes.values().filter_map(|id| known.mailbox(*id));
    let view = |mailbox: &Mailbox| {
        let status = mailbox.status();
        let uses = SpecialUse::ALL.into_iter().filter(|it| mailbox.special_uses.has(*it));
        MailboxView {
            name: mailbox.name.to_string(),
            messages: status.exists,
            unseen: status.unseen,
            bytes: status.bytes,
            uid_validity: status.uid_validity,
            uid_next: status.uid_next,
            is_subscribed: account.subscriptions.contains(&mailbox.name),
            special_uses: uses.map(|it| it.as_str().to_owned()).collect(),
        }
    };
    Ok(mailboxes.map(view).collect())
}

/// What can be brought back into mailboxes of an account: those that were deleted, and those of
/// which messages were expunged.
async fn deleted(store: &Store, account: AccountId) -> Result<Vec<DeletedView>, Refusal> {
    let look = |known: &Partition| {
        let there = known.account(account).ok_or(Refusal::NoSuchAccount)?.mailboxes.iter();
        let deleted = known.deleted_of(account).map(|(id, deleted)| {
            let (name, at_s) = (deleted.name.to_string(), deleted.at_s);
            (id, DeletedView { name, is_deleted: true, at_s, ..DeletedView::default() })
        });
        let there = there.map(|(name, id)| {
            (*id, DeletedView { name: name.to_string(), ..DeletedView::default() })
        });
        Ok::<_, Refusal>(deleted.chain(there).collect::<Vec<_>>())
    };
    let mut views = store.read(look).await?;
    let mut next = (0, 1);
    while store.read(|known| count_kept(known, &mut views, &mut next)).await {
        task::yield_now().await;
    }
    let views = views.into_iter().map(|(_, view)| view);
    Ok(views.filter(|view| view.is_deleted || view.messages > 0).collect())
}

/// Adds up expunged messages from the UID and the mailbox `next` on, as many as one turn takes, and
/// says whether there are more.
fn count_kept(
    known: &Partition,
    views: &mut [(MailboxId, DeletedView)],
    next: &mut (usize, u32),
) -> bool {
    let mut left = MAILBOX_MESSAGES_AT_ONCE;
    while let Some((id, view)) = views.get_mut(next.0) {
        let deleted_s = if view.is_deleted { view.at_s } else { 0 };
        for (uid, kept) in known.expunged_from(*id, next.1) {
            if left == 0 {
                next.1 = uid;
                return true;
            }
            left -= 1;
            // What had been expunged before is not what a deleted mailbox had in it.
            if kept.at_s >= deleted_s {
                view.messages += 1;
                view.bytes += u64::from(known.bodies().bytes(kept.body));
                view.at_s = if view.is_deleted { view.at_s } else { view.at_s.max(kept.at_s) };
            }
        }
        *next = (next.0 + 1, 1);
        left = left.saturating_sub(1);
    }
    false
}
