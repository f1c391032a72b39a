//! What stands in the mailboxes of a server that does not run, as the library reads it.

use std::collections::BTreeMap;
use std::path::Path;

use ringpost::journal::JournalConfig;
use ringpost::mailbox::codec::Quota;
use ringpost::mailbox::{Partition, Store};

use crate::mailbox::{config, open_as, run};

/// `[mailboxes]` and `[journal]` as `open` takes them.
pub const MAILBOXES: &str = "[mailboxes]\ndomains = [\"local.test\"]\nbytes_max = \"256MiB\"\n\
                             [journal]\nsegment_bytes = \"4MiB\"\nbytes_max = \"256MiB\"\n\
                             min_free_bytes = \"0B\"\n";

/// A message of an INBOX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub uid_validity: u32,
    pub uid: u32,
    pub octets: Vec<u8>,
}

impl Stored {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.octets).into_owned()
    }
}

/// Adds accounts to a partition of a server that does not run.
pub fn add_accounts(data_dir: &Path, partition: u16, accounts: &[(&str, Quota)]) {
    let copy = copied(data_dir);
    let path = copy.path().to_owned();
    let accounts = accounts.iter().map(|(name, quota)| (String::from(*name), *quota));
    let accounts: Vec<(String, Quota)> = accounts.collect();
    run(move || async move {
        let store = open(&path, partition);
        for (name, quota) in accounts {
            let account = store.add_account(&name, None).await.expect("room");
            store.set_quota(account, quota).await.expect("room");
        }
        store.close().await;
    });
    // Whoever opened the copy holds its lock until the end, not that of the server's own.
    let directory = format!("mail/p{partition:02}");
    for entry in std::fs::read_dir(copy.path().join(&directory)).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = data_dir.join(&directory).join(entry.file_name());
        std::fs::copy(entry.path(), to).expect("copied");
    }
}

/// What each account of a partition has in its INBOX, by name.
pub fn inboxes(data_dir: &Path, partition: u16) -> BTreeMap<String, Vec<Stored>> {
    let copy = copied(data_dir);
    let path = copy.path().to_owned();
    let (sender, receiver) = std::sync::mpsc::channel();
    run(move || async move {
        let store = open(&path, partition);
        let of_account = |partition: &Partition| {
            let accounts = partition.accounts();
            let inbox = |(id, account): (_, &ringpost::mailbox::Account)| {
                let inbox = partition.find_mailbox(id, "INBOX").expect("an INBOX");
                (account.name.to_string(), inbox.id, inbox.uid_validity, inbox.uids().to_vec())
            };
            accounts.map(inbox).collect::<Vec<_>>()
        };
        let mut all = BTreeMap::new();
        for (name, inbox, uid_validity, uids) in store.read(of_account).await {
            let mut messages = Vec::new();
            for uid in uids {
                let content = store.content(inbox, uid).await.expect("listed");
                let mut octets = Vec::new();
                while let Some(piece) = content.piece(octets.len() as u32).await.expect("readable")
                {
                    octets.extend_from_slice(&piece);
                }
                messages.push(Stored { uid_validity, uid, octets });
            }
            all.insert(name, messages);
        }
        sender.send(all).expect("somebody waits");
    });
    receiver.recv().expect("all were read")
}

fn copied(data_dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    let status = std::process::Command::new("cp")
        .args(["-r", "--sparse=always"])
        .arg(data_dir.join("mail"))
        .arg(copy.path())
        .status();
    assert!(status.expect("cp runs").success());
    copy
}

fn open(data_dir: &Path, partition: u16) -> Store {
    let config = JournalConfig { bytes_max: 256 << 20, ..config(data_dir, partition) };
    open_as(&config).expect("a partition")
}
