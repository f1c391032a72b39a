//! What records that cannot be read leave behind: names that lead nowhere, and accounts without an
//! INBOX. `Pure.`

use super::codec::{AccountId, MailboxId, Operation, SpecialUses};
use super::partition::{Account, Partition};
use super::plan::INBOX;
use crate::limits::MAILBOX_NAME_BYTES_MAX;

/// A change that recovery makes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mend {
    pub operation: Operation,
    /// The same for the operator, one line.
    pub words: String,
}

impl Partition {
    /// Sees to it, after replay, that every account and every mailbox is found by a name of its
    /// own, and that mail for every account finds an INBOX. `next_id` gives out numbers of the
    /// journal. Returns what that took, in order; where every record was read, that is nothing.
    pub fn mend(&mut self, now_s: u32, mut next_id: impl FnMut() -> u64) -> Vec<Mend> {
        let mut mends = Vec::new();
        let mut mend = |partition: &mut Partition, operation, words| {
            partition.apply(&operation);
            mends.push(Mend { operation, words });
        };
        let accounts: Vec<AccountId> = self.accounts.keys().copied().collect();
        for account in &accounts {
            let found = self.find_account(&self.accounts[account].name);
            if found != Some(*account) {
                let name: Box<str> = format!("recovered-{}", account.0).into();
                let words = format!("an account that has lost its name is called {name}");
                mend(self, Operation::AccountAdded { account: *account, name }, words);
            }
        }
        // The later one first: where the name is free, it is more likely to be that of this one.
        let mailboxes: Vec<MailboxId> = self.mailboxes.keys().rev().copied().collect();
        for id in mailboxes {
            let mailbox = &self.mailboxes[&id];
            let account = &self.accounts[&mailbox.account];
            let name = match account.mailboxes.get(&mailbox.name) {
                Some(found) if *found == id => continue,
                Some(_) => free_name(account, &mailbox.name, id),
                None => mailbox.name.clone(),
            };
            let words = format!(
                "{}: a mailbox that has lost its name, {:?}, is called {name:?}",
                account.name, mailbox.name
            );
            mend(self, Operation::MailboxRenamed { mailbox: id, name }, words);
        }
        for account in accounts {
            if self.find_mailbox(account, INBOX).is_none() {
                let words =
                    format!("{}: its INBOX is lost and begins anew", self.accounts[&account].name);
                let created = Operation::MailboxCreated {
                    mailbox: MailboxId(next_id()),
                    account,
                    name: INBOX.into(),
                    uid_validity: self.next_uid_validity(now_s),
                    special_uses: SpecialUses::default(),
                };
                mend(self, created, words);
            }
        }
        mends
    }
}

/// A name like `name` that no mailbox of the account has.
fn free_name(account: &Account, name: &str, id: MailboxId) -> Box<str> {
    let suffix = format!("-recovered-{}", id.0);
    let front = &name[..name.floor_char_boundary(MAILBOX_NAME_BYTES_MAX - SUFFIX_BYTES_MAX)];
    let names = (0..).map(|attempt| match attempt {
        0 => format!("{front}{suffix}"),
        _ => format!("{front}{suffix}-{attempt}"),
    });
    let mut free = names.filter(|name| !account.mailboxes.contains_key(name.as_str()));
    free.next().expect("an account has fewer mailboxes than there are numbers").into()
}

