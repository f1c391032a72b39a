//! Mail for domains of this server: who gets it, and where it goes.

use std::path::{Path, PathBuf};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringpost::mailbox::codec::Quota;

use crate::harness::{Behaviour, Client, NextHop, Server, free_address, wait_until};
use crate::stored::{MAILBOXES, Stored, add_accounts, inboxes};

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
    // Nobody makes a directory by an address.
    client.expect("MAIL FROM:<s@t.test>", "250");
    client.expect("RCPT TO:<nobody@b.test>", "550 5.1.1");
    client.expect("RCPT TO:<ann/new@b.test>", "550 5.1.1");
    client.expect("RSET", "250");
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

/// A server of so many shards with these accounts, by partition.
pub fn with_accounts(
    next_hop: std::net::SocketAddr,
    shards: usize,
    extra: &str,
    accounts: &[(u16, &str, Quota)],
) -> Server {
    let extra = format!("{MAILBOXES}[shards]\ncount = {shards}\n{extra}");
    let mut server = Server::start(next_hop, &extra);
    assert!(server.stop().success(), "{}", server.stderr());
    for (partition, name, quota) in accounts {
        add_accounts(server.data_dir(), *partition, &[(*name, *quota)]);
    }
    server.start_again();
    server
}

fn is_empty(server: &Server) -> bool {
    server.metric("ringpost_queue_messages") == 0.0
}

