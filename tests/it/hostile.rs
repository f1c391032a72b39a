//! Clients that mean harm, or do not know better.

use std::io::Write;
use std::time::Duration;

use crate::harness::{
    Behaviour, Client, NextHop, Server, free_address, stuffed, testdata, wait_until,
};

#[test]
fn strangers_may_not_relay() {
    let server = Server::start(free_address(), "[reception]\nrelay_networks = [\"10.0.0.0/8\"]\n");
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    client.expect("MAIL FROM:<a@b.test>", "250");
    client.expect("RCPT TO:<c@d.test>", "550 5.7.1 ");
    client.expect("DATA", "554 5.5.1 ");
}

#[test]
fn a_client_that_errs_too_often_is_sent_away() {
    let server = Server::start(free_address(), "[reception]\nerrors_max = 3\n");
    let mut client = server.client();
    for _ in 0..3 {
        client.expect("WHAT", "500 5.5.2 ");
    }
    client.send(b"WHAT\r\n");
    let replies = [client.reply(), client.reply(), client.reply()].concat();
    assert!(replies.contains("421 4.7.0 "), "{replies}");
    assert_eq!(client.reply(), "", "closed");
}

#[test]
fn a_line_without_end_costs_nothing() {
    let server = Server::start(free_address(), "[shards]\ncount = 1\n");
    // The journal grows behind the start: that is not the client's doing.
    wait_until("the pool has grown", || server.metric("ringpost_journal_segments_free") >= 2.0);
    let mut client = server.client();
    let before_kib = server.memory_kib("Rss:");
    for _ in 0..1000 {
        client.send(&[b'x'; 64 * 1024]);
    }
    client.send(b"\r\n");
    assert!(client.reply().starts_with("500 5.5.2 "));
    client.expect("NOOP", "250");
    let grown_kib = server.memory_kib("Rss:").saturating_sub(before_kib);
    assert!(grown_kib < 1024, "grew by {grown_kib} KiB");
}

#[test]
fn a_silent_client_is_told_and_closed() {
    let server = Server::start(free_address(), "[reception]\nidle_timeout = \"1s\"\n");
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    assert!(client.reply().starts_with("421 4.4.2 "));
    assert_eq!(client.reply(), "", "closed");
}

#[test]
fn a_client_that_drips_content_is_cut_off_in_the_end() {
    let server = Server::start(
        free_address(),
        "[reception]\nidle_timeout = \"10s\"\ncontent_timeout = \"1s\"\n",
    );
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    client.expect("MAIL FROM:<a@b.test>", "250");
    client.expect("RCPT TO:<c@d.test>", "250");
    client.expect("DATA", "354");
    let mut drips = 0;
    while client.stream.write_all(b"drip\r\n").is_ok() && drips < 200 {
        std::thread::sleep(Duration::from_millis(20));
        drips += 1;
    }
    assert!(client.reply().starts_with("421 4.4.2 "), "after {drips} lines");
}

#[test]
fn the_limit_of_a_client_is_exact_over_all_shards() {
    let server = Server::start(
        free_address(),
        "[reception]\nsessions_per_client_max = 7\n[shards]\ncount = 3\n",
    );
    wait_until("the probe of the harness is gone", || {
        server.metric("ringpost_reception_sessions_open") == 0.0
    });
    for _ in 0..3 {
        let mut clients: Vec<Client> =
            (0..20).map(|_| Client::connect_silent(server.address)).collect();
        let greetings: Vec<String> = clients.iter_mut().map(Client::reply).collect();
        let granted = greetings.iter().filter(|it| it.starts_with("220")).count();
        let refused = greetings.iter().filter(|it| it.starts_with("421 4.7.0 ")).count();
        assert_eq!((granted, refused), (7, 13), "{greetings:?}");
        drop(clients);
        wait_until("all places are free again", || {
            server.metric("ringpost_reception_sessions_open") == 0.0
        });
        // A place is free at its owner once its release has crossed over.
        wait_until("a session is granted", || {
            Client::connect_silent(server.address).reply().starts_with("220")
        });
        wait_until("it is gone again", || server.metric("ringpost_reception_sessions_open") == 0.0);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn no_octets_within_content_become_a_second_message() {
    let Some(directory) = testdata("smtp-end-of-data") else { return };
    let text = std::fs::read_to_string(directory.join("vectors.dev.json")).expect("vectors");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let vectors = json["vectors_hex"].as_object().expect("vectors");
    for mode in ["refuse", "normalise"] {
        let next_hop = NextHop::start(Behaviour::default());
        let extra = format!("[reception]\nbare_newline = \"{mode}\"\nerrors_max = 100\n");
        let server = Server::start(next_hop.address, &extra);
        let mut client = server.client();
        client.expect("EHLO client.test", "250");
        let mut accepted = 0;
        for hex in vectors.values().map(|hex| hex.as_str().expect("hex")) {
            let octets: Vec<u8> = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
                .collect();
            let smuggled = b"MAIL FROM:<smuggled@b.test>\r\nRCPT TO:<x@y.test>\r\nDATA\r\n";
            let content = [b"a", &octets[..], smuggled].concat();
            let reply = client.message("a@from.test", &["b@to.test"], &content);
            assert!(reply.starts_with("250") || reply.starts_with("550 5.6.0 "), "{hex}: {reply}");
            accepted += usize::from(reply.starts_with("250"));
        }
        let got = next_hop.wait_for(accepted);
        assert!(got.iter().all(|it| it.from == "a@from.test"), "{mode}");
        for message in &got {
            // What is passed on has no bare CR or LF either.
            let text = stuffed(message.original());
            let bare = text.iter().enumerate().any(|(at, octet)| match octet {
                b'\r' => text.get(at + 1) != Some(&b'\n'),
                b'\n' => at == 0 || text[at - 1] != b'\r',
                _ => false,
            });
            assert!(!bare, "{mode}: {text:?}");
        }
        println!("{mode}: {} vectors, {accepted} accepted as one message", vectors.len());
    }
}
