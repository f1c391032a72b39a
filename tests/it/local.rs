//! Mail for domains of this server: who gets it, and where it goes.

use std::path::{Path, PathBuf};

use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};

/// Strangers only.
const STRANGERS: &str = "[reception]\nrelay_networks = []\n";

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|it| it.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn a_local_domain_may_have_its_mailboxes_in_maildirs() {
    let mailboxes = tempfile::tempdir().expect("a directory");
    let root = mailboxes.path();
    std::fs::create_dir_all(root.join("b.test/ann")).expect("a mailbox");
    let next_hop = NextHop::start(Behaviour::default());
    let extra = format!(
        "{STRANGERS}[mailboxes]\ndomains = [\"b.test\"]\n\
         [[alias]]\naddress = \"all@b.test\"\nto = [\"Ann+list@b.test\", \"far@far.test\"]\n\
         [[route]]\ndomain = \"b.test\"\n\
         next_hop = \"maildir://{}/{{domain}}/{{local_part}}\"\n",
        root.display()
    );
    let mut server = Server::start(next_hop.address, &extra);
    let mut client = server.greeted();
    client.expect("MAIL FROM:<s@t.test>", "250");
    client.expect("RCPT TO:<far@far.test>", "550 5.7.1");
    client.say("RSET");
    let large = [b"S: x\r\n\r\n".to_vec(), b"..line\r\n".repeat(100_000)].concat();
    for content in [b"S: x\r\n\r\nhi\r\n".to_vec(), large] {
        let reply = client.message("s@t.test", &["ANN+x@b.test", "all@B.test"], &content);
        assert!(reply.starts_with("250"), "{reply}");
    }
    // Each alone: the address with the one detail is another than with the other.
    let new = root.join("b.test/ann/new");
    wait_until("the files are there", || files(&new).len() == 4);
    assert!(files(&root.join("b.test/ann/tmp")).is_empty());
    let texts: Vec<String> =
        files(&new).iter().map(|it| std::fs::read_to_string(it).expect("UTF-8")).collect();
    let has = |text: &str| texts.iter().filter(|it| it.contains(text)).count();
    assert_eq!(has("Return-Path: <s@t.test>\nDelivered-To: ANN+x@b.test\nReceived: from "), 2);
    let by_alias = "Delivered-To: Ann+list@b.test\nX-Original-To: all@B.test\nReceived: from ";
    assert_eq!(has(by_alias), 2);
    assert_eq!((has("\r"), has("\n\nhi\n"), has("\n.line\n")), (0, 2, 2));
    assert_eq!(next_hop.wait_for(2)[0].to, ["far@far.test"]);
    // Nobody makes a directory by an address; the reverse-path hears of it.
    let reply = client.message("s@t.test", &["nobody@b.test"], b"x: y\r\n\r\n");
    assert!(reply.starts_with("250"), "{reply}");
    let report = next_hop.wait_for(3).pop().expect("a report");
    let text = String::from_utf8_lossy(&report.content);
    assert_eq!((&*report.from, &*report.to[0]), ("", "s@t.test"));
    assert!(text.contains("Final-Recipient: rfc822;nobody@b.test"), "{text}");
    assert!(text.contains("Status: 5.1.1"), "{text}");
    assert!(!root.join("b.test/nobody").exists());
    drop(client);
    assert!(server.stop().success(), "{}", server.stderr());
}

#[test]
fn a_local_domain_may_have_its_mailboxes_on_another_server() {
    let next_hop = NextHop::start(Behaviour::default());
    let extra = format!(
        "{STRANGERS}[mailboxes]\ndomains = [\"a.test\", \"b.test\"]\n\
         [[alias]]\naddress = \"x@a.test\"\nto = [\"X@b.test\"]\n\
         [[alias]]\naddress = \"postmaster@a.test\"\nto = [\"y@b.test\"]\n\
         [[route]]\ndomain = \"b.test\"\nnext_hop = \"lmtp://{}\"\n",
        next_hop.address
    );
    let server = Server::start(free_address(), &extra);
    let mut client = server.greeted();
    client.expect("MAIL FROM:<s@t.test>", "250");
    client.expect("RCPT TO:<nobody@a.test>", "550 5.1.1");
    client.say("RSET");
    let to = ["x+detail@A.test", "x@B.test", "Postmaster", "abuse@a.test"];
    let reply = client.message("s@t.test", &to[..1], b"x: y\r\n\r\n");
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(next_hop.wait_for(1)[0].to, ["X@b.test"]);
    for (count, to) in to[1..].iter().enumerate() {
        client.message("s@t.test", &[to], b"x: y\r\n\r\n");
        next_hop.wait_for(count + 2);
    }
    let mut all: Vec<String> = next_hop.got().iter().map(|it| it.to[0].clone()).collect();
    all.sort();
    assert_eq!(all, ["X@b.test", "x@B.test", "y@b.test", "y@b.test"]);
}
