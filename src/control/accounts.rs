//! Accounts and their mailboxes: the one master list of who has mailboxes here, and the orders of
//! operators, which go to the shard that has the partition.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::asking::{self, AskError};
use super::socket::{Out, Stop};
use super::wire::Line;
use super::{ANSWER_WAIT, Control};
use crate::config::Config;
use crate::mail::address::{AddressRef, Utf8};
use crate::mail::{Account, Accounts};
use crate::mailbox::codec::{AccountId, Quota, SpecialUses};
use crate::proto::imap::mailbox::{MailboxName, SpecialUse};
use crate::shard::ask::Ask;
use crate::shard::mail_order::{Letter, MailDone, MailOrder};

/// Who has mailboxes here, and which shard has which partition.
#[derive(Default)]
pub struct Directory {
    /// Held while it changes: shards hear of changes in their order.
    accounts: Mutex<Arc<Accounts>>,
    owners: BTreeMap<u16, usize>,
}

impl Directory {
    /// `owners` are the numbers of partitions and those of their shards.
    pub fn new(accounts: Arc<Accounts>, owners: impl IntoIterator<Item = (u16, usize)>) -> Self {
        Self { accounts: Mutex::new(accounts), owners: owners.into_iter().collect() }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Accounts>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition with the fewest accounts, the first of equal ones.
    fn emptiest(&self, accounts: &Accounts) -> Option<u16> {
        let mut counts: BTreeMap<u16, usize> = self.owners.keys().map(|it| (*it, 0)).collect();
        for account in accounts.iter() {
            counts.entry(account.partition).and_modify(|count| *count += 1);
        }
        counts.into_iter().min_by_key(|(_, count)| *count).map(|(partition, _)| partition)
    }
}

/// A mailbox of an account, in words.
pub(super) struct Named<'a> {
    pub account: &'a str,
    pub mailbox: &'a str,
}

impl Control {
    /// Who has mailboxes here.
    pub fn accounts(&self) -> Arc<Accounts> {
        self.directory.lock().clone()
    }

    /// Begins an account in the partition that has the fewest. The error is for the operator.
    pub fn add_account(
        &self,
        name: &str,
        secret: Option<&str>,
        quota: Quota,
    ) -> Result<(), String> {
        self.try_add_account(name, secret, quota).map_err(|stop| stop.to_string())
    }

    pub(super) fn try_add_account(
        &self,
        name: &str,
        secret: Option<&str>,
        quota: Quota,
    ) -> Result<(), Stop> {
        let name = account_name(name, &self.config())?;
        let mut accounts = self.directory.lock();
        if accounts.get(&name).is_some() {
            return Err(Stop::Refused(format!("{name} has an account already")));
        }
        let Some(partition) = self.directory.emptiest(&accounts) else {
            let text = "there are no mailboxes here; name a domain in mailboxes.domains and \
                        start the server anew";
            return Err(Stop::Refused(text.to_owned()));
        };
        let secret: Option<Box<str>> = secret.map(Box::from);
        let order = MailOrder::AddAccount { name: name.clone(), secret: secret.clone(), quota };
        let id = match self.order(partition, order)? {
            MailDone::Account(id) => id.0,
            _ => unreachable!("each order has its answer"),
        };
        let account = Account { name, id, partition, secret, revision: 0 };
        let changed = accounts.with(account);
        self.set_accounts(&mut accounts, changed)
    }

    pub(super) fn remove_account(&self, name: &str) -> Result<(), Stop> {
        let mut accounts = self.directory.lock();
        let account = known(&accounts, name)?;
        let order = MailOrder::RemoveAccount(AccountId(account.id));
        self.order(account.partition, order)?;
        let changed = accounts.without(&account.name);
        self.set_accounts(&mut accounts, changed)
    }

