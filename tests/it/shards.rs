//! Another number of shards than before: what is in a journal is delivered whoever opens it.

use std::collections::BTreeSet;

use crate::harness::{Behaviour, NextHop, Numbered, Server, free_address, wait_until};
use crate::steer::{ask, steer};

/// Queued messages by the number of the shard.
fn queued(server: &Server) -> Vec<(u64, u64)> {
    let stats = ask(server, &["queue", "stats"]);
    let number = |value: &serde_json::Value, name: &str| value[name].as_u64().expect("a number");
    let shards = stats[0]["shards"].as_array().expect("shards");
    shards.iter().map(|line| (number(line, "shard"), number(line, "messages"))).collect()
}

fn sum(server: &Server) -> u64 {
    queued(server).iter().map(|(_, count)| count).sum()
}

#[test]
fn with_fewer_shards_the_journals_of_the_others_are_emptied() {
    let address = free_address();
    let mut server = Server::start(address, "[shards]\ncount = 4\n");
    let mut sent = Numbered::default();
    // The kernel spreads connections over shards by a hash of their ports.
    for _ in 0..200 {
        assert!(sent.send(&mut server.greeted(), 4_000).starts_with("250"));
        if queued(&server).iter().all(|(_, count)| *count > 1) {
            break;
        }
    }
    let before = queued(&server);
    assert!(before.len() == 4 && before.iter().all(|(_, count)| *count > 1), "{before:?}");

    server.kill();
    server.write_config(address, "[shards]\ncount = 1\n");
    server.start_again();
    assert_eq!(queued(&server), before, "{}", server.stderr());
    assert!(server.stderr().contains("it delivers them and accepts none"), "{}", server.stderr());
    let listed = ask(&server, &["queue", "list"]);
    assert_eq!(listed.len() as u64, sum(&server));
    let id_of = |line: &serde_json::Value| line["id"].as_str().expect("an id").to_owned();
    let ids: Vec<String> = listed.iter().map(id_of).collect();
    let last = ids.last().expect("some");
    assert_eq!(id_of(&ask(&server, &["queue", "show", last])[0]), *last);
    // Held and let go on a shard that accepts nothing.
    assert_eq!(steer(&server, &["hold", "--id", last]), (1, 1));
    for _ in 0..20 {
        assert!(sent.send(&mut server.greeted(), 400).starts_with("250"));
    }
    let after = queued(&server);
    assert_eq!(after[1..], before[1..], "mail is accepted by the shard that serves only");
    assert_eq!(after[0].1, before[0].1 + 20);

    // Outcomes are as durable there as anywhere: over a kill and a stop.
    server.kill();
    server.start_again();
    assert_eq!(queued(&server), after);
    let next_hop = NextHop::start_on(address, Behaviour::default());
    ask(&server, &["queue", "retry", "--all"]);
    next_hop.wait_for(sent.accepted.len() - 1);
    wait_until("all but the held one are settled", || sum(&server) == 1);
    assert!(server.stop().success(), "{}", server.stderr());
    server.start_again();
    let shards: BTreeSet<u64> = queued(&server).iter().map(|(shard, _)| *shard).collect();
    let of_held = queued(&server).iter().find(|(_, count)| *count > 0).expect("held").0;
    assert_eq!(shards, BTreeSet::from([0, of_held]), "an empty journal needs no shard");
    assert_eq!(steer(&server, &["release", "--id", last]), (1, 1));
    let got = next_hop.wait_for(sent.accepted.len());
    wait_until("the queue is empty", || sum(&server) == 0);
    sent.audit(&got);
    assert!(server.stop().success(), "{}", server.stderr());
}

#[test]
fn a_notification_is_made_where_the_message_is() {
    let address = free_address();
    let mut server = Server::start(address, "[shards]\ncount = 2\n");
    let mut sent = Numbered::default();
    for _ in 0..200 {
        assert!(sent.send(&mut server.greeted(), 400).starts_with("250"));
        if queued(&server).iter().all(|(_, count)| *count > 0) {
            break;
        }
    }
    assert!(server.stop().success(), "{}", server.stderr());
    server.write_config(address, "[shards]\ncount = 1\n");
    server.start_again();
    let of_second = queued(&server)[1].1;
    let all = sum(&server);
    assert!(of_second > 0);
    let (matched, done) = steer(&server, &["bounce", "--all"]);
    assert_eq!((matched, done), (all, all));
    assert_eq!(queued(&server)[1].1, of_second, "a notification for each of them");
    let next_hop = NextHop::start_on(address, Behaviour::default());
    ask(&server, &["queue", "retry", "--all"]);
    let got = next_hop.wait_for(all as usize);
    assert!(got.iter().all(|it| it.from.is_empty() && it.to == ["a@from.test"]));
    assert!(server.stop().success(), "{}", server.stderr());
}
