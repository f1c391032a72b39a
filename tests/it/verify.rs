//! Whether mailboxes exist: hosts of every kind are asked, and none gets a message.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::dns::Knot;
use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};
use crate::mx::send;
use crate::tls::Authority;

fn hop(answer: impl Fn(&str, usize) -> Option<String> + Send + Sync + 'static) -> NextHop {
    NextHop::start(Behaviour { on_rcpt: Box::new(answer), ..Behaviour::default() })
}

fn no(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// A host that answers each command by `answer`, and closes where there is none.
fn raw(answer: fn(&str) -> Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> Option<()> {
                stream.write_all(answer("")?.as_bytes()).ok()?;
                let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
                loop {
                    let line = lines.next()?.ok()?;
                    stream.write_all(answer(line.get(..4)?)?.as_bytes()).ok()?;
                }
            });
        }
    });
    address
}

fn route(domain: &str, address: SocketAddr) -> String {
    format!("[[route]]\ndomain = \"{domain}\"\nnext_hop = \"smtp://{address}\"\n")
}

fn run(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    command.arg("verify").args(arguments).arg("--config").arg(server.config_path());
    command.stdin(Stdio::null()).output().expect("ringpost runs")
}

fn verify(server: &Server, address: &str) -> Value {
    let output = run(server, &[address, "--json"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr))
    });
    let is_deliverable = found["verdict"] == "deliverable";
    assert_eq!(output.status.code(), Some(if is_deliverable { 0 } else { 1 }));
    found
}

fn check(server: &Server, address: &str, verdict: &str, reason: &str) -> Value {
    let found = verify(server, address);
    let words = (found["verdict"].as_str(), found["reason"].as_str());
    assert_eq!(words, (Some(verdict), Some(reason)), "{found:#}");
    found
}

#[test]
fn every_kind_of_host_gets_its_verdict_and_no_message() {
    let honest = hop(|to, _| match to {
        "you@honest.test" | "postmaster@honest.test" => None,
        _ => no("550 5.1.1 no such mailbox"),
    });
    let terse = hop(|to, _| (to != "postmaster@terse.test").then(|| "550 no".to_owned()));
    let catch_all = hop(|_, _| None);
    let greylisting = hop(|_, _| no("451 4.7.1 Greylisted, please try again later"));
    let nobody = hop(|_, _| no("550 5.1.1 no such mailbox"));
    let blocking = hop(|_, _| no("550 5.7.1 Client host blocked using a blocklist"));
    let full = hop(|_, _| no("552 5.2.2 mailbox full"));
    let dropping = raw(|command| match command {
        "" => Some("220 hi\r\n"),
        "RCPT" => None,
        _ => Some("250 ok\r\n"),
    });
    let refusing = raw(|command| match command {
        "" => Some("554 5.7.1 not you\r\n"),
        _ => None,
    });
    let tarpit = raw(|command| match command {
        "" => Some("220 hi\r\n"),
        "MAIL" => {
            std::thread::sleep(Duration::from_secs(60));
            None
        }
        _ => Some("250 ok\r\n"),
    });
    let old = raw(|command| match command {
        "" => Some("220 hi\r\n"),
        "EHLO" => Some("502 5.5.1 what\r\n"),
        "RCPT" => Some("550 5.1.1 no\r\n"),
        _ => Some("250 ok\r\n"),
    });
    let hops = [
        ("honest.test", honest.address),
        ("terse.test", terse.address),
        ("catch.test", catch_all.address),
        ("grey.test", greylisting.address),
        ("nobody.test", nobody.address),
        ("blocking.test", blocking.address),
        ("full.test", full.address),
        ("dropping.test", dropping),
        ("refusing.test", refusing),
        ("tarpit.test", tarpit),
        ("old.test", old),
        ("closed.test", free_address()),
    ];
    let routes: String = hops.iter().map(|(domain, address)| route(domain, *address)).collect();
    let more = format!("[verify]\ntimeout = \"3s\"\n{routes}");
    let mut server = Server::start(free_address(), &more);
    let found = check(&server, "you@honest.test", "deliverable", "mailbox-accepted");
    let evidence = found["evidence"].as_array().expect("evidence");
    assert_eq!(evidence[0]["step"], "TLS");
    assert_eq!(evidence[0]["reply"], "none: the host does not offer it");
    assert_eq!(evidence[1]["step"], "RCPT");
    assert_eq!(evidence[2]["step"], "RCPT of a random mailbox");
    assert_eq!(evidence[2]["reply"], "550 5.1.1 no such mailbox");
    assert_eq!(found["host"], honest.address.to_string());
    let found = check(&server, "me@honest.test", "undeliverable", "no-mailbox");
    assert_eq!(found["confidence"], 98);
    check(&server, "me@terse.test", "undeliverable", "no-mailbox");
    check(&server, "me@catch.test", "catch-all", "accepts-any-mailbox");
    check(&server, "me@grey.test", "unknown", "greylisted");
    check(&server, "me@nobody.test", "unknown", "refuses-everyone");
    check(&server, "me@blocking.test", "unknown", "source-blocked");
    check(&server, "me@full.test", "unknown", "mailbox-full");
    check(&server, "me@dropping.test", "unknown", "connection-lost");
    let reason = verify(&server, "me@refusing.test")["reason"].clone();
    assert!(reason == "source-blocked" || reason == "host-refuses", "{reason}");
    check(&server, "me@tarpit.test", "unknown", "too-slow");
    check(&server, "me@old.test", "unknown", "refuses-everyone");
    check(&server, "me@closed.test", "unknown", "no-host-answers");
    check(&server, "no address", "undeliverable", "no-address");
    check(&server, "b\u{fc}@honest.test", "undeliverable", "no-mailbox");
    for hop in [honest, terse, catch_all, greylisting, nobody, blocking, full] {
        assert!(hop.got().is_empty(), "a message was sent");
    }
    assert!(server.stop().success(), "{}", server.stderr());
}

