//! The client's half of an SMTP or LMTP session, without sockets.
//!
//! Towards a server with PIPELINING all commands of a mail transaction go in one write; with
//! CHUNKING the content goes in the same write (RFC 2920, RFC 3030), and further transactions may
//! follow before the replies to the first have come: one round trip for several messages.

use std::collections::VecDeque;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use super::reply_reader::{ReplyReader, Taken};
use super::server::Dialect;
use crate::mail::envelope::Notify;
use crate::mail::{EnhancedStatusCode, EnvelopeFlags, Recipient, Reply, TlsTag, status};
use crate::proto::sasl::client::{Beginning, Exchange, Offer, Step as Said};
use crate::proto::sasl::digest::{Digest, Hashes};
use crate::proto::sasl::scram::client::Recipe;
use crate::proto::sasl::{Credentials, base64};

/// What the server said it can do (RFC 5321 §4.1.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Capabilities {
    pub pipelining: bool,
    pub chunking: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    /// RFC 3461: the server takes over what reports the client wants.
    pub dsn: bool,
    /// RFC 3207.
    pub start_tls: bool,
    /// RFC 8689; under TLS only.
    pub require_tls: bool,
    /// SIZE was offered; 0 for no fixed limit.
    pub size: Option<u64>,
    /// AUTH (RFC 4954).
    pub mechanisms: Offer,
}

/// A message to send.
pub struct Transaction<'a> {
    /// Empty for the null reverse-path.
    pub reverse_path: &'a str,
    pub recipients: &'a [&'a Recipient],
    pub flags: EnvelopeFlags,
    /// What of RFC 8689 is asked of this server.
    pub tls: TlsTag,
    /// ENVID, in xtext.
    pub envelope_id: Option<&'a str>,
    /// Header prefix and content together.
    pub message_bytes: u64,
}

/// How a transaction begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// Write the commands, then the content as it is, at once; then `content_sent`.
    ContentFollows,
    /// Write the commands and wait for events.
    Wait,
    /// This server cannot take the message: nothing is to be sent.
    Refused(Reply),
}

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Read more; what was not consumed comes again with more behind it.
    NeedInput,
    /// Greeting and EHLO are done.
    Ready,
    /// Begin TLS as the client; then `on_tls`, or drop the connection.
    StartTls,
    /// The server will not begin TLS now; the session goes on as it was.
    TlsRefused(Reply),
    /// Salt the password; then `on_salted`.
    SaltPassword(Recipe),
    /// The server knows who we are.
    Authenticated,
    /// The server does not take us for who we say, or does not prove that it knows us.
    NotAuthenticated(Reply),
    /// Write what is in `out`.
    Write,
    /// The server waits for content: dot-stuffed, ended by CRLF.CRLF; then `content_sent`.
    SendContent,
    /// The transaction is over; the reply that decided each recipient, in order.
    Done(Vec<Reply>),
    /// The server closes, or talks nonsense; see `lost` for an open transaction.
    Closed(Reply),
}

/// Where an open transaction stood when the connection was lost.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost {
    /// The reply that decided each recipient, `None` where none came.
    pub replies: Vec<Option<Reply>>,
    /// The end of data was sent and not answered: the server may have taken the message.
    pub in_doubt: bool,
    /// Nothing of it was answered, and it is not in doubt: as if it had never been sent.
    pub untried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Ehlo,
    Helo,
    /// STARTTLS was said.
    StartTls,
    /// The server waits for the first octets of TLS.
    Handshake,
    /// AUTH was said.
    Auth,
    Idle,
    Transaction,
    Quit,
    Closed,
}

/// A command of the transaction whose reply is awaited, or that is not yet sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    /// End of data in either form; in LMTP one for each accepted recipient.
    Final(Option<usize>),
}

/// One session.
pub struct Client {
    dialect: Dialect,
    ehlo_name: Box<str>,
    phase: Phase,
    capabilities: Capabilities,
    is_protected: bool,
    reader: ReplyReader,
    /// While we say who we are.
    exchange: Option<Box<Exchange>>,
    /// Replies that are to come, in order.
    awaited: VecDeque<Step>,
    /// Commands that a server without PIPELINING gets one by one.
    unsent: VecDeque<(Step, Range<usize>)>,
    commands: Vec<u8>,
    /// Transactions begun and not ended, oldest first. Several only where `pipelines` holds.
    open: VecDeque<Open>,
    /// The last transaction did not end in success: the server is to forget it first.
    needs_reset: bool,
    /// The server announced the end of the session by 421: what it had not answered, it refused.
    announced_end: bool,
}

