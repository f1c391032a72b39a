//! Sessions whose account is removed, or gets another password.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use ringpost::proto::sasl::base64;

use crate::accounts::ask;
use crate::harness::{Server, free_address, wait_until};
use crate::stock::{PASSWORD, Stocked, fill};
use crate::tls::tcp;

/// Accounts `a@local.test` to `e@local.test`, in four partitions, with a message each; and
/// where IMAP, POP3 and submission are spoken.
fn server(message: &[u8]) -> (Server, [SocketAddr; 3]) {
    let accounts = ["a", "b", "c", "d", "e"].map(|name| format!("{name}@local.test"));
    let accounts = accounts.into_iter().enumerate().map(|(partition, name)| Stocked {
        partition: partition as u16 % 4,
        name,
        messages: vec![message.to_vec()],
    });
    let accounts: Vec<Stocked> = accounts.collect();
    let addresses = [free_address(), free_address(), free_address()];
    let mut text = String::from("[shards]\ncount = 4\n[mailboxes]\ndomains = [\"local.test\"]\n");
    for (address, protocol) in addresses.iter().zip(["imap", "pop3", "submission"]) {
        let listener =
            format!("[[listener]]\naddress = \"{address}\"\nprotocol = \"{protocol}\"\n");
        text.push_str(&listener);
    }
    let prepare = |data_dir: &Path| fill(data_dir, 4, &accounts);
    (Server::prepared(free_address(), &text, prepare), addresses)
}

struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    fn begin(address: SocketAddr) -> Session {
        let mut session = Session { stream: BufReader::new(tcp(address)) };
        session.line();
        session
    }

    fn imap(address: SocketAddr, name: &str) -> Session {
        let mut session = Session::begin(address);
        session.say(&format!("1 LOGIN {name} \"{PASSWORD}\""), "1 OK");
        session
    }

    fn pop3(address: SocketAddr, name: &str) -> Session {
        let mut session = Session::begin(address);
        session.say(&format!("USER {name}"), "+OK");
        session.say(&format!("PASS {PASSWORD}"), "+OK");
        session
    }

    fn submission(address: SocketAddr, name: &str) -> Session {
        let mut session = Session::begin(address);
        session.say("EHLO client.test", "250 ");
        let mut plain = String::new();
        base64::encode(format!("\0{name}\0{PASSWORD}").as_bytes(), &mut plain);
        session.say(&format!("AUTH PLAIN {plain}"), "235 ");
        session
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line in time");
        line.trim_end().to_owned()
    }

    fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).expect("sent");
    }

    /// Reads up to a line that begins so.
    fn say(&mut self, command: &str, start: &str) {
        self.send(&format!("{command}\r\n"));
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "no {start} after {command}");
            if line.starts_with(start) {
                return;
            }
        }
    }

    /// The last words.
    fn last(mut self) -> String {
        let mut text = String::new();
        self.stream.read_to_string(&mut text).expect("an end in time");
        text
    }
}

const REASON: &str = "The account was removed, or its password changed\r\n";

#[test]
fn who_has_another_password_or_is_gone_is_logged_out_everywhere() {
    let (server, [imap, pop3, submission]) = server(b"Subject: x\r\n\r\n");
    for (round, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let whole = format!("{name}@local.test");
        // Of somebody else, who stays.
        let mut other = Session::imap(imap, "e");
        let open = |count: usize| (0..count).map(|_| Session::imap(imap, name)).collect();
        let mut readers: Vec<Session> = open(4);
        readers[1].say("2 SELECT INBOX", "2 OK");
        readers[1].say("3 IDLE", "+ ");
        readers[2].send("2 SELECT");
        readers[3].say("2 APPEND INBOX {100}", "+ ");
        readers[3].send("Subject: half");
        let mut maildrop = Session::pop3(pop3, name);
        maildrop.say("DELE 1", "+OK");
        let mut submitters: Vec<Session> =
            (0..4).map(|_| Session::submission(submission, name)).collect();
        submitters[1].say(&format!("MAIL FROM:<{whole}>"), "250 ");
        submitters[1].say("RCPT TO:<x@far.test>", "250 ");
        submitters[1].say("DATA", "354 ");
        submitters[1].send("Subject: half\r\n");
        match round % 2 {
            0 => ask(&server, &["account", "password", &whole], "another password\n"),
            _ => ask(&server, &["account", "remove", &whole], ""),
        };
        for (index, reader) in readers.into_iter().enumerate() {
            let last = reader.last();
            // Who idles in a mailbox that is gone may hear of that first.
            let is_gone = index == 1 && last == "* BYE The selected mailbox was deleted\r\n";
            assert!(is_gone || last == format!("* BYE {REASON}"), "{index} of {name}: {last}");
        }
        assert_eq!(maildrop.last(), format!("-ERR {REASON}"));
        for submitter in submitters {
            assert_eq!(submitter.last(), format!("421 4.7.0 {REASON}"));
        }
        other.say("2 SELECT INBOX", "2 OK");
        let mut stranger = Session::begin(imap);
        stranger.say(&format!("1 LOGIN {name} \"{PASSWORD}\""), "1 NO [AUTHENTICATIONFAILED]");
        if round % 2 == 0 {
            stranger.say(&format!("2 LOGIN {name} \"another password\""), "2 OK");
            // What was marked is deleted by QUIT alone; half a message was no message.
            stranger.say("3 SELECT INBOX", "* 1 EXISTS");
        }
        ask(&server, &["account", "add", &format!("another-{whole}")], "x\n");
        other.say("3 NOOP", "3 OK");
    }
    assert_eq!(server.metric("ringpost_reception_messages_accepted_total"), 0.0);
}

#[test]
fn an_answer_that_nobody_takes_ends_with_the_login() {
    let mut message = b"Subject: long\r\n\r\n".to_vec();
    (0..3000).for_each(|_| message.extend_from_slice(&[b'x'; 76]));
    let (server, [imap, pop3, _]) = server(&message);
    let mut reader = Session::imap(imap, "a");
    reader.say("2 SELECT INBOX", "2 OK");
    let mut maildrop = Session::pop3(pop3, "a");
    // Far more than sockets take.
    (0..200).for_each(|_| reader.send("3 FETCH 1 BODY[]\r\n"));
    (0..200).for_each(|_| maildrop.send("RETR 1\r\n"));
    // Both have begun, and stand still.
    let mut first = [0];
    for session in [&mut reader, &mut maildrop] {
        session.stream.read_exact(&mut first).expect("the first octet");
    }
    ask(&server, &["account", "password", "a@local.test"], "another password\n");
    wait_until("both are over", || server.metric("ringpost_access_sessions_open") == 0.0);
}
