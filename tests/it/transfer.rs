//! Mail from a Maildir and an mbox into a running server, and out again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use crate::accounts::{LOCAL, ask, lines, refused};
use crate::harness::{Server, free_address, wait_until};

const ACCOUNT: &str = "jo@local.test";

fn started() -> Server {
    let server = Server::start(free_address(), &format!("{LOCAL}[shards]\ncount = 2\n"));
    ask(&server, &["account", "add", ACCOUNT, "--no-password"], "");
    server
}

fn transfer(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let all: Vec<&str> = ["mailbox"].iter().chain(arguments).chain(&["--json"]).copied().collect();
    lines(&ask(server, &all, ""))
}

fn numbers(reports: &[Value]) -> Vec<(u64, u64, u64, u64)> {
    let number = |report: &Value, key: &str| report[key].as_u64().expect("a number");
    let of = |it| {
        (number(it, "done"), number(it, "skipped"), number(it, "verified"), number(it, "failed"))
    };
    reports.iter().map(of).collect()
}

fn write_letter(maildir: &Path, file: &str, content: &str, date_s: u64) {
    for part in ["cur", "new", "tmp"] {
        fs::create_dir_all(maildir.join(part)).expect("made");
    }
    let path = maildir.join(file);
    fs::write(&path, content).expect("written");
    let file = fs::File::options().write(true).open(path).expect("there");
    file.set_modified(UNIX_EPOCH + Duration::from_secs(date_s)).expect("set");
}

/// Flags, date and content of each letter, by its UID.
fn read_maildir(maildir: &Path) -> BTreeMap<u32, (String, u64, String)> {
    let list = fs::read_to_string(maildir.join("dovecot-uidlist")).expect("a list");
    let mut letters = BTreeMap::new();
    for entry in fs::read_dir(maildir.join("cur")).expect("a directory") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("a name").to_str().expect("ASCII");
        let (base, flags) = name.split_once(":2,").expect("flags");
        let line = list.lines().find(|line| line.ends_with(&format!(":{base}"))).expect("listed");
        let uid = line.split(' ').next().expect("a UID").parse().expect("a number");
        let modified = fs::metadata(&path).expect("there").modified().expect("a date");
        let date_s = modified.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let content = fs::read_to_string(&path).expect("text");
        letters.insert(uid, (flags.to_owned(), date_s, content));
    }
    letters
}

