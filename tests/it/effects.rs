//! What rules for replies do to the mail that comes after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::{Behaviour, NextHop, Server, wait_until};
use crate::steer::{ask, steer};

const QUICK: &str = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n";

/// A next hop that refuses with `reply` as long as it is told to, and counts how often it did.
fn refusing(reply: &'static str) -> (NextHop, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (refuses, count) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (asked, counted) = (refuses.clone(), count.clone());
    let next_hop = NextHop::start(Behaviour {
        on_rcpt: Box::new(move |_, _| {
            asked.load(Ordering::SeqCst).then(|| {
                counted.fetch_add(1, Ordering::SeqCst);
                reply.to_owned()
            })
        }),
        ..Behaviour::default()
    });
    (next_hop, refuses, count)
}

struct Scene {
    server: Server,
    _rules: tempfile::TempDir,
}

fn start(next_hop: &NextHop, rule: &str, more: &str) -> Scene {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rules.toml");
    let rule = format!("[[rule]]\nclass = \"rate\"\ntext = \"enough of you\"\n{rule}\n");
    std::fs::write(&path, rule).expect("written");
    let extra = format!("[delivery]\nrules = {path:?}\n{QUICK}{more}");
    Scene { server: Server::start(next_hop.address, &extra), _rules: directory }
}

fn send(server: &Server, from: &str, count: usize) {
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for index in 0..count {
        let reply = client.message(from, &[&format!("r{index}@to.test")], b"x: y\r\n\r\n");
        assert!(reply.starts_with("250"), "{reply}");
    }
}

#[test]
fn a_suspended_site_is_left_alone_by_every_shard_until_its_time_is_over() {
    let (next_hop, refuses, count) = refusing("451 4.7.0 enough of you");
    let rule = "action = \"suspend\"\nfor = \"3s\"";
    let scene = start(&next_hop, rule, "[shards]\ncount = 3\n");
    let server = &scene.server;
    send(server, "a@from.test", 1);
    wait_until("every shard knows", || server.metric("ringpost_delivery_suspended") == 3.0);
    let asked = count.load(Ordering::SeqCst);
    refuses.store(false, Ordering::SeqCst);
    // By connections of their own, so that every shard gets some.
    for _ in 0..12 {
        send(server, "a@from.test", 1);
    }
    wait_until("it is over", || {
        let arrived = next_hop.got().len();
        let is_over = server.metric("ringpost_delivery_suspended") < 3.0;
        assert!(is_over || arrived == 0, "{arrived} arrived before");
        is_over
    });
    next_hop.wait_for(13);
    assert_eq!(count.load(Ordering::SeqCst), asked, "nobody asked meanwhile");
    wait_until("all forget", || server.metric("ringpost_delivery_suspended") == 0.0);
}

#[test]
fn a_source_that_is_suspended_leaves_its_mail_to_the_others() {
    let next_hop = NextHop::start(Behaviour {
        on_rcpt: Box::new(|_, count| (count == 0).then(|| "451 4.7.0 enough of you".to_owned())),
        ..Behaviour::default()
    });
    let rule = "source = \"a\"\naction = \"suspend\"\nfor = \"1h\"\nscope = \"site+source\"";
    let egress = "[shards]\ncount = 1\n[[source]]\nname = \"a\"\naddress = \"127.0.0.2\"\n\
        [[source]]\nname = \"b\"\naddress = \"127.0.0.3\"\n\
        [[pool]]\nname = \"p\"\nsources = [\"a\", \"b\"]\n[[egress]]\npool = \"p\"\n";
    let scene = start(&next_hop, rule, egress);
    send(&scene.server, "a@from.test", 1);
    wait_until("it is known", || scene.server.metric("ringpost_delivery_suspended") == 1.0);
    send(&scene.server, "a@from.test", 20);
    let got = next_hop.wait_for(21);
    assert!(got.iter().all(|it| it.client == "127.0.0.3"), "none from a");
}

#[test]
fn a_tenant_that_is_suspended_holds_nobody_else_back() {
    let (next_hop, refuses, count) = refusing("451 4.7.0 enough of you");
    let rule = "action = \"suspend\"\nfor = \"3s\"\nscope = \"site+tenant\"";
    let more = "[shards]\ncount = 1\n[reception.headers]\ntenant = \"X-Tenant\"\n";
    let scene = start(&next_hop, rule, more);
    let server = &scene.server;
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let mut send = |tenant: &str| {
        let content = format!("X-Tenant: {tenant}\r\n\r\n");
        let reply = client.message(tenant, &["r@to.test"], content.as_bytes());
        assert!(reply.starts_with("250"), "{reply}");
    };
    send("acme@from.test");
    wait_until("it is suspended", || server.metric("ringpost_delivery_suspended") == 1.0);
    let asked = count.load(Ordering::SeqCst);
    refuses.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        send("acme@from.test");
        send("other@from.test");
    }
    wait_until("it is over", || {
        let early = next_hop.got().iter().filter(|it| it.from.starts_with("acme")).count();
        let is_over = server.metric("ringpost_delivery_suspended") == 0.0;
        assert!(is_over || early == 0, "{early} of acme before");
        is_over
    });
    next_hop.wait_for(7);
    assert_eq!(count.load(Ordering::SeqCst), asked);
}

