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
        accounts.by_name.insert(account.name.clone(), Arc::new(account));
        accounts
    }

    /// These but for the one of this name.
    pub fn without(&self, name: &str) -> Accounts {
        let mut accounts = self.clone();
        accounts.by_name.remove(name);
        accounts
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
        Self { by_name }
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
}