#[test]
fn a_maildir_comes_in_with_its_uids_and_goes_out_the_same() {
    let mut server = started();
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("in");
    let large = format!("Subject: large\n\n{}", "0123456789abcde\n".repeat(100_000));
    write_letter(&root, "cur/1.a:2,FS", "Subject: one\n\nfirst\n", 1_000_000_000);
    write_letter(&root, "cur/2.b:2,ab", &large, 1_100_000_000);
    write_letter(&root, "new/3.c", "Subject: three\n\nthird\n", 1_200_000_000);
    fs::write(root.join("dovecot-uidlist"), "3 V4711 N90 Gx\n7 :1.a\n80 W1 :2.b\n").expect("w");
    fs::write(root.join("dovecot-keywords"), "0 $Junk\n1 work\n").expect("written");
    let inferior = root.join(".Entw&APw-rfe.alt");
    for number in 0..450 {
        let name = format!("cur/{number:04}.x:2,D");
        write_letter(&inferior, &name, &format!("Subject: {number}\n\nx\n"), number);
    }
    let path = root.to_str().expect("ASCII");
    let reports = transfer(&server, &["import", ACCOUNT, path]);
    assert_eq!(numbers(&reports), [(3, 0, 3, 0), (450, 0, 450, 0)]);
    assert_eq!(reports[0]["keeps_uids"], true);
    let again = transfer(&server, &["import", ACCOUNT, path]);
    assert_eq!(numbers(&again), [(0, 3, 0, 0), (0, 450, 0, 0)], "nothing comes twice");

    server.kill();
    server.start_again();
    // What is there goes on where it was.
    write_letter(&root, "new/4.d", "Subject: four\n\nfourth\n", 1_300_000_000);
    assert_eq!(numbers(&transfer(&server, &["import", ACCOUNT, path]))[0], (1, 3, 1, 0));
    let mailboxes = transfer(&server, &["list", ACCOUNT]);
    let inbox = mailboxes.iter().find(|it| it["name"] == "INBOX").expect("there");
    assert_eq!((&inbox["uid_validity"], &inbox["uid_next"]), (&4711.into(), &83.into()));
    assert_eq!((&inbox["messages"], &inbox["unseen"]), (&4.into(), &3.into()));

    let out = directory.path().join("out");
    let out_path = out.to_str().expect("ASCII");
    let reports = transfer(&server, &["export", ACCOUNT, out_path]);
    assert_eq!(numbers(&reports), [(450, 0, 450, 0), (4, 0, 4, 0)]);
    let found = read_maildir(&out);
    let expected: BTreeMap<u32, (String, u64, String)> = [
        (7, "FS", 1_000_000_000, "Subject: one\n\nfirst\n"),
        (80, "ab", 1_100_000_000, &large),
        (81, "", 1_200_000_000, "Subject: three\n\nthird\n"),
        (82, "", 1_300_000_000, "Subject: four\n\nfourth\n"),
    ]
    .map(|(uid, flags, date_s, text): (u32, &str, u64, &str)| {
        (uid, (flags.to_owned(), date_s, text.to_owned()))
    })
    .into();
    assert!(found == expected, "{:?}", found.keys());
    assert_eq!(read_maildir(&out.join(".Entw&APw-rfe.alt")).len(), 450);
    let keywords = fs::read_to_string(out.join("dovecot-keywords")).expect("a list");
    assert_eq!(keywords, "0 $Junk\n1 work\n");
    let again = transfer(&server, &["export", ACCOUNT, out_path]);
    assert_eq!(numbers(&again), [(0, 450, 0, 0), (0, 4, 0, 0)]);

    // What was exported comes into another account as it was.
    ask(&server, &["account", "add", "al@local.test", "--no-password"], "");
    transfer(&server, &["import", "al@local.test", out_path]);
    let others = transfer(&server, &["list", "al@local.test"]);
    let of =
        |all: &[Value], key: &str| -> Vec<Value> { all.iter().map(|it| it[key].clone()).collect() };
    for key in ["name", "messages", "unseen", "bytes", "uid_validity", "uid_next"] {
        assert_eq!(of(&others, key), of(&mailboxes, key), "{key}");
    }
}

#[test]
fn an_mbox_comes_into_a_mailbox_that_is_not_empty_once() {
    let server = started();
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("in");
    write_letter(&root, "new/1.a", "Subject: one\n\nfirst\n", 1_000_000_000);
    transfer(&server, &["import", ACCOUNT, root.to_str().expect("ASCII")]);
    let mbox = directory.path().join("old");
    let text = "From a@b Thu Nov 26 16:09:07 2026\nSubject: x\nStatus: RO\nX-Status: F\n\n\
                >From here\n\nFrom a@b Thu Nov 26 16:09:08 2026\nSubject: y\n\nbody\n";
    fs::write(&mbox, text).expect("written");
    let path = mbox.to_str().expect("ASCII");
    let report = &transfer(&server, &["import", ACCOUNT, path])[0];
    assert_eq!(numbers(std::slice::from_ref(report)), [(2, 0, 2, 0)]);
    assert_eq!(report["keeps_uids"], false);
    let again = transfer(&server, &["import", ACCOUNT, path]);
    assert_eq!(numbers(&again), [(0, 2, 0, 0)]);

    let out = directory.path().join("out");
    let out_path = out.to_str().expect("ASCII");
    let arguments = ["export", ACCOUNT, out_path, "--format", "mbox", "--mailbox", "inbox"];
    assert_eq!(numbers(&transfer(&server, &arguments)), [(3, 0, 3, 0)]);
    let text = fs::read_to_string(out.join("INBOX.mbox")).expect("an mbox");
    let expected = "From ringpost@localhost Thu Nov 26 16:09:07 2026\nStatus: RO\nX-Status: F\n\
                    Subject: x\n\n>From here\n\n";
    assert!(text.contains(expected), "{text}");
    ask(&server, &["account", "add", "al@local.test", "--no-password"], "");
    let reports = transfer(&server, &["import", "al@local.test", out_path]);
    assert_eq!(numbers(&reports), [(3, 0, 3, 0)]);
    let list = &transfer(&server, &["list", "al@local.test"])[0];
    assert_eq!((&list["messages"], &list["unseen"]), (&3.into(), &2.into()));

    assert_eq!(server.metric("ringpost_mailbox_accounts"), 2.0);
    assert_eq!(server.metric("ringpost_mailbox_messages"), 6.0);
    assert_eq!(server.metric("ringpost_mailbox_messages_lost"), 0.0);
    assert!(server.metric("ringpost_mailbox_frames_total") >= 5.0);
    assert!(server.metric("ringpost_mailbox_live_bytes") > 0.0);
    assert!(server.metric("ringpost_mailbox_commit_latency_seconds_count") >= 5.0);
}