    pub(super) fn set_secret(&self, name: &str, secret: &str) -> Result<(), Stop> {
        let mut accounts = self.directory.lock();
        let account = known(&accounts, name)?;
        let order = MailOrder::SetSecret(AccountId(account.id), secret.into());
        self.order(account.partition, order)?;
        let account = Account { secret: Some(secret.into()), ..(*account).clone() };
        let changed = accounts.with(account);
        self.set_accounts(&mut accounts, changed)
    }

    pub(super) fn set_quota(&self, name: &str, quota: Quota) -> Result<(), Stop> {
        let account = known(&self.accounts(), name)?;
        self.order(account.partition, MailOrder::SetQuota(AccountId(account.id), quota))?;
        Ok(())
    }

    /// Every shard has the new list when this returns without an error.
    fn set_accounts(&self, accounts: &mut Arc<Accounts>, changed: Accounts) -> Result<(), Stop> {
        *accounts = Arc::new(changed);
        let told = self.shards.numbers().into_iter().map(|shard| {
            asking::tell(&*self.shards, shard, Ask::Accounts(accounts.clone()), ANSWER_WAIT)
        });
        // Whoever hears nothing is told with the next change, or finds it at the next start.
        let told: Vec<Result<(), AskError>> = told.collect();
        told.into_iter().collect::<Result<(), AskError>>().map_err(|error| {
            Stop::Refused(format!("done, but {error}, and does not know of it; change it again"))
        })
    }

    /// Has an order carried out by the shard that has the partition.
    fn order(&self, partition: u16, order: MailOrder) -> Result<MailDone, Stop> {
        let shard = self.directory.owners.get(&partition);
        let shard = *shard.ok_or_else(|| Stop::Refused(format!("nobody has p{partition:02}")))?;
        let make = |reply| Ask::Mail { partition, order, reply };
        let done = asking::ask_one(&*self.shards, shard, ORDER_WAIT, make)?;
        done.map_err(|refusal| Stop::Refused(refusal.to_string()))
    }

    /// The accounts with what they hold, by name.
    pub(super) fn list_accounts(&self, out: &mut Out) -> Result<(), Stop> {
        let mut views = Vec::new();
        for partition in self.directory.owners.keys() {
            let mut after = AccountId(0);
            loop {
                let order = MailOrder::Accounts { after, count_max: ACCOUNTS_AT_ONCE };
                let MailDone::Accounts(page) = self.order(*partition, order)? else {
                    unreachable!("each order has its answer")
                };
                let Some((last, _)) = page.last() else { break };
                after = *last;
                views.extend(page.into_iter().map(|(_, view)| view));
            }
        }
        views.sort_by(|one, other| one.name.cmp(&other.name));
        for view in views {
            out.line(&Line::Account(view))?;
        }
        Ok(())
    }

    pub(super) fn list_mailboxes(&self, account: &str, out: &mut Out) -> Result<(), Stop> {
        let account = known(&self.accounts(), account)?;
        let order = MailOrder::Mailboxes(AccountId(account.id));
        let MailDone::Mailboxes(views) = self.order(account.partition, order)? else {
            unreachable!("each order has its answer")
        };
        for view in views {
            out.line(&Line::Mailbox(view))?;
        }
        Ok(())
    }

    pub(super) fn create_mailbox(
        &self,
        named: &Named<'_>,
        special_uses: &[String],
    ) -> Result<(), Stop> {
        let uses = parse_uses(special_uses)?;
        self.order_on(named, |account, name| MailOrder::CreateMailbox(account, name, uses))
    }

    pub(super) fn rename_mailbox(&self, named: &Named<'_>, to: &str) -> Result<(), Stop> {
        let to = mailbox_name(to)?;
        self.order_on(named, |account, name| MailOrder::RenameMailbox(account, name, to))
    }

    pub(super) fn delete_mailbox(&self, named: &Named<'_>) -> Result<(), Stop> {
        self.order_on(named, MailOrder::DeleteMailbox)
    }

