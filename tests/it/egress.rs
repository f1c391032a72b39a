//! What mail leaves from: sources, pools by weight, a source that cannot be used.

use std::collections::HashMap;

use crate::harness::{Behaviour, Got, NextHop, Server, wait_until};

const SOURCES: &str = "[[source]]\nname = \"a\"\naddress = \"127.0.0.2\"\nehlo_name = \"a.test\"\n\
    [[source]]\nname = \"b\"\naddress = \"127.0.0.3\"\n";
/// An address for documentation (RFC 5737): no host has it.
const NOBODY: &str = "[[source]]\nname = \"nobody\"\naddress = \"192.0.2.77\"\n";
const ONE_SHARD: &str = "[shards]\ncount = 1\n";

fn send(server: &Server, count: usize, domain: &str) {
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for index in 0..count {
        let recipient = format!("r{index}@{domain}");
        let reply = client.message("a@from.test", &[&recipient], b"x: y\r\n\r\n");
        assert!(reply.starts_with("250"), "{reply}");
    }
}

fn by_client(got: &[Got]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    got.iter().for_each(|it| *counts.entry(it.client.as_str()).or_insert(0) += 1);
    counts
}

#[test]
fn mail_leaves_from_the_source_of_its_pool_with_its_name() {
    let next_hop = NextHop::start(Behaviour::default());
    let config = format!(
        "{SOURCES}[[pool]]\nname = \"one\"\nsources = \"a\"\n\
         [[pool]]\nname = \"two\"\nsources = \"b\"\n\
         [[egress]]\ndomain = \"*.one.test\"\npool = \"one\"\n\
         [[egress]]\ndomain = \"two.test\"\npool = \"two\"\n"
    );
    let server = Server::start(next_hop.address, &config);
    for domain in ["x.one.test", "two.test", "else.test"] {
        send(&server, 1, domain);
    }
    let got = next_hop.wait_for(3);
    let of = |domain: &str| {
        let it = got.iter().find(|it| it.to[0].ends_with(domain)).expect("arrived");
        (it.client.as_str(), it.ehlo.as_str())
    };
    assert_eq!(of("@x.one.test"), ("127.0.0.2", "a.test"));
    assert_eq!(of("@two.test"), ("127.0.0.3", "mx.test"));
    assert_eq!(of("@else.test"), ("127.0.0.1", "mx.test"));
}

#[test]
fn sources_of_a_pool_share_by_weight() {
    let next_hop = NextHop::start(Behaviour::default());
    let config = format!(
        "{SOURCES}{ONE_SHARD}[[pool]]\nname = \"p\"\nsources = [\"a*3\", \"b\"]\n\
         [[egress]]\npool = \"p\"\n"
    );
    let server = Server::start(next_hop.address, &config);
    send(&server, 400, "to.test");
    let got = next_hop.wait_for(400);
    let counts = by_client(&got);
    assert_eq!(counts["127.0.0.2"] + counts["127.0.0.3"], 400);
    assert!((60..=140).contains(&counts["127.0.0.3"]), "{counts:?}");
}

#[test]
fn a_source_that_cannot_be_used_leaves_its_mail_to_the_others() {
    let next_hop = NextHop::start(Behaviour::default());
    let config = format!(
        "{SOURCES}{NOBODY}{ONE_SHARD}[[pool]]\nname = \"p\"\nsources = [\"nobody*9\", \"a\"]\n\
         [[egress]]\npool = \"p\"\n"
    );
    let server = Server::start(next_hop.address, &config);
    send(&server, 20, "to.test");
    let got = next_hop.wait_for(20);
    assert_eq!(by_client(&got)["127.0.0.2"], 20);
    let lines = server.stderr();
    let named = lines.lines().filter(|line| line.contains("source nobody (192.0.2.77)"));
    assert_eq!(named.count(), 1, "{lines}");
    wait_until("all is logged", || server.log().matches("outcome=relayed").count() == 20);
    assert!(!server.log().contains("outcome=delayed"), "no attempt is counted");
}

#[test]
fn mail_whose_every_source_is_unusable_waits_and_goes_when_one_is_named_anew() {
    let next_hop = NextHop::start(Behaviour::default());
    let pool = "[[pool]]\nname = \"p\"\nsources = [\"nobody\"]\n[[egress]]\npool = \"p\"\n";
    let server = Server::start(next_hop.address, &format!("{NOBODY}{pool}"));
    send(&server, 3, "to.test");
    wait_until("it was tried", || server.stderr().contains("source nobody"));
    assert!(next_hop.got().is_empty());
    let fixed = NOBODY.replace("192.0.2.77", "127.0.0.4");
    server.write_config(next_hop.address, &format!("{fixed}{pool}"));
    server.signal("HUP");
    let got = next_hop.wait_for(3);
    assert_eq!(by_client(&got)["127.0.0.4"], 3);
}

#[test]
fn a_source_at_its_limit_leaves_its_share_to_the_others() {
    let next_hop = NextHop::start(Behaviour::default());
    let config = format!(
        "{SOURCES}{ONE_SHARD}[[pool]]\nname = \"p\"\nsources = [\"a*9\", \"b\"]\n\
         [[egress]]\npool = \"p\"\n\
         [[limit]]\nmatch = \"*\"\nsource = \"a\"\nmessages_per_day = 10\n"
    );
    let server = Server::start(next_hop.address, &config);
    send(&server, 100, "to.test");
    let got = next_hop.wait_for(100);
    let from_a = by_client(&got).get("127.0.0.2").copied().unwrap_or(0);
    assert!(from_a <= 10, "{from_a} from a");
}
