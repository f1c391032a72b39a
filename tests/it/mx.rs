//! Delivery by MX records: a real name server, and hosts on addresses of loopback.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::dns::Knot;
use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};
use crate::steer::ask;

/// Each host has the last number of its address in its name; nobody is at 9, at 8 somebody has no
/// time.
const ZONE: &[(&str, &str)] = &[(
    "z.test",
    "m2 A 127.0.0.2\nm3 A 127.0.0.3\nm4 A 127.0.0.4\nm8 A 127.0.0.8\nm9 A 127.0.0.9\n\
     one MX 10 m2\none MX 20 m3\n\
     equal MX 10 m2\nequal MX 10 m3\nequal MX 10 m4\n\
     dead MX 10 m9\ndead MX 20 m4\n\
     busy MX 10 m8\nbusy MX 20 m3\n\
     gone MX 10 m9\n\
     null MX 0 .\n\
     toalias MX 10 alias\nalias CNAME m3\n\
     here CNAME one\n\
     implicit A 127.0.0.4\nsix AAAA ::1\nboth MX 10 six\nboth MX 20 m2\n\
     xn--bcher-kva MX 10 m2\n\
     many MX 10 lots\nLOTS\n\
     us MX 10 mx.test.\nus MX 20 m2\nbackup MX 10 m2\nbackup MX 20 us1\nus1 A 127.0.0.1\n\
     only MX 10 us1\n\
     nowhere MX 10 missing\nempty TXT nothing\n\
     relay A 127.0.0.4\nthere MX 10 m3\n",
)];

/// The zone's hosts, all at one port.
struct Hosts {
    port: u16,
    hosts: BTreeMap<IpAddr, NextHop>,
    /// Connections to the one that has no time.
    busy_count: Arc<AtomicUsize>,
}

impl Hosts {
    fn start(addresses: &[&str]) -> Hosts {
        let port = free_address().port();
        let hosts = addresses.iter().map(|address| {
            let address: IpAddr = address.parse().expect("an address");
            (address, NextHop::start_on(SocketAddr::new(address, port), Behaviour::default()))
        });
        let hosts = hosts.collect();
        let busy_count = Arc::new(AtomicUsize::new(0));
        let (busy, count) = (TcpListener::bind(("127.0.0.8", port)), busy_count.clone());
        let busy = busy.expect("a free port");
        std::thread::spawn(move || {
            for stream in busy.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                // The peer may have gone.
                let _ = (&stream).write_all(b"421 4.3.2 no time\r\n");
            }
        });
        Hosts { port, hosts, busy_count }
    }

    /// Where a message to this recipient arrived.
    fn place_of(&self, recipient: &str) -> Option<IpAddr> {
        let has = |hop: &NextHop| hop.got().iter().any(|it| it.to == [recipient]);
        self.hosts.iter().find(|(_, hop)| has(hop)).map(|(address, _)| *address)
    }

    fn count_at(&self, address: &str) -> usize {
        self.hosts[&address.parse::<IpAddr>().expect("an address")].got().len()
    }
}

/// What the log says last of a recipient: `OUTCOME CODE STATUS`.
pub fn outcome_of(server: &Server, recipient: &str) -> Option<String> {
    let log = server.log();
    let line = log.lines().rfind(|line| line.contains(&format!("recipient=<{recipient}> ")))?;
    let word = |key: &str| {
        let value = line.split(' ').find_map(|word| word.strip_prefix(key));
        value.unwrap_or_default().to_owned()
    };
    Some(format!("{} {} {}", word("outcome="), word("code="), word("status=")))
}

