//! The server's half of a POP3 session, without sockets.
//!
//! The driver feeds octets to `next` and acts on what it returns. The numbers of messages are fixed
//! when the maildrop is opened; the machine keeps which of them are marked as deleted, and the
//! driver commits them all at once after QUIT, or none (RFC 1939 §6).

use std::io::Write;
use std::rc::Rc;

use super::command::Command;
use super::content::{ContentWriter, LeadingDot};
use crate::limits::COMMAND_LINE_BYTES_MAX;
use crate::proto::imap::set::NumberSet;

/// What every session of a listener shares.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub hostname: String,
    /// SASL mechanisms with spaces between them; empty for none.
    pub mechanisms: String,
    /// Errors of the session before it is closed.
    pub errors_max: u32,
}

/// What protects the octets of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Nothing, and passwords are refused; STLS is offered.
    PlainWithStls,
    /// Nothing, and passwords are refused.
    Plain,
    /// Nothing, on a network that is trusted as if; STLS is offered.
    TrustedWithStls,
    /// TLS, or a network that is trusted like it.
    Protected,
}

impl Channel {
    fn offers_stls(self) -> bool {
        matches!(self, Channel::PlainWithStls | Channel::TrustedWithStls)
    }

    fn takes_passwords(self) -> bool {
        matches!(self, Channel::Protected | Channel::TrustedWithStls)
    }
}

/// What happened. Borrowed from the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// Nothing more can be done with these octets; what was not consumed, a partial line of at most
    /// `COMMAND_LINE_BYTES_MAX`, comes again with more behind it.
    NeedInput,
    /// PASS behind USER, whose name is in `login_name`. Waits for `open` or `refuse_login`.
    Login { password: &'i [u8] },
    /// Waits for `challenge`, `open` or `refuse_login`. The response is base64 as it came.
    Authenticate { mechanism: &'i str, initial_response: Option<&'i [u8]> },
    /// The answer to a challenge, base64 as it came; `*` gives up. Waits likewise.
    Response(&'i [u8]),
    /// Flush, drop all input behind this command, and begin TLS; then `on_tls`.
    StartTls,
    /// A line for each message not in `deleted`, by `write_size` or `write_unique_id`, then
    /// `end_list`. The machine does not wait.
    ListAll(Listing),
    /// Waits for `answer_size` or `answer_unique_id`.
    ListOne(Listing, u32),
    /// RETR, or TOP with so many lines. Waits for `begin_content` or `refuse`.
    Retrieve { number: u32, top_lines: Option<u64> },
    /// Waits for `answer_deleted` or `refuse`.
    Delete(u32),
    /// Delete what `deleted` says. Waits for `answer_quit`.
    Commit,
    /// Flush, then close.
    Close,
}

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    Sizes,
    UniqueIds,
}

/// Why a maildrop is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginRefusal {
    /// Wrong name or password: asking the person for another one may help (RFC 3206 §4).
    Credentials,
    /// Too many sessions of the account are there.
    InUse,
    /// Too many failures: nothing is checked for so many seconds.
    TooManyFailures { wait_s: u64 },
    /// For now, on our side.
    Temporary,
    /// Until somebody acts.
    Permanent,
    /// The client gave up, or spoke no SASL.
    Cancelled,
}

/// One session.
#[derive(Debug)]
pub struct Server {
    config: Rc<ServerConfig>,
    channel: Channel,
    phase: Phase,
    /// From USER.
    name: Option<Box<[u8]>>,
    maildrop: Option<Maildrop>,
    error_count: u32,
    /// A line that was too long is being passed over.
    is_discarding: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Command,
    /// The next line answers a challenge.
    Response,
    Awaiting(Awaiting),
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    Login,
    Tls,
    ListOne(u32),
    Retrieve,
    Top,
    Delete(u32),
    Commit,
}

#[derive(Debug)]
struct Maildrop {
    message_count: u32,
    bytes: u64,
    deleted: NumberSet,
    deleted_bytes: u64,
}

impl Server {
    pub fn new(config: Rc<ServerConfig>, channel: Channel) -> Self {
        Self {
            config,
            channel,
            phase: Phase::Command,
            name: None,
            maildrop: None,
            error_count: 0,
            is_discarding: false,
        }
    }

    /// Goes on elsewhere with a session whose login was right: waits for `open` or `refuse_login`.
    pub fn logged_in(config: Rc<ServerConfig>, channel: Channel) -> Self {
        Self { phase: Phase::Awaiting(Awaiting::Login), ..Self::new(config, channel) }
    }

