//! A partition of mailboxes over a journal on a real disk, through restarts.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringpost::journal::{Journal, JournalConfig, OpenError, Owner};
use ringpost::limits::{CHUNK_BYTES_MAX, MAILBOX_MESSAGES_AT_ONCE};
use ringpost::mailbox::codec::{AccountId, DeliveryKey, MailboxId, Quota, SpecialUses};
use ringpost::mailbox::{
    Content, Delivered, Delivery, Expunging, InternalDate, Partition, Recovered, Refusal, Store,
    Target,
};
use ringpost::proto::imap::flag::{Flags, SystemFlags};
use ringpost::proto::imap::mailbox::MailboxName;
use ringpost::proto::imap::set::NumberSet;
use ringpost::proto::imap::store::FlagChange;
use ringpost::runtime::executor;
use ringpost::runtime::log_ring::Durability;

pub(crate) fn open(data_dir: &Path) -> Result<Store, OpenError> {
    open_as(&config(data_dir, 3))
}

/// A small partition.
pub(crate) fn config(data_dir: &Path, partition: u16) -> JournalConfig {
    JournalConfig {
        data_dir: data_dir.to_owned(),
        owner: Owner::Partition(partition),
        segment_bytes: 4 << 20,
        bytes_max: 1 << 30,
        min_free_bytes: 0,
        durability: Durability::Fdatasync,
        log_core: None,
    }
}

pub(crate) fn open_as(config: &JournalConfig) -> Result<Store, OpenError> {
    let mut recovered = Recovered::default();
    let (journal, recovery) = Journal::open(config, &mut recovered)?;
    assert!(recovery.rot.is_empty() && recovered.malformed().is_empty());
    let store = Store::start(journal, recovered, &recovery, Duration::from_secs(3600));
    Ok(store.expect("not degraded"))
}

/// Runs something on an executor of its own.
pub(crate) fn run<F: Future<Output = ()> + 'static>(body: impl FnOnce() -> F + Send + 'static) {
    let thread = executor::spawn("mailbox-test", None, body).expect("a thread");
    thread.join().expect("no panic").expect("no error");
}

pub(crate) fn to(mailbox: MailboxId, prefix: &str, key: Option<u128>) -> Delivery {
    let flags = Flags::default();
    let key = key.map(DeliveryKey);
    let to = Target::Mailbox(mailbox);
    Delivery {
        to,
        prefix: prefix.as_bytes().to_vec(),
        date: InternalDate::utc(1_600_000_000),
        flags,
        key,
    }
}

pub(crate) async fn deliver(
    store: &Store,
    content: &[u8],
    deliveries: &[Delivery],
) -> Result<Vec<Delivered>, Refusal> {
    let mut draft = store.begin(content.len() as u64)?;
    let mut rest = content;
    while !rest.is_empty() {
        let taken = draft.append(rest);
        rest = &rest[taken..];
        draft.room().await?;
    }
    draft.commit(deliveries).await?.into_iter().collect()
}

pub(crate) async fn octets(content: &Content, from: u32) -> Vec<u8> {
    let mut octets = Vec::new();
    while let Some(piece) = content.piece(from + octets.len() as u32).await.expect("readable") {
        octets.extend_from_slice(&piece);
    }
    octets
}

fn named(name: &str) -> MailboxName {
    MailboxName::parse(name.as_bytes()).expect("a name")
}

fn uids(ranges: &[(u32, u32)]) -> NumberSet {
    ranges.iter().copied().collect()
}

pub(crate) async fn account_and_inbox(store: &Store) -> (AccountId, MailboxId) {
    let find = |partition: &Partition| {
        let account = partition.find_account("jo@example.test")?;
        Some((account, partition.find_mailbox(account, "INBOX")?.id))
    };
    store.read(find).await.expect("there")
}

#[test]
fn what_was_answered_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    for life in ["first", "second"] {
        // A process each: the lock is held until the end.
        let mut command = Command::new(std::env::current_exe().expect("a test"));
        command.args(["mailbox::a_life", "--exact", "--nocapture"]);
        let output = command.env(LIFE, life).env(DATA_DIR, directory.path()).output();
        let output = output.expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the {life} life: {said}");
    }
    assert!(directory.path().join("mail/p03/LOCK").exists());
}

#[test]
fn a_life() {
    let Some(data_dir) = std::env::var_os(DATA_DIR).map(PathBuf::from) else { return };
    match std::env::var(LIFE).as_deref() {
        Ok("first") => first_life(data_dir),
        _ => second_life(data_dir),
    }
}

fn long() -> Vec<u8> {
    (0..2 * CHUNK_BYTES_MAX + 1000).map(|at| (at % 251) as u8).collect()
}

