//! `ringpost fsck` over the journals of servers that were killed.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use ringpost::mailbox::codec::Quota;

use crate::harness::{Server, free_address, wait_until};
use crate::stored::{MAILBOXES, add_accounts};

fn fsck(server: &Server) -> (Output, serde_json::Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .arg("fsck")
        .arg(server.directory.path().join("data"))
        .args(["--json", "--list"])
        .output()
        .expect("ringpost runs");
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, json)
}

fn sum(json: &serde_json::Value, key: &str) -> u64 {
    sum_of(json, "shards", key)
}

fn sum_of(json: &serde_json::Value, journals: &str, key: &str) -> u64 {
    let shards = json[journals].as_array().expect("journals");
    shards.iter().map(|shard| shard[key].as_u64().expect("a number")).sum()
}

#[test]
fn a_killed_server_leaves_a_journal_that_reads_whole_and_damage_is_found() {
    let mut server = Server::start(free_address(), "[shards]\ncount = 2\n");
    let large = b"x: y\r\n\r\n".iter().copied().chain(b"0123456789abcde\r\n".repeat(40_000));
    let large: Vec<u8> = large.collect();
    for number in 0..20 {
        let mut client = server.client();
        client.expect("EHLO client.test", "250");
        let content: &[u8] = if number == 7 { &large } else { b"x: y\r\n\r\nfind me\r\n" };
        let reply = client.message("a@from.test", &["b@one.test", "c@two.test"], content);
        assert!(reply.starts_with("250"), "{reply}");
    }
    wait_until("an attempt has failed", || server.log().contains("outcome=delayed"));
    let (output, _) = fsck(&server);
    assert_eq!(output.status.code(), Some(75), "a server has it open");
    server.kill();

    let (output, json) = fsck(&server);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{json} {text}");
    assert_eq!((sum(&json, "messages"), sum(&json, "open_recipients")), (20, 40));

    // One octet of acknowledged content, in whichever segment it stands.
    let data = server.directory.path().join("data");
    let segment = |shard| data.join(shard).join("seg.000000");
    let damaged = ["shard-00", "shard-01"].into_iter().any(|shard| damage(&segment(shard)));
    assert!(damaged, "content stands in a first segment");
    let (output, json) = fsck(&server);
    assert_eq!(output.status.code(), Some(1), "{json}");
    assert!(json.to_string().contains("were acknowledged and are not there"), "{json}");
}

#[test]
fn mail_whose_content_is_damaged_is_named_by_account_mailbox_and_uid() {
    let mut server = Server::start(free_address(), &format!("{MAILBOXES}[shards]\ncount = 2\n"));
    assert!(server.stop().success(), "{}", server.stderr());
    let names = ["ann@local.test", "bob@local.test"];
    for (partition, name) in names.iter().enumerate() {
        add_accounts(server.data_dir(), partition as u16, &[(*name, Quota::default())]);
    }
    server.start_again();
    // Its content stands apart from what says that it is there.
    let large = [b"x: y\r\n\r\nfind me\r\n".to_vec(), b"0123456789abcde\r\n".repeat(20_000)];
    let large = large.concat();
    let delivered = || server.metric("ringpost_delivery_mailbox_deliveries_total");
    let contents = [b"x: y\r\n\r\n".as_slice(), &large, b"x: y\r\n\r\n"];
    for (before, content) in contents.into_iter().enumerate() {
        let reply = server.greeted().message("s@t.test", &names, content);
        assert!(reply.starts_with("250"), "{reply}");
        let both = 2.0 * (before + 1) as f64;
        wait_until("both have it", || delivered() == both);
    }
    let (output, _) = fsck(&server);
    assert_eq!(output.status.code(), Some(75), "a server has it open");
    server.kill();

    let (output, json) = fsck(&server);
    assert!(output.status.success(), "{json} {}", String::from_utf8_lossy(&output.stderr));
    let partitions = |json: &serde_json::Value, key: &str| sum_of(json, "partitions", key);
    assert_eq!((partitions(&json, "mailboxes"), partitions(&json, "messages")), (2, 6));
    let kept = &json["partitions"][1]["kept"][0];
    assert_eq!((&kept["account"], &kept["mailbox"]), (&names[1].into(), &"INBOX".into()));
    assert_eq!((&kept["uid_next"], &kept["unreadable"]), (&4.into(), &0.into()));

    let segment = |slot| server.data_dir().join(format!("mail/p01/seg.{slot:06}"));
    let damaged = (0..8).any(|slot: u32| damage(&segment(slot)));
    assert!(damaged, "content stands in some segment");
    let (output, json) = fsck(&server);
    assert_eq!(output.status.code(), Some(1), "{json}");
    assert_eq!((partitions(&json, "messages"), partitions(&json, "unreadable")), (6, 1), "{json}");
    assert_eq!(json["partitions"][0]["problems"], serde_json::json!([]));
    let problems = json["partitions"][1]["problems"].to_string();
    for problem in ["bob@local.test INBOX, UID 2: its content cannot be read", "are not there"] {
        assert!(problems.contains(problem), "{problems}");
    }
}

/// Changes one octet of what is to be found in a segment; false where that is not in it.
fn damage(segment: &Path) -> bool {
    let bytes = std::fs::read(segment).expect("a segment");
    let Some(place) = bytes.windows(7).position(|octets| octets == b"find me") else {
        return false;
    };
    let file = std::fs::OpenOptions::new().write(true).open(segment).expect("a segment");
    file.write_all_at(b"F", place as u64).expect("written");
    true
}