    /// Writes the greeting.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        ok(&[&self.config.hostname, " POP3 ready"], out);
    }

    /// What USER said, until the login is over.
    pub fn login_name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// Numbers of messages marked as deleted.
    pub fn deleted(&self) -> Option<&NumberSet> {
        self.maildrop.as_ref().map(|maildrop| &maildrop.deleted)
    }

    /// Takes what it can from the front of `input`; returns how much, and what happened.
    ///
    /// Call again with the rest until `NeedInput`. After an event that waits, answer first.
    pub fn next<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> (usize, Event<'i>) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let (taken, event) = match self.phase {
                Phase::Command | Phase::Response => self.next_line(rest, out),
                Phase::Closed => (rest.len(), Some(Event::Close)),
                Phase::Awaiting(_) => panic!("an event waits for its answer"),
            };
            at += taken;
            if let Some(event) = event {
                return (at, event);
            }
        }
    }

    /// The handshake is done.
    pub fn on_tls(&mut self) {
        self.take(|awaiting| awaiting == Awaiting::Tls);
        self.channel = Channel::Protected;
        // What was said before could have come from anybody (RFC 2595 §4).
        self.name = None;
    }

    /// Sends a challenge of SASL, base64; the answer comes as `Response`.
    pub fn challenge(&mut self, base64: &str, out: &mut Vec<u8>) {
        self.take(|awaiting| awaiting == Awaiting::Login);
        write_line(&["+ ", base64], out);
        self.phase = Phase::Response;
    }

    /// The client is who it says: this many messages with this many octets in all.
    pub fn open(&mut self, message_count: u32, bytes: u64, out: &mut Vec<u8>) {
        self.take(|awaiting| awaiting == Awaiting::Login);
        let (deleted, deleted_bytes) = (NumberSet::default(), 0);
        self.maildrop = Some(Maildrop { message_count, bytes, deleted, deleted_bytes });
        self.name = None;
        // Writing into memory does not fail.
        let _ = write!(out, "+OK {message_count} messages, {bytes} octets\r\n");
    }

    /// The maildrop stays closed.
    pub fn refuse_login(&mut self, refusal: LoginRefusal, out: &mut Vec<u8>) {
        self.take(|awaiting| awaiting == Awaiting::Login);
        self.name = None;
        self.error_count += 1;
        let text = match refusal {
            LoginRefusal::TooManyFailures { wait_s } => {
                &format!("[SYS/TEMP] Too many failures, try again in {wait_s} s")
            }
            LoginRefusal::Credentials => "[AUTH] Wrong name or password",
            LoginRefusal::InUse => "[IN-USE] Too many sessions of this mailbox",
            LoginRefusal::Temporary => "[SYS/TEMP] Not available now, try again later",
            LoginRefusal::Permanent => "[SYS/PERM] Not available",
            LoginRefusal::Cancelled => "Authentication was given up",
        };
        err(text, out);
        if self.error_count > self.config.errors_max {
            self.close("Too many errors; closing", out);
        }
    }

    pub fn answer_size(&mut self, bytes: u64, out: &mut Vec<u8>) {
        let number = self.take_list_one();
        out.extend_from_slice(b"+OK ");
        write_size(number, bytes, out);
    }

    pub fn answer_unique_id(&mut self, unique_id: &str, out: &mut Vec<u8>) {
        let number = self.take_list_one();
        out.extend_from_slice(b"+OK ");
        write_unique_id(number, unique_id, out);
    }

    /// The message, of so many octets, or its top follows through the `content_writer`; the driver
    /// ends it by `finish`.
    pub fn begin_content(&mut self, bytes: u64, out: &mut Vec<u8>) {
        match self.take(|awaiting| matches!(awaiting, Awaiting::Retrieve | Awaiting::Top)) {
            Awaiting::Top => ok(&["Top follows"], out),
            _ => {
                let _ = write!(out, "+OK {bytes} octets\r\n");
            }
        }
    }

    /// The message is marked: these are its octets.
    pub fn answer_deleted(&mut self, bytes: u64, out: &mut Vec<u8>) {
        let awaiting = self.take(|awaiting| matches!(awaiting, Awaiting::Delete(_)));
        let Awaiting::Delete(number) = awaiting else { unreachable!("checked by `take`") };
        let maildrop = self.maildrop.as_mut().expect("messages are deleted in a maildrop");
        maildrop.deleted.insert(number);
        maildrop.deleted_bytes += bytes;
        ok(&["Marked as deleted"], out);
    }

    /// What was asked for of a message cannot be had.
    pub fn refuse(&mut self, text: &str, out: &mut Vec<u8>) {
        self.take(|awaiting| {
            !matches!(awaiting, Awaiting::Login | Awaiting::Tls | Awaiting::Commit)
        });
        err(text, out);
    }

    /// The marked messages are deleted, or none of them is.
    pub fn answer_quit(&mut self, committed: Result<(), &str>, out: &mut Vec<u8>) {
        self.take(|awaiting| awaiting == Awaiting::Commit);
        match committed {
            Ok(()) => ok(&["Bye"], out),
            Err(text) => err(text, out),
        }
        self.phase = Phase::Closed;
    }

    /// Ends the session from our side; nothing is deleted.
    pub fn close(&mut self, text: &str, out: &mut Vec<u8>) {
        err(text, out);
        self.phase = Phase::Closed;
    }

    fn take(&mut self, is_expected: impl Fn(Awaiting) -> bool) -> Awaiting {
        let Phase::Awaiting(awaiting) = self.phase else {
            panic!("no event waits for an answer");
        };
        assert!(is_expected(awaiting), "the answer fits the event");
        self.phase = Phase::Command;
        awaiting
    }

    fn take_list_one(&mut self) -> u32 {
        match self.take(|awaiting| matches!(awaiting, Awaiting::ListOne(_))) {
            Awaiting::ListOne(number) => number,
            _ => unreachable!("checked by `take`"),
        }
    }

    fn next_line<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> (usize, Option<Event<'i>>) {
        let Some(end) = memchr::memchr(b'\n', input) else {
            if self.is_discarding {
                return (input.len(), Some(Event::NeedInput));
            }
            if input.len() >= COMMAND_LINE_BYTES_MAX {
                self.is_discarding = true;
                return (input.len(), None);
            }
            return (0, Some(Event::NeedInput));
        };
        let taken = end + 1;
        if std::mem::take(&mut self.is_discarding) || taken > COMMAND_LINE_BYTES_MAX {
            self.phase = Phase::Command;
            return (taken, self.fail("Line too long", out));
        }
        let line = &input[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.phase == Phase::Response {
            self.phase = Phase::Awaiting(Awaiting::Login);
            return (taken, Some(Event::Response(line)));
        }
        let event = match Command::parse(line) {
            Ok(command) => self.on_command(command, out),
            Err(text) => self.fail(text, out),
        };
        (taken, event)
    }

    fn on_command<'i>(&mut self, command: Command<'i>, out: &mut Vec<u8>) -> Option<Event<'i>> {
        match command {
            Command::Capa => {
                self.write_capabilities(out);
                None
            }
            Command::Quit if self.maildrop.is_some() => self.wait(Awaiting::Commit, Event::Commit),
            Command::Quit => {
                ok(&["Bye"], out);
                self.phase = Phase::Closed;
                Some(Event::Close)
            }
            command if self.maildrop.is_some() => self.on_transaction(command, out),
            command => self.on_authorization(command, out),
        }
    }

    /// Before the maildrop is open (RFC 1939 §4).
    fn on_authorization<'i>(
        &mut self,
        command: Command<'i>,
        out: &mut Vec<u8>,
    ) -> Option<Event<'i>> {
        match command {
            Command::Stls if self.channel.offers_stls() => {
                ok(&["Begin TLS"], out);
                self.wait(Awaiting::Tls, Event::StartTls)
            }
            Command::Stls => self.fail("STLS is not offered", out),
            Command::AuthList => {
                ok(&["Mechanisms follow"], out);
                for mechanism in self.mechanisms().split_whitespace() {
                    write_line(&[mechanism], out);
                }
                end_list(out);
                None
            }
            Command::User(_) | Command::Pass(_) | Command::Auth { .. }
                if !self.channel.takes_passwords() =>
            {
                self.fail("[SYS/PERM] Passwords need TLS", out)
            }
            Command::Auth { mechanism, initial_response } => {
                let mut offered = self.mechanisms().split_whitespace();
                if !offered.any(|offered| offered.eq_ignore_ascii_case(mechanism)) {
                    return self.fail("Mechanism not offered", out);
                }
                self.wait(Awaiting::Login, Event::Authenticate { mechanism, initial_response })
            }
            Command::User(name) => {
                // Whether the name is known is not told before the password.
                self.name = Some(name.into());
                ok(&["Password, please"], out);
                None
            }
            Command::Pass(password) if self.name.is_some() => {
                self.wait(Awaiting::Login, Event::Login { password })
            }
            Command::Pass(_) => self.fail("USER comes first", out),
            Command::Utf8 => {
                ok(&["UTF-8 it is"], out);
                None
            }
            _ => self.fail("Log in first", out),
        }
    }

    /// In the open maildrop (RFC 1939 §5).
    fn on_transaction<'i>(&mut self, command: Command<'i>, out: &mut Vec<u8>) -> Option<Event<'i>> {
        let maildrop = self.maildrop.as_mut().expect("the maildrop is open");
        if let Command::List(Some(number))
        | Command::Uidl(Some(number))
        | Command::Retr(number)
        | Command::Top { number, .. }
        | Command::Dele(number) = command
            && (number > maildrop.message_count || maildrop.deleted.contains(number))
        {
            return self.fail("No such message", out);
        }
        match command {
            Command::Stat => {
                let (count, bytes) = maildrop.left();
                let _ = write!(out, "+OK {count} {bytes}\r\n");
                None
            }
            Command::List(None) => {
                let (count, bytes) = maildrop.left();
                let _ = write!(out, "+OK {count} messages ({bytes} octets)\r\n");
                Some(Event::ListAll(Listing::Sizes))
            }
            Command::Uidl(None) => {
                ok(&["Unique ids follow"], out);
                Some(Event::ListAll(Listing::UniqueIds))
            }
            Command::List(Some(number)) => {
                self.wait(Awaiting::ListOne(number), Event::ListOne(Listing::Sizes, number))
            }
            Command::Uidl(Some(number)) => {
                self.wait(Awaiting::ListOne(number), Event::ListOne(Listing::UniqueIds, number))
            }
            Command::Retr(number) => {
                self.wait(Awaiting::Retrieve, Event::Retrieve { number, top_lines: None })
            }
            Command::Top { number, lines } => {
                self.wait(Awaiting::Top, Event::Retrieve { number, top_lines: Some(lines) })
            }
            Command::Dele(number) => self.wait(Awaiting::Delete(number), Event::Delete(number)),
            Command::Noop => {
                ok(&["Nothing done"], out);
                None
            }
            Command::Rset => {
                maildrop.deleted = NumberSet::default();
                maildrop.deleted_bytes = 0;
                ok(&["Nothing is marked as deleted"], out);
                None
            }
            _ => self.fail("Not in an open mailbox", out),
        }
    }

    fn mechanisms(&self) -> &str {
        if self.channel.takes_passwords() { &self.config.mechanisms } else { "" }
    }

    fn write_capabilities(&self, out: &mut Vec<u8>) {
        ok(&["Capabilities follow"], out);
        if self.channel.offers_stls() {
            write_line(&["STLS"], out);
        }
        if self.channel.takes_passwords() {
            write_line(&["USER"], out);
        }
        if !self.mechanisms().is_empty() {
            write_line(&["SASL ", self.mechanisms()], out);
        }
        for capability in [
            "TOP",
            "UIDL",
            "PIPELINING",
            "RESP-CODES",
            "AUTH-RESP-CODE",
            "UTF8",
            "EXPIRE NEVER",
            "IMPLEMENTATION ringpost",
        ] {
            write_line(&[capability], out);
        }
        end_list(out);
    }

    fn wait<'i>(&mut self, awaiting: Awaiting, event: Event<'i>) -> Option<Event<'i>> {
        self.phase = Phase::Awaiting(awaiting);
        Some(event)
    }

    /// Answers an error of the client; `Close` when it was one too many.
    fn fail<'i>(&mut self, text: &str, out: &mut Vec<u8>) -> Option<Event<'i>> {
        self.error_count += 1;
        if self.error_count > self.config.errors_max {
            self.close("Too many errors; closing", out);
            return Some(Event::Close);
        }
        err(text, out);
        None
    }
}