fn first_life(data_dir: PathBuf) {
    let long = long();
    run(move || async move {
        let store = open(&data_dir).expect("a journal");
        let account = store.add_account("Jo@example.test", Some("secret")).await;
        let account = account.expect("room");
        assert_eq!(store.add_account("jo@example.test", None).await, Err(Refusal::Exists));
        let (found, inbox) = account_and_inbox(&store).await;
        assert_eq!(found, account);
        let archive = store.create_mailbox(account, &named("a/b"), SpecialUses::default()).await;
        let archive = archive.expect("room");
        let watch = store.watch(inbox);
        let short = b"Subject: one\r\n\r\nshort\r\n";
        let one = [to(inbox, "Delivered-To: jo\r\n", Some(7))];
        let told = deliver(&store, short, &one).await.expect("room");
        assert!(matches!(told[..], [Delivered::As { uid: 1, .. }]), "{told:?}");
        watch.changed().await;
        assert_eq!(deliver(&store, short, &one).await, Ok(vec![Delivered::Before]));
        let both = [to(inbox, "X: inbox\r\n", Some(8)), to(archive, "X: archive\r\n", Some(9))];
        deliver(&store, short, &both).await.expect("room");
        deliver(&store, &long, &[to(inbox, "X: long\r\n", None)]).await.expect("room");
        let mut flags = Flags { system: SystemFlags::SEEN, keywords: Vec::new() };
        flags.add_keyword("$Junk");
        let all = uids(&[(1, 9)]);
        let stored = store.store_flags(inbox, &all, FlagChange::Add, &flags, Some(2)).await;
        let stored = stored.expect("there");
        assert_eq!((stored.changed, stored.modified), (uids(&[(1, 1)]), uids(&[(2, 3)])));
        let copied = store.copy(inbox, archive, &uids(&[(1, 1), (3, 3)]), false).await;
        assert_eq!(copied.expect("there").target_uids, uids(&[(2, 3)]));
        let kept = store.content(inbox, 3).await.expect("there");
        let gone = store.expunge(inbox, Expunging::All(&uids(&[(3, 4)]))).await;
        assert_eq!(gone, Ok(uids(&[(3, 3)])));
        assert_eq!(octets(&kept, 0).await, [b"X: long\r\n", &long[..]].concat());
        let again = store.content(inbox, 3).await.expect("for a while");
        assert_eq!(octets(&again, 400_000).await, long[400_000 - 9..]);
        store.rename_mailbox(account, &named("a/b"), &named("c")).await.expect("there");
        store.subscribe(account, &named("c"), true).await.expect("room");
        // A process that is killed does no more than that.
        std::process::exit(0);
    });
}

fn second_life(data_dir: PathBuf) {
    let long = long();
    run(move || async move {
        let store = open(&data_dir).expect("a journal");
        assert_eq!(store.lost_count(), 0);
        let accounts = store.accounts(3);
        assert_eq!((&*accounts[0].name, accounts[0].partition), ("jo@example.test", 3));
        assert_eq!(accounts[0].secret.as_deref(), Some("secret"));
        let (account, inbox) = account_and_inbox(&store).await;
        let look = |partition: &Partition| {
            let archive = partition.find_mailbox(account, "c").expect("renamed");
            let subscribed = partition.account(account).expect("there").subscriptions.len();
            (archive.id, archive.status(), subscribed)
        };
        let (archive, status, subscribed) = store.read(look).await;
        assert_eq!((status.exists, status.uid_next, subscribed), (3, 4, 1));
        let status = store.read_mailbox(inbox, |inbox| inbox.status()).await.expect("there");
        assert_eq!((status.exists, status.unseen, status.uid_next), (2, 1, 4));
        assert_eq!(status.first_unseen, Some(2));
        for (mailbox, uid, expected) in [
            (inbox, 1, &b"Delivered-To: jo\r\nSubject: one\r\n\r\nshort\r\n"[..]),
            (inbox, 2, b"X: inbox\r\nSubject: one\r\n\r\nshort\r\n"),
            (archive, 1, b"X: archive\r\nSubject: one\r\n\r\nshort\r\n"),
            (archive, 2, b"Delivered-To: jo\r\nSubject: one\r\n\r\nshort\r\n"),
            (archive, 3, &[b"X: long\r\n", &long[..]].concat()),
        ] {
            let content = store.content(mailbox, uid).await.expect("there");
            assert_eq!(content.bytes() as usize, expected.len());
            assert_eq!(octets(&content, 0).await, expected, "{mailbox:?} {uid}");
        }
        let body_of = |mailbox, uid| {
            let body = store.read(move |partition| partition.body_of(mailbox, uid));
            let store = &store;
            async move { body.await.map(|body| store.email_id(body.id)) }
        };
        let ids = [body_of(inbox, 1).await, body_of(archive, 2).await, body_of(archive, 1).await];
        assert!(ids[0].is_some() && ids[0] == ids[1] && ids[1] != ids[2], "{ids:?}");
        let again = deliver(&store, b"x", &[to(inbox, "", Some(8))]).await;
        assert_eq!(again, Ok(vec![Delivered::Before]), "known over a restart");
        let next = deliver(&store, b"x", &[to(inbox, "", None)]).await.expect("room");
        assert!(matches!(next[..], [Delivered::As { uid: 4, .. }]), "{next:?}");
        assert_eq!(store.delete_mailbox(inbox).await, Err(Refusal::IsInbox));
        store.delete_mailbox(archive).await.expect("there");
        assert_eq!(store.content(archive, 3).await.expect("for a while").bytes(), 525_297);
        store.remove_account(account).await.expect("there");
        let gone = store.read(|partition| partition.find_account("jo@example.test")).await;
        assert_eq!(gone, None);
        store.close().await;
    });
}