fn config(knot: &Knot, hosts: &Hosts, more: &str) -> String {
    format!(
        "[delivery]\nmx_port = {}\n[dns]\nupstreams = [\"{}\"]\ntimeout = \"20s\"\nattempts = 1\n\
         [[route]]\ndomain = \"*.z.test\"\nnext_hop = \"mx\"\n\
         [[route]]\ndomain = \"[127.0.0.1]\"\nnext_hop = \"mx\"\n\
         [[route]]\ndomain = \"[127.0.0.3]\"\nnext_hop = \"mx\"\n\
         [[route]]\ndomain = \"[ipv6:::1]\"\nnext_hop = \"mx\"\n\
         [[route]]\ndomain = \"elsewhere.example\"\nnext_hop = \"mx\"\n\
         [[route]]\ndomain = \"gone.example\"\nnext_hop = \"smtp://missing.z.test:25\"\n\
         [[route]]\ndomain = \"relay.example\"\nnext_hop = \"smtp://relay.z.test:{}\"\n\
         [[route]]\ndomain = \"there.example\"\nnext_hop = \"mx://there.z.test\"\n{more}",
        hosts.port, knot.address, hosts.port
    )
}

pub fn send(server: &Server, recipient: &str) {
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let utf8 = if recipient.is_ascii() { "" } else { " SMTPUTF8" };
    client.expect(&format!("MAIL FROM:<a@from.test>{utf8}"), "250");
    client.expect(&format!("RCPT TO:<{recipient}>"), "250");
    client.expect("DATA", "354");
    client.send(b"Subject: x\r\n\r\n.\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("250"), "{recipient}: {reply}");
}

/// A server that listens at the port of the MX hosts itself, as mail servers do.
fn start(knot: &Knot, hosts: &Hosts, more: &str) -> Server {
    let listener = format!("[[listener]]\naddress = \"127.0.0.1:{}\"\n{more}", hosts.port);
    Server::start(free_address(), &config(knot, hosts, &listener))
}

#[test]
fn every_message_ends_where_the_dns_says() {
    let lots: String = (0..80).map(|_| "lots A 127.0.0.3\n").collect();
    let lots =
        lots + &(0..80).map(|it| format!("lots AAAA 2001:db8::{it:x}\n")).collect::<String>();
    let records = ZONE[0].1.replace("LOTS\n", &lots);
    let Some(knot) = Knot::start_with(&[(ZONE[0].0, &records)]) else { return };
    let hosts = Hosts::start(&["127.0.0.2", "127.0.0.3", "127.0.0.4", "::1"]);
    let server = start(&knot, &hosts, "[shards]\ncount = 1\n");
    let arrives = [
        ("one.z.test", "127.0.0.2"),
        ("ONE.z.test", "127.0.0.2"),
        ("dead.z.test", "127.0.0.4"),
        ("busy.z.test", "127.0.0.3"),
        ("toalias.z.test", "127.0.0.3"),
        ("here.z.test", "127.0.0.2"),
        ("implicit.z.test", "127.0.0.4"),
        ("six.z.test", "::1"),
        ("both.z.test", "::1"),
        ("many.z.test", "127.0.0.3"),
        ("b\u{fc}cher.z.test", "127.0.0.2"),
        ("backup.z.test", "127.0.0.2"),
        ("[127.0.0.3]", "127.0.0.3"),
        ("[IPv6:::1]", "::1"),
        ("relay.example", "127.0.0.4"),
        ("there.example", "127.0.0.3"),
    ];
    let ends = [
        ("null.z.test", "failed 556 5.1.10"),
        ("nx.z.test", "failed 550 5.1.2"),
        ("nowhere.z.test", "failed 550 5.4.4"),
        ("empty.z.test", "failed 550 5.4.4"),
        ("us.z.test", "failed 554 5.4.6"),
        ("only.z.test", "failed 554 5.4.6"),
        ("[127.0.0.1]", "failed 554 5.4.6"),
        ("gone.z.test", "delayed 421 4.4.1"),
        ("elsewhere.example", "delayed 451 4.4.3"),
        ("gone.example", "delayed 451 4.3.5"),
    ];
    for (domain, _) in arrives.iter().chain(&ends) {
        send(&server, &format!("u@{domain}"));
    }
    for (domain, address) in arrives {
        let recipient = format!("u@{domain}");
        let address: IpAddr = address.parse().expect("an address");
        wait_until(&format!("{domain} has its mail"), || hosts.place_of(&recipient).is_some());
        assert_eq!(hosts.place_of(&recipient), Some(address), "{domain}");
    }
    for (domain, expected) in ends {
        let recipient = format!("u@{domain}");
        wait_until(&format!("{domain} has ended"), || outcome_of(&server, &recipient).is_some());
        assert_eq!(outcome_of(&server, &recipient).as_deref(), Some(expected), "{domain}");
    }
    // More to the same domains costs no question.
    let questions = server.metric("ringpost_dns_lookups_total");
    for number in 0..20 {
        send(&server, &format!("more{number}@one.z.test"));
        let recipient = format!("more{number}@one.z.test");
        wait_until("it has arrived", || hosts.place_of(&recipient).is_some());
    }
    assert_eq!(server.metric("ringpost_dns_lookups_total"), questions);
    // The one that has no time is not asked for every message.
    for number in 0..5 {
        send(&server, &format!("more{number}@busy.z.test"));
        let recipient = format!("more{number}@busy.z.test");
        wait_until("it has arrived", || hosts.place_of(&recipient).is_some());
    }
    assert_eq!(hosts.busy_count.load(Ordering::SeqCst), 1);
}

#[test]
fn equal_hosts_share_the_load_and_domains_share_their_site() {
    let Some(knot) = Knot::start_with(ZONE_WITHOUT_LOTS) else { return };
    let hosts = Hosts::start(&["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let limit = "[[limit]]\nmatch = \"m2.z.test\"\nmessages_per_connection = 1\n\
                 [[limit]]\ndomain = \"p1.z.test\"\nmessages_per_minute = 2\n\
                 [shards]\ncount = 1\n";
    let server = start(&knot, &hosts, limit);
    for number in 0..60 {
        send(&server, &format!("u{number}@p{}.z.test", number % 3));
    }
    let count = || ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(|it| hosts.count_at(it));
    // Two of three domains, and what the third may have in a minute.
    wait_until("they have arrived", || count().iter().sum::<usize>() == 42);
    assert!(count().iter().all(|count| *count > 0), "{:?}", count());
    let listed = ask(&server, &["queue", "list"]);
    assert_eq!(listed.len(), 18);
    for message in listed {
        let site = &message["tasks"][0]["site"];
        assert_eq!(*site, "mx://m2.z.test,m3.z.test,m4.z.test#p1.z.test", "{message}");
    }
}

#[test]
fn a_reverse_path_that_takes_no_mail_is_refused_where_that_is_wanted() {
    let zone = "null MX 0 .\none MX 10 m2\nm2 A 127.0.0.2\nboth MX 0 .\nboth MX 10 m2\n";
    let Some(knot) = Knot::start_with(&[("z.test", zone)]) else { return };
    let dns = format!("[dns]\nupstreams = [\"{}\"]\n", knot.address);
    let wanted = format!("{dns}[reception]\nrefuse_null_mx = true\n");
    let server = Server::start(free_address(), &wanted);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    // The commands behind it are answered as to a client that has begun nothing.
    client.send(b"MAIL FROM:<a@null.z.test>\r\nRCPT TO:<b@to.test>\r\n");
    assert_eq!(client.reply(), "550 5.7.27 Domain of the reverse-path takes no mail");
    assert!(client.reply().starts_with("503 5.5.1"));
    for from in
        ["a@one.z.test", "a@both.z.test", "a@nx.z.test", "a@elsewhere.example", "", "a@[::1]"]
    {
        let from = from.replace("[::1]", "[IPv6:::1]");
        client.expect(&format!("MAIL FROM:<{from}>"), "250");
        client.expect("RCPT TO:<b@to.test>", "250");
        client.expect("RSET", "250");
    }
    server.write_config(free_address(), &dns);
    server.signal("HUP");
    wait_until("it is not wanted any more", || {
        let mut client = server.client();
        client.expect("EHLO client.test", "250");
        client.say("MAIL FROM:<a@null.z.test>").starts_with("250")
    });
}

const ZONE_WITHOUT_LOTS: &[(&str, &str)] = &[(
    "z.test",
    "m2 A 127.0.0.2\nm3 A 127.0.0.3\nm4 A 127.0.0.4\n\
     p0 MX 10 m2\np0 MX 10 m3\np0 MX 10 m4\n\
     p1 MX 10 m4\np1 MX 10 m3\np1 MX 10 m2\n\
     p2 MX 5 m3\np2 MX 5 m4\np2 MX 5 m2\n",
)];

#[test]
fn a_site_with_one_connection_falls_back_to_its_next_host() {
    let zone = "m8 A 127.0.0.8\nm3 A 127.0.0.3\nbusy MX 10 m8\nbusy MX 20 m3\n";
    let Some(knot) = Knot::start_with(&[("z.test", zone)]) else { return };
    let hosts = Hosts::start(&["127.0.0.3"]);
    let limit = "[[limit]]\nmatch = \"m8.z.test\"\nconnections = 1\nconnections_per_second = 1\n\
                 [shards]\ncount = 2\n";
    let server = start(&knot, &hosts, limit);
    for number in 0..3 {
        send(&server, &format!("u{number}@busy.z.test"));
    }
    wait_until("they have arrived", || hosts.count_at("127.0.0.3") == 3);
    assert!(hosts.busy_count.load(Ordering::SeqCst) >= 1);
}

#[test]
fn a_reload_asks_the_dns_anew() {
    let zone = |host: &str| format!("m2 A 127.0.0.2\nm3 A 127.0.0.3\none MX 10 {host}\n");
    let before = zone("m2");
    let Some(knot) = Knot::start_with(&[("z.test", &before)]) else { return };
    let hosts = Hosts::start(&["127.0.0.2", "127.0.0.3"]);
    let server = start(&knot, &hosts, "");
    send(&server, "before@one.z.test");
    wait_until("it has arrived", || hosts.count_at("127.0.0.2") == 1);
    let address = knot.address;
    drop(knot);
    let after = zone("m3");
    let _knot = Knot::start_at(address, &[("z.test", &after)]);
    server.signal("HUP");
    let mut number = 0;
    wait_until("mail goes elsewhere", || {
        number += 1;
        send(&server, &format!("after{number}@one.z.test"));
        hosts.count_at("127.0.0.3") > 0
    });
    wait_until("all of it has arrived", || {
        hosts.count_at("127.0.0.2") + hosts.count_at("127.0.0.3") == 1 + number
    });
}

#[test]
fn mail_waits_for_a_dns_that_is_down_and_says_so() {
    let Some(knot) = Knot::start_with(ZONE_WITHOUT_LOTS) else { return };
    let hosts = Hosts::start(&["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let address = knot.address;
    drop(knot);
    let extra = format!(
        "[delivery]\nmx_port = {}\n[dns]\nupstreams = [\"{address}\"]\ntimeout = \"200ms\"\n\
         attempts = 1\n[queue]\nretry_wait_min = \"300ms\"\nretry_wait_max = \"300ms\"\n\
         [[route]]\ndomain = \"*.z.test\"\nnext_hop = \"mx\"\n",
        hosts.port
    );
    let server = Server::start(free_address(), &extra);
    for number in 0..5 {
        send(&server, &format!("u{number}@p0.z.test"));
    }
    wait_until("one was delayed", || {
        (0..5).any(|number| {
            let recipient = format!("u{number}@p0.z.test");
            outcome_of(&server, &recipient).as_deref() == Some("delayed 451 4.4.3")
        })
    });
    let _knot = Knot::start_at(address, ZONE_WITHOUT_LOTS);
    let arrived = |number: usize| hosts.place_of(&format!("u{number}@p0.z.test")).is_some();
    wait_until("all have arrived", || (0..5).all(arrived));
}

#[test]
fn a_host_that_cannot_do_its_work_leaves_its_mail_to_the_next_in_the_same_attempt() {
    let zone = "m2 A 127.0.0.2\nm3 A 127.0.0.3\nm4 A 127.0.0.4\none MX 10 m2\none MX 20 m3\n\
                data MX 10 m2\ndata MX 20 m3\nboth MX 10 m2\nboth MX 20 m4\n";
    let Some(knot) = Knot::start_with(&[("z.test", zone)]) else { return };
    // What the host at 2 says is in the local part; the one at 4 has no space.
    let says = |recipient: &str| {
        Some(match recipient.split('@').next().expect("a local part") {
            "space" => "452 4.3.1 no space left",
            "lookup" => "451 4.3.0 <x>: Temporary lookup failure",
            "grey" => "450 4.2.0 Greylisted, try again later",
            "rate" => "450 4.7.28 too many messages",
            "full" => "452 4.2.2 mailbox full",
            "no" => "550 5.1.1 no such mailbox",
            _ => return None,
        })
    };
    let address = |number: u8, port: u16| SocketAddr::from(([127, 0, 0, number], port));
    let port = free_address().port();
    let of_rcpt = Behaviour {
        on_rcpt: Box::new(move |recipient, _| {
            says(recipient).filter(|_| !recipient.contains("data.")).map(str::to_owned)
        }),
        on_content: Box::new(move |recipient, _| says(recipient).map(str::to_owned)),
        ..Behaviour::default()
    };
    let first = NextHop::start_on(address(2, port), of_rcpt);
    let second = NextHop::start_on(address(3, port), Behaviour::default());
    let asked: Arc<AtomicUsize> = Arc::default();
    let counted = asked.clone();
    let without_space = Behaviour {
        on_rcpt: Box::new(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            Some("452 4.3.1 no space left".to_owned())
        }),
        ..Behaviour::default()
    };
    let _third = NextHop::start_on(address(4, port), without_space);
    let extra = format!(
        "[delivery]\nmx_port = {port}\n[dns]\nupstreams = [\"{}\"]\ntimeout = \"20s\"\n\
         attempts = 1\n[shards]\ncount = 1\n\
         [[route]]\ndomain = \"*.z.test\"\nnext_hop = \"mx\"\n",
        knot.address
    );
    for (local_part, is_left) in [
        ("space", true),
        ("lookup", true),
        ("grey", false),
        ("rate", false),
        ("full", false),
        ("no", false),
    ] {
        for domain in ["one.z.test", "data.z.test"] {
            // What failed is remembered.
            let server = Server::start(free_address(), &extra);
            let recipient = format!("{local_part}@{domain}");
            let before = second.got().len();
            send(&server, &recipient);
            wait_until("it has an outcome", || outcome_of(&server, &recipient).is_some());
            let outcome = outcome_of(&server, &recipient).expect("looked at above");
            assert_eq!(outcome.starts_with("relayed"), is_left, "{recipient}: {outcome}");
            assert_eq!(second.got().len() - before, usize::from(is_left), "{recipient}");
            let log = server.log();
            let of_it = log.matches(&format!(" recipient=<{recipient}> ")).count();
            assert_eq!(of_it, 1, "one attempt: {log}");
            let left = server.metric("ringpost_delivery_hosts_left_total");
            assert_eq!(left, f64::from(u8::from(is_left)), "{recipient}");
        }
    }
    assert!(first.got().is_empty());
    // Each host is offered a message once.
    let server = Server::start(free_address(), &extra);
    send(&server, "space@both.z.test");
    wait_until("it is delayed", || outcome_of(&server, "space@both.z.test").is_some());
    let outcome = outcome_of(&server, "space@both.z.test");
    assert_eq!(outcome.as_deref(), Some("delayed 452 4.3.1"));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(server.log().matches("outcome=").count(), 1);
}
