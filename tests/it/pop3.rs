//! Mail read by POP3, with our own client and other people's.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::harness::{Server, free_address, wait_until};
use crate::interop::is_installed;
use crate::stock::{PASSWORD, Stocked, fill};
use crate::tls::{Authority, Octets, secured, tcp};

const LOCAL: &str = "[mailboxes]\ndomains = [\"local.test\"]\n";

/// A client, in the clear or under TLS.
struct Pop3 {
    stream: BufReader<Box<dyn Octets>>,
}

impl Pop3 {
    fn connect(address: SocketAddr) -> Pop3 {
        Pop3::greeted(Box::new(tcp(address)))
    }

    fn greeted(stream: Box<dyn Octets>) -> Pop3 {
        let mut client = Pop3 { stream: BufReader::new(stream) };
        let greeting = client.line();
        assert!(greeting.starts_with("+OK "), "{greeting}");
        client
    }

    /// With implicit TLS.
    fn secured(address: SocketAddr, config: &Arc<ClientConfig>) -> Pop3 {
        Pop3::greeted(Box::new(secured(tcp(address), config, "mx.test")))
    }

    fn logged_in(address: SocketAddr, name: &str) -> Pop3 {
        let mut client = Pop3::connect(address);
        client.expect(&format!("USER {name}"), "+OK");
        client.expect(&format!("PASS {PASSWORD}"), "+OK");
        client
    }

    fn send(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).expect("sent");
    }

    /// The next line; empty at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.stream.read_line(&mut line);
        line.trim_end_matches("\r\n").to_owned()
    }

    fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.line()
    }

    fn expect(&mut self, line: &str, start: &str) -> String {
        let reply = self.say(line);
        assert!(reply.starts_with(start), "{line}: {reply}");
        reply
    }

    /// The lines behind a `+OK`, as sent, up to the dot.
    fn lines(&mut self, line: &str) -> String {
        self.expect(line, "+OK");
        let mut lines = String::new();
        loop {
            let line = self.line();
            match line.as_str() {
                "." => return lines,
                line => lines.push_str(&format!("{line}\r\n")),
            }
        }
    }
}

fn message(number: usize) -> Vec<u8> {
    format!("Subject: {number}\r\n\r\nbody {number}\r\n.dot\r\n..\r\n.\r\nlast\r\n").into_bytes()
}

/// A server with accounts `a@local.test` to `d@local.test`, one in each of four partitions, and so
/// many messages; and where POP3 is spoken: STLS, implicit TLS.
fn server(message_count: usize, authority: &Authority, extra: &str) -> (Server, [SocketAddr; 2]) {
    let accounts = ["a@local.test", "b@local.test", "c@local.test", "d@local.test"];
    let accounts = accounts.into_iter().enumerate().map(|(partition, name)| Stocked {
        partition: partition as u16,
        name: name.to_owned(),
        messages: (1..=message_count).map(message).collect(),
    });
    let accounts: Vec<Stocked> = accounts.collect();
    let addresses = [free_address(), free_address()];
    let text = config(authority, addresses, extra);
    let prepare = |data_dir: &Path| fill(data_dir, 4, &accounts);
    (Server::prepared(free_address(), &text, prepare), addresses)
}

fn config(authority: &Authority, [stls, implicit]: [SocketAddr; 2], extra: &str) -> String {
    authority.sign("mx", &["mx.test", "localhost"]);
    format!(
        "{extra}[shards]\ncount = 4\n{}{}\
         [[listener]]\naddress = \"{stls}\"\nprotocol = \"pop3\"\n\
         [[listener]]\naddress = \"{implicit}\"\nprotocol = \"pop3\"\ntls = \"implicit\"\n",
        if extra.contains("[mailboxes]") { "" } else { LOCAL },
        authority.certificate("mx"),
    )
}