const LIFE: &str = "RINGPOST_TEST_MAILBOX_LIFE";
const DATA_DIR: &str = "RINGPOST_TEST_MAILBOX_DIR";

#[test]
fn several_messages_are_appended_all_or_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().to_owned();
    let long = long();
    run(move || async move {
        let store = open(&data_dir).expect("a journal");
        let account = store.add_account("jo@example.test", None).await.expect("room");
        let (_, inbox) = account_and_inbox(&store).await;
        let drafts = async |contents: &[&[u8]]| {
            let mut drafts = Vec::new();
            for content in contents {
                let mut draft = store.begin(0).expect("room");
                let mut rest = *content;
                while !rest.is_empty() {
                    rest = &rest[draft.append(rest)..];
                    draft.room().await.expect("room");
                }
                drafts.push((draft, to(inbox, "", None)));
            }
            drafts
        };
        let contents: [&[u8]; 3] = [b"one\r\n", &long, b""];
        let told = store.commit_all(drafts(&contents).await).await.expect("room");
        let told: Vec<u32> = told
            .iter()
            .map(|told| match told {
                Delivered::As { uid, .. } => *uid,
                Delivered::Before => panic!("never before"),
            })
            .collect();
        assert_eq!(told, [1, 2, 3]);
        for (uid, content) in (1..).zip(contents) {
            let found = store.content(inbox, uid).await.expect("there");
            assert_eq!(octets(&found, 0).await, content, "{uid}");
        }
        // Two of them would fit.
        let quota = Quota { bytes: 0, messages: 5 };
        store.set_quota(account, quota).await.expect("there");
        let told = store.commit_all(drafts(&[b"a", b"b", b"c"]).await).await;
        assert_eq!(told, Err(Refusal::OverQuota));
        let status = store.read_mailbox(inbox, |inbox| inbox.status()).await.expect("there");
        assert_eq!((status.exists, status.uid_next), (3, 4));
        store.close().await;
    });
}

#[test]
fn commands_over_very_many_messages_are_done_in_parts() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().to_owned();
    run(move || async move {
        let store = open(&data_dir).expect("a journal");
        let account = store.add_account("jo@example.test", None).await.expect("room");
        let (_, inbox) = account_and_inbox(&store).await;
        let other = store.create_mailbox(account, &named("a"), SpecialUses::default()).await;
        let other = other.expect("room");
        deliver(&store, b"x", &[to(inbox, "", None)]).await.expect("room");
        // By copies, which are faster than letters.
        let mut count = 1;
        while count <= 2 * MAILBOX_MESSAGES_AT_ONCE as u32 {
            let copied = store.copy(inbox, inbox, &uids(&[(1, u32::MAX)]), false).await;
            count += copied.expect("there").target_uids.count() as u32;
        }
        let all = uids(&[(1, u32::MAX)]);
        let deleted = Flags { system: SystemFlags::DELETED, keywords: Vec::new() };
        let stored = store.store_flags(inbox, &all, FlagChange::Add, &deleted, None).await;
        let stored = stored.expect("there");
        assert_eq!(stored.changed, uids(&[(1, count)]));
        let again = store.store_flags(inbox, &all, FlagChange::Add, &deleted, Some(1)).await;
        assert_eq!(again.expect("there").modified, uids(&[(1, count)]));
        let moved = store.copy(inbox, other, &uids(&[(1, count - 5)]), true).await;
        assert_eq!(moved.expect("there").target_uids, uids(&[(1, count - 5)]));
        let some = uids(&[(3, count)]);
        let gone = store.expunge(other, Expunging::DeletedOf(&some)).await;
        assert_eq!(gone, Ok(uids(&[(3, count - 5)])));
        assert_eq!(store.expunge(other, Expunging::Deleted).await, Ok(uids(&[(1, 2)])));
        let exists = store.read_mailbox(inbox, |inbox| inbox.status().exists).await;
        assert_eq!(exists, Some(5));
        store.close().await;
    });
}
