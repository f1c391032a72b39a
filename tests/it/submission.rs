//! Mail submitted by clients that log in.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use ringpost::proto::sasl::base64;
use ringpost::proto::sasl::digest::Hashes;
use ringpost::proto::sasl::scram::client::{ClientExchange, Salting};
use ringpost::tls::digest::{hmac_sha256, sha256};

use crate::harness::{Behaviour, Client, NextHop, Server, free_address, wait_until};
use crate::interop::is_installed;
use crate::stock::{PASSWORD, Stocked, fill};
use crate::tls::{Authority, TlsClient};

/// Accounts `ann@local.test` and `bob@local.test` on two shards, and aliases of theirs.
fn server(authority: &Authority, next_hop: SocketAddr) -> (Server, [SocketAddr; 3]) {
    authority.sign("mx", &["mx.test", "localhost"]);
    let addresses = [free_address(), free_address(), free_address()];
    let [starttls, implicit, proxied] = addresses;
    let extra = format!(
        "[shards]\ncount = 2\n[mailboxes]\ndomains = [\"local.test\"]\n\
         [[alias]]\naddress = \"sales@local.test\"\nto = [\"ann@local.test\"]\n\
         [[alias]]\naddress = \"all@local.test\"\nto = [\"ann@local.test\", \"bob@local.test\"]\n\
         {}[[listener]]\naddress = \"{starttls}\"\nprotocol = \"submission\"\n\
         [[listener]]\naddress = \"{implicit}\"\nprotocol = \"submission\"\ntls = \"implicit\"\n\
         [[listener]]\naddress = \"{proxied}\"\nprotocol = \"submission\"\n\
         proxy_networks = [\"127.0.0.1\"]\n",
        authority.certificate("mx")
    );
    let accounts = ["ann@local.test", "bob@local.test"].into_iter().enumerate();
    let accounts = accounts.map(|(partition, name)| {
        let (partition, name) = (partition as u16, name.to_owned());
        Stocked { partition, name, messages: Vec::new() }
    });
    let accounts: Vec<Stocked> = accounts.collect();
    let prepare = |data_dir: &Path| fill(data_dir, 2, &accounts);
    (Server::prepared(next_hop, &extra, prepare), addresses)
}

fn encoded(octets: &[u8]) -> String {
    let mut text = String::new();
    base64::encode(octets, &mut text);
    text
}

fn plain(name: &str) -> String {
    format!("AUTH PLAIN {}", encoded(format!("\0{name}\0{PASSWORD}").as_bytes()))
}