#[test]
fn mail_for_accounts_is_in_their_mailboxes_wherever_they_are() {
    let next_hop = NextHop::start(Behaviour::default());
    let unlimited = Quota::default();
    let small = Quota { bytes: 2000, messages: 0 };
    let extra = format!(
        "{STRANGERS}[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n\
         [[alias]]\naddress = \"all@local.test\"\n\
         to = [\"ann@local.test\", \"bob+all@local.test\", \"far@far.test\"]\n"
    );
    let accounts = [
        (0, "ann@local.test", unlimited),
        (1, "bob@local.test", unlimited),
        (1, "cat@local.test", unlimited),
        (0, "full@local.test", small),
        (1, "full2@local.test", small),
    ];
    let mut server = with_accounts(next_hop.address, 2, &extra, &accounts);
    let mut client = server.greeted();
    client.expect("MAIL FROM:<s@t.test>", "250");
    client.expect("RCPT TO:<nobody@local.test>", "550 5.1.1");
    client.say("RSET");
    for full in ["full@local.test", "full2@local.test"] {
        client.expect("MAIL FROM:<s@t.test> SIZE=3000", "250");
        client.expect(&format!("RCPT TO:<{full}>"), "452 4.2.2");
        client.say("RSET");
    }
    let large = [b"S: x\r\n\r\n".to_vec(), b"..line\r\n".repeat(100_000)].concat();
    let content = b"S: 1\r\n\r\none\r\n".to_vec();
    let to = ["Ann@local.test", "all@local.test", "cat+x@LOCAL.test", "bob@local.test"];
    for content in [&content, &large] {
        let reply = client.message("s@t.test", &to, content);
        assert!(reply.starts_with("250"), "{reply}");
    }
    // Success is reported where somebody asked for it.
    client.expect("MAIL FROM:<s@t.test> ENVID=e1", "250");
    client.expect("RCPT TO:<cat@local.test> NOTIFY=SUCCESS ORCPT=rfc822;c@x.test", "250");
    client.expect("DATA", "354");
    client.send(&content);
    client.send(b".\r\n");
    assert!(client.reply().starts_with("250"));
    wait_until("all is delivered", || is_empty(&server));
    let got = next_hop.wait_for(3);
    let report = got.iter().find(|it| it.from.is_empty()).expect("a report");
    let text = String::from_utf8_lossy(&report.content);
    for part in ["Action: delivered", "Final-Recipient: rfc822;cat@local.test", "rfc822;c@x.test"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert_eq!(got.iter().filter(|it| it.to == ["far@far.test"]).count(), 2);
    assert_eq!(server.metric("ringpost_delivery_mailbox_deliveries_total"), 7.0);
    wait_until("it is logged", || server.log().matches("site=mailboxes").count() >= 7);
    drop(client);
    assert!(server.stop().success(), "{}", server.stderr());
    let (first, second) = (inboxes(server.data_dir(), 0), inboxes(server.data_dir(), 1));
    let large = [b"S: x\r\n\r\n".to_vec(), b".line\r\n".repeat(100_000)].concat();
    let check = |messages: &[Stored], delivered_to: &str| {
        let mut ends: Vec<&[u8]> = vec![&content, &large];
        for message in messages {
            let text = message.text();
            let front = format!("Return-Path: <s@t.test>\r\nDelivered-To: {delivered_to}\r\n");
            assert!(text.starts_with(&front), "{text:.200}");
            assert!(text[front.len()..].starts_with("Received: from "), "{text:.200}");
            let at = ends.iter().position(|end| message.octets.ends_with(end));
            ends.remove(at.expect("content as it came, each once"));
        }
        assert!(ends.is_empty() && messages.iter().zip(1..).all(|(it, uid)| it.uid == uid));
    };
    check(&first["ann@local.test"], "Ann@local.test");
    // Whoever is meant twice has it once.
    let bob = &second["bob@local.test"];
    assert_eq!(bob.len(), 2, "{:?}", bob.iter().map(Stored::text).collect::<Vec<_>>());
    let original = "X-Original-To: all@local.test\r\n";
    assert!(bob.iter().all(|it| it.text().contains("Delivered-To: bob+all@local.test\r\n")));
    assert!(bob.iter().all(|it| it.text().contains(original)));
    assert_eq!(second["cat@local.test"].len(), 3);
    assert!(first["full@local.test"].is_empty());
}

#[test]
fn an_account_without_room_gets_its_mail_later_or_never() {
    let next_hop = NextHop::start(Behaviour::default());
    let extra = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n";
    let small = Quota { bytes: 2000, messages: 0 };
    let accounts = [(0, "a@local.test", small)];
    let server = with_accounts(next_hop.address, 1, extra, &accounts);
    let mut client = server.greeted();
    let content = [b"x: y\r\n\r\n".to_vec(), b"0123456789 and some more\r\n".repeat(100)].concat();
    assert!(client.message("s@t.test", &["a@local.test"], &content).starts_with("250"));
    wait_until("it is tried again", || server.log().matches("outcome=delayed").count() >= 2);
    assert!(server.log().contains("status=4.2.2 class=mailbox-full "), "{}", server.log());
    let refusing = MAILBOXES.replace("domains", "over_quota = \"refuse\"\ndomains");
    let extra = format!("{refusing}[shards]\ncount = 1\n{extra}");
    server.write_config(next_hop.address, &extra);
    server.signal("HUP");
    let report = next_hop.wait_for(1).remove(0);
    let text = String::from_utf8_lossy(&report.content);
    assert!(text.contains("Status: 5.2.2") && text.contains("Mailbox is full"), "{text}");
    client.expect("RSET", "250");
    let mut client = server.greeted();
    client.expect("MAIL FROM:<s@t.test> SIZE=5000", "250");
    client.expect("RCPT TO:<a@local.test>", "552 5.2.2");
}

/// Sends numbered messages until told to stop, by LMTP or SMTP; notes whom and which were answered
/// 250, and how.
fn send_until(
    (address, greeting): (std::net::SocketAddr, &str),
    sender: usize,
    stopping: &AtomicBool,
    accepted: &Mutex<Vec<(String, String)>>,
) {
    let mut number = 0;
    while !stopping.load(Ordering::SeqCst) {
        if std::net::TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        // The server may be killed at any line: whatever goes wrong ends the session only.
        let session = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut client = Client::connect(address);
            client.say(greeting);
            while !stopping.load(Ordering::SeqCst) {
                number += 1;
                let id = format!("{sender}-{number}");
                let bytes = if number % 40 == 0 { 600_000 } else { 100 * (number % 40) };
                let body = b"0123456789 and some more of it\r\n".repeat(bytes / 32);
                let content = [format!("X-Id: {id}\r\n\r\n").as_bytes(), &body].concat();
                let both = ["ann@local.test", "bob+x@local.test"];
                let to = if number % 3 == 0 { &both[..] } else { &both[number % 2..][..1] };
                let mut reply = client.message("a@from.test", to, &content);
                for (index, to) in to.iter().enumerate() {
                    if index > 0 && greeting.starts_with("LHLO") {
                        reply = client.reply();
                    }
                    if !reply.starts_with("250") {
                        return;
                    }
                    let mut accepted = accepted.lock().expect("not poisoned");
                    accepted.push((format!("{} {id}", &to[..3]), reply.clone()));
                }
            }
        }));
        drop(session);
    }
}

