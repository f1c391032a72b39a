//! Whether accounts take a message, before its content comes.

use super::Inner;
use crate::config::OverQuota;
use crate::mail::Reply;
use crate::mailbox::Refusal;
use crate::mailbox::codec::AccountId;
use crate::routing::local::Target;

impl Inner {
    /// As `full`, where this shard knows all of it; `None` where another one has to be asked.
    pub(super) fn full_here(
        &self,
        targets: &[Target],
        bytes: u64,
        over_quota: OverQuota,
    ) -> Option<Result<(), Reply>> {
        let mut refusals = Vec::with_capacity(targets.len());
        for (partition, account) in accounts(targets) {
            refusals.push(self.post.owner_is_here(partition)?.over_quota(account, bytes));
        }
        Some(judge(targets, &refusals, over_quota))
    }

    /// The reply where none of `targets` takes a message of so many octets. Who gives no answer may
    /// take it yet. Suspends while other shards are asked.
    pub(super) async fn full(
        &self,
        targets: &[Target],
        bytes: u64,
        over_quota: OverQuota,
    ) -> Result<(), Reply> {
        let accounts: Vec<(u16, AccountId)> = accounts(targets).collect();
        let refusals = self.post.over_quota(&accounts, bytes).await;
        judge(targets, &refusals, over_quota)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_takes_it_is_enough() {
        let target = |account: Option<()>| Target {
            address: "a@b.test".into(),
            account: account.map(|()| {
                let (name, id) = ("a@b.test".into(), 1);
                std::sync::Arc::new(crate::mail::Account { name, id, partition: 0, secret: None })
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
    }
}
