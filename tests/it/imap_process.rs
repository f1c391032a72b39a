//! IMAP with a real process: TLS, shards, compression, the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use rustls::ClientConfig;

use crate::harness::{Server, free_address};
use crate::stock::{PASSWORD, Stocked, fill};
use crate::tls::{Authority, Octets, secured, tcp};

/// A client, in the clear or under TLS.
struct Imap {
    stream: BufReader<Box<dyn Octets>>,
}

fn tls(tcp: TcpStream, config: &Arc<ClientConfig>) -> Imap {
    Imap { stream: BufReader::new(Box::new(secured(tcp, config, "mx.test"))) }
}

impl Imap {
    fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).expect("sent");
        self.stream.get_mut().flush().expect("sent");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line in time");
        line.trim_end().to_owned()
    }

    /// Lines up to one that begins so.
    fn until(&mut self, start: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "no {start}: {lines:?}");
            let is_last = line.starts_with(start);
            lines.push(line);
            if is_last {
                return lines;
            }
        }
    }

    fn say(&mut self, command: &str, start: &str) -> Vec<String> {
        self.send(&format!("{command}\r\n"));
        self.until(start)
    }
}

/// Accounts `a@local.test` to `d@local.test`, one in each of four partitions, with a message; and
/// where IMAP is spoken: STARTTLS, implicit TLS.
fn server(authority: &Authority) -> (Server, [SocketAddr; 2]) {
    let accounts = ["a@local.test", "b@local.test", "c@local.test", "d@local.test"];
    let accounts = accounts.into_iter().enumerate().map(|(partition, name)| Stocked {
        partition: partition as u16,
        name: name.to_owned(),
        messages: vec![format!("Subject: of {name}\r\n\r\n").into_bytes()],
    });
    let accounts: Vec<Stocked> = accounts.collect();
    let addresses = [free_address(), free_address()];
    authority.sign("mx", &["mx.test", "localhost"]);
    let text = format!(
        "[shards]\ncount = 4\n[mailboxes]\ndomains = [\"local.test\"]\n{}\
         [[listener]]\naddress = \"{}\"\nprotocol = \"imap\"\n\
         [[listener]]\naddress = \"{}\"\nprotocol = \"imap\"\ntls = \"implicit\"\n",
        authority.certificate("mx"),
        addresses[0],
        addresses[1],
    );
    let prepare = |data_dir: &Path| fill(data_dir, 4, &accounts);
    (Server::prepared(free_address(), &text, prepare), addresses)
}

#[test]
fn a_session_finds_the_shard_of_its_account_and_ends_with_the_server() {
    let authority = Authority::new();
    let (mut server, [clear, implicit]) = server(&authority);
    let config = authority.client_config();
    let mut last = None;
    for name in ["a", "b", "c", "d"] {
        for address in [clear, implicit] {
            let mut client = match address == implicit {
                true => tls(tcp(address), &config),
                false => Imap { stream: BufReader::new(Box::new(tcp(address))) },
            };
            assert!(client.line().starts_with("* OK [CAPABILITY "));
            // What follows a login goes along to the other shard.
            client.send(&format!(
                "1 LOGIN {name} \"{PASSWORD}\"\r\n2 SELECT INBOX\r\n3 FETCH 1 ENVELOPE\r\n"
            ));
            assert!(client.line().starts_with("1 OK [CAPABILITY IMAP4rev1 "));
            client.until("2 OK [READ-WRITE]");
            let fetched = client.until("3 OK");
            let subject = format!("\"of {name}@local.test\"");
            assert!(fetched[0].contains(&subject), "{fetched:?}");
            client.say("4 IDLE", "+ ");
            last = Some(client);
        }
    }
    assert!(server.stop().success(), "{}", server.stderr());
    assert_eq!(last.expect("a client").line(), "* BYE Shutting down");
}

#[test]
fn nothing_that_was_said_in_the_clear_outlives_starttls() {
    let authority = Authority::new();
    let (_server, [clear, _]) = server(&authority);
    let config = authority.client_config();
    let mut stream = tcp(clear);
    let mut reader = BufReader::new(stream.try_clone().expect("the same"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a greeting");
    assert!(line.contains(" STARTTLS "), "{line}");
    // Somebody in the middle puts a command behind it.
    stream.write_all(b"1 STARTTLS\r\n2 NOOP\r\n").expect("sent");
    line.clear();
    reader.read_line(&mut line).expect("an answer");
    assert!(line.starts_with("1 OK "), "{line}");
    let mut client = tls(stream, &config);
    let capabilities = client.say("3 CAPABILITY", "3 OK");
    assert_eq!(capabilities.len(), 2, "{capabilities:?}");
    assert!(!capabilities[0].contains("STARTTLS"), "{capabilities:?}");
    client.say("4 STARTTLS", "4 BAD ");
    client.say(&format!("5 LOGIN a \"{PASSWORD}\""), "5 OK");
}

#[test]
fn both_ways_are_compressed_from_the_answer_on() {
    let authority = Authority::new();
    let (_server, [clear, _]) = server(&authority);
    let mut stream = tcp(clear);
    stream
        .write_all(format!("1 LOGIN b \"{PASSWORD}\"\r\n2 COMPRESS DEFLATE\r\n").as_bytes())
        .expect("sent");
    let mut reader = BufReader::new(stream.try_clone().expect("the same"));
    for start in ["* OK ", "1 OK ", "2 OK "] {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        assert!(line.starts_with(start), "{line}");
    }
    let mut compress = Compress::new(Compression::best(), false);
    let mut decompress = Decompress::new(false);
    let mut talk = |commands: &str, end: &str, cut: usize| {
        let mut sent = Vec::with_capacity(1 << 16);
        let flush = FlushCompress::Sync;
        compress.compress_vec(commands.as_bytes(), &mut sent, flush).expect("room");
        sent.chunks(cut).for_each(|piece| stream.write_all(piece).expect("sent"));
        let mut heard = Vec::with_capacity(1 << 16);
        while !String::from_utf8_lossy(&heard).contains(end) {
            let mut octets = [0; 4096];
            let count = reader.read(&mut octets).expect("an answer in time");
            assert!(count > 0, "{}", String::from_utf8_lossy(&heard));
            let flush = FlushDecompress::Sync;
            decompress.decompress_vec(&octets[..count], &mut heard, flush).expect("compressed");
        }
        String::from_utf8(heard).expect("ASCII")
    };
    let heard = talk("3 SELECT INBOX\r\n4 FETCH 1 BODY.PEEK[]\r\n", "4 OK", 1);
    assert!(heard.contains("Subject: of b@local.test\r\n"), "{heard}");
    talk("5 COMPRESS DEFLATE\r\n", "5 NO [COMPRESSIONACTIVE]", 100);
    talk("6 IDLE\r\n", "+ idling", 100);
    let heard = talk("DONE\r\n7 LOGOUT\r\n", "7 OK", 2);
    assert!(heard.starts_with("6 OK ") && heard.contains("* BYE "), "{heard}");
}