#[test]
fn a_maildrop_is_listed_read_and_emptied() {
    let authority = Authority::new();
    let (mut server, [address, _]) = server(3, &authority, "");
    let mut client = Pop3::connect(address);
    let capabilities = client.lines("CAPA");
    for capability in ["STLS", "USER", "SASL PLAIN SCRAM-SHA-256", "UIDL", "TOP", "PIPELINING"] {
        assert!(capabilities.lines().any(|line| line == capability), "{capabilities}");
    }
    client.expect("STAT", "-ERR");
    client.expect("USER a", "+OK");
    let octets = 3 * message(1).len();
    client.expect(&format!("PASS {PASSWORD}"), &format!("+OK 3 messages, {octets} octets"));
    client.expect("STAT", &format!("+OK 3 {octets}"));
    let size = octets / 3;
    assert_eq!(client.lines("LIST"), format!("1 {size}\r\n2 {size}\r\n3 {size}\r\n"));
    client.expect("LIST 2", &format!("+OK 2 {size}"));
    client.expect("LIST 4", "-ERR");
    let unique_ids = client.lines("UIDL");
    let second = unique_ids.lines().nth(1).expect("a second").to_owned();
    assert_eq!(client.say("UIDL 2"), format!("+OK {second}"));
    let sent = "Subject: 2\r\n\r\nbody 2\r\n..dot\r\n...\r\n..\r\nlast\r\n";
    assert_eq!(client.lines("RETR 2"), sent);
    assert_eq!(client.lines("TOP 2 2"), "Subject: 2\r\n\r\nbody 2\r\n..dot\r\n");
    assert_eq!(client.lines("TOP 2 0"), "Subject: 2\r\n\r\n");
    client.expect("DELE 2", "+OK");
    client.expect("DELE 2", "-ERR");
    client.expect("RETR 2", "-ERR");
    client.expect("STAT", &format!("+OK 2 {}", 2 * size));
    assert_eq!(client.lines("LIST"), format!("1 {size}\r\n3 {size}\r\n"));
    client.expect("RSET", "+OK");
    client.expect("STAT", "+OK 3 ");
    client.expect("DELE 2", "+OK");

    // Another session sees no change before QUIT, and keeps its numbers after it.
    let mut other = Pop3::logged_in(address, "a@local.test");
    other.expect("STAT", "+OK 3 ");
    client.expect("QUIT", "+OK");
    assert_eq!(client.line(), "");
    other.expect("LIST 3", &format!("+OK 3 {size}"));
    assert_eq!(other.lines("RETR 2"), sent, "kept for a while");
    assert_eq!(
        other.lines("RETR 3"),
        sent.replace("Subject: 2", "Subject: 3").replace("y 2", "y 3")
    );
    assert_eq!(other.lines("UIDL"), unique_ids);
    assert_eq!(other.lines("LIST").lines().count(), 3);
    other.expect("QUIT", "+OK");

    // A session that breaks off deletes nothing; what is unique stays so over a restart.
    let mut client = Pop3::logged_in(address, "A@LOCAL.TEST");
    client.expect("DELE 1", "+OK");
    drop(client);
    assert!(server.stop().success(), "{}", server.stderr());
    server.start_again();
    let mut client = Pop3::logged_in(address, "a");
    let left: Vec<&str> = unique_ids.lines().map(|line| &line[2..]).collect();
    let expected = format!("1 {}\r\n2 {}\r\n", left[0], left[2]);
    assert_eq!(client.lines("UIDL"), expected);

    // A server that stops says so, and ends sessions that wait.
    assert!(server.stop().success(), "{}", server.stderr());
    assert_eq!(client.line(), "-ERR Shutting down");
}

#[test]
fn a_session_finds_the_shard_of_its_account_with_all_that_was_said() {
    let authority = Authority::new();
    let (server, [stls, implicit]) = server(1, &authority, "");
    let config = authority.client_config();
    let size = message(1).len();
    let pipelined = |name: &str| {
        format!("USER {name}\r\nPASS {PASSWORD}\r\nSTAT\r\nUIDL 1\r\nTOP 1 0\r\nNOOP\r\n")
    };
    let check = |client: &mut Pop3| {
        assert_eq!(client.line(), "+OK Password, please");
        assert_eq!(client.line(), format!("+OK 1 messages, {size} octets"));
        assert_eq!(client.line(), format!("+OK 1 {size}"));
        assert!(client.line().starts_with("+OK 1 "));
        let top: Vec<String> = (0..4).map(|_| client.line()).collect();
        assert_eq!(top, ["+OK Top follows", "Subject: 1", "", "."]);
        assert_eq!(client.line(), "+OK Nothing done");
        assert!(client.lines("RETR 1").contains("..dot\r\n"), "it goes on");
    };
    for round in 0..24 {
        let name = ["a", "b", "c", "d"][round % 4];
        let mut client = match round % 3 {
            0 => Pop3::connect(stls),
            1 => Pop3::secured(implicit, &config),
            _ => {
                // What is said in the clear behind STLS is no command.
                let mut client = tcp(stls);
                client.write_all(b"STLS\r\n").expect("sent");
                let mut line = String::new();
                let mut reader = BufReader::new(client.try_clone().expect("a second handle"));
                for start in ["+OK mx.test", "+OK Begin TLS"] {
                    line.clear();
                    reader.read_line(&mut line).expect("a line");
                    assert!(line.starts_with(start), "{line}");
                }
                Pop3 { stream: BufReader::new(Box::new(secured(client, &config, "mx.test"))) }
            }
        };
        let said = pipelined(name);
        if round % 2 == 0 {
            client.send(said.as_bytes());
        } else {
            // One octet a packet, and under TLS a record.
            said.bytes().for_each(|octet| client.send(&[octet]));
        }
        check(&mut client);
        client.expect("QUIT", "+OK");
    }
    assert_eq!(server.metric("ringpost_access_logins_total"), 24.0);
    assert_eq!(server.metric("ringpost_access_password_hashes_total"), 4.0);
    let moved = server.metric("ringpost_access_sessions_moved_total");
    assert!((1.0..24.0).contains(&moved), "{moved} of 24 came from another shard");
    assert_eq!(server.metric("ringpost_access_moves_failed_total"), 0.0);
    wait_until("all sessions are over", || server.metric("ringpost_access_sessions_open") == 0.0);
}

