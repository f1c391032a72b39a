//! What an operator is told of the way of mail, and of what holds it back.

use std::net::SocketAddr;

use serde_json::Value;

use crate::dns::Knot;
use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};
use crate::steer::{ask, send, state_of};

fn way(server: &Server, domain: &str) -> Value {
    ask(server, &["explain", domain]).remove(0)
}

fn limit<'a>(site: &'a Value, key: &str) -> &'a Value {
    let limits = site["limits"].as_array().expect("limits");
    limits.iter().find(|it| it["key"] == key).unwrap_or_else(|| panic!("no {key}: {site}"))
}

/// Over all shards.
fn open_connections(site: &Value) -> u64 {
    let shards = site["shards"].as_array().expect("shards");
    shards.iter().map(|it| it["connections"].as_u64().expect("a count")).sum()
}

#[test]
fn limits_are_shown_with_who_says_them_and_what_is_used() {
    let next_hop = NextHop::start(Behaviour::default());
    let port = next_hop.address.port();
    let extra = format!(
        "[shards]\ncount = 2\n[[limit]]\nmatch = \"127.0.0.1:{port}\"\nconnections = 3\n\
         [[limit]]\nmatch = \"*\"\nconnections = 1\nmessages_per_day = 50\nidle_timeout = \"1h\"\n\
         [[retry]]\ndomain = \"*.test\"\nwait_min = \"7m\"\ndelay_notice = \"1h\"\n"
    );
    let server = Server::start(next_hop.address, &extra);
    let mut client = server.greeted();
    for _ in 0..4 {
        send(&mut client, "one@a.test", "");
    }
    next_hop.wait_for(4);
    // Connections stay open for an hour, and what was granted and not used goes back.
    wait_until("four messages and the connections are counted", || {
        let way = way(&server, "a.test");
        let site = &way["sites"][0];
        let count = open_connections(site);
        let used = &limit(site, "connections")["used"];
        count > 0 && *used == count && limit(site, "messages_per_day")["used"] == 4
    });
    let way = way(&server, "a.test");
    let site = &way["sites"][0];
    assert_eq!(site["site"], format!("smtp://{}", next_hop.address));
    let connections = limit(site, "connections");
    assert_eq!(connections["value"], 3);
    assert_eq!(connections["said_by"], format!("[[limit]] 1: match=127.0.0.1:{port}"));
    assert_eq!(limit(site, "messages_per_day")["said_by"], "[[limit]] 2: match=*");
    assert_eq!(limit(site, "messages_per_connection")["said_by"], "[delivery]");
    let shards = site["shards"].as_array().expect("shards");
    assert_eq!(shards.len(), 2);
    assert!(shards.iter().all(|it| it["verdict"] == "working"), "{site}");
    assert_eq!(way["retry"]["said_by"], "[[retry]] 1: domain=*.test");
    assert_eq!(way["retry"]["wait_min_ms"], 420_000);
    assert_eq!(way["retry"]["delay_notice_ms"], 3_600_000);
    let output = server.run(&["explain", "a.test"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let count = open_connections(site);
    let connections = format!("  connections              {count} of 3 by [[limit]] 1: match=");
    for part in [connections.as_str(), "shard 1", "after 7m to"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn a_dead_site_and_a_source_that_cannot_be_used_are_named() {
    let extra = "[shards]\ncount = 1\n[queue]\nretry_wait_min = \"10m\"\n\
        [delivery]\nprobe_wait_min = \"5m\"\n\
        [[source]]\nname = \"here\"\naddress = \"127.0.0.2\"\n\
        [[source]]\nname = \"nobody\"\naddress = \"192.0.2.77\"\n\
        [[pool]]\nname = \"p\"\nsources = [\"here\", \"nobody*4\"]\n\
        [[egress]]\npool = \"p\"\n";
    let server = Server::start(free_address(), extra);
    let mut client = server.greeted();
    let id = send(&mut client, "one@a.test", "");
    wait_until("it waits", || state_of(&server, &id) == "delayed");
    let parts =
        ["from nobody (192.0.2.77), weight 4 of 5, left alone for", "; dead, asked again in "];
    wait_until("both are known", || {
        // Each is another try by the source that is left.
        send(&mut client, "two@a.test", "");
        let text = String::from_utf8(server.run(&["explain", &id]).stdout).expect("UTF-8");
        parts.iter().all(|part| text.contains(part))
    });
    let shown = ask(&server, &["explain", &id]);
    let (message, way) = (&shown[0], &shown[1]);
    assert_eq!(way["pool"], "p");
    let sites = way["sites"].as_array().expect("sites");
    let sources: Vec<_> = sites.iter().map(|it| (&it["source"], &it["weight"])).collect();
    assert_eq!(sources, [(&"here".into(), &1.into()), (&"nobody".into(), &4.into())]);
    assert!(sites[0]["shards"][0]["asked_in_ms"].as_u64() > Some(60_000), "{way}");
    assert_eq!(sites[0]["shards"][0]["verdict"], "dead");
    assert_eq!(sites[0]["source_suspended_until_ms"], Value::Null);
    assert_eq!(way["retry"]["said_by"], "[queue]");
    let task = &message["tasks"][0];
    assert_eq!(task["expires_ms"], message["expires_ms"]);
    assert!(task.get("delay_notice_ms").is_none(), "nobody asked to be told of a delay");
    let output = server.run(&["explain", &id]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("pool          p\n") && text.contains("  expires in "), "{text}");
}

#[test]
fn the_hosts_of_a_domain_are_shown_with_what_holds_against_them() {
    let zone = "m2 A 127.0.0.2\nm9 A 127.0.0.9\none MX 10 m9\none MX 20 m2\nnull MX 0 .\n";
    let Some(knot) = Knot::start_with(&[("z.test", zone)]) else { return };
    let address = SocketAddr::new([127, 0, 0, 2].into(), free_address().port());
    let host = NextHop::start_on(address, Behaviour::default());
    let extra = format!(
        "[shards]\ncount = 2\n[delivery]\nmx_port = {}\n[dns]\nupstreams = [\"{}\"]\n\
         [[route]]\ndomain = \"*.z.test\"\nnext_hop = \"mx\"\n\
         [[limit]]\nmatch = \"*9.z.test\"\nconnections = 7\n",
        host.address.port(),
        knot.address
    );
    let server = Server::start(free_address(), &extra);
    // Nobody has sent there, so it is found out now.
    let before = way(&server, "one.z.test");
    assert_eq!(before["next_hop"], "mx");
    let sites = before["sites"].as_array().expect("sites");
    assert_eq!((sites.len(), &sites[0]["site"]), (1, &"mx://m2.z.test,m9.z.test".into()));
    assert_eq!(limit(&sites[0], "connections")["value"], 7);
    let hosts = before["dns"]["hosts"].as_array().expect("hosts");
    let named = |host: &Value| (host["name"].clone(), host["preference"].clone());
    assert_eq!(named(&hosts[0]), ("m9.z.test".into(), 10.into()));
    assert_eq!(named(&hosts[1]), ("m2.z.test".into(), 20.into()));
    assert_eq!(hosts[0]["addresses"][0]["failed_ms"], 0);
    let null = way(&server, "null.z.test");
    assert_eq!(null["dns"]["refusal"], "556 5.1.10 Domain takes no mail (null MX)");

    send(&mut server.greeted(), "a@one.z.test", "");
    host.wait_for(1);
    let after = way(&server, "one.z.test");
    let dead = &after["dns"]["hosts"][0]["addresses"][0];
    assert!(dead["failed_ms"].as_u64().is_some_and(|ms| ms > 0), "{after}");
    assert_eq!(dead["failure"][0], 1);
    let output = server.run(&["explain", "one.z.test"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("host          10 m9.z.test\n  127.0.0.9:"), "{text}");
    assert!(text.contains(", failed 1: 421 4.4.1 Cannot connect"), "{text}");
}