#[test]
fn what_was_accepted_is_in_its_mailbox_once_however_often_the_server_is_killed() {
    let extra = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n";
    let unlimited = Quota::default();
    let accounts = [(0, "ann@local.test", unlimited), (1, "bob@local.test", unlimited)];
    let lmtp = free_address();
    let extra = format!("{extra}[[listener]]\naddress = \"{lmtp}\"\nprotocol = \"lmtp\"\n");
    let mut server = with_accounts(free_address(), 2, &extra, &accounts);
    let (stopping, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (stopping, accepted) = (stopping.clone(), accepted.clone());
            let ways = [(server.address, "EHLO client.test"), (lmtp, "LHLO client.test")];
            let way = ways[sender % 2];
            std::thread::spawn(move || send_until(way, sender, &stopping, &accepted))
        })
        .collect();
    let count_accepted = || accepted.lock().expect("not poisoned").len();
    for round in 1..=6 {
        let goal = round * 250;
        wait_until("enough is accepted", || count_accepted() >= goal);
        server.kill();
        server.start_again();
    }
    stopping.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.join().expect("a sender ends");
    }
    wait_until("the queue is empty", || is_empty(&server));
    let repeats = server.metric("ringpost_delivery_mailbox_repeats_total");
    assert!(server.stop().success(), "{}", server.stderr());
    let mut copies: HashMap<String, usize> = HashMap::new();
    let mut uids: HashMap<(String, u32, u32), (String, usize)> = HashMap::new();
    for partition in [0, 1] {
        for (name, messages) in inboxes(server.data_dir(), partition) {
            assert!(messages.windows(2).all(|pair| pair[0].uid < pair[1].uid));
            for message in messages {
                let text = message.text();
                let id = text.lines().find_map(|line| line.strip_prefix("X-Id: "));
                let id = format!("{} {}", &name[..3], id.expect("a number"));
                *copies.entry(id.clone()).or_default() += 1;
                uids.insert((name.clone(), message.uid_validity, message.uid), (id, 0));
            }
        }
    }
    let accepted = accepted.lock().expect("not poisoned");
    let lost: Vec<_> = accepted.iter().filter(|(id, _)| !copies.contains_key(id)).collect();
    let twice: Vec<_> = copies.iter().filter(|(_, count)| **count > 1).collect();
    println!("{} accepted, {} lost, {} twice", accepted.len(), lost.len(), twice.len());
    println!("{repeats} deliveries made again since the last start");
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(twice.is_empty(), "twice: {twice:?}");
    // Every UID that was told of is that of a message, and of one alone.
    let mut tell = |name: &str, said: &str, id: Option<&str>| {
        let numbers = said.split_once("Saved as ").expect("a UID").1;
        let numbers = numbers.split(|c: char| !c.is_ascii_digit());
        let numbers: Vec<u32> = numbers.filter_map(|it| it.parse().ok()).take(2).collect();
        let told = uids.get_mut(&(format!("{name}@local.test"), numbers[1], numbers[0]));
        let (of, count) = told.unwrap_or_else(|| panic!("no such UID: {said}"));
        assert!(id.is_none_or(|id| id == of), "{id:?} has the UID of {of}: {said}");
        *count += 1;
    };
    for line in server.log().lines().filter(|line| line.contains("\"Saved as ")) {
        tell(if line.contains("<ann@") { "ann" } else { "bob" }, line, None);
    }
    let by_lmtp = accepted.iter().filter(|(_, reply)| reply.contains(" Saved as "));
    by_lmtp.for_each(|(id, reply)| tell(&id[..3], reply, Some(id)));
    assert!(uids.values().all(|(_, count)| *count <= 1), "a UID was told of twice");
    let told_count = uids.values().filter(|(_, count)| *count == 1).count();
    println!("{told_count} of {} UIDs were told of", uids.len());
    assert!(told_count > accepted.len() / 2);
}

/// A client of the LMTP listener that has said LHLO.
fn lmtp_client(address: std::net::SocketAddr) -> Client {
    let mut client = Client::connect(address);
    let said = client.expect("LHLO client.test", "250");
    assert!(said.contains("PIPELINING") && said.contains("CHUNKING"), "{said}");
    assert!(!said.contains("DSN"), "{said}");
    client
}

