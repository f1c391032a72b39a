//! `ringpost deliver`: a message from standard input into mailboxes, as programs that deliver
//! through a pipe expect it.
//!
//! It speaks LMTP to the running server, so nothing has succeeded before it is durable there.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use clap::Args;

use super::Source;
use super::client::printable;
use super::exit::{Exit, Failure};
use crate::config::{Config, ListenAddress, ListenerTls, Protocol};
use crate::mail::{AddressRef, Reply, Utf8, status};
use crate::proto::smtp::reply_reader::{ReplyReader, Taken};
use crate::runtime::deadline::{Deadlined, Timeouts};
use crate::runtime::net;

#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    source: Source,
    /// The reverse-path; without one the null reverse-path.
    #[arg(short = 'f', long, value_name = "MAILBOX", default_value = "")]
    from: String,
    /// Whose mailboxes; a name without a domain is one of the first local domain.
    #[arg(required = true, value_name = "RECIPIENT")]
    recipients: Vec<String>,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let config = options.source.load()?;
    let address = listener(&config)?;
    let from = options.from.trim_start_matches('<').trim_end_matches('>');
    let recipients = options.recipients.iter().map(|it| whole_name(it, &config));
    let recipients: Vec<String> = recipients.collect();
    check(from, &recipients)?;
    let mut session = Session::open(&address)?;
    session.deliver(from, &recipients, &mut io::stdin().lock())
}

/// Where the server takes LMTP in the clear.
fn listener(config: &Config) -> Result<ListenAddress, Failure> {
    let is_one = |it: &&crate::config::Listener| {
        it.protocol == Protocol::Lmtp && it.tls != ListenerTls::Implicit
    };
    let Some(listener) = config.listeners.iter().find(is_one) else {
        let text = "no [[listener]] with protocol = \"lmtp\" (and tls other than \"implicit\")";
        return Err(Failure::new(Exit::Config, text));
    };
    let mut address = listener.address.clone();
    if let ListenAddress::Network(address) = &mut address
        && address.ip().is_unspecified()
    {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    Ok(address)
}

fn whole_name(recipient: &str, config: &Config) -> String {
    match config.mailboxes.domains.first() {
        Some(domain) if !recipient.contains('@') => format!("{recipient}@{domain}"),
        _ => recipient.to_owned(),
    }
}

/// Neither may hold anything that ends a command.
fn check(from: &str, recipients: &[String]) -> Result<(), Failure> {
    let is_mailbox = |text: &str| AddressRef::parse(text.as_bytes(), Utf8::Allowed).is_ok();
    if !from.is_empty() && !is_mailbox(from) {
        let text = format!("{}: no mailbox to send reports to", printable(from));
        return Err(Failure::new(Exit::Usage, text));
    }
    match recipients.iter().find(|it| !is_mailbox(it)) {
        Some(wrong) => Err(Failure::new(Exit::NoUser, format!("{}: no mailbox", printable(wrong)))),
        None => Ok(()),
    }
}

fn connect(address: &ListenAddress) -> io::Result<Box<dyn Timeouts>> {
    match address {
        ListenAddress::Network(address) => {
            let stream = TcpStream::connect_timeout(address, CONNECT_TIME_MAX)?;
            // Each command waits for its reply.
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream))
        }
        ListenAddress::Socket { path, .. } => {
            Ok(Box::new(net::connect_blocking(path, CONNECT_TIME_MAX)?))
        }
    }
}

/// A session with the server.
struct Session {
    stream: Deadlined<Box<dyn Timeouts>>,
    replies: ReplyReader,
    input: Vec<u8>,
}

impl Session {
    fn open(address: &ListenAddress) -> Result<Session, Failure> {
        let stream = connect(address).map_err(|error| {
            Failure::new(Exit::Temporary, format!("{address}: {error}; does the server run?"))
        })?;
        let stream = Deadlined::new(stream, REPLY_TIME_MAX);
        let mut session = Session { stream, replies: ReplyReader::default(), input: Vec::new() };
        session.expect_positive()?;
        session.say("LHLO localhost")?;
        session.expect_positive()?;
        Ok(session)
    }