/// A transaction that was begun.
struct Open {
    replies: Vec<Option<Reply>>,
    accepted_count: usize,
    /// Some command of it was answered.
    answered: bool,
    content_sent: bool,
    by_chunk: bool,
    /// Replies that are to come for it, of commands sent and not yet sent.
    outstanding: usize,
}

impl Open {
    fn settle(&mut self, reply: &Reply) {
        for open in self.replies.iter_mut().filter(|it| it.is_none()) {
            *open = Some(reply.clone());
        }
    }

    fn undecided(&self) -> Vec<usize> {
        (0..self.replies.len()).filter(|index| self.replies[*index].is_none()).collect()
    }
}

impl Client {
    pub fn new(dialect: Dialect, ehlo_name: &str) -> Self {
        Self {
            dialect,
            ehlo_name: ehlo_name.into(),
            phase: Phase::Greeting,
            capabilities: Capabilities::default(),
            is_protected: false,
            reader: ReplyReader::default(),
            exchange: None,
            awaited: VecDeque::new(),
            unsent: VecDeque::new(),
            commands: Vec::new(),
            open: VecDeque::new(),
            needs_reset: false,
            announced_end: false,
        }
    }

    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Whether a reply to the end of data is what we wait for.
    pub fn awaits_final_reply(&self) -> bool {
        let sent = self.open.front().is_some_and(|open| open.content_sent);
        sent && matches!(self.awaited.front(), Some(Step::Final(_)))
    }

    /// Whether a transaction may begin before the one before it has ended. Not in LMTP, where the
    /// count of replies to content depends on the replies before.
    pub fn pipelines(&self) -> bool {
        self.capabilities.chunking && self.capabilities.pipelining && self.dialect == Dialect::Smtp
    }

    /// Whether the open transaction sends its content by BDAT.
    pub fn sends_by_chunk(&self) -> bool {
        self.open.back().is_some_and(|open| open.by_chunk)
    }

    /// Writes the commands of a transaction. Only after `Ready` or `Done`, or where `pipelines`
    /// holds and the content of the one before is sent; never after `Closed`.
    pub fn begin(&mut self, transaction: &Transaction<'_>, out: &mut Vec<u8>) -> Begin {
        assert!(self.phase == Phase::Idle || self.phase == Phase::Transaction);
        assert!(self.open.is_empty() || self.pipelines());
        assert!(self.open.back().is_none_or(|open| open.content_sent));
        assert!(!transaction.recipients.is_empty());
        if let Some(refusal) = self.refusal(transaction) {
            return Begin::Refused(refusal);
        }
        self.phase = Phase::Transaction;
        let by_chunk = self.capabilities.chunking && self.capabilities.pipelining;
        self.write_commands(transaction, by_chunk);
        self.open.push_back(Open {
            replies: vec![None; transaction.recipients.len()],
            accepted_count: 0,
            answered: false,
            content_sent: false,
            by_chunk,
            outstanding: self.unsent.len(),
        });
        if self.capabilities.pipelining {
            out.extend_from_slice(&self.commands);
            self.awaited.extend(self.unsent.drain(..).map(|(step, _)| step));
        } else {
            self.send_next(out);
        }
        if by_chunk { Begin::ContentFollows } else { Begin::Wait }
    }

    /// All of the content, and its end, has been handed to the socket, or is about to be.
    pub fn content_sent(&mut self) {
        self.open.back_mut().expect("a transaction was begun").content_sent = true;
    }

    /// Writes STARTTLS. Only right after `Ready`, where it is offered.
    pub fn start_tls(&mut self, out: &mut Vec<u8>) {
        assert_eq!(self.phase, Phase::Idle);
        out.extend_from_slice(b"STARTTLS\r\n");
        self.phase = Phase::StartTls;
    }

    /// TLS protects the session from here on: what the server said before counts no more
    /// (RFC 3207 §4.2). Writes the greeting; `Ready` follows.
    pub fn on_tls(&mut self, out: &mut Vec<u8>) {
        assert_eq!(self.phase, Phase::Handshake);
        self.capabilities = Capabilities::default();
        self.is_protected = true;
        self.greet(out);
    }