impl Maildrop {
    /// Messages that are not marked as deleted, and their octets.
    fn left(&self) -> (u64, u64) {
        let count = u64::from(self.message_count) - self.deleted.count();
        (count, self.bytes.saturating_sub(self.deleted_bytes))
    }
}

/// The writer for a `Retrieve`.
pub fn content_writer(leading_dot: LeadingDot, top_lines: Option<u64>) -> ContentWriter {
    match top_lines {
        None => ContentWriter::whole(leading_dot),
        Some(lines) => ContentWriter::top(leading_dot, lines),
    }
}

/// Appends a line of LIST.
pub fn write_size(number: u32, bytes: u64, out: &mut Vec<u8>) {
    let _ = write!(out, "{number} {bytes}\r\n");
}

/// Appends a line of UIDL: 1 to 70 visible ASCII characters (RFC 1939 §7).
pub fn write_unique_id(number: u32, unique_id: &str, out: &mut Vec<u8>) {
    assert!((1..=70).contains(&unique_id.len()));
    assert!(unique_id.bytes().all(|octet| octet.is_ascii_graphic()));
    let _ = write!(out, "{number} {unique_id}\r\n");
}

/// Appends the end of a list of lines.
pub fn end_list(out: &mut Vec<u8>) {
    write_line(&["."], out);
}

fn ok(parts: &[&str], out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK ");
    write_line(parts, out);
}

fn err(text: &str, out: &mut Vec<u8>) {
    write_line(&["-ERR ", text], out);
}

fn write_line(parts: &[&str], out: &mut Vec<u8>) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