    pub(super) fn list_deleted(&self, account: &str, out: &mut Out) -> Result<(), Stop> {
        let account = known(&self.accounts(), account)?;
        let order = MailOrder::Deleted(AccountId(account.id));
        let MailDone::Deleted(views) = self.order(account.partition, order)? else {
            unreachable!("each order has its answer")
        };
        for view in views {
            out.line(&Line::Deleted(view))?;
        }
        Ok(())
    }

    pub(super) fn undelete_mailbox(
        &self,
        named: &Named<'_>,
        to: Option<&str>,
        out: &mut Out,
    ) -> Result<(), Stop> {
        let to = mailbox_name(to.unwrap_or(named.mailbox))?;
        let make = |account, name| MailOrder::Undelete(account, name, to);
        let MailDone::Undeleted(count) = self.order_on_named(named, make)? else {
            unreachable!("each order has its answer")
        };
        let count = count.ok_or_else(|| {
            let Named { account, mailbox } = named;
            Stop::Refused(format!(
                "nothing of {mailbox:?} is kept; `ringpost mailbox deleted {account}` says what is"
            ))
        })?;
        Ok(out.line(&Line::Note(format!("messages brought back: {count}")))?)
    }

    pub(super) fn set_special_uses(
        &self,
        named: &Named<'_>,
        special_uses: &[String],
    ) -> Result<(), Stop> {
        let uses = parse_uses(special_uses)?;
        self.order_on(named, |account, name| MailOrder::SetSpecialUses(account, name, uses))
    }

    pub(super) fn open_mailbox(
        &self,
        named: &Named<'_>,
        uid_validity: u32,
        out: &mut Out,
    ) -> Result<(), Stop> {
        let make = |account, name| MailOrder::Open(account, name, uid_validity);
        let MailDone::Opened(opened) = self.order_on_named(named, make)? else {
            unreachable!("each order has its answer")
        };
        Ok(out.line(&Line::Opened(opened))?)
    }

    pub(super) fn import(
        &self,
        named: &Named<'_>,
        source_validity: u32,
        letters: &[Letter],
        out: &mut Out,
    ) -> Result<(), Stop> {
        let letters = letters.to_vec();
        let make = |account, name| MailOrder::Import { account, name, source_validity, letters };
        let MailDone::Imported(uids) = self.order_on_named(named, make)? else {
            unreachable!("each order has its answer")
        };
        Ok(out.line(&Line::Imported(uids))?)
    }

    pub(super) fn export(&self, named: &Named<'_>, from: u32, out: &mut Out) -> Result<(), Stop> {
        let make = |account, name| MailOrder::Export(account, name, from);
        let MailDone::Exported(opened, letters) = self.order_on_named(named, make)? else {
            unreachable!("each order has its answer")
        };
        out.line(&Line::Opened(opened))?;
        for letter in letters {
            out.line(&Line::Letter(letter))?;
        }
        Ok(())
    }

    fn order_on(
        &self,
        named: &Named<'_>,
        make: impl FnOnce(AccountId, MailboxName) -> MailOrder,
    ) -> Result<(), Stop> {
        self.order_on_named(named, make).map(|_| ())
    }

    fn order_on_named(
        &self,
        named: &Named<'_>,
        make: impl FnOnce(AccountId, MailboxName) -> MailOrder,
    ) -> Result<MailDone, Stop> {
        let account = known(&self.accounts(), named.account)?;
        let name = mailbox_name(named.mailbox)?;
        self.order(account.partition, make(AccountId(account.id), name))
    }
}

fn known(accounts: &Accounts, name: &str) -> Result<Arc<Account>, Stop> {
    let account = accounts.get(name).cloned();
    account.ok_or_else(|| Stop::Refused(format!("{name} has no account here")))
}