#[test]
fn a_deleted_mailbox_comes_back_with_its_mail_and_flags() {
    let mut server = started();
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("in");
    write_letter(&root, "cur/0.a:2,", "Subject: x\n\nx\n", 1);
    write_letter(&root.join(".work"), "cur/1.a:2,FS", "Subject: one\n\nfirst\n", 1_000_000_000);
    write_letter(&root.join(".work"), "cur/2.b:2,", "Subject: two\n\nsecond\n", 1_100_000_000);
    transfer(&server, &["import", ACCOUNT, root.to_str().expect("ASCII")]);
    let before = transfer(&server, &["list", ACCOUNT]);
    let of = |listed: &[Value], key: &str| -> Vec<Value> {
        listed.iter().map(|it| it[key].clone()).collect()
    };
    assert_eq!(of(&before, "messages"), [1, 2]);
    assert_eq!(transfer(&server, &["deleted", ACCOUNT]), [] as [Value; 0]);
    ask(&server, &["mailbox", "delete", ACCOUNT, "work"], "");
    server.kill();
    server.start_again();
    let deleted = transfer(&server, &["deleted", ACCOUNT]);
    assert_eq!(of(&deleted, "name"), ["work"]);
    assert_eq!(of(&deleted, "messages"), [2]);
    assert_eq!(of(&deleted, "is_deleted"), [true]);
    for count in [2, 0] {
        let said = ask(&server, &["mailbox", "undelete", ACCOUNT, "work"], "");
        assert_eq!(said, format!("messages brought back: {count}\n"));
    }
    let after = transfer(&server, &["list", ACCOUNT]);
    for key in ["name", "messages", "unseen"] {
        assert_eq!(of(&after, key), of(&before, key), "{key}");
    }
    assert_ne!(after[1]["uid_validity"], before[1]["uid_validity"]);
    let out = directory.path().join("out");
    transfer(&server, &["export", ACCOUNT, out.to_str().expect("ASCII")]);
    let letters: Vec<_> = read_maildir(&out.join(".work")).into_values().collect();
    assert_eq!(letters[0], ("FS".into(), 1_000_000_000, "Subject: one\n\nfirst\n".into()));
    assert_eq!(letters.len(), 2);
    assert_eq!(server.metric("ringpost_mailbox_messages"), 3.0);
    assert_eq!(server.metric("ringpost_mailbox_messages_kept"), 2.0);

    // Under another name, and what cannot come back.
    ask(&server, &["mailbox", "undelete", ACCOUNT, "work", "--to", "archive/work"], "");
    assert_eq!(of(&transfer(&server, &["list", ACCOUNT]), "messages"), [1, 2, 2]);
    for (name, said) in [
        ("nothing", "nothing of \"nothing\" is kept"),
        ("INBOX", "nothing of \"INBOX\" is kept"),
        ("a\tb", "cannot be the name of a mailbox"),
    ] {
        refused(&server, &["mailbox", "undelete", ACCOUNT, name], "", said);
    }
    let nobody = ["mailbox", "undelete", "al@local.test", "work"];
    refused(&server, &nobody, "", "al@local.test has no account here");
    ask(&server, &["account", "quota", ACCOUNT, "--messages", "5"], "");
    let too_many = ["mailbox", "undelete", ACCOUNT, "work", "--to", "third"];
    refused(&server, &too_many, "", "would hold more than it may");
    assert!(server.stop().success());
}

#[test]
fn what_was_deleted_is_kept_for_so_long_and_no_longer() {
    let config = format!("{LOCAL}undelete = \"1s\"\n");
    let server = Server::start(free_address(), &config);
    ask(&server, &["account", "add", ACCOUNT, "--no-password"], "");
    ask(&server, &["mailbox", "create", ACCOUNT, "work"], "");
    ask(&server, &["mailbox", "delete", ACCOUNT, "work"], "");
    let is_over = || transfer(&server, &["deleted", ACCOUNT]).is_empty();
    wait_until("what was deleted is let go", is_over);
    let late = ["mailbox", "undelete", ACCOUNT, "work"];
    refused(&server, &late, "", "nothing of \"work\" is kept");
}
