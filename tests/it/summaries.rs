//! Summaries of messages, over restarts and damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use ringpost::access::imap::fetch::{Fetched, Fetcher, Options};
use ringpost::access::imap::sink::Sink;
use ringpost::mailbox::codec::MailboxId;
use ringpost::mailbox::{Partition, Store};
use ringpost::proto::imap::command::Command;
use ringpost::proto::imap::envelope::write_envelope;
use ringpost::proto::imap::structure::{Extension, write_body};
use ringpost::proto::mime::scan::scan;

use crate::fetch::{Seen, command, select, store_with_inbox};
use crate::mailbox::{account_and_inbox, deliver, open, run, to};

const PREFIX: &str = "Return-Path: <bounces@example.test>\r\nReceived: by the server\r\n";

fn message(number: usize) -> Vec<u8> {
    let text = "Some words that are repeated.\r\n".repeat(number % 40);
    format!(
        "From: Sender {number} <sender-{number}@example.test>\r\nTo: jo@example.test\r\n\
         Subject: Message number {number}\r\nMessage-ID: <{number}@example.test>\r\n\
         Content-Type: multipart/mixed; boundary=b{number}\r\n\r\n\
         --b{number}\r\n\r\n{text}\r\n--b{number}\r\nContent-Type: text/html\r\n\r\n<p>\r\n\
         --b{number}--\r\n"
    )
    .into_bytes()
}

/// What FETCH (ENVELOPE BODYSTRUCTURE) tells of all of them.
fn listing() -> Vec<u8> {
    let mut out = Vec::new();
    for number in 1..=COUNT {
        let structure = scan(&[PREFIX.as_bytes(), &message(number)].concat());
        out.extend_from_slice(format!("* {number} FETCH (ENVELOPE ").as_bytes());
        write_envelope(&structure, 0, &mut out);
        out.extend_from_slice(b" BODYSTRUCTURE ");
        write_body(&structure, Extension::With, &mut out);
        out.extend_from_slice(b")\r\n");
    }
    out
}

async fn fetch(store: &Store, mailbox: MailboxId, items: &str) -> (Vec<u8>, Fetched) {
    let selected = select(store, mailbox).await;
    let Command::Fetch(fetch) = command(&format!("FETCH 1:* {items}")) else { panic!("{items}") };
    let options = Options { may_set_seen: false, tells_modseq: false };
    let mut seen = Seen::default();
    let uids = [(1, u32::MAX)].into_iter().collect();
    let fetcher = Fetcher::new(store, mailbox, &fetch, options);
    let fetched = fetcher.run(&selected, &uids, &mut seen).await.expect("the client is there");
    seen.send(&[]).await.expect("the client is there");
    (seen.octets, fetched)
}

#[test]
fn lists_need_summaries_alone_and_summaries_need_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    for life in ["deliver", "damage", "list"] {
        // A process each: the lock is held until the end.
        let mut process = Process::new(std::env::current_exe().expect("a test"));
        process.args(["summaries::a_life", "--exact", "--nocapture"]);
        let output = process.env(LIFE, life).env(DATA_DIR, directory.path()).output();
        let output = output.expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "to {life}: {said}");
        println!("{life}: {said}");
    }
}

#[test]
fn a_life() {
    let Some(data_dir) = std::env::var_os(DATA_DIR).map(PathBuf::from) else { return };
    let life = std::env::var(LIFE).unwrap_or_default();
    run(move || async move {
        match life.as_str() {
            "deliver" => deliver_all(&data_dir).await,
            "damage" => damage(&data_dir).await,
            _ => list(&data_dir).await,
        }
    });
}

async fn deliver_all(data_dir: &Path) {
    let (store, inbox) = store_with_inbox(data_dir).await;
    store.keep_summaries(&summaries(data_dir)).expect("a thread");
    for number in 1..=COUNT {
        deliver(&store, &message(number), &[to(inbox, PREFIX, None)]).await.expect("room");
    }
    let (octets, _) = fetch(&store, inbox, "(ENVELOPE BODYSTRUCTURE)").await;
    assert!(octets == listing(), "from memory");
    store.close().await;
}

/// Damaged, cut, or deleted under way: what is told stays the same.
async fn damage(data_dir: &Path) {
    let store = open(data_dir).expect("a journal");
    store.keep_summaries(&summaries(data_dir)).expect("a thread");
    let (account, inbox) = account_and_inbox(&store).await;
    for path in files(data_dir, "records") {
        let mut octets = fs::read(&path).expect("there");
        octets.iter_mut().skip(5000).step_by(3001).for_each(|octet| *octet ^= 1);
        octets.truncate(octets.len() / 2);
        fs::write(path, octets).expect("damaged");
    }
    for path in files(data_dir, "blocks") {
        let octets = fs::read(&path).expect("there");
        fs::write(path, &octets[..octets.len() - 30]).expect("cut");
    }
    let (octets, fetched) = fetch(&store, inbox, "(ENVELOPE BODYSTRUCTURE)").await;
    assert!(octets == listing() && fetched == Fetched::default(), "made anew");
    fs::remove_dir_all(summaries(data_dir)).expect("deleted");
    let name = ringpost::proto::imap::mailbox::MailboxName::parse(b"copies").expect("a name");
    let copies = store.create_mailbox(account, &name, Default::default()).await.expect("room");
    let all = [(1, COUNT as u32)].into_iter().collect();
    store.copy(inbox, copies, &all, true).await.expect("room");
    let (octets, _) = fetch(&store, copies, "(ENVELOPE BODYSTRUCTURE)").await;
    assert!(octets == listing(), "copies tell the same");
    store.close().await;
    assert!(!files(data_dir, "blocks").is_empty(), "written down anew, at the latest now");
}

/// With content gone, lists are as they were, and the rest says that it cannot be had.
async fn list(data_dir: &Path) {
    let store = open(data_dir).expect("a journal");
    store.keep_summaries(&summaries(data_dir)).expect("a thread");
    let (account, _) = account_and_inbox(&store).await;
    let find = |partition: &Partition| partition.find_mailbox(account, "copies").map(|it| it.id);
    let copies = store.read(find).await.expect("there");
    for entry in fs::read_dir(data_dir.join("mail/p03")).expect("there") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg.")) {
            fs::write(path, b"").expect("emptied");
        }
    }
    let start = std::time::Instant::now();
    let (octets, fetched) = fetch(&store, copies, "(ENVELOPE BODYSTRUCTURE)").await;
    eprintln!("{COUNT} messages that are not in memory: {:?}", start.elapsed());
    assert!(octets == listing() && fetched == Fetched::default(), "from summaries");
    let (octets, fetched) = fetch(&store, copies, "(UID BODY.PEEK[])").await;
    assert_eq!((octets.len(), fetched.unreadable), (0, COUNT as u32));
    let (octets, _) = fetch(&store, copies, "BODY.PEEK[HEADER.FIELDS (SUBJECT DATE)]").await;
    assert!(octets.starts_with(
        b"* 1 FETCH (BODY[HEADER.FIELDS (SUBJECT DATE)] {29}\r\nSubject: Message number 1\r\n\r\n)"
    ));
    // Nothing of this is to be written down.
    std::process::exit(0);
}

fn summaries(data_dir: &Path) -> PathBuf {
    data_dir.join("mail/p03/summaries")
}

fn files(data_dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(summaries(data_dir)).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|it| it == ending)).collect()
}

const COUNT: usize = 1000;
const LIFE: &str = "RINGPOST_TEST_SUMMARIES_LIFE";
const DATA_DIR: &str = "RINGPOST_TEST_SUMMARIES_DIR";
