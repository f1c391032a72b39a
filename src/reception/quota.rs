//! Whether those whom a local domain leads to take a message, before its content comes.

use std::path::PathBuf;
use std::time::Duration;

use super::{Inner, Terms};
use crate::config::{NextHop, OverQuota};
use crate::limits::MAILDIR_LOOKUPS_MAX;
use crate::mail::Reply;
use crate::mailbox::Refusal;
use crate::mailbox::codec::AccountId;
use crate::routing::local::Target;
use crate::routing::maildir;
use crate::runtime::blocking::Pool;

impl Inner {
    /// As `full`, where this shard knows all of it; `None` where others have to be asked.
    pub(super) fn full_here(
        &self,
        terms: &Terms,
        targets: &[Target],
        bytes: u64,
    ) -> Option<Result<(), Reply>> {
        if targets.iter().any(|target| directories(terms, target).is_some()) {
            return None;
        }
        let mut refusals = Vec::with_capacity(targets.len());
        for (partition, account) in accounts(targets) {
            refusals.push(self.post.owner_is_here(partition)?.over_quota(account, bytes));
        }
        Some(judge(targets, &refusals, terms.config.mailboxes.over_quota))
    }

    /// The reply where none of `targets` takes a message of so many octets. Who gives no answer may
    /// take it yet. Suspends while other shards are asked, and the files of Maildirs.
    pub(super) async fn full(
        &self,
        terms: &Terms,
        targets: &[Target],
        bytes: u64,
    ) -> Result<(), Reply> {
        let accounts: Vec<(u16, AccountId)> = accounts(targets).collect();
        let mut refusals = self.post.over_quota(&accounts, bytes).await;
        for directories in targets.iter().filter_map(|target| directories(terms, target)) {
            let is_there = move || directories.iter().any(|directory| directory.is_dir());
            if let Some(pool) = self.maildir_threads()
                && pool.run_for(LOOKUP_TIME_MAX, is_there).await == Ok(false)
            {
                refusals.push(Some(Refusal::NoSuchMailbox));
            }
        }
        judge(targets, &refusals, terms.config.mailboxes.over_quota)
    }

    /// Where there can be no threads nobody is refused for it.
    fn maildir_threads(&self) -> Option<Pool> {
        let mut threads = self.maildir_threads.borrow_mut();
        if threads.is_none() {
            *threads = Pool::start("maildir-rcpt", 1, MAILDIR_LOOKUPS_MAX).ok();
        }
        threads.clone()
    }
}

/// Where its mail would go; `None` where that is no Maildir.
fn directories(terms: &Terms, target: &Target) -> Option<Vec<PathBuf>> {
    let domain = target.address.rsplit_once('@').map_or("", |(_, domain)| domain);
    if target.account.is_some() || !terms.local.is_local(domain) {
        return None;
    }
    match terms.routes.resolve(domain) {
        Ok(NextHop::Maildir(pattern)) => {
            let separators = &terms.config.mailboxes.detail_separator;
            Some(maildir::directories(&pattern, &target.address, separators))
        }
        _ => None,
    }
}

fn accounts(targets: &[Target]) -> impl Iterator<Item = (u16, AccountId)> {
    let accounts = targets.iter().filter_map(|target| target.account.as_ref());
    accounts.map(|account| (account.partition, AccountId(account.id)))
}

/// Somebody who takes it is enough: the others are reported on.
fn judge(
    targets: &[Target],
    refusals: &[Option<Refusal>],
    over_quota: OverQuota,
) -> Result<(), Reply> {
    let for_sure = |refusal: &&Refusal| **refusal != Refusal::Unavailable;
    let sure: Vec<&Refusal> = refusals.iter().flatten().filter(for_sure).collect();
    match sure.first() {
        Some(first) if sure.len() == targets.len() => Err(first.reply(over_quota)),
        _ => Ok(()),
    }
}

/// The longest wait for files; who is not found by then may be there.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_takes_it_is_enough() {
        let target = |account: Option<()>| Target {
            address: "a@b.test".into(),
            account: account.map(|()| {
                std::sync::Arc::new(crate::mail::Account {
                    name: "a@b.test".into(),
                    id: 1,
                    partition: 0,
                    secret: None,
                    revision: 0,
                })
            }),
        };
        let (here, away) = (target(Some(())), target(None));
        let check = |targets: &[&Target], refusals: &[Option<Refusal>], expected: &str| {
            let targets: Vec<Target> = targets.iter().map(|it| (*it).clone()).collect();
            let judged = judge(&targets, refusals, OverQuota::Refuse);
            assert_eq!(judged.err().map_or(String::new(), |it| it.to_string()), expected);
        };
        let (full, gone) = (Some(Refusal::OverQuota), Some(Refusal::NoSuchAccount));
        check(&[&here], &[None], "");
        check(&[&here], &[full], "552 5.2.2 Mailbox is full");
        check(&[&here], &[gone], "550 5.1.1 No such mailbox here");
        check(&[&here], &[Some(Refusal::Unavailable)], "");
        check(&[&here, &here], &[full, None], "");
        check(&[&here, &here], &[full, full], "552 5.2.2 Mailbox is full");
        check(&[&here, &away], &[full], "");
        check(&[&away], &[], "");
        let missing = Some(Refusal::NoSuchMailbox);
        check(&[&away], &[missing], "550 5.1.1 No such mailbox here");
        check(&[&away, &here], &[None, missing], "");
    }
}