fn submit(client: &mut TlsClient, from: &str, content: &[u8]) {
    client.expect(&format!("MAIL FROM:<{from}>"), "250");
    client.expect("RCPT TO:<x@far.test>", "250");
    client.expect("DATA", "354");
    client.send(content);
    client.send(b".\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("250"), "{reply}");
}

#[test]
fn whoever_has_logged_in_sends_mail_as_itself_alone() {
    let authority = Authority::new();
    let next_hop = NextHop::start(Behaviour::default());
    let (server, [starttls, implicit, _]) = server(&authority, next_hop.address);
    let config = authority.client_config();
    let mut client = TlsClient::connect(starttls, &config, "mx.test");
    client.expect("MAIL FROM:<ann@local.test>", "530 5.7.0");
    client.expect("AUTH PLAIN", "334 ");
    client.expect("*", "501 5.7.0");
    client.expect("AUTH PLAIN not-base64", "501 5.5.2");
    let wrong = encoded(b"\0ann\0wrong");
    client.expect(&format!("AUTH PLAIN {wrong}"), "535 5.7.8");
    client.expect("MAIL FROM:<ann@local.test>", "530 5.7.0");
    client.expect(&plain("ann"), "235 2.7.0");
    client.expect(&plain("bob"), "503 5.5.1");
    for other in ["bob@local.test", "all@local.test", "nobody@local.test", "ann@far.test"] {
        client.expect(&format!("MAIL FROM:<{other}>"), "550 5.7.1");
    }
    submit(&mut client, "sales+x@local.test", b"Subject: bare\r\n\r\nhi\r\n");
    let dated = b"Date: then\r\nMessage-ID: <own@local.test>\r\n\r\nhi\r\n";
    submit(&mut client, "Ann@local.test", dated);
    submit(&mut client, "", b"Subject: report\r\n\r\n");

    // Another way in, another mechanism: LOGIN.
    let stream = TcpStream::connect(implicit).expect("connected");
    let mut client = TlsClient::begin(stream, &config, "mx.test");
    assert!(client.reply().starts_with("220 "));
    let ehlo = client.expect("EHLO client.test", "250");
    assert!(ehlo.contains("250-AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n"), "{ehlo}");
    client.expect("AUTH LOGIN", &format!("334 {}", encoded(b"Username:")));
    client.expect(&encoded(b"bob@local.test"), &format!("334 {}", encoded(b"Password:")));
    client.expect(&encoded(PASSWORD.as_bytes()), "235");
    client.expect("MAIL FROM:<ann@local.test>", "550 5.7.1");
    submit(&mut client, "bob@local.test", b"Date: then\r\n\r\n");

    let got = next_hop.wait_for(4);
    let text = |from: &str| {
        let found = got.iter().find(|it| it.from == from).expect("delivered");
        String::from_utf8_lossy(&found.content).into_owned()
    };
    let bare = text("sales+x@local.test");
    assert!(bare.contains(" with ESMTPSA id "), "{bare}");
    assert!(bare.contains("\r\nDate: ") && bare.contains("\r\nMessage-ID: <"), "{bare}");
    assert!(!bare.contains("ann"), "who logged in is nobody's business: {bare}");
    assert!(text("").contains("\r\nDate: "));
    let own = text("Ann@local.test");
    assert_eq!((own.matches("Date: ").count(), own.matches("Message-ID: ").count()), (1, 1));
    assert!(own.contains("<own@local.test>"));
    let of_bob = text("bob@local.test");
    assert_eq!((of_bob.matches("Date: ").count(), of_bob.matches("Message-ID: ").count()), (1, 1));
    assert_eq!(server.metric("ringpost_reception_logins_total"), 2.0);
    assert_eq!(server.metric("ringpost_reception_logins_refused_total"), 1.0);
    let of = |reason: &str| {
        format!("login=refused protocol=submission client=127.0.0.1 mechanism=PLAIN {reason}")
    };
    for line in [
        of("reason=malformed left_out=0 name=\"\"\n"),
        of("reason=credentials left_out=0 name=\"ann\"\n"),
    ] {
        wait_until("the refusal is in the log", || server.log().contains(&line));
    }
    assert_eq!(server.log().matches("login=").count(), 2, "{}", server.log());
    assert_eq!(server.metric("ringpost_reception_reverse_paths_refused_total"), 5.0);
}

#[test]
fn scram_opens_too_and_pipelined_commands_wait_for_the_login() {
    let authority = Authority::new();
    let next_hop = NextHop::start(Behaviour::default());
    let (_server, [starttls, ..]) = server(&authority, next_hop.address);
    // On loopback, without TLS.
    let mut client = Client::connect(starttls);
    let ehlo = client.expect("EHLO client.test", "250");
    assert!(ehlo.contains("250-AUTH ") && ehlo.contains("250-STARTTLS"), "{ehlo}");
    let mut exchange = ClientExchange::new("ann@local.test", "0123456789abcdefghijklmn");
    let first = encoded(exchange.first().as_bytes());
    let challenge = client.expect(&format!("AUTH SCRAM-SHA-256 {first}"), "334 ");
    let challenge = base64::decode(&challenge.as_bytes()[4..]).expect("base64");
    let recipe = exchange.on_challenge(&challenge).expect("a recipe");
    let hashes = Hashes { sha256, hmac_sha256 };
    let salted = Salting::new(PASSWORD, &recipe, hashes).go_on(u32::MAX).expect("salted");
    let proof = exchange.proof(&salted, hashes);
    let last = client.expect(&encoded(proof.as_bytes()), "334 ");
    let last = base64::decode(&last.as_bytes()[4..]).expect("base64");
    exchange.on_final(&last).expect("the server knows the password");
    client.expect("", "235");
    let reply = client.message("ann@local.test", &["x@far.test"], b"Subject: x\r\n\r\n");
    assert!(reply.starts_with("250"), "{reply}");
    let got = next_hop.wait_for(1);
    assert!(String::from_utf8_lossy(&got[0].content).contains(" with ESMTPA id "));

    let mut client = Client::connect(starttls);
    let commands = format!(
        "EHLO c\r\n{}\r\nMAIL FROM:<ann@local.test>\r\nRCPT TO:<x@far.test>\r\nNOOP\r\n",
        plain("ann")
    );
    commands.bytes().for_each(|octet| client.send(&[octet]));
    let replies: Vec<String> = (0..5).map(|_| client.reply()).collect();
    let starts: Vec<&str> = replies.iter().map(|reply| &reply[..3]).collect();
    assert_eq!(starts, ["250", "235", "250", "250", "250"]);
}

#[test]
fn nobody_says_a_password_where_others_hear_it() {
    let authority = Authority::new();
    let (_server, [_, _, proxied]) = server(&authority, free_address());
    let mut client = Client::connect_silent(proxied);
    client.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 587\r\n");
    assert!(client.reply().starts_with("220"));
    let ehlo = client.expect("EHLO client.test", "250");
    assert!(!ehlo.contains("AUTH") && ehlo.contains("250-STARTTLS"), "{ehlo}");
    client.expect(&plain("ann"), "538 5.7.11");
    client.expect("MAIL FROM:<ann@local.test>", "530 5.7.0");
    client.expect("STARTTLS", "220");
    let mut client = TlsClient::begin(client.stream, &authority.client_config(), "mx.test");
    client.expect("EHLO client.test", "250");
    client.expect(&plain("ann"), "235");
    client.expect("MAIL FROM:<ann@local.test>", "250");
}

#[test]
fn clients_of_others_submit() {
    let authority = Authority::new();
    let next_hop = NextHop::start(Behaviour::default());
    let (_server, [starttls, implicit, _]) = server(&authority, next_hop.address);
    let mut count = 0;
    if is_installed("curl") {
        let file = authority.path("message.eml");
        std::fs::write(&file, "Subject: by curl\r\n\r\nhi\r\n").expect("written");
        for (scheme, address) in [("smtp", starttls), ("smtps", implicit)] {
            for mechanism in ["PLAIN", "LOGIN"] {
                let mut command = Command::new("curl");
                command.args(["--silent", "--show-error", "--ssl-reqd", "--cacert"]);
                command.arg(authority.ca()).arg("--user").arg(format!("ann@local.test:{PASSWORD}"));
                command.args(["--login-options", &format!("AUTH={mechanism}")]);
                command.args(["--mail-from", "ann@local.test", "--mail-rcpt", "x@far.test"]);
                command.arg("--upload-file").arg(&file);
                let url = format!("{scheme}://localhost:{}", address.port());
                let output = command.arg(url).output().expect("curl runs");
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{scheme} {mechanism}: {said}");
                count += 1;
            }
        }
    }
    if is_installed("python3") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/submit.py");
        let output = Command::new("python3")
            .arg(script)
            .args([starttls.port().to_string(), implicit.port().to_string()])
            .arg(authority.ca())
            .args(["ann@local.test", PASSWORD, "x@far.test"])
            .output()
            .expect("python3 runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        count += 2;
    }
    let got = next_hop.wait_for(count);
    for message in &got {
        assert_eq!((&*message.from, &*message.to[0]), ("ann@local.test", "x@far.test"));
        assert!(String::from_utf8_lossy(&message.content).contains(" with ESMTPSA id "));
    }
}