#[test]
fn passwords_need_tls_but_on_loopback() {
    let authority = Authority::new();
    let proxied = "[[listener]]\nproxy_networks = [\"127.0.0.1\"]\nprotocol = \"pop3\"\n";
    let through = free_address();
    let extra = format!("{proxied}address = \"{through}\"\n");
    let (_server, _) = server(1, &authority, &extra);
    // A client that is said to be elsewhere.
    let mut stream = tcp(through);
    stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 110\r\n").expect("sent");
    let mut client = Pop3::greeted(Box::new(stream.try_clone().expect("a second handle")));
    let capabilities = client.lines("CAPA");
    assert!(capabilities.contains("STLS\r\n"), "{capabilities}");
    assert!(!capabilities.contains("USER") && !capabilities.contains("SASL"), "{capabilities}");
    for line in ["USER a", "AUTH PLAIN", "AUTH SCRAM-SHA-256"] {
        client.expect(line, "-ERR [SYS/PERM] Passwords need TLS");
    }
    client.expect("STLS", "+OK");
    let config = authority.client_config();
    let mut client = Pop3 { stream: BufReader::new(Box::new(secured(stream, &config, "mx.test"))) };
    assert!(client.lines("CAPA").contains("USER\r\n"));
    client.expect("USER a", "+OK");
    client.expect(&format!("PASS {PASSWORD}"), "+OK 1 messages");
}

#[test]
fn guessing_gets_slower_and_then_nowhere_and_spares_who_was_there_before() {
    let authority = Authority::new();
    let (server, [address, _]) = server(1, &authority, "");
    Pop3::logged_in(address, "a").expect("QUIT", "+OK");
    let guess = |name: &'static str, number: usize| {
        let mut client = Pop3::connect(address);
        client.expect(&format!("USER {name}"), "+OK");
        client.send(format!("PASS wrong {number}\r\n").as_bytes());
        client
    };
    let clients: Vec<Pop3> = (0..25).map(|number| guess("b", number)).collect();
    let replies: Vec<String> = clients.into_iter().map(|mut client| client.line()).collect();
    let count = |start: &str| replies.iter().filter(|it| it.starts_with(start)).count();
    assert_eq!(count("-ERR [AUTH] Wrong name or password"), 20, "{replies:?}");
    assert_eq!(count("-ERR [SYS/TEMP] Too many failures, try again in "), 5, "{replies:?}");
    let mut client = guess("nobody", 1);
    assert!(client.line().starts_with("-ERR [SYS/TEMP] "), "the client, whatever the name");
    // Its owner has been there from this address.
    Pop3::logged_in(address, "a").expect("QUIT", "+OK");
    assert_eq!(server.metric("ringpost_access_logins_refused_total"), 20.0);
    assert_eq!(server.metric("ringpost_access_logins_limited_total"), 6.0);
    let line = "login=refused protocol=pop3 client=127.0.0.1 mechanism=PASS reason=";
    wait_until("all of them are in the log", || server.log().matches(line).count() == 26);
    let limited = format!("{line}too-many-failures left_out=0 name=\"nobody\"\n");
    assert!(server.log().contains(&limited), "{}", server.log());
}

