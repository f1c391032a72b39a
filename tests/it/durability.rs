//! Nothing that was answered 250 is lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::{Behaviour, Client, NextHop, Server, wait_until};

/// Sends numbered messages until told to stop; returns the numbers answered 250.
fn send_until(
    address: std::net::SocketAddr,
    prefix: usize,
    stopping: &AtomicBool,
    accepted: &Mutex<Vec<String>>,
) {
    let mut number = 0;
    while !stopping.load(Ordering::SeqCst) {
        let Ok(stream) = std::net::TcpStream::connect(address) else {
            std::thread::sleep(std::time::Duration::from_millis(5));
            continue;
        };
        drop(stream);
        // The server may be killed at any line: whatever goes wrong ends the session only.
        let session = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut client = Client::connect(address);
            client.say("EHLO client.test");
            while !stopping.load(Ordering::SeqCst) {
                number += 1;
                let id = format!("{prefix}-{number}");
                let size = if number % 50 == 0 { 600_000 } else { 100 * (number % 40) };
                let content = format!("X-Id: {id}\r\n\r\n{}\r\n", "x".repeat(70)).into_bytes();
                let body = b"0123456789 and some more of it\r\n".repeat(size / 32);
                let reply =
                    client.message("a@from.test", &["b@to.test"], &[content, body].concat());
                if reply.starts_with("250") {
                    accepted.lock().expect("not poisoned").push(id);
                } else {
                    return;
                }
            }
        }));
        drop(session);
    }
}

#[test]
fn what_was_answered_250_arrives_however_often_the_server_is_killed() {
    let next_hop = NextHop::start(Behaviour::default());
    let extra = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n\
                 [journal]\nsegment_bytes = \"4MiB\"\nbytes_max = \"256MiB\"\n\
                 min_free_bytes = \"0B\"\n[shards]\ncount = 2\n";
    let mut server = Server::start(next_hop.address, extra);
    let (stopping, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
    let senders: Vec<_> = (0..4)
        .map(|prefix| {
            let (stopping, accepted) = (stopping.clone(), accepted.clone());
            let address = server.address;
            std::thread::spawn(move || send_until(address, prefix, &stopping, &accepted))
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
    wait_until("the queue is empty", || server.metric("ringpost_queue_messages") == 0.0);
    let mut copies: HashMap<String, usize> = HashMap::new();
    for message in next_hop.got() {
        let text = String::from_utf8_lossy(message.original()).into_owned();
        let id = text.lines().next().expect("a line").trim_start_matches("X-Id: ").to_owned();
        *copies.entry(id).or_default() += 1;
    }
    let accepted = accepted.lock().expect("not poisoned");
    let lost: Vec<&String> = accepted.iter().filter(|id| !copies.contains_key(*id)).collect();
    let duplicated = copies.values().filter(|count| **count > 1).count();
    println!("{} accepted, {} lost, {duplicated} duplicated", accepted.len(), lost.len());
    assert!(lost.is_empty(), "lost: {lost:?}");
}

#[test]
fn a_full_journal_refuses_new_mail_and_takes_it_again_when_there_is_room() {
    let address = crate::harness::free_address();
    let extra = "[queue]\nretry_wait_min = \"200ms\"\nretry_wait_max = \"400ms\"\n\
                 [journal]\nsegment_bytes = \"4MiB\"\nbytes_max = \"32MiB\"\n\
                 min_free_bytes = \"0B\"\n[reception]\nmessage_bytes_max = \"4MiB\"\n\
                 [shards]\ncount = 1\n";
    let server = Server::start(address, extra);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let content = [b"x: y\r\n\r\n".to_vec(), b"line\r\n".repeat(30_000)].concat();
    let mut accepted = 0;
    let refusal = loop {
        assert!(accepted < 200, "the journal never fills");
        client.expect("MAIL FROM:<a@from.test>", "250");
        client.expect("RCPT TO:<b@to.test>", "250");
        let go_ahead = client.say("DATA");
        let reply = if go_ahead.starts_with("354") {
            client.send(&content);
            client.send(b".\r\n");
            client.reply()
        } else {
            go_ahead
        };
        if !reply.starts_with("250") {
            break reply;
        }
        accepted += 1;
    };
    assert!(refusal.starts_with("452 4.3.1"), "{refusal}");
    assert!(accepted >= 20, "only {accepted} messages fit");
    // Deliveries make room, and service resumes by itself.
    let next_hop = NextHop::start_on(address, Behaviour::default());
    next_hop.wait_for(accepted);
    client.say("RSET");
    wait_until("mail is taken again", || {
        client.say("RSET");
        client.expect("MAIL FROM:<a@from.test>", "250");
        client.expect("RCPT TO:<b@to.test>", "250");
        if !client.say("DATA").starts_with("354") {
            return false;
        }
        client.send(b"x: y\r\n\r\n.\r\n");
        client.reply().starts_with("250")
    });
    next_hop.wait_for(accepted + 1);
}

#[test]
fn a_journal_that_fills_slows_new_mail_before_it_refuses_any() {
    let extra = "[queue]\nretry_wait_min = \"10m\"\nretry_wait_max = \"10m\"\n\
                 [journal]\nsegment_bytes = \"4MiB\"\nbytes_max = \"64MiB\"\n\
                 min_free_bytes = \"0B\"\n[reception]\nmessage_bytes_max = \"4MiB\"\n\
                 [shards]\ncount = 1\n";
    let server = Server::start(crate::harness::free_address(), extra);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let content = [b"x: y\r\n\r\n".to_vec(), b"line\r\n".repeat(30_000)].concat();
    let slowed = || server.metric("ringpost_reception_transactions_slowed_total");
    let mut accepted = 0;
    while slowed() == 0.0 {
        let reply = client.message("a@from.test", &["b@to.test"], &content);
        assert!(reply.starts_with("250"), "{reply}");
        accepted += 1;
        assert!(accepted < 1000, "the journal never fills");
    }
    // Commands behind a MAIL that waits are not lost, and a session may still begin.
    client.send(
        b"MAIL FROM:<a@from.test>\r\nRCPT TO:<b@to.test>\r\nDATA\r\nx: y\r\n\r\n.\r\nRSET\r\n",
    );
    let codes: Vec<String> = (0..5).map(|_| client.reply()[..3].to_owned()).collect();
    assert_eq!(codes, ["250", "250", "354", "250", "250"]);
    server.client().expect("EHLO client.test", "250");
    assert!(slowed() >= 2.0);
}