#[test]
fn domains_without_a_way_are_undeliverable_and_failures_of_the_dns_are_not() {
    let zone = "null MX 0 .\nhost A 127.0.0.1\ngood MX 10 host\n";
    let Some(knot) = Knot::start_with(&[("v.test", zone)]) else { return };
    let host = hop(|to, _| (to != "you@good.v.test").then(|| "550 5.1.1 no".to_owned()));
    let more = format!(
        "[delivery]\nmx_port = {}\n[dns]\nupstreams = [\"{}\"]\n[[route]]\ndomain = \"*.v.test\"\n\
         next_hop = \"mx\"\n[[route]]\ndomain = \"elsewhere.example\"\nnext_hop = \"mx\"\n",
        host.address.port(),
        knot.address
    );
    let server = Server::start(free_address(), &more);
    check(&server, "a@null.v.test", "undeliverable", "domain-takes-no-mail");
    check(&server, "a@missing.v.test", "undeliverable", "domain-takes-no-mail");
    check(&server, "a@elsewhere.example", "unknown", "dns-failure");
    check(&server, "you@good.v.test", "deliverable", "mailbox-accepted");
    // What a delivery told is believed, unless somebody wants to know it now.
    send(&server, "you@good.v.test");
    send(&server, "me@good.v.test");
    host.wait_for(1);
    wait_until("both have ended", || server.metric("ringpost_queue_messages") <= 1.0);
    check(&server, "you@good.v.test", "deliverable", "delivered-before");
    wait_until("the refusal is known", || {
        verify(&server, "me@good.v.test")["reason"] == "refused-before"
    });
    let output = run(&server, &["you@good.v.test", "--json", "--fresh"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["reason"], "mailbox-accepted");
}

#[test]
fn a_name_server_that_never_answers_takes_no_longer_than_the_question_may() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let upstream = silent.local_addr().expect("bound");
    let more = format!(
        "[verify]\ntimeout = \"1s\"\n[dns]\nupstreams = [\"{upstream}\"]\ntimeout = \"30s\"\n\
         attempts = 1\n[[route]]\ndomain = \"slow.test\"\nnext_hop = \"mx\"\n"
    );
    let server = Server::start(free_address(), &more);
    check(&server, "me@slow.test", "unknown", "dns-too-slow");
}

