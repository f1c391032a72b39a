//! Who has mailboxes here: an immutable snapshot.

use std::collections::HashMap;
use std::sync::Arc;

/// One that mail is kept for.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The whole address, in lower case: also the name to log in with.
    pub name: Box<str>,
    /// Its number in its partition.
    pub id: u64,
    pub partition: u16,
    /// What a password is checked against, as `auth` writes it. Without one nobody logs in.
    pub secret: Option<Box<str>>,
    /// The change of the list that brought this; 0 of what was there at the start.
    pub revision: u64,
}

impl std::fmt::Debug for Account {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} of partition {})", self.name, self.id, self.partition)
    }
}

/// All accounts, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    by_name: HashMap<Box<str>, Arc<Account>>,
    /// Changes since the start.
    revision: u64,
}

impl Accounts {
    /// The account of this name, in any case.
    pub fn get(&self, name: &str) -> Option<&Arc<Account>> {
        if name.bytes().any(|octet| octet.is_ascii_uppercase()) {
            return self.by_name.get(&*name.to_ascii_lowercase());
        }
        self.by_name.get(name)
    }

    /// These, and this one in place of another of its name.
    pub fn with(&self, account: Account) -> Accounts {
        let mut accounts = self.clone();
        accounts.revision += 1;
        let account = Account { revision: accounts.revision, ..account };
        accounts.by_name.insert(account.name.clone(), Arc::new(account));
        accounts
    }

    /// These but for the one of this name.
    pub fn without(&self, name: &str) -> Accounts {
        let mut accounts = self.clone();
        accounts.revision += 1;
        accounts.by_name.remove(name);
        accounts
    }

    /// Whether who has logged in as `account` is logged in no more: it was removed, or has another
    /// password. A list older than the account knows nothing of it.
    pub fn is_over(&self, account: &Account) -> bool {
        let is_current = |now: &Arc<Account>| **now == *account;
        account.revision <= self.revision && !self.get(&account.name).is_some_and(is_current)
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.by_name.values()
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

impl FromIterator<Account> for Accounts {
    /// Of several with one name the first stays.
    fn from_iter<I: IntoIterator<Item = Account>>(accounts: I) -> Self {
        let mut by_name = HashMap::new();
        for account in accounts {
            by_name.entry(account.name.clone()).or_insert_with(|| Arc::new(account));
        }
        Self { by_name, revision: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_in_any_case_and_does_not_show_its_secret() {
        let account = |name: &str, id| Account {
            name: name.into(),
            id,
            partition: 3,
            secret: Some("hidden".into()),
            revision: 0,
        };
        let accounts = [account("a@b.test", 1), account("c@b.test", 2), account("a@b.test", 4)];
        let accounts: Accounts = accounts.into_iter().collect();
        assert_eq!((accounts.len(), accounts.is_empty()), (2, false));
        for name in ["a@b.test", "A@B.test"] {
            assert_eq!(accounts.get(name).map(|account| account.id), Some(1));
        }
        assert_eq!(accounts.get("d@b.test"), None);
        let other = accounts.with(account("c@b.test", 9)).without("a@b.test");
        assert_eq!(other.iter().map(|account| account.id).collect::<Vec<_>>(), [9]);
        assert!(!format!("{accounts:?}").contains("hidden"));
    }

    #[test]
    fn a_login_is_over_with_its_password_and_not_for_a_list_that_is_older() {
        let account = |name: &str, id, secret: &str| Account {
            name: name.into(),
            id,
            partition: 0,
            secret: Some(secret.into()),
            revision: 0,
        };
        let first: Accounts = [account("a@b.test", 1, "x")].into_iter().collect();
        let second = first.with(account("c@b.test", 2, "y"));
        let third = second.with(account("a@b.test", 1, "z"));
        let last = third.without("c@b.test").with(account("a@b.test", 1, "x"));
        let all = [&first, &second, &third, &last];
        let check = |account: &Account, expected: [bool; 4]| {
            assert_eq!(all.map(|accounts| accounts.is_over(account)), expected, "{account:?}");
        };
        check(first.get("a@b.test").expect("there"), [false, false, true, true]);
        check(second.get("c@b.test").expect("there"), [false, false, false, true]);
        check(third.get("a@b.test").expect("there"), [false, false, false, true]);
        check(last.get("a@b.test").expect("there"), [false, false, false, false]);
    }
}
