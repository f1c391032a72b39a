//! What sessions and messages cost in memory.

use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{Behaviour, Client, NextHop, Server, free_address, wait_until};

#[test]
fn fifty_megabytes_pass_in_two() {
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, "");
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\n");
    next_hop.wait_for(1);
    let idle_kib = server.memory_kib("Rss:");
    let line = b"0123456789012345678901234567890123456789012345678901234567890123\r\n";
    let large = [b"x: y\r\n\r\n".to_vec(), line.repeat(50_000_000 / line.len())].concat();
    // A first message of the same kind, so that buffers that stay are there, and the pool of
    // segments has grown to what such mail takes.
    client.message("a@from.test", &["b@to.test"], &large);
    next_hop.wait_for(2);
    wait_until("the first is settled", || server.metric("ringpost_queue_messages") == 0.0);
    let mut segments = 0.0;
    wait_until("the pool is as large as it gets", || {
        std::thread::sleep(Duration::from_secs(1));
        let before = std::mem::replace(&mut segments, server.metric("ringpost_journal_segments"));
        before == segments
    });
    let before_kib = server.memory_kib("Rss:");
    let mut peak_kib = 0;
    client.expect("MAIL FROM:<a@from.test>", "250");
    client.expect("RCPT TO:<b@to.test>", "250");
    client.expect("DATA", "354");
    for piece in large.chunks(1 << 20) {
        client.send(piece);
        peak_kib = peak_kib.max(server.memory_kib("Rss:"));
    }
    client.send(b".\r\n");
    assert!(client.reply().starts_with("250"));
    while next_hop.got().len() < 3 {
        peak_kib = peak_kib.max(server.memory_kib("Rss:"));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(next_hop.got()[2].original(), large);
    let grown_kib = peak_kib.saturating_sub(before_kib);
    let stayed_kib = before_kib.saturating_sub(idle_kib);
    println!("resident memory grew by {stayed_kib} KiB that stay, then by {grown_kib} at the most");
    assert!(grown_kib <= 2048, "grew by {grown_kib} KiB");
    // Buffers and wider tables: a sixth of the message would be a copy of it in pieces.
    assert!(stayed_kib <= 8 << 10, "{stayed_kib} KiB stay");
}

#[test]
fn an_idle_session_costs_at_most_four_kilobytes() {
    // Both ends of each connection are descriptors of this machine; ours of this process.
    let count = 10_000.min(open_files_max().saturating_sub(200));
    let server = Server::start(
        free_address(),
        "[reception]\nsessions_per_client_max = 100000\nsessions_max = 100000\n",
    );
    let mut warm = server.client();
    warm.expect("EHLO client.test", "250");
    let before_kib = server.memory_kib("Pss_Anon:");
    let mut sessions: Vec<TcpStream> = Vec::with_capacity(count);
    for index in 0..count {
        let mut client = Client::connect(server.address);
        if index % 2 == 0 {
            client.expect("EHLO client.test", "250");
        }
        sessions.push(client.stream);
    }
    wait_until("all are open", || {
        server.metric("ringpost_reception_sessions_open") >= count as f64
    });
    let grown_kib = server.memory_kib("Pss_Anon:").saturating_sub(before_kib);
    let each = grown_kib * 1024 / count as u64;
    println!("{count} idle sessions: {each} bytes of user memory each");
    assert!(each <= 4096, "{each} bytes each");
}

/// The soft limit of this process.
fn open_files_max() -> usize {
    let text = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let line = text.lines().find(|line| line.starts_with("Max open files")).expect("the limit");
    line.split_ascii_whitespace().nth(3).and_then(|it| it.parse().ok()).unwrap_or(1024)
}