#[test]
fn lmtp_delivers_at_once_and_answers_for_each_recipient() {
    let next_hop = NextHop::start(Behaviour::default());
    let (lmtp, unlimited) = (free_address(), Quota::default());
    let extra = format!(
        "[[listener]]\naddress = \"{lmtp}\"\nprotocol = \"lmtp\"\n\
         [[alias]]\naddress = \"all@local.test\"\n\
         to = [\"ann@local.test\", \"bob@local.test\", \"far@far.test\"]\n"
    );
    let accounts = [
        (0, "ann@local.test", unlimited),
        (1, "bob@local.test", unlimited),
        (0, "full@local.test", Quota { bytes: 2000, messages: 0 }),
    ];
    let mut server = with_accounts(next_hop.address, 2, &extra, &accounts);
    let mut client = lmtp_client(lmtp);
    client.expect("EHLO client.test", "500");
    client.expect("MAIL FROM:<s@t.test>", "250");
    client.expect("RCPT TO:<far@far.test>", "550 5.7.1");
    client.expect("RCPT TO:<nobody@local.test>", "550 5.1.1");
    client.expect("DATA", "554");
    client.say("RSET");
    let large = [b"S: x\r\n\r\n".to_vec(), b"..line\r\n".repeat(100_000)].concat();
    let to = ["ann+x@local.test", "full@local.test", "all@local.test", "Bob@local.test"];
    client.expect("MAIL FROM:<s@t.test>", "250");
    for to in to {
        client.expect(&format!("RCPT TO:<{to}>"), "250");
    }
    client.expect("DATA", "354");
    client.send(&large);
    client.send(b".\r\n");
    let replies: Vec<String> = (0..4).map(|_| client.reply()).collect();
    assert!(replies[0].starts_with("250 2.0.0 Saved as 1 of "), "{replies:?}");
    assert!(replies[1].starts_with("452 4.2.2"), "{replies:?}");
    assert!(replies[2].starts_with("250") && replies[3].starts_with("250"), "{replies:?}");
    assert_eq!(next_hop.wait_for(1)[0].to, ["far@far.test"]);
    // Everything at once, in both forms of content.
    client.send(
        b"MAIL FROM:<>\r\nRCPT TO:<bob@local.test>\r\nRCPT TO:<ann@local.test>\r\n\
          BDAT 6\r\nx: y\r\nBDAT 5 LAST\r\n\r\nz\r\n\
          MAIL FROM:<s@t.test> SIZE=5000\r\nRCPT TO:<nobody@local.test>\r\nDATA\r\n\
          MAIL FROM:<s@t.test>\r\nRCPT TO:<bob@local.test>\r\nDATA\r\na\rb\r\n.\r\nQUIT\r\n",
    );
    let codes: Vec<String> = (0..14).map(|_| client.reply()[..3].to_owned()).collect();
    let expected = [
        "250", "250", "250", "250", "250", "250", "250", "550", "554", "503", "250", "354", "550",
        "221",
    ];
    assert_eq!(codes, expected);
    wait_until("all is delivered", || is_empty(&server));
    assert!(server.stop().success(), "{}", server.stderr());
    let (first, second) = (inboxes(server.data_dir(), 0), inboxes(server.data_dir(), 1));
    let ann = &first["ann@local.test"];
    let front = "Return-Path: <s@t.test>\r\nDelivered-To: ann+x@local.test\r\nReceived: from ";
    assert!(ann[0].text().starts_with(front), "{:.300}", ann[0].text());
    let trace = "with LMTP\r\n\tfor <ann+x@local.test>;\r\n";
    assert!(ann[0].text().contains(trace), "{:.300}", ann[0].text());
    let stored = [b"S: x\r\n\r\n".to_vec(), b".line\r\n".repeat(100_000)].concat();
    assert!(ann[0].octets.ends_with(&stored));
    let bob = &second["bob@local.test"];
    assert!(bob[0].text().contains("Delivered-To: bob@local.test\r\nX-Original-To: all@"));
    assert!(bob[0].octets.ends_with(&stored));
    assert!(
        bob[1].text().starts_with("Return-Path: <>\r\n") && bob[1].text().ends_with("\r\nz\r\n")
    );
    assert_eq!((ann.len(), bob.len(), first["full@local.test"].len()), (2, 2, 0));
}

