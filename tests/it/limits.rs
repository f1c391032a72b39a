//! Limits of a site, over connections and over restarts. `ringpost-loadtest limits` counts closer.

use crate::harness::{Behaviour, NextHop, Server, wait_until};

fn send(server: &Server, count: usize) {
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for index in 0..count {
        let reply = client.message("", &[&format!("r{index}@to.test")], b"x: y\r\n\r\n");
        assert!(reply.starts_with("250"), "{reply}");
    }
}

/// For so long mail of this process has waited for a limit on messages.
fn waited(server: &Server) -> f64 {
    server.metric("ringpost_delivery_wait_seconds_total{cause=\"message-rate\"")
}

#[test]
fn an_hours_worth_is_an_hours_worth_whatever_happens_to_the_process() {
    let next_hop = NextHop::start(Behaviour::default());
    let config = "[shards]\ncount = 2\n[[limit]]\nmatch = \"127.0.0.1:*\"\n\
                  messages_per_hour = 5\n";
    let mut server = Server::start(next_hop.address, config);
    (0..8).for_each(|_| send(&server, 1));
    next_hop.wait_for(5);
    wait_until("the rest waits", || waited(&server) > 0.5);
    server.kill();
    server.start_again();
    // Longer than the quiet time after a start.
    wait_until("the rest waits", || waited(&server) > 4.0);
    assert!(server.stop().success());
    server.start_again();
    wait_until("the rest waits", || waited(&server) > 4.0);
    assert_eq!(next_hop.got().len(), 5);
    // A limit that has gone holds nothing back.
    server.write_config(next_hop.address, "[shards]\ncount = 2\n");
    server.signal("HUP");
    next_hop.wait_for(8);
}

#[test]
fn a_damaged_record_counts_as_used_up() {
    let next_hop = NextHop::start(Behaviour::default());
    let config = "[shards]\ncount = 1\n[[limit]]\nmatch = \"*\"\nmessages_per_day = 1000\n";
    let mut server = Server::start(next_hop.address, config);
    send(&server, 1);
    next_hop.wait_for(1);
    assert!(server.stop().success());
    let path = server.directory.path().join("data/leases");
    let text = std::fs::read_to_string(&path).expect("a record");
    std::fs::write(&path, &text[..text.len() / 2]).expect("cut");
    server.start_again();
    assert!(server.stderr().contains("leases: damaged at line"), "{}", server.stderr());
    send(&server, 1);
    wait_until("it waits", || waited(&server) > 4.0);
    assert_eq!(next_hop.got().len(), 1);
    server.kill();
    std::fs::remove_file(&path).expect("removed");
    server.start_again();
    next_hop.wait_for(2);
}

#[test]
fn a_connection_carries_as_many_messages_as_it_may() {
    let next_hop = NextHop::start(Behaviour {
        extensions: &["PIPELINING", "CHUNKING"],
        ..Behaviour::default()
    });
    let config = "[[limit]]\nmatch = \"*\"\nmessages_per_connection = 2\n";
    let server = Server::start(next_hop.address, config);
    send(&server, 20);
    next_hop.wait_for(20);
    wait_until("all are settled", || server.metric("ringpost_queue_messages") == 0.0);
    assert!(server.metric("ringpost_delivery_connections_total") >= 10.0);
}