#[test]
fn a_dead_site_fails_what_waits_and_what_comes() {
    let (next_hop, _, count) = refusing("521 5.3.2 enough of you");
    let scene = start(&next_hop, "action = \"dead\"", "[shards]\ncount = 2\n");
    let server = &scene.server;
    send(server, "", 1);
    wait_until("every shard knows", || server.metric("ringpost_delivery_suspended") == 2.0);
    let asked = count.load(Ordering::SeqCst);
    for _ in 0..10 {
        send(server, "", 1);
    }
    wait_until("all have failed", || server.log().matches("outcome=failed").count() == 11);
    assert_eq!(count.load(Ordering::SeqCst), asked, "the site was not asked again");
    let log = server.log();
    let same = log.lines().filter(|line| line.contains("enough of you")).count();
    assert_eq!(same, 11, "{log}");
}

#[test]
fn a_slowed_site_gets_one_connection_in_so_many() {
    let (next_hop, refuses, _) = refusing("451 4.7.0 enough of you");
    let rule = "action = \"slow\"\nfactor = 1000\nfor = \"1h\"";
    let scene = start(&next_hop, rule, "[shards]\ncount = 1\n");
    let server = &scene.server;
    send(server, "a@from.test", 1);
    wait_until("it is slowed", || server.metric("ringpost_delivery_suspended") == 1.0);
    refuses.store(false, Ordering::SeqCst);
    send(server, "a@from.test", 50);
    next_hop.wait_for(51);
    assert!(server.metric("ringpost_delivery_connections_open") <= 1.0);
}

#[test]
fn suspensions_by_rule_are_listed_and_lifted_for_the_mail_that_is_retried() {
    let (next_hop, refuses, _) = refusing("451 4.7.0 enough of you");
    let rule = "action = \"suspend\"\nfor = \"1h\"";
    let scene = start(&next_hop, rule, "[shards]\ncount = 3\n");
    let server = &scene.server;
    let standing = ask(server, &["queue", "suspend", "--tenant", "acme"]);
    send(server, "a@from.test", 1);
    wait_until("every shard knows", || server.metric("ringpost_delivery_suspended") == 3.0);
    let listed = ask(server, &["queue", "suspensions"]);
    assert_eq!((listed.len(), &listed[0]), (2, &standing[0]), "the order, and the rule once");
    let by_rule = &listed[1];
    assert_eq!(by_rule["site"], format!("smtp://{}", next_hop.address));
    assert_eq!((&by_rule["effect"], &by_rule["rule"]), (&"suspend".into(), &1.into()));
    assert_eq!(by_rule["reply"], "451 4.7.0 enough of you");
    assert!(by_rule["until_ms"].as_u64() > standing[0]["since_ms"].as_u64());
    let text = server.run(&["queue", "suspensions"]);
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    assert!(text.contains(" suspend  by rule 1 of ") && text.contains("rules.toml, ends in "));
    let way = ask(server, &["explain", "to.test"]);
    assert_eq!(way[0]["suspensions_by_rule"][0]["rule"], 1);

    refuses.store(false, Ordering::SeqCst);
    assert_eq!(steer(server, &["retry", "--force", "--domain", "else.test"]), (0, 0));
    assert_eq!(server.metric("ringpost_delivery_suspended"), 3.0, "no mail goes there");
    let retry = ["retry", "--domain", "to.test"];
    wait_until("it waits", || steer(server, &[&retry[..], &["--dry-run"]].concat()).0 == 1);
    wait_until("it was held back again", || {
        let (_, done) = steer(server, &retry);
        done == 1 && steer(server, &[&retry[..], &["--dry-run"]].concat()).0 == 1
    });
    assert_eq!(next_hop.got().len(), 0, "the rule holds");
    steer(server, &[&retry[..], &["--force"]].concat());
    next_hop.wait_for(1);
    wait_until("every shard knows", || server.metric("ringpost_delivery_suspended") == 0.0);
    assert_eq!(ask(server, &["queue", "suspensions"]), standing);
    wait_until("it is in the log", || server.log().contains("order=\"retry by force\""));
}
