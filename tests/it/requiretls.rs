//! REQUIRETLS and `TLS-Required: No` (RFC 8689) from the client to the next hop.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::dns::Knot;
use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};
use crate::tls::{Authority, TlsClient};

/// A next hop under TLS: what it was told there, content included.
struct TlsHop {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl TlsHop {
    /// Offers `extension` under TLS.
    fn start(config: Arc<ServerConfig>, extension: &'static str) -> TlsHop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hop = TlsHop { address, heard: heard.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, heard) = (config.clone(), heard.clone());
                std::thread::spawn(move || converse(stream, config, extension, &heard));
            }
        });
        hop
    }

    fn heard(&self, start: &str) -> Vec<String> {
        let heard = self.heard.lock().expect("not poisoned");
        heard.iter().filter(|line| line.starts_with(start)).cloned().collect()
    }
}

/// `None` once the other side has gone.
fn converse(
    mut plain: TcpStream,
    config: Arc<ServerConfig>,
    extension: &str,
    heard: &Mutex<Vec<String>>,
) -> Option<()> {
    plain.write_all(b"220 hop\r\n").ok()?;
    let mut lines = BufReader::new(plain.try_clone().ok()?);
    for reply in ["250-hop\r\n250 STARTTLS\r\n", "220 go\r\n"] {
        lines.read_line(&mut String::new()).ok()?;
        plain.write_all(reply.as_bytes()).ok()?;
    }
    let connection = ServerConnection::new(config).expect("a server");
    let mut stream = BufReader::new(StreamOwned::new(connection, plain));
    let mut in_content = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        heard.lock().expect("not poisoned").push(line.trim_end().to_owned());
        let reply = match line.get(..4) {
            _ if in_content && line != ".\r\n" => continue,
            Some("EHLO") => format!("250-hop\r\n250 {extension}\r\n"),
            Some("DATA") => "354 go\r\n".to_owned(),
            _ => "250 ok\r\n".to_owned(),
        };
        in_content = reply.starts_with("354");
        stream.get_mut().write_all(reply.as_bytes()).ok()?;
    }
}

fn route(domain: &str, next_hop: &str) -> String {
    format!("[[route]]\ndomain = \"{domain}\"\nnext_hop = \"{next_hop}\"\n")
}