#[test]
fn a_pipe_delivers_and_exits_as_sysexits_say() {
    let (lmtp, unlimited) = (free_address(), Quota::default());
    let extra = format!("[[listener]]\naddress = \"{lmtp}\"\nprotocol = \"lmtp\"\n");
    let small = Quota { bytes: 300, messages: 0 };
    let accounts = [(0, "ann@local.test", unlimited), (0, "full@local.test", small)];
    let mut server = with_accounts(free_address(), 1, &extra, &accounts);
    let config = server.config_path();
    let deliver = |arguments: &[&str], content: &[u8]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringpost"));
        command.arg("deliver").arg("--config").arg(&config).args(arguments);
        let piped = std::process::Stdio::piped;
        let mut child = command.stdin(piped()).stderr(piped()).spawn().expect("ringpost runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        // It may end before it has read all.
        let _ = std::io::Write::write_all(&mut stdin, content);
        drop(stdin);
        let output = child.wait_with_output().expect("an end");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().expect("a code"), said)
    };
    let large = [b"S: x\n\n".to_vec(), b".line\n".repeat(100_000)].concat();
    let ok = (0, String::new());
    assert_eq!(deliver(&["-f", "s@t.test", "Ann+x"], b"From s Mon\nS: 1\n\n.one\n"), ok);
    assert_eq!(deliver(&["ann@local.test"], &large), ok);
    let (code, said) = deliver(&["ann@local.test", "nobody@local.test"], b"S: 3\r\n\r\n");
    assert!(code == 67 && said.contains("nobody@local.test: 550 5.1.1"), "{code} {said}");
    let (code, said) = deliver(&["full", "nobody"], &large);
    assert!(code == 75 && said.contains("full@local.test: 452 4.2.2"), "{code} {said}");
    assert_eq!(deliver(&["far@far.test"], b"S: 1\n\n").0, 77);
    assert_eq!(deliver(&["-f", "a b", "ann"], b"").0, 64);
    assert!(server.stop().success(), "{}", server.stderr());
    let (code, said) = deliver(&["ann"], b"S: 1\n\n");
    assert!(code == 75 && said.contains("does the server run?"), "{code} {said}");
    let ann = inboxes(server.data_dir(), 0).remove("ann@local.test").expect("an account");
    assert_eq!(ann.len(), 3);
    let front = "Return-Path: <s@t.test>\r\nDelivered-To: Ann+x@local.test\r\n";
    assert!(ann[0].text().starts_with(front), "{}", ann[0].text());
    assert!(ann[0].text().ends_with("\r\nS: 1\r\n\r\n.one\r\n"), "{}", ann[0].text());
    let stored = [b"S: x\r\n\r\n".to_vec(), b".line\r\n".repeat(100_000)].concat();
    assert!(ann[1].octets.ends_with(&stored));
}

#[test]
fn a_report_to_an_alias_reaches_those_that_it_stands_for() {
    let next_hop = NextHop::start(Behaviour {
        on_rcpt: Box::new(|recipient, _| {
            (recipient == "no@far.test").then(|| "550 5.1.1 no such mailbox".into())
        }),
        ..Behaviour::default()
    });
    let extra = "[[alias]]\naddress = \"me@local.test\"\n\
                 to = [\"ann@local.test\", \"x@far.test\"]\n";
    let accounts = [(0, "ann@local.test", Quota::default())];
    let mut server = with_accounts(next_hop.address, 1, extra, &accounts);
    let mut client = server.greeted();
    let reply = client.message("me@local.test", &["no@far.test"], b"Subject: lost\r\n\r\n");
    assert!(reply.starts_with("250"), "{reply}");
    let report = next_hop.wait_for(1).remove(0);
    assert_eq!((&*report.from, &report.to[0][..]), ("", "x@far.test"));
    wait_until("the queue is empty", || is_empty(&server));
    drop(client);
    assert!(server.stop().success(), "{}", server.stderr());
    let ann = inboxes(server.data_dir(), 0).remove("ann@local.test").expect("an account");
    assert_eq!(ann.len(), 1);
    assert!(ann[0].text().contains("Subject: lost") && ann[0].text().contains("Status: 5.1.1"));
}