#[test]
fn a_list_is_verified_under_the_limits_of_its_site() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at, highest) = (now.clone(), most.clone());
    let host = hop(move |to, _| {
        highest.fetch_max(at.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(5));
        at.fetch_sub(1, Ordering::SeqCst);
        (to != "postmaster@many.test").then(|| "550 5.1.1 no".to_owned())
    });
    let more = format!(
        "[[limit]]\nmatch = \"{}\"\nconnections = 2\n{}",
        host.address,
        route("many.test", host.address)
    );
    let server = Server::start(free_address(), &more);
    let list: String = (0..8).map(|number| format!("n{number}@many.test\n")).collect();
    let file = server.directory.path().join("list");
    std::fs::write(&file, format!("# a list\n\n{list}\"a,b\"@many.test\n")).expect("written");
    let file = file.to_str().expect("UTF-8");
    let output = run(&server, &["--file", file, "--csv"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(text.lines().count(), 10, "{text}");
    assert!(text.starts_with("address,verdict,confidence,reason,host,milliseconds\n"));
    let count = text.matches(",undeliverable,98,no-mailbox,127.0.0.1:").count();
    assert_eq!(count, 9, "{text}");
    assert!(text.contains("\n\"\"\"a,b\"\"@many.test\",undeliverable"), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("9 of 9 verified"));
    assert!(most.load(Ordering::SeqCst) <= 2, "more connections than the site allows");
    assert!(host.got().is_empty());
    assert_eq!(now.load(Ordering::SeqCst), 0);
}

/// How a host begins TLS.
#[derive(Clone)]
enum StartTls {
    With(Arc<ServerConfig>),
    /// It says 454.
    Refused,
    /// It says 220, and then nothing that is TLS.
    Broken,
}

/// A host that offers STARTTLS and knows `you@` any domain alone.
struct TlsHost {
    address: SocketAddr,
    /// What it was told, `TLS ` in front of what came under protection.
    heard: Arc<Mutex<Vec<String>>>,
}

impl TlsHost {
    /// `demands`: it takes no MAIL in the clear.
    fn start(start_tls: StartTls, demands: bool) -> TlsHost {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let host = TlsHost { address, heard: heard.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (start_tls, heard) = (start_tls.clone(), heard.clone());
                std::thread::spawn(move || converse(stream, &start_tls, demands, &heard));
            }
        });
        host
    }

    fn heard(&self, start: &str) -> usize {
        let heard = self.heard.lock().expect("not poisoned");
        heard.iter().filter(|line| line.starts_with(start)).count()
    }
}

/// `None` once the other side has gone.
fn converse(
    mut plain: TcpStream,
    start_tls: &StartTls,
    demands: bool,
    heard: &Mutex<Vec<String>>,
) -> Option<()> {
    plain.write_all(b"220 mx\r\n").ok()?;
    let mut lines = BufReader::new(plain.try_clone().ok()?);
    loop {
        let line = hear(&mut lines, "", heard)?;
        if line != "STARTTLS" {
            plain.write_all(answer(&line, Some("STARTTLS"), demands).as_bytes()).ok()?;
            continue;
        }
        match start_tls {
            StartTls::Refused => plain.write_all(b"454 4.7.0 not now\r\n").ok()?,
            StartTls::Broken => {
                plain.write_all(b"220 go\r\n").ok()?;
                lines.read_exact(&mut [0]).ok()?;
                return plain.write_all(b"no TLS, only words\r\n").ok();
            }
            StartTls::With(config) => {
                plain.write_all(b"220 go\r\n").ok()?;
                let connection = ServerConnection::new(config.clone()).expect("a server");
                let mut lines = BufReader::new(StreamOwned::new(connection, plain));
                loop {
                    let line = hear(&mut lines, "TLS ", heard)?;
                    let reply = answer(&line, None, false);
                    lines.get_mut().write_all(reply.as_bytes()).ok()?;
                }
            }
        }
    }
}

fn hear(lines: &mut dyn BufRead, prefix: &str, heard: &Mutex<Vec<String>>) -> Option<String> {
    let mut line = String::new();
    if lines.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let line = line.trim_end().to_owned();
    heard.lock().expect("not poisoned").push(format!("{prefix}{line}"));
    Some(line)
}

fn answer(line: &str, offer: Option<&str>, demands: bool) -> String {
    match (line.get(..4).unwrap_or(""), offer) {
        ("EHLO", Some(offer)) => format!("250-mx\r\n250 {offer}\r\n"),
        ("MAIL", _) if demands => "530 5.7.0 Must issue a STARTTLS command first\r\n".to_owned(),
        ("RCPT", _) if !line.contains("<you@") && !line.contains("<postmaster@") => {
            "550 5.1.1 no such mailbox\r\n".to_owned()
        }
        ("QUIT", _) => "221 bye\r\n".to_owned(),
        _ => "250 ok\r\n".to_owned(),
    }
}

/// What the evidence says of the protection.
fn protection(found: &Value) -> Vec<&str> {
    let evidence = found["evidence"].as_array().expect("evidence").iter();
    let steps = evidence.filter(|it| it["step"] == "TLS");
    steps.map(|it| it["reply"].as_str().expect("words")).collect()
}