/// A message under REQUIRETLS with a body that is to stay a secret.
fn send(client: &mut TlsClient, from: &str, to: &str, parameters: &str) {
    client.expect(&format!("MAIL FROM:<{from}>{parameters}"), "250");
    client.expect(&format!("RCPT TO:<{to}>"), "250");
    client.expect("DATA", "354");
    client.send(b"Subject: known\r\n\r\nsecret\r\n.\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("250"), "{reply}");
}

#[test]
fn mail_under_requiretls_goes_where_it_is_kept_and_fails_elsewhere() {
    let authority = Authority::new();
    authority.sign("mx", &["mx.test"]);
    authority.sign("right", &["127.0.0.1"]);
    authority.sign("wrong", &["elsewhere.test"]);
    let config = |name: &str| authority.server_config(name);
    let keeping = TlsHop::start(config("right"), "REQUIRETLS");
    let lacking = TlsHop::start(config("right"), "HELP");
    let wrong = TlsHop::start(config("wrong"), "REQUIRETLS");
    let reports = TlsHop::start(config("right"), "REQUIRETLS");
    let plain = NextHop::start(Behaviour::default());
    let local = NextHop::start(Behaviour::default());
    let hops = [
        ("kept.test", format!("smtp://{}", keeping.address)),
        ("lacking.test", format!("smtp://{}", lacking.address)),
        ("wrong.test", format!("smtp://{}", wrong.address)),
        ("plain.test", format!("smtp://{}", plain.address)),
        ("from.test", format!("smtp://{}", reports.address)),
        ("local.test", format!("lmtp://{}", local.address)),
    ];
    let routes: String = hops.iter().map(|(domain, next_hop)| route(domain, next_hop)).collect();
    let extra = format!(
        "[delivery.tls]\nca = {:?}\n{}{routes}",
        authority.ca(),
        authority.certificate("mx")
    );
    let server = Server::start(free_address(), &extra);
    let mut client = server.client();
    let ehlo = client.expect("EHLO client.test", "250");
    assert!(!ehlo.contains("REQUIRETLS"), "{ehlo}");
    client.expect("MAIL FROM:<a@from.test> REQUIRETLS", "555 5.5.4");

    let mut client = TlsClient::connect(server.address, &authority.client_config(), "mx.test");
    let ehlo = client.expect("EHLO client.test", "250");
    assert!(ehlo.contains("REQUIRETLS"), "{ehlo}");
    for (domain, _) in hops {
        send(&mut client, "a@from.test", &format!("b@{domain}"), " REQUIRETLS");
    }
    let lines = |domain: &str| {
        let log = server.log();
        let of_domain = |line: &&str| line.contains(&format!("recipient=<b@{domain}>"));
        log.lines().filter(of_domain).map(str::to_owned).collect::<Vec<String>>()
    };
    let ended = |domain: &str, what: &[&str]| {
        wait_until(&format!("{domain} is through"), || !lines(domain).is_empty());
        let lines = lines(domain);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(what.iter().all(|what| lines[0].contains(what)), "{lines:?}");
    };
    ended("kept.test", &["outcome=relayed", " verified=true"]);
    ended("lacking.test", &["outcome=failed", " status=5.7.30 "]);
    ended("wrong.test", &["outcome=failed", " status=5.7.10 "]);
    ended("plain.test", &["outcome=failed", " status=5.7.10 "]);
    // It ends on this host.
    ended("local.test", &["outcome=delivered"]);
    assert_eq!(keeping.heard("MAIL"), ["MAIL FROM:<a@from.test> REQUIRETLS"]);
    assert_eq!(keeping.heard("secret").len(), 1);
    assert!(plain.got().is_empty());
    for hop in [&lacking, &wrong] {
        assert!(hop.heard("MAIL").is_empty());
    }

    // The reports require the same, and give nothing of the body away.
    wait_until("three are reported", || reports.heard("MAIL FROM:<> REQUIRETLS").len() == 3);
    wait_until("with their content", || reports.heard("Subject: known").len() == 4);
    assert_eq!(reports.heard("secret").len(), 1, "that of the message to that domain itself");

    // But they are not lost where that cannot be had (RFC 8689 §5).
    send(&mut client, "", "c@lacking.test", " REQUIRETLS");
    wait_until("it goes all the same", || lacking.heard("MAIL FROM:<>").len() == 1);
    assert_eq!(lacking.heard("MAIL FROM:<>"), ["MAIL FROM:<>"]);
    // Other mail is none the wiser.
    send(&mut client, "a@from.test", "c@plain.test", "");
    assert_eq!(plain.wait_for(1).len(), 1);
}

#[test]
fn hosts_that_nothing_vouches_for_get_no_mail_under_requiretls() {
    let zone = "by-mx MX 10 host\nhost A 127.0.0.1\n";
    let Some(knot) = Knot::start_with(&[("v.test", zone)]) else { return };
    let authority = Authority::new();
    authority.sign("mx", &["mx.test"]);
    authority.sign("host", &["host.v.test"]);
    let host = TlsHop::start(authority.server_config("host"), "REQUIRETLS");
    let extra = format!(
        "[delivery]\nmx_port = {}\n[delivery.tls]\nca = {:?}\n[dns]\nupstreams = [\"{}\"]\n{}{}",
        host.address.port(),
        authority.ca(),
        knot.address,
        route("*.v.test", "mx"),
        authority.certificate("mx"),
    );
    let server = Server::start(free_address(), &extra);
    let mut client = TlsClient::connect(server.address, &authority.client_config(), "mx.test");
    send(&mut client, "a@from.test", "b@by-mx.v.test", " REQUIRETLS");
    send(&mut client, "a@from.test", "b@host.v.test", " REQUIRETLS");
    let logged = |what: &str| {
        wait_until(what, || server.log().contains(what));
    };
    logged("outcome=failed reverse_path=<a@from.test> recipient=<b@by-mx.v.test>");
    // Its certificate is for the domain itself: nobody can have led us astray.
    logged("outcome=relayed reverse_path=<a@from.test> recipient=<b@host.v.test>");
    assert!(server.log().contains(" status=5.7.10 "), "{}", server.log());
    assert_eq!(host.heard("RCPT"), ["RCPT TO:<b@host.v.test>"]);
}

fn shown(server: &Server, id: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(["queue", "show", id, "--json", "--config"])
        .arg(server.config_path())
        .output()
        .expect("ringpost runs");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn what_a_message_asks_for_outlives_the_process() {
    let authority = Authority::new();
    authority.sign("mx", &["mx.test"]);
    let mut server = Server::start(free_address(), &authority.certificate("mx"));
    let mut client = TlsClient::connect(server.address, &authority.client_config(), "mx.test");
    let mut ids = Vec::new();
    for (parameters, field, expected) in [
        (" REQUIRETLS", "Subject: x", Some("required")),
        (" REQUIRETLS", "TLS-Required: No", Some("required")),
        ("", "tls-required:\r\n no", Some("optional")),
        ("", "Subject: x", None),
    ] {
        client.expect(&format!("MAIL FROM:<a@from.test>{parameters}"), "250");
        client.expect("RCPT TO:<b@to.test>", "250");
        client.expect("DATA", "354");
        client.send(format!("{field}\r\n\r\nbody\r\n.\r\n").as_bytes());
        let reply = client.reply();
        let id = reply.trim_end().rsplit(' ').next().expect("an id").to_owned();
        ids.push((id, expected));
    }
    // A killed one reads the envelopes, one that was stopped a checkpoint.
    for _ in 0..2 {
        for (id, expected) in &ids {
            let message = shown(&server, id);
            assert_eq!(message["tasks"][0]["tls"].as_str(), *expected, "{message:#}");
        }
        server.kill();
        server.start_again();
        for (id, expected) in &ids {
            assert_eq!(shown(&server, id)["tasks"][0]["tls"].as_str(), *expected);
        }
        assert!(server.stop().success());
        server.start_again();
    }
}