    fn deliver(
        &mut self,
        from: &str,
        recipients: &[String],
        content: &mut dyn Read,
    ) -> Result<(), Failure> {
        let is_ascii = from.is_ascii() && recipients.iter().all(|it| it.is_ascii());
        let parameters = if is_ascii { " BODY=8BITMIME" } else { " BODY=8BITMIME SMTPUTF8" };
        self.say(&format!("MAIL FROM:<{from}>{parameters}"))?;
        self.expect_positive()?;
        let mut refused = Vec::new();
        let mut accepted = Vec::new();
        for recipient in recipients {
            self.say(&format!("RCPT TO:<{recipient}>"))?;
            match self.reply()? {
                reply if reply.is_positive() => accepted.push(recipient.as_str()),
                reply => refused.push((recipient.as_str(), reply)),
            }
        }
        if !accepted.is_empty() {
            let replies = self.send(content, accepted.len())?;
            let told = accepted.into_iter().zip(replies);
            refused.extend(told.filter(|(_, reply)| !reply.is_positive()));
        }
        judge(&refused)
    }

    /// Sends the content in chunks; the replies for `count` recipients.
    fn send(&mut self, content: &mut dyn Read, count: usize) -> Result<Vec<Reply>, Failure> {
        let mut lines = Lines::default();
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let taken = content.read(&mut block).map_err(|error| {
                Failure::new(Exit::InputOutput, format!("standard input: {error}"))
            })?;
            let mut chunk = Vec::with_capacity(taken + taken / 16 + 2);
            match taken {
                0 => lines.finish(&mut chunk),
                _ => lines.take(&block[..taken], &mut chunk),
            }
            let last = if taken == 0 { " LAST" } else { "" };
            self.say(&format!("BDAT {}{last}", chunk.len()))?;
            self.stream.write_all(&chunk).map_err(lost)?;
            let reply = self.reply()?;
            if taken == 0 || !reply.is_positive() {
                // One for each recipient; what is refused earlier is refused for all of them.
                let others = (1..count).map(|_| self.reply());
                return std::iter::once(Ok(reply)).chain(others).collect();
            }
        }
    }

    fn say(&mut self, line: &str) -> Result<(), Failure> {
        self.stream.renew(REPLY_TIME_MAX);
        self.stream.write_all(format!("{line}\r\n").as_bytes()).map_err(lost)
    }

    /// A reply that says go on; another one ends the delivery.
    fn expect_positive(&mut self) -> Result<(), Failure> {
        let reply = self.reply()?;
        if reply.is_positive() { Ok(()) } else { Err(Failure::new(exit_of(&reply), reply)) }
    }

    fn reply(&mut self) -> Result<Reply, Failure> {
        loop {
            match self.replies.next(&self.input) {
                Taken::Reply(taken, reply) => {
                    self.input.drain(..taken);
                    return Ok(reply);
                }
                Taken::Partial(taken) => {
                    self.input.drain(..taken);
                }
                Taken::Garbage => {
                    return Err(Failure::new(Exit::Temporary, "the server speaks no LMTP"));
                }
            }
            let mut block = [0; 4096];
            match self.stream.read(&mut block).map_err(lost)? {
                0 => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
                taken => self.input.extend_from_slice(&block[..taken]),
            }
        }
    }
}

/// What is not answered may or may not have been delivered: it is to be tried again.
fn lost(error: io::Error) -> Failure {
    Failure::new(Exit::Temporary, format!("the server: {error}"))
}

/// Success where nobody was refused. Where somebody is to be tried again everybody is: a pipe has
/// one exit status.
fn judge(refused: &[(&str, Reply)]) -> Result<(), Failure> {
    let by_haste = |(_, reply): &&(&str, Reply)| reply.is_transient();
    let Some((_, first)) = refused.iter().find(by_haste).or(refused.first()) else {
        return Ok(());
    };
    let told =
        refused.iter().map(|(recipient, reply)| format!("{}: {reply}", printable(recipient)));
    Err(Failure::new(exit_of(first), told.collect::<Vec<_>>().join("; ")))
}

/// What the reply means to whoever runs the pipe.
fn exit_of(reply: &Reply) -> Exit {
    match reply.status {
        _ if !reply.is_permanent() => Exit::Temporary,
        Some(status::BAD_MAILBOX) => Exit::NoUser,
        Some(status::MAILBOX_FULL_FOR_GOOD) => Exit::CannotCreate,
        Some(status::DELIVERY_NOT_AUTHORIZED) => Exit::Permission,
        Some(status::MESSAGE_TOO_BIG | status::CONTENT_REFUSED | status::ROUTING_LOOP) => {
            Exit::Data
        }
        _ => Exit::Unavailable,
    }
}

/// Lines as they are sent: each ends in CRLF, and what a mailbox file has in front of a message is
/// no part of it. `Pure.`
#[derive(Default)]
struct Lines {
    /// The beginning, while it may be that of a `From ` line.
    front: Vec<u8>,
    place: Place,
    after_cr: bool,
    /// Octets in the line under way.
    line_bytes: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Front,
    FromLine,
    Message,
}

