//! Accounts and their partitions, as an operator sees them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Server, free_address};

pub const LOCAL: &str = "[mailboxes]\ndomains = [\"local.test\"]\n";

#[test]
fn partitions_stay_as_many_as_they_were_first() {
    let mut server = Server::start(free_address(), "[shards]\ncount = 2\n");
    assert!(!server.data_dir().join("mail").exists(), "nothing is made for nobody");
    let mut restart = |extra: &str| {
        server.stop();
        server.write_config(free_address(), extra);
        server.start_again();
        let partitions = std::fs::read_dir(server.data_dir().join("mail")).expect("a directory");
        (partitions.count(), server.stderr().matches("of 0 accounts in 3 partitions").count())
    };
    let of = |shards: usize| format!("{LOCAL}[shards]\ncount = {shards}\n");
    assert_eq!(restart(&of(3)), (3, 1));
    // One shard has all of them, four have one or none, and none is lost without a local domain.
    assert_eq!(restart(&of(1)), (3, 2));
    assert_eq!(restart(&of(4)), (3, 3));
    assert_eq!(restart("[shards]\ncount = 2\n"), (3, 4));
}

#[test]
fn a_foreign_partition_stops_the_start_and_is_named() {
    let mut server = Server::start(free_address(), LOCAL);
    server.stop();
    let lock = server.data_dir().join("mail/p00/LOCK");
    let text = std::fs::read_to_string(&lock).expect("a lock");
    std::fs::write(&lock, text.replace("partition 0", "partition 7")).expect("written");
    let output = server.run(&["serve"]);
    assert_eq!(output.status.code(), Some(65), "EX_DATAERR");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("partition 0 of mailboxes: "), "{said}");
    assert!(said.contains("mail/p00/LOCK: not the lock"), "{said}");
}

/// Runs a command that must succeed; what it printed.
pub fn ask(server: &Server, arguments: &[&str], input: &str) -> String {
    let (code, said, error) = try_to_ask(server, arguments, input);
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
    said
}

/// Runs a command that the server must refuse with these words, in one line.
pub fn refused(server: &Server, arguments: &[&str], input: &str, expected: &str) {
    let (code, _, error) = try_to_ask(server, arguments, input);
    assert_eq!((code, error.lines().count()), (Some(69), 1), "{arguments:?}: {error}");
    assert!(error.contains(expected), "{arguments:?}: {error}");
}

/// Exit code, standard output, standard error.
fn try_to_ask(server: &Server, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(arguments)
        .arg("--config")
        .arg(server.config_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ringpost runs");
    // Who reads nothing may be gone already.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("an end");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn accounts_and_mailboxes_are_made_listed_and_kept_over_a_kill() {
    let mut server = Server::start(free_address(), &format!("{LOCAL}[shards]\ncount = 2\n"));
    ask(&server, &["account", "add", "Jo@local.test", "--bytes", "1MiB"], "a password\n");
    let generated = ask(&server, &["account", "add", "al@local.test", "--generate"], "");
    assert_eq!(generated.trim_end().len(), 19, "{generated}");
    ask(&server, &["account", "add", "bo@local.test", "--no-password"], "");
    for (arguments, input, expected) in [
        (["account", "add", "jo@LOCAL.test"], "x", "jo@local.test has an account already"),
        (["account", "add", "jo@other.test"], "x", "other.test is not one of mailboxes.domains"),
        (["account", "remove", "nobody@local.test"], "", "nobody@local.test has no account here"),
        (["mailbox", "list", "nobody@local.test"], "", "nobody@local.test has no account here"),
    ] {
        refused(&server, &arguments, input, expected);
    }
    let (code, _, error) = try_to_ask(&server, &["account", "add", "em@local.test"], "\n");
    assert_eq!(code, Some(64), "an empty password: {error}");

    let mailbox = |arguments: &[&str]| {
        let all: Vec<&str> = ["mailbox"].iter().chain(arguments).copied().collect();
        ask(&server, &all, "")
    };
    mailbox(&["create", "jo@local.test", "Entw\u{fc}rfe & mehr/neu", "--special-use", "drafts"]);
    mailbox(&["create", "jo@local.test", "Sent"]);
    mailbox(&["special-use", "jo@local.test", "Sent", "Sent", "Archive"]);
    mailbox(&["rename", "jo@local.test", "Sent", "Gesendet"]);
    mailbox(&["create", "jo@local.test", "gone"]);
    mailbox(&["delete", "jo@local.test", "gone"]);
    let delete = ["mailbox", "delete", "jo@local.test", "inbox"];
    refused(&server, &delete, "", "INBOX is neither deleted nor renamed");
    ask(&server, &["account", "quota", "al@local.test", "--messages", "5"], "");
    ask(&server, &["account", "password", "bo@local.test"], "another\n");

    let accounts = lines(&ask(&server, &["account", "list", "--json"], ""));
    let mailboxes = lines(&ask(&server, &["mailbox", "list", "jo@local.test", "--json"], ""));
    let of = |values: &[Value], key: &str| -> Vec<Value> {
        values.iter().map(|it| it[key].clone()).collect()
    };
    let names = ["al@local.test", "bo@local.test", "jo@local.test"];
    assert_eq!(of(&accounts, "name"), names);
    // In turn, since each goes to the emptiest partition.
    assert_eq!(of(&accounts, "partition"), [1, 0, 0]);
    assert_eq!(of(&accounts, "has_password"), [true, true, true]);
    assert_eq!(of(&accounts, "quota_bytes"), [0, 0, 1 << 20]);
    assert_eq!(of(&accounts, "quota_messages"), [5, 0, 0]);
    assert_eq!(of(&mailboxes, "name"), ["Entw\u{fc}rfe & mehr/neu", "Gesendet", "INBOX"]);
    let uses = of(&mailboxes, "special_uses");
    assert_eq!(uses[0], serde_json::json!(["\\Drafts"]));
    assert_eq!(uses[1], serde_json::json!(["\\Archive", "\\Sent"]));

    server.kill();
    server.start_again();
    assert_eq!(lines(&ask(&server, &["account", "list", "--json"], "")), accounts);
    let again = lines(&ask(&server, &["mailbox", "list", "jo@local.test", "--json"], ""));
    assert_eq!(again, mailboxes);
    ask(&server, &["account", "remove", "jo@local.test"], "");
    let left = lines(&ask(&server, &["account", "list", "--json"], ""));
    assert_eq!(of(&left, "name"), names[..2]);
    ask(&server, &["account", "add", "jo@local.test", "--no-password"], "");
    let mailboxes = lines(&ask(&server, &["mailbox", "list", "jo@local.test", "--json"], ""));
    assert_eq!(of(&mailboxes, "name"), ["INBOX"], "nothing of the one before");
    assert!(server.stop().success());
}

#[test]
fn without_a_local_domain_there_are_no_accounts() {
    let server = Server::start(free_address(), "");
    let (code, _, error) = try_to_ask(&server, &["account", "add", "jo@local.test"], "x");
    assert_eq!(code, Some(69));
    assert!(error.contains("local.test is not one of mailboxes.domains"), "{error}");
    assert_eq!(ask(&server, &["account", "list"], ""), "");
}