    /// Writes AUTH with the mechanism that tells the server the least (RFC 4954). Only right after
    /// `Ready`. `nonce`: at least 18 random octets in base64 or the like, without commas. On `Err`
    /// there is no mechanism in common, and nothing is to be sent.
    pub fn authenticate(
        &mut self,
        credentials: &Arc<Credentials>,
        nonce: &str,
        hashes: Hashes,
        out: &mut Vec<u8>,
    ) -> Result<(), Reply> {
        assert_eq!(self.phase, Phase::Idle);
        let begun = Exchange::begin(self.capabilities.mechanisms, credentials, nonce, hashes);
        let Beginning { mechanism, first, exchange } = begun.ok_or(NO_MECHANISM)?;
        // Writing into memory does not fail.
        let _ = write!(out, "AUTH {}", mechanism.as_str());
        if let Some(first) = first {
            out.push(b' ');
            write_base64(&first, out);
        }
        out.extend_from_slice(b"\r\n");
        self.exchange = Some(Box::new(exchange));
        self.phase = Phase::Auth;
        Ok(())
    }

    /// The password is salted. Writes what follows. Only after `SaltPassword`.
    pub fn on_salted(&mut self, salted: &Digest, out: &mut Vec<u8>) {
        assert_eq!(self.phase, Phase::Auth);
        let exchange = self.exchange.as_mut().expect("AUTH was said");
        write_base64(&exchange.on_salted(salted), out);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes QUIT. Only between transactions.
    pub fn quit(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"QUIT\r\n");
        self.phase = Phase::Quit;
    }