/// What is put behind a name, with two numbers of 20 digits.
const SUFFIX_BYTES_MAX: usize = "-recovered--".len() + 40;
const _: () = assert!(SUFFIX_BYTES_MAX < MAILBOX_NAME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn account(id: u64, name: &str) -> Operation {
        Operation::AccountAdded { account: AccountId(id), name: name.into() }
    }

    fn mailbox(id: u64, account: u64, name: &str) -> Operation {
        Operation::MailboxCreated {
            mailbox: MailboxId(id),
            account: AccountId(account),
            name: name.into(),
            uid_validity: id as u32,
            special_uses: SpecialUses::default(),
        }
    }

    fn renamed(id: u64, name: &str) -> Operation {
        Operation::MailboxRenamed { mailbox: MailboxId(id), name: name.into() }
    }

    fn replay(operations: &[Operation]) -> Partition {
        let mut partition = Partition::default();
        for operation in operations {
            partition.apply(operation);
        }
        partition.end_replay();
        partition
    }

    fn mend(partition: &mut Partition) -> Vec<Operation> {
        let mut ids = 100..;
        let mends = partition.mend(50, || ids.next().expect("endless"));
        mends.into_iter().map(|mend| mend.operation).collect()
    }

    /// Names of accounts, and of their mailboxes with their numbers.
    fn names(partition: &Partition) -> Vec<(String, Vec<(String, u64)>)> {
        let names = partition.accounts().map(|(_, account)| {
            let mailboxes = account.mailboxes.iter().map(|(name, id)| (name.to_string(), id.0));
            (account.name.to_string(), mailboxes.collect())
        });
        names.collect()
    }

    #[test]
    fn whatever_lost_its_name_gets_one_and_every_account_an_inbox() {
        let mut log = vec![
            account(1, "jo"),
            mailbox(2, 1, "INBOX"),
            mailbox(3, 1, "work"),
            // That it was deleted is lost.
            mailbox(4, 1, "work"),
            mailbox(5, 1, "old"),
            // That it was renamed is lost.
            mailbox(6, 1, "other"),
            renamed(6, "old"),
            mailbox(7, 1, "work-recovered-3"),
            account(20, "al"),
            mailbox(21, 20, "INBOX"),
            // That it was removed is lost.
            account(22, "AL"),
            mailbox(23, 22, "INBOX"),
            // Its INBOX is lost, and the next one itself.
            account(30, "bo"),
            mailbox(41, 40, "a"),
        ];
        let mut partition = replay(&log);
        let mends = mend(&mut partition);
        let inbox = |id, account| Operation::MailboxCreated {
            mailbox: MailboxId(id),
            account: AccountId(account),
            name: "INBOX".into(),
            uid_validity: 50 + (id - 100) as u32,
            special_uses: SpecialUses::default(),
        };
        let expected = [
            account(20, "recovered-20"),
            account(40, "recovered-40"),
            renamed(5, "old-recovered-5"),
            renamed(3, "work-recovered-3-1"),
            inbox(100, 30),
            inbox(101, 40),
        ];
        assert_eq!(mends, expected);
        assert_eq!(mend(&mut partition), [], "once");
        let mended = names(&partition);
        log.extend(mends);
        partition = replay(&log);
        assert_eq!(names(&partition), mended, "records say the same");
        assert_eq!(mend(&mut partition), []);

        let removed = Operation::AccountRemoved { account: AccountId(20), at_s: 60 };
        partition.apply(&removed);
        assert_eq!(partition.find_account("al"), Some(AccountId(22)));
        log.truncate(log.len() - expected.len());
        log.push(removed);
        assert_eq!(replay(&log).find_account("al"), Some(AccountId(22)), "though it had its name");
    }

    #[test]
    fn a_name_that_is_free_again_goes_back() {
        let deleted = Operation::MailboxDeleted { mailbox: MailboxId(4), at_s: 60 };
        let inbox = mailbox(2, 1, "INBOX");
        let both = [mailbox(3, 1, "work"), mailbox(4, 1, "work"), deleted];
        let log = [account(1, "jo"), inbox].into_iter().chain(both).collect::<Vec<_>>();
        let mut partition = replay(&log);
        assert_eq!(mend(&mut partition), [renamed(3, "work")]);
        let found = partition.find_mailbox(AccountId(1), "work").map(|found| found.id);
        assert_eq!(found, Some(MailboxId(3)));
    }

    #[test]
    fn a_long_name_is_cut_between_its_characters() {
        let long = format!("{}\u{fc}", "x".repeat(MAILBOX_NAME_BYTES_MAX - SUFFIX_BYTES_MAX - 1));
        let name = free_name(&Account::default(), &long, MailboxId(u64::MAX));
        assert!(name.len() <= MAILBOX_NAME_BYTES_MAX && name.contains("x-recovered-1844"));
    }
}