#[test]
fn hosts_are_asked_under_the_protection_that_mail_would_have() {
    let authority = Authority::new();
    authority.sign("right", &["127.0.0.1"]);
    authority.sign("wrong", &["elsewhere.test"]);
    let right = || StartTls::With(authority.server_config("right"));
    let offering = TlsHost::start(right(), false);
    let demanding = TlsHost::start(right(), true);
    let wrong = TlsHost::start(StartTls::With(authority.server_config("wrong")), false);
    let refusing = TlsHost::start(StartTls::Refused, false);
    let broken = TlsHost::start(StartTls::Broken, false);
    let broken_demanding = TlsHost::start(StartTls::Broken, true);
    let plain = hop(|to, _| (to != "you@plain-required.test").then(|| "550 5.1.1 no".to_owned()));
    let hosts = [
        ("offering.test", offering.address, "opportunistic"),
        ("demanding.test", demanding.address, "opportunistic"),
        ("demanding-required.test", demanding.address, "required"),
        ("demanding-verify.test", demanding.address, "verify"),
        ("demanding-none.test", demanding.address, "none"),
        ("wrong.test", wrong.address, "opportunistic"),
        ("wrong-verify.test", wrong.address, "verify"),
        ("refusing.test", refusing.address, "opportunistic"),
        ("refusing-required.test", refusing.address, "required"),
        ("broken.test", broken.address, "opportunistic"),
        ("broken-required.test", broken.address, "required"),
        ("broken-demanding.test", broken_demanding.address, "opportunistic"),
        ("plain-required.test", plain.address, "required"),
    ];
    let table = |(domain, address, level): &(&str, SocketAddr, &str)| {
        let policy = format!("[[tls_policy]]\ndomain = \"{domain}\"\nlevel = \"{level}\"\n");
        format!("{}{policy}", route(domain, *address))
    };
    let more = format!(
        "[shards]\ncount = 1\n[delivery.tls]\nca = {:?}\n{}",
        authority.ca(),
        hosts.iter().map(table).collect::<String>()
    );
    let server = Server::start(free_address(), &more);
    let accepted = |address: &str| check(&server, address, "deliverable", "mailbox-accepted");
    let is_tls = |found: &Value, verified: &str| {
        let found = protection(found);
        assert!(found.len() == 1 && found[0].starts_with("TLSv1.3, TLS_"), "{found:?}");
        assert!(found[0].ends_with(verified), "{found:?}");
    };
    is_tls(&accepted("you@offering.test"), ", certificate not verified");
    check(&server, "me@offering.test", "undeliverable", "no-mailbox");
    assert_eq!(offering.heard("MAIL"), 0, "TLS was offered");
    is_tls(&accepted("you@demanding.test"), ", certificate not verified");
    is_tls(&accepted("you@demanding-required.test"), ", certificate not verified");
    is_tls(&accepted("you@demanding-verify.test"), ", certificate verified");
    assert_eq!(demanding.heard("MAIL"), 0);
    let found = check(&server, "you@demanding-none.test", "unknown", "encryption");
    assert_eq!(protection(&found), ["none: it is not to be used"]);
    assert_eq!(found["evidence"][1]["reply"], "530 5.7.0 Must issue a STARTTLS command first");
    assert_eq!(demanding.heard("MAIL"), 1);

    is_tls(&accepted("you@wrong.test"), ", certificate not verified");
    let mail_count = wrong.heard("TLS MAIL");
    let found = check(&server, "you@wrong-verify.test", "unknown", "tls-failed");
    assert!(protection(&found)[0].contains("not valid for name"), "{found:#}");
    assert_eq!(wrong.heard("TLS MAIL") + wrong.heard("MAIL"), mail_count, "a stranger was asked");

    let found = accepted("you@refusing.test");
    assert_eq!(protection(&found), ["none: the host refuses it"]);
    let mail_count = refusing.heard("MAIL");
    check(&server, "you@refusing-required.test", "unknown", "tls-refused");
    assert_eq!(refusing.heard("MAIL"), mail_count);
    let found = check(&server, "you@plain-required.test", "unknown", "tls-not-offered");
    assert_eq!(protection(&found), ["none: the host does not offer it"]);

    // What is broken is remembered, by questions as by mail.
    check(&server, "you@broken-required.test", "unknown", "tls-failed");
    let found = accepted("you@broken.test");
    let found = protection(&found);
    assert!(found.len() == 2 && found[1] == "none: it failed with this host lately", "{found:?}");
    let asked = broken.heard("STARTTLS");
    let found = accepted("you@broken.test");
    assert_eq!(protection(&found), ["none: it failed with this host lately"]);
    assert_eq!(broken.heard("STARTTLS"), asked);
    check(&server, "you@broken-required.test", "unknown", "tls-failed");
    assert_eq!(broken.heard("STARTTLS"), asked + 1, "who must have it tries in any case");
    check(&server, "you@broken-demanding.test", "unknown", "encryption");

    for host in [offering, demanding, wrong, refusing, broken, broken_demanding] {
        let sent = host.heard("DATA") + host.heard("TLS DATA");
        assert_eq!(sent, 0, "a message was sent");
    }
    assert!(plain.got().is_empty());
}