#[test]
fn an_account_has_so_many_sessions_and_a_reload_says_how_many() {
    let authority = Authority::new();
    let limit = |count: u32| {
        format!("[mailboxes]\ndomains = [\"local.test\"]\nsessions_per_account_max = {count}\n")
    };
    let (server, addresses) = server(1, &authority, &limit(2));
    let mut first = Pop3::logged_in(addresses[0], "a");
    let _second = Pop3::logged_in(addresses[0], "a");
    let _other = Pop3::logged_in(addresses[0], "b");
    let mut third = Pop3::connect(addresses[0]);
    third.expect("USER a", "+OK");
    third.expect(&format!("PASS {PASSWORD}"), "-ERR [IN-USE]");
    assert_eq!(third.line(), "");
    first.expect("QUIT", "+OK");
    assert_eq!(first.line(), "");
    let mut again = Pop3::logged_in(addresses[0], "a");
    server.write_config(free_address(), &config(&authority, addresses, &limit(3)));
    server.signal("HUP");
    wait_until("a third is let in", || {
        let mut third = Pop3::connect(addresses[0]);
        third.expect("USER a", "+OK");
        third.say(&format!("PASS {PASSWORD}")).starts_with("+OK")
    });
    again.expect("STAT", "+OK 1 ");
}

#[test]
fn what_was_marked_is_deleted_as_a_whole_or_not_at_all() {
    let authority = Authority::new();
    let (mut server, [address, _]) = server(200, &authority, "");
    let count = |server: &Server| {
        assert!(server.pid() > 0);
        let mut client = Pop3::logged_in(address, "a");
        let reply = client.expect("STAT", "+OK ");
        client.expect("QUIT", "+OK");
        reply.split(' ').nth(1).and_then(|it| it.parse::<usize>().ok()).expect("a number")
    };
    let mut left = 200;
    for round in 0..8 {
        let mut client = Pop3::logged_in(address, "a");
        // Every other one of the first twenty: ranges with gaps.
        let marked: Vec<usize> = (1..=20).step_by(2).collect();
        let lines: String = marked.iter().map(|number| format!("DELE {number}\r\n")).collect();
        client.send(lines.as_bytes());
        marked.iter().for_each(|_| assert!(client.line().starts_with("+OK")));
        client.send(b"QUIT\r\n");
        std::thread::sleep(Duration::from_micros(300 * round));
        server.kill();
        let answered = client.line().starts_with("+OK");
        server.start_again();
        let now = count(&server);
        let expected = if answered { vec![left - 10] } else { vec![left, left - 10] };
        assert!(expected.contains(&now), "round {round}: {now} of {left}, answered: {answered}");
        left = now;
    }
}

/// A message of more than one chunk, with and without lines that begin with a dot.
fn large(line: &str) -> Vec<u8> {
    [b"Subject: large\r\n\r\n".to_vec(), format!("{line}\r\n").repeat(40_000).into_bytes()].concat()
}

#[test]
fn large_messages_come_whole_and_clients_of_others_read_them() {
    let authority = Authority::new();
    let messages = vec![large("without a dot"), large(".with one"), message(3)];
    let name = "a@local.test".to_owned();
    let account = Stocked { partition: 1, name, messages: messages.clone() };
    let addresses = [free_address(), free_address()];
    let text = config(&authority, addresses, "");
    let prepare = |data_dir: &Path| fill(data_dir, 4, &[account]);
    let _server = Server::prepared(free_address(), &text, prepare);
    let mut client = Pop3::secured(addresses[1], &authority.client_config());
    client.expect("USER a", "+OK");
    client.expect(&format!("PASS {PASSWORD}"), "+OK 3 messages");
    for (index, message) in messages.iter().enumerate() {
        let sent = client.lines(&format!("RETR {}", index + 1));
        let unstuffed = sent.replace("\r\n.", "\r\n");
        assert!(unstuffed.as_bytes() == message, "message {}", index + 1);
    }
    let top = client.lines("TOP 2 1");
    assert_eq!(top, "Subject: large\r\n\r\n..with one\r\n");

    if is_installed("python3") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/read_pop3.py");
        for (index, address) in addresses.iter().enumerate() {
            let output = Command::new("python3")
                .args([script, ["stls", "implicit"][index], &address.port().to_string()])
                .arg(authority.ca())
                .args(["a@local.test", PASSWORD])
                .output()
                .expect("python3 runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            let sizes: Vec<usize> = messages.iter().map(Vec::len).collect();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("{sizes:?}"));
        }
    }
    if is_installed("curl") {
        for (scheme, port) in [("pop3", addresses[0].port()), ("pop3s", addresses[1].port())] {
            let output = Command::new("curl")
                .args(["--silent", "--show-error", "--ssl-reqd", "--cacert"])
                .arg(authority.ca())
                .arg("--user")
                .arg(format!("a@local.test:{PASSWORD}"))
                .arg(format!("{scheme}://localhost:{port}/2"))
                .output()
                .expect("curl runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{scheme}: {said}");
            assert!(output.stdout == messages[1], "{scheme}: {} octets", output.stdout.len());
        }
    }
}
