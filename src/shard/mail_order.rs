//! What an operator asks of a partition of mailboxes, and the answers.

use serde::{Deserialize, Serialize};

use crate::mailbox::codec::{AccountId, MailboxId, Quota, SpecialUses};
use crate::mailbox::{Mailbox, Partition, Refusal, Store};
use crate::proto::imap::mailbox::{MailboxName, SpecialUse};

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
}

/// What came of it. It is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailDone {
    Done,
    Account(AccountId),
    Accounts(Vec<(AccountId, AccountView)>),
    Mailboxes(Vec<MailboxView>),
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
        MailOrder::SetSpecialUses(account, name, special_uses) => {
            let mailbox = find(store, account, &name).await?;
            store.set_special_uses(mailbox, special_uses).await?;
        }
    }
    Ok(MailDone::Done)
}

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
