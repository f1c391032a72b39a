//! Accounts with mail in them, made while no server runs.

use std::path::Path;
use std::process::Command;

use ringpost::auth::make_secret;
use ringpost::config::Config;
use ringpost::mailbox::codec::AccountId;
use ringpost::mailbox::{Delivery, InternalDate, Store, Target, count_partitions, open_partition};
use ringpost::proto::imap::flag::Flags;
use ringpost::runtime::executor;
use serde::{Deserialize, Serialize};

/// What every account's password is.
pub const PASSWORD: &str = "correct horse";

/// An account to be made.
#[derive(Serialize, Deserialize)]
pub struct Stocked {
    pub partition: u16,
    pub name: String,
    pub messages: Vec<Vec<u8>>,
}

/// Makes accounts in so many partitions of a data directory.
pub fn fill(data_dir: &Path, partition_count: usize, accounts: &[Stocked]) {
    std::fs::create_dir_all(data_dir).expect("a directory");
    let list = data_dir.join("stock.json");
    let text = serde_json::to_string(&(partition_count, accounts)).expect("JSON");
    std::fs::write(&list, text).expect("written");
    // A process of its own: it holds the partitions until its end.
    let mut command = Command::new(std::env::current_exe().expect("a test"));
    command.args(["stock::in_a_process_of_its_own", "--exact", "--nocapture"]);
    let output = command.env(DATA_DIR, data_dir).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_file(list).expect("removed");
}

#[test]
fn in_a_process_of_its_own() {
    let Some(data_dir) = std::env::var_os(DATA_DIR) else { return };
    let data_dir = Path::new(&data_dir);
    let text = std::fs::read_to_string(data_dir.join("stock.json")).expect("a list");
    let (partition_count, accounts) = serde_json::from_str(&text).expect("JSON");
    make(data_dir, partition_count, accounts);
}

fn make(data_dir: &Path, partition_count: usize, accounts: Vec<Stocked>) {
    let mut config = Config { data_dir: data_dir.to_owned(), ..Config::default() };
    config.mailboxes.domains.push("local.test".to_owned());
    assert_eq!(count_partitions(&config, partition_count).expect("counted"), partition_count);
    let body = move || async move {
        let secret = make_secret(PASSWORD);
        for partition in 0..partition_count as u16 {
            let (store, _) = open_partition(&config, partition).unwrap_or_else(|error| {
                panic!("partition {partition}: {error}");
            });
            for account in accounts.iter().filter(|it| it.partition == partition) {
                let id = store.add_account(&account.name, Some(&secret)).await.expect("made");
                for message in &account.messages {
                    deliver(&store, id, message).await;
                }
            }
            store.close().await;
        }
    };
    let thread = executor::spawn("stock", None, body).expect("a thread");
    thread.join().expect("no panic").expect("a ring");
}

async fn deliver(store: &Store, account: AccountId, content: &[u8]) {
    let mut draft = store.begin(content.len() as u64).expect("begun");
    let mut rest = content;
    while !rest.is_empty() {
        let taken = draft.append(rest);
        rest = &rest[taken..];
        draft.room().await.expect("room");
    }
    let (to, flags) = (Target::Inbox(account), Flags::default());
    let delivery = Delivery {
        to,
        prefix: Vec::new(),
        date: InternalDate::utc(1_700_000_000),
        flags,
        key: None,
    };
    let delivered = draft.commit(&[delivery]).await.expect("committed");
    assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
}

const DATA_DIR: &str = "RINGPOST_TEST_STOCK";