impl Lines {
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) {
        for octet in input {
            match self.place {
                Place::Message => self.put(*octet, out),
                Place::FromLine if *octet == b'\n' => self.place = Place::Message,
                Place::FromLine => {}
                Place::Front => {
                    self.front.push(*octet);
                    if !FROM_LINE.starts_with(&self.front) {
                        self.put_front(out);
                    } else if self.front.len() == FROM_LINE.len() {
                        self.front.clear();
                        self.place = Place::FromLine;
                    }
                }
            }
        }
    }

    /// The last line is ended where it is not.
    fn finish(&mut self, out: &mut Vec<u8>) {
        self.put_front(out);
        if self.line_bytes > 0 || self.after_cr {
            out.extend_from_slice(b"\r\n");
        }
    }

    fn put_front(&mut self, out: &mut Vec<u8>) {
        self.place = Place::Message;
        for octet in std::mem::take(&mut self.front) {
            self.put(octet, out);
        }
    }

    /// A CR alone ends a line too.
    fn put(&mut self, octet: u8, out: &mut Vec<u8>) {
        let after_cr = std::mem::replace(&mut self.after_cr, octet == b'\r');
        if after_cr || octet == b'\n' {
            out.extend_from_slice(b"\r\n");
            self.line_bytes = 0;
        }
        if octet != b'\r' && octet != b'\n' {
            out.push(octet);
            self.line_bytes += 1;
        }
    }
}

const FROM_LINE: &[u8] = b"From ";
const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);
/// The longest wait for a reply: the server syncs before it answers.
const REPLY_TIME_MAX: Duration = Duration::from_secs(600);
const BLOCK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_crlf_however_they_came_and_wherever_they_are_cut() {
        let check = |input: &[u8], expected: &[u8]| {
            for cut in 0..=input.len() {
                let (mut lines, mut out) = (Lines::default(), Vec::new());
                lines.take(&input[..cut], &mut out);
                lines.take(&input[cut..], &mut out);
                lines.finish(&mut out);
                let (out, expected) = (out.escape_ascii(), expected.escape_ascii());
                assert_eq!(out.to_string(), expected.to_string(), "cut at {cut}");
            }
        };
        check(b"a: b\n\nc\n", b"a: b\r\n\r\nc\r\n");
        check(b"a: b\r\n\r\nc\r\n", b"a: b\r\n\r\nc\r\n");
        check(b"a: b\n\nno end", b"a: b\r\n\r\nno end\r\n");
        check(b"a\rb\r\r\nc\r", b"a\r\nb\r\n\r\nc\r\n");
        check(b"From a Mon Jan  1\r\nFrom: b\nFrom c\n", b"From: b\r\nFrom c\r\n");
        check(b"From", b"From\r\n");
        check(b"Fr\n\n", b"Fr\r\n\r\n");
        check(b"", b"");
    }

    #[test]
    fn the_exit_status_is_that_of_whoever_has_to_be_tried_again() {
        let reply = |code, status| Reply::new(code, status, "x");
        let check = |replies: &[Reply], expected: Option<Exit>| {
            let refused: Vec<_> = replies.iter().map(|reply| ("a@b.test", reply.clone())).collect();
            assert_eq!(judge(&refused).err().map(|failure| failure.exit), expected);
        };
        let unknown = reply(550, status::BAD_MAILBOX);
        let full = reply(552, status::MAILBOX_FULL_FOR_GOOD);
        let later = reply(452, status::MAILBOX_FULL);
        check(&[], None);
        check(std::slice::from_ref(&unknown), Some(Exit::NoUser));
        check(&[full.clone(), unknown.clone()], Some(Exit::CannotCreate));
        check(&[unknown, later], Some(Exit::Temporary));
        check(&[reply(550, status::DELIVERY_NOT_AUTHORIZED)], Some(Exit::Permission));
        check(&[reply(550, status::CONTENT_REFUSED)], Some(Exit::Data));
        check(&[reply(554, status::BAD_COMMAND_SEQUENCE)], Some(Exit::Unavailable));
    }

    #[test]
    fn nothing_that_ends_a_command_is_sent() {
        let exit = |from: &str, to: &str| check(from, &[to.to_owned()]).err().map(|it| it.exit);
        assert_eq!(exit("", "a@b.test"), None);
        assert_eq!(exit("a@b.test", "\"a b\"@b.test"), None);
        assert_eq!(exit("a b", "a@b.test"), Some(Exit::Usage));
        assert_eq!(exit("", "a@b.test>\r\nRSET"), Some(Exit::NoUser));
    }
}