/// The name of a new account as it is kept: an address of a local domain that mail can reach.
fn account_name(name: &str, config: &Config) -> Result<Box<str>, Stop> {
    let refused = |text: String| Err(Stop::Refused(text));
    let Some((local_part, domain)) = name.rsplit_once('@') else {
        return refused(format!("{name} is not an address; an account is called user@domain"));
    };
    if AddressRef::parse(name.as_bytes(), Utf8::Allowed).is_err() || local_part.starts_with('"') {
        return refused(format!("{name} is not an address that can be an account"));
    }
    let name: Box<str> = name.to_lowercase().into();
    let mailboxes = &config.mailboxes;
    if !mailboxes.domains.contains(&domain.to_lowercase()) {
        return refused(format!("{domain} is not one of mailboxes.domains; add it there first"));
    }
    let separator = &mailboxes.detail_separator;
    if !separator.is_empty() && local_part.contains(separator.as_str()) {
        return refused(format!(
            "{name}: what is behind {separator} is detail of another account \
             (mailboxes.detail_separator)"
        ));
    }
    Ok(name)
}

fn mailbox_name(text: &str) -> Result<MailboxName, Stop> {
    let name = MailboxName::from_text(text);
    name.ok_or_else(|| Stop::Refused(format!("{text:?} cannot be the name of a mailbox")))
}

fn parse_uses(names: &[String]) -> Result<SpecialUses, Stop> {
    let parse = |name: &String| {
        let name = name.strip_prefix('\\').unwrap_or(name);
        let known = SpecialUse::from_name(format!("\\{name}").as_bytes());
        known.ok_or_else(|| {
            let all = SpecialUse::ALL.map(|it| it.as_str().trim_start_matches('\\'));
            Stop::Refused(format!("{name}: not a special use; these are: {}", all.join(", ")))
        })
    };
    names.iter().map(parse).collect()
}

/// For a shard to carry out an order, which may be to write or to read a large message.
const ORDER_WAIT: Duration = Duration::from_secs(30);
/// Accounts a shard is asked for at once.
const ACCOUNTS_AT_ONCE: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_called_what_mail_can_reach() {
        let mut config = Config::default();
        config.mailboxes.domains.push("a.test".to_owned());
        let check = |name: &str, expected: Result<&str, &str>| match (
            account_name(name, &config).map_err(|stop| stop.to_string()),
            expected,
        ) {
            (Ok(found), Ok(expected)) => assert_eq!(&*found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, _) => panic!("{name}: {found:?}"),
        };
        check("Jo.Doe@A.test", Ok("jo.doe@a.test"));
        check("jo", Err("not an address"));
        check("j o@a.test", Err("not an address"));
        check("\"j o\"@a.test", Err("not an address that"));
        check("jo@b.test", Err("b.test is not one of mailboxes.domains"));
        check("jo+x@a.test", Err("detail of another account"));
        config.mailboxes.detail_separator.clear();
        assert!(account_name("jo+x@a.test", &config).is_ok());
    }

    #[test]
    fn a_new_account_goes_where_the_fewest_are() {
        let account = |number: u64, partition| Account {
            name: number.to_string().into(),
            id: number,
            partition,
            secret: None,
            revision: 0,
        };
        let directory = Directory::new(Arc::default(), [(0, 0), (1, 1), (2, 0)]);
        let check = |partitions: &[u16], expected| {
            let accounts = partitions.iter().zip(1..);
            let accounts = accounts.map(|(partition, number)| account(number, *partition));
            assert_eq!(directory.emptiest(&accounts.collect()), Some(expected));
        };
        check(&[], 0);
        check(&[0], 1);
        check(&[0, 1], 2);
        check(&[0, 1, 2, 0, 2], 1);
        assert_eq!(Directory::default().emptiest(&Accounts::default()), None);
    }

    #[test]
    fn special_uses_go_by_their_names() {
        let parse = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
            parse_uses(&names).map_err(|stop| stop.to_string())
        };
        let expected = [SpecialUse::Sent, SpecialUse::Junk].into_iter().collect();
        assert_eq!(parse(&["sent", "\\Junk"]), Ok(expected));
        assert_eq!(parse(&[]), Ok(SpecialUses::default()));
        assert!(parse(&["outbox"]).expect_err("none").contains("these are: All, Archive"));
    }
}