    /// Takes replies from the front of `input`; returns how much, and what happened.
    pub fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Event) {
        let mut at = 0;
        loop {
            if self.phase == Phase::Closed {
                return (input.len(), Event::Closed(CLOSED));
            }
            let (taken, reply) = match self.reader.next(&input[at..]) {
                Taken::Partial(taken) => return (at + taken, Event::NeedInput),
                Taken::Garbage => {
                    self.phase = Phase::Closed;
                    return (input.len(), Event::Closed(GARBAGE));
                }
                Taken::Reply(taken, reply) => (taken, reply),
            };
            at += taken;
            if let Some(event) = self.on_reply(reply, out) {
                return (at, event);
            }
        }
    }

    /// What it means that the server went on talking after an event that makes it our turn, such as
    /// `Ready`, `StartTls`, `Authenticated`, `Write` or `SendContent`: the session is over.
    pub fn talked_early(&mut self, input: &[u8]) -> Event {
        if let Taken::Reply(_, reply) = self.reader.next(input)
            && reply.code == 421
        {
            return self.on_announced_end(reply);
        }
        self.phase = Phase::Closed;
        Event::Closed(GARBAGE)
    }

    /// 421 may come at any time (RFC 5321 §3.8).
    fn on_announced_end(&mut self, reply: Reply) -> Event {
        self.phase = Phase::Closed;
        self.announced_end = true;
        Event::Closed(reply)
    }

    /// Ends the open transactions, oldest first: their connection is gone.
    pub fn lost(&mut self) -> Vec<Lost> {
        self.phase = Phase::Closed;
        let open = self.open.drain(..);
        let lost = open.map(|open| {
            // In one write, the server may have taken everything before a reply got out.
            let may_be_taken = open.content_sent && (open.by_chunk || open.accepted_count > 0);
            let in_doubt = may_be_taken && !self.announced_end;
            Lost { replies: open.replies, in_doubt, untried: !in_doubt && !open.answered }
        });
        lost.collect()
    }

    fn refusal(&self, transaction: &Transaction<'_>) -> Option<Reply> {
        let flags = transaction.flags;
        let ascii = transaction.reverse_path.is_ascii()
            && transaction.recipients.iter().all(|recipient| recipient.address.is_ascii());
        if (flags.has(EnvelopeFlags::SMTPUTF8) || !ascii) && !self.capabilities.smtputf8 {
            return Some(NO_SMTPUTF8);
        }
        let eight_bit = flags.has(EnvelopeFlags::EIGHT_BIT_CONTENT);
        if eight_bit && !self.capabilities.eight_bit_mime {
            return Some(NO_EIGHT_BIT);
        }
        if transaction.tls == TlsTag::Required && !self.capabilities.require_tls {
            return Some(NO_REQUIRE_TLS);
        }
        match self.capabilities.size {
            Some(size) if size > 0 && transaction.message_bytes > size => Some(TOO_BIG),
            _ => None,
        }
    }

    fn write_commands(&mut self, transaction: &Transaction<'_>, by_chunk: bool) {
        self.commands.clear();
        self.unsent.clear();
        // How the one before ends is not known yet: it may leave something to be forgotten.
        if std::mem::take(&mut self.needs_reset) || !self.open.is_empty() {
            self.command(Step::Reset, format_args!("RSET\r\n"));
        }
        let size = match self.capabilities.size {
            Some(_) => format!(" SIZE={}", transaction.message_bytes),
            None => String::new(),
        };
        let flags = transaction.flags;
        let declared = flags.has(EnvelopeFlags::EIGHT_BIT_MIME | EnvelopeFlags::EIGHT_BIT_CONTENT);
        let body = if declared && self.capabilities.eight_bit_mime { " BODY=8BITMIME" } else { "" };
        let asks = matches!(transaction.tls, TlsTag::Required | TlsTag::RequiredWhereOffered);
        let tls = if asks && self.capabilities.require_tls { " REQUIRETLS" } else { "" };
        let utf8 = if flags.has(EnvelopeFlags::SMTPUTF8) { " SMTPUTF8" } else { "" };
        let reverse_path = transaction.reverse_path;
        let dsn = self.capabilities.dsn;
        let returned = if dsn { returned(transaction) } else { String::new() };
        self.command(
            Step::Mail,
            format_args!("MAIL FROM:<{reverse_path}>{size}{body}{utf8}{tls}{returned}\r\n"),
        );
        for (index, recipient) in transaction.recipients.iter().enumerate() {
            let reports = if dsn { reports(recipient) } else { String::new() };
            let address = &recipient.address;
            self.command(Step::Rcpt(index), format_args!("RCPT TO:<{address}>{reports}\r\n"));
        }
        if by_chunk {
            let bytes = transaction.message_bytes;
            self.command(Step::Final(None), format_args!("BDAT {bytes} LAST\r\n"));
        } else {
            self.command(Step::Data, format_args!("DATA\r\n"));
        }
    }

    fn command(&mut self, step: Step, text: std::fmt::Arguments<'_>) {
        let start = self.commands.len();
        // Writing into memory does not fail.
        let _ = self.commands.write_fmt(text);
        self.unsent.push_back((step, start..self.commands.len()));
    }

    /// Sends the next command that still makes sense.
    fn send_next(&mut self, out: &mut Vec<u8>) -> bool {
        let open = self.open.front_mut().expect("a transaction is open");
        let is_over = open.replies.iter().all(Option::is_some);
        while let Some((step, range)) = self.unsent.pop_front() {
            if is_over {
                open.outstanding -= 1;
                continue;
            }
            out.extend_from_slice(&self.commands[range]);
            self.awaited.push_back(step);
            return true;
        }
        false
    }

    fn on_reply(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Event> {
        if reply.code == 421 {
            return Some(self.on_announced_end(reply));
        }
        match self.phase {
            Phase::Greeting if reply.is_positive() => {
                self.greet(out);
                Some(Event::Write)
            }
            Phase::StartTls if reply.code == 220 => {
                self.phase = Phase::Handshake;
                Some(Event::StartTls)
            }
            Phase::StartTls if !reply.is_positive() => {
                self.phase = Phase::Idle;
                Some(Event::TlsRefused(reply))
            }
            Phase::Auth => Some(self.on_auth_reply(reply, out)),
            Phase::Ehlo if reply.is_positive() => {
                self.capabilities = read_capabilities(&reply.text);
                self.capabilities.require_tls &= self.is_protected;
                self.phase = Phase::Idle;
                Some(Event::Ready)
            }
            Phase::Ehlo if reply.is_permanent() && self.dialect == Dialect::Smtp => {
                // Writing into memory does not fail.
                let _ = write!(out, "HELO {}\r\n", self.ehlo_name);
                self.phase = Phase::Helo;
                Some(Event::Write)
            }
            Phase::Helo if reply.is_positive() => {
                self.phase = Phase::Idle;
                Some(Event::Ready)
            }
            Phase::Transaction => self.on_transaction_reply(reply, out),
            // A refused greeting, a reply nobody asked for, or the 221 to QUIT.
            _ => {
                self.phase = Phase::Closed;
                Some(Event::Closed(reply))
            }
        }
    }

    fn greet(&mut self, out: &mut Vec<u8>) {
        let verb = match self.dialect {
            Dialect::Smtp => "EHLO",
            Dialect::Lmtp => "LHLO",
        };
        // Writing into memory does not fail.
        let _ = write!(out, "{verb} {}\r\n", self.ehlo_name);
        self.phase = Phase::Ehlo;
    }

    fn on_auth_reply(&mut self, reply: Reply, out: &mut Vec<u8>) -> Event {
        let exchange = self.exchange.as_mut().expect("AUTH was said");
        if (300..400).contains(&reply.code) {
            let challenge = base64::decode(reply.text.as_bytes());
            match challenge.map_or(Said::Broken, |challenge| exchange.on_challenge(&challenge)) {
                Said::Send(message) => {
                    write_base64(&message, out);
                    out.extend_from_slice(b"\r\n");
                    return Event::Write;
                }
                Said::Salt(recipe) => return Event::SaltPassword(recipe),
                // Nothing more is said to such a server: it may not be the one it should be.
                Said::Broken => {
                    self.phase = Phase::Closed;
                    return Event::NotAuthenticated(UNPROVEN);
                }
            }
        }
        let may_succeed = exchange.may_succeed();
        self.exchange = None;
        if reply.is_positive() && !may_succeed {
            self.phase = Phase::Closed;
            return Event::NotAuthenticated(UNPROVEN);
        }
        self.phase = Phase::Idle;
        if reply.is_positive() { Event::Authenticated } else { Event::NotAuthenticated(reply) }
    }

    fn on_transaction_reply(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Event> {
        let (Some(step), Some(open)) = (self.awaited.pop_front(), self.open.front_mut()) else {
            self.phase = Phase::Closed;
            return Some(Event::Closed(GARBAGE));
        };
        open.outstanding -= 1;
        open.answered |= step != Step::Reset;
        match step {
            Step::Reset => {}
            Step::Mail => {
                if !reply.is_positive() {
                    open.settle(&reply);
                }
            }
            Step::Rcpt(index) => {
                if reply.is_positive() && open.replies[index].is_none() {
                    open.accepted_count += 1;
                } else if open.replies[index].is_none() {
                    open.replies[index] = Some(reply);
                }
            }
            Step::Data => {
                if (300..400).contains(&reply.code) {
                    return Some(self.on_go_ahead(out));
                }
                // A 2xx here is nonsense; it is no promise to take content.
                let reply = if reply.is_positive() { GARBAGE } else { reply };
                open.settle(&reply);
            }
            Step::Final(None) => {
                if open.by_chunk && self.dialect == Dialect::Lmtp && open.accepted_count > 1 {
                    // RFC 2033 §4.2: one reply for each accepted recipient, this is the first.
                    let undecided = open.undecided();
                    open.replies[undecided[0]] = Some(reply);
                    open.outstanding += undecided.len() - 1;
                    let others = undecided[1..].iter().map(|index| Step::Final(Some(*index)));
                    self.awaited.extend(others);
                } else {
                    open.settle(&reply);
                }
            }
            Step::Final(Some(index)) => open.replies[index] = Some(reply),
        }
        if !self.unsent.is_empty() && self.awaited.is_empty() && self.send_next(out) {
            return Some(Event::Write);
        }
        let is_over = self.open.front().is_some_and(|open| open.outstanding == 0);
        is_over.then(|| self.finish())
    }

    /// 354: content is expected even where no recipient was accepted.
    fn on_go_ahead(&mut self, out: &mut Vec<u8>) -> Event {
        let open = self.open.front_mut().expect("a transaction is open");
        if open.accepted_count == 0 {
            out.extend_from_slice(b".\r\n");
            open.outstanding += 1;
            self.awaited.push_back(Step::Final(None));
            return Event::Write;
        }
        match self.dialect {
            Dialect::Smtp => {
                open.outstanding += 1;
                self.awaited.push_back(Step::Final(None));
            }
            Dialect::Lmtp => {
                let undecided = open.undecided();
                open.outstanding += undecided.len();
                self.awaited.extend(undecided.iter().map(|index| Step::Final(Some(*index))));
            }
        }
        Event::SendContent
    }

    fn finish(&mut self) -> Event {
        let open = self.open.pop_front().expect("a transaction is open");
        if self.open.is_empty() {
            self.phase = Phase::Idle;
        }
        let replies = open.replies.into_iter().map(|it| it.unwrap_or(GARBAGE));
        let replies: Vec<Reply> = replies.collect();
        self.needs_reset = !replies.iter().any(Reply::is_positive);
        Event::Done(replies)
    }
}

/// RET and ENVID, as the client said them.
fn returned(transaction: &Transaction<'_>) -> String {
    let mut parameters = String::new();
    if transaction.flags.has(EnvelopeFlags::RETURN_FULL) {
        parameters.push_str(" RET=FULL");
    } else if transaction.flags.has(EnvelopeFlags::RETURN_HEADERS) {
        parameters.push_str(" RET=HDRS");
    }
    if let Some(envelope_id) = transaction.envelope_id {
        parameters.push_str(" ENVID=");
        parameters.push_str(envelope_id);
    }
    parameters
}

/// NOTIFY and ORCPT, as the client said them. No ORCPT is made up: it would say again what stands
/// before it (RFC 3461 §5.2.1 allows either).
fn reports(recipient: &Recipient) -> String {
    let mut parameters = String::new();
    let Notify(notify) = recipient.notify;
    let words = [
        (Notify::NEVER, "NEVER"),
        (Notify::SUCCESS, "SUCCESS"),
        (Notify::FAILURE, "FAILURE"),
        (Notify::DELAY, "DELAY"),
    ];
    for (_, word) in words.iter().filter(|(bit, _)| notify & bit != 0) {
        parameters.push_str(if parameters.is_empty() { " NOTIFY=" } else { "," });
        parameters.push_str(word);
    }
    if let Some(original) = &recipient.original_recipient {
        parameters.push_str(" ORCPT=");
        parameters.push_str(original);
    }
    parameters
}

fn write_base64(octets: &[u8], out: &mut Vec<u8>) {
    let mut text = String::new();
    base64::encode(octets, &mut text);
    out.extend_from_slice(text.as_bytes());
}

fn read_capabilities(text: &str) -> Capabilities {
    let mut capabilities = Capabilities::default();
    // The first line is the server's name.
    for line in text.split('\n').skip(1) {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next().unwrap_or("");
        let is = |name: &str| keyword.eq_ignore_ascii_case(name);
        if is("PIPELINING") {
            capabilities.pipelining = true;
        } else if is("CHUNKING") {
            capabilities.chunking = true;
        } else if is("8BITMIME") {
            capabilities.eight_bit_mime = true;
        } else if is("SMTPUTF8") {
            capabilities.smtputf8 = true;
        } else if is("DSN") {
            capabilities.dsn = true;
        } else if is("STARTTLS") {
            capabilities.start_tls = true;
        } else if is("AUTH") {
            words.by_ref().for_each(|name| capabilities.mechanisms.add(name));
        } else if let Some(name) = keyword.get(..5).filter(|it| it.eq_ignore_ascii_case("AUTH=")) {
            // As servers said it before there was a standard.
            capabilities.mechanisms.add(&keyword[name.len()..]);
            words.by_ref().for_each(|name| capabilities.mechanisms.add(name));
        } else if is("REQUIRETLS") {
            capabilities.require_tls = true;
        } else if is("SIZE") {
            capabilities.size = Some(words.next().and_then(|it| it.parse().ok()).unwrap_or(0));
        }
    }
    capabilities
}

const CLOSED: Reply = Reply::new(421, status::BAD_CONNECTION, "The session is closed");
const GARBAGE: Reply =
    Reply::new(451, EnhancedStatusCode::new(4, 5, 0), "The server's reply makes no sense");
const NO_MECHANISM: Reply = Reply::new(
    504,
    EnhancedStatusCode::new(5, 5, 4),
    "The next hop offers no AUTH, or no mechanism that is known here",
);
const UNPROVEN: Reply = Reply::new(
    535,
    EnhancedStatusCode::new(5, 7, 8),
    "The server does not keep to the mechanism, or does not know the password itself",
);
const NO_SMTPUTF8: Reply =
    Reply::new(553, status::NON_ASCII_ADDRESS, "The next hop does not offer SMTPUTF8");
const NO_EIGHT_BIT: Reply = Reply::new(
    554,
    EnhancedStatusCode::new(5, 6, 3),
    "The message has 8-bit content and the next hop does not offer 8BITMIME",
);
/// The next hop does not promise to keep a message under TLS (RFC 8689 §4.2.1).
pub const NO_REQUIRE_TLS: Reply =
    Reply::new(550, status::REQUIRETLS_NEEDED, "The next hop does not offer REQUIRETLS");
const TOO_BIG: Reply =
    Reply::new(552, status::MESSAGE_TOO_BIG, "The message exceeds the next hop's size limit");

#[cfg(test)]
mod tests;
