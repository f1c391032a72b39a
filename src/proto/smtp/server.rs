//! The server's half of an SMTP or LMTP session, without sockets.
//!
//! The driver feeds octets to `next` and acts on what it returns. Replies that need no decision are
//! written at once; for the others the machine waits for `answer`. So commands may be pipelined in
//! any number: replies gather in `out` and are flushed when there is nothing left to do.

use std::rc::Rc;
use std::time::Duration;

use super::command::{BAD_PARAMETER, Command, Mail, Rcpt, UNKNOWN_PARAMETER};
use super::data::{BareNewline, ContentDecoder, Framing, Step};
use crate::limits::COMMAND_LINE_BYTES_MAX;
use crate::mail::{EnvelopeFlags, Reply, Utf8, status};
use crate::proto::message::date::write_internet_date;
use crate::proto::message::header::HeaderWatch;
use crate::proto::sasl::Mechanism;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Smtp,
    /// RFC 2033: LHLO, and one reply for each recipient after the content.
    Lmtp,
}

/// What protects the octets of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Nothing, and TLS is not offered.
    Plain,
    /// Nothing yet; STARTTLS is offered (RFC 3207).
    PlainWithStartTls,
    Tls,
}

/// What every session of a listener shares.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub hostname: String,
    pub dialect: Dialect,
    pub message_bytes_max: u64,
    pub recipients_max: usize,
    /// Errors of the session before 421.
    pub errors_max: u32,
    /// Received fields before 554 5.4.6.
    pub received_fields_max: u32,
    pub bare_newline: BareNewline,
    /// Mail transactions of the session before 421.
    pub messages_max: u32,
    /// Longest time for which a client may ask that a message is held (RFC 4865); `None`: it may
    /// not.
    pub hold_max: Option<Duration>,
}

/// Whether others can hear what is said without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Then no password is.
    Open,
    /// Nothing but this machine is between client and server.
    Loopback,
}

/// Whether clients say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    /// They cannot.
    NotOffered,
    /// They have to, before MAIL.
    Required(Wire),
    /// This one has.
    Done,
}

/// What happened. Borrowed from the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// Nothing more can be done with these octets; what was not consumed, a partial line of at most
    /// `COMMAND_LINE_BYTES_MAX`, comes again with more behind it.
    NeedInput,
    /// Waits for `answer`.
    Mail(Mail<'i>),
    /// Waits for `answer`.
    Rcpt(Rcpt<'i>),
    /// Waits for `answer`.
    Vrfy(&'i str),
    /// DATA, or the first BDAT: content may follow. Waits for `answer`; for a positive one the
    /// machine says what the protocol wants.
    BeginContent { declared_bytes: u64 },
    /// A piece of content: dot-stuffing removed, lines ending in CRLF.
    Content(&'i [u8]),
    /// The content is whole and good. Waits for `answer`, or `answer_each` in LMTP.
    ContentEnd(ContentSeen),
    /// The content was refused and answered: drop what was begun.
    ContentRefused,
    /// The mail transaction is over without content: drop what was begun.
    Reset,
    /// Waits for `challenge` or `answer`. The response is base64 as it came.
    Auth { mechanism: Mechanism, initial_response: Option<&'i [u8]> },
    /// What answers a challenge, as it came; `*` gives up. Waits likewise.
    AuthResponse(&'i [u8]),
    /// Flush, forget the mail transaction, begin TLS as the server; then `on_tls`, or close. What
    /// stood behind the command has been dropped.
    StartTls,
    /// Flush, then close.
    Quit,
    /// Flush, then close: the client went too far.
    Close,
}

/// What was noticed while content passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ContentSeen {
    pub bytes: u64,
    /// Some line begins with a dot.
    pub leading_dot: bool,
    /// Some octet is above 127.
    pub eight_bit: bool,
    pub received_fields: u32,
    /// `TLS-Required: No` (RFC 8689 §3).
    pub tls_optional: bool,
    pub has_date: bool,
    pub has_message_id: bool,
}

/// One session.
pub struct Server {
    config: Rc<ServerConfig>,
    channel: Channel,
    login: Login,
    phase: Phase,
    greeting: Greeting,
    /// Unix milliseconds.
    now_ms: u64,
    helo_name: Box<str>,
    transaction: Option<Transaction>,
    /// Content under way; boxed, since most sessions of a busy server are idle.
    content: Option<Box<Content>>,
    error_count: u32,
    message_count: u32,
    /// A line that was too long is being passed over.
    is_discarding: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Command,
    /// The next line answers a challenge of AUTH.
    AuthResponse,
    Awaiting(Awaiting),
    /// In content that ends by dot.
    Data,
    /// In a chunk of `remaining` octets.
    Chunk {
        remaining: u64,
        last: bool,
    },
    /// STARTTLS was answered.
    Handshake,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    Mail { flags: EnvelopeFlags, declared_bytes: u64 },
    Rcpt,
    Vrfy,
    Auth,
    Data,
    Chunk { bytes: u64, last: bool },
    ContentEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    None,
    Basic,
    Extended,
}

struct Transaction {
    recipient_count: usize,
    flags: EnvelopeFlags,
    declared_bytes: u64,
}

struct Content {
    decoder: ContentDecoder,
    header: HeaderWatch,
    bytes: u64,
    /// What will be answered instead of asking the driver; its octets are passed over.
    refusal: Option<Reply>,
}

impl Server {
    pub fn new(config: Rc<ServerConfig>, channel: Channel) -> Self {
        Self {
            config,
            channel,
            login: Login::NotOffered,
            phase: Phase::Command,
            greeting: Greeting::None,
            now_ms: 0,
            helo_name: Box::default(),
            transaction: None,
            content: None,
            error_count: 0,
            message_count: 0,
            is_discarding: false,
        }
    }

    /// The same for a session whose client has to log in before MAIL (RFC 6409 §4.3).
    pub fn requiring_login(self, wire: Wire) -> Self {
        Self { login: Login::Required(wire), ..self }
    }

    /// Tells the time, in Unix milliseconds: what the next commands say of it is seen from there.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Writes the greeting.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        let protocol = match self.config.dialect {
            Dialect::Smtp => "ESMTP",
            Dialect::Lmtp => "LMTP",
        };
        for part in ["220 ", &self.config.hostname, " ", protocol, " ringpost\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }

    /// The name the client gave; empty before EHLO or HELO.
    pub fn helo_name(&self) -> &str {
        &self.helo_name
    }

    pub fn is_esmtp(&self) -> bool {
        self.greeting == Greeting::Extended
    }

    /// What protects the session now.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    pub fn dialect(&self) -> Dialect {
        self.config.dialect
    }

    /// Recipients accepted in this mail transaction.
    pub fn recipient_count(&self) -> usize {
        self.transaction.as_ref().map_or(0, |transaction| transaction.recipient_count)
    }

    /// Whether the client is between commands: nothing of a command or of content is under way.
    pub fn is_between_commands(&self) -> bool {
        matches!(self.phase, Phase::Command | Phase::AuthResponse) && !self.is_discarding
    }

    /// Whether content is under way.
    pub fn is_in_content(&self) -> bool {
        self.content.is_some()
    }

    /// Takes what it can from the front of `input`; returns how much, and what happened.
    ///
    /// Call again with the rest until `NeedInput`. After an event that waits for `answer`, answer
    /// first.
    pub fn next<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> (usize, Event<'i>) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let (taken, event) = match self.phase {
                Phase::Command | Phase::AuthResponse => self.next_line(rest, out),
                Phase::Data => self.next_data(rest, out),
                Phase::Chunk { remaining, last } => self.next_chunk(rest, remaining, last, out),
                Phase::Closed => (rest.len(), Some(Event::Close)),
                Phase::Awaiting(_) | Phase::Handshake => panic!("an event waits for its answer"),
            };
            at += taken;
            match event {
                // Whoever put something behind it was not protected yet: it is no command of the
                // client's (RFC 3207 §6).
                Some(Event::StartTls) => return (input.len(), Event::StartTls),
                Some(event) => return (at, event),
                None => {}
            }
        }
    }

    /// The driver's decision on the last event.
    pub fn answer(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        let Phase::Awaiting(awaiting) = self.phase else {
            panic!("no event waits for an answer");
        };
        self.phase = Phase::Command;
        match awaiting {
            Awaiting::Mail { flags, declared_bytes } => {
                if reply.is_positive() {
                    let recipient_count = 0;
                    self.transaction = Some(Transaction { recipient_count, flags, declared_bytes });
                }
            }
            Awaiting::Rcpt => {
                if reply.is_positive() {
                    let transaction = self.transaction.as_mut();
                    transaction.expect("RCPT belongs to a transaction").recipient_count += 1;
                }
            }
            Awaiting::Vrfy => {}
            Awaiting::Auth => {
                if reply.is_positive() {
                    self.login = Login::Done;
                }
            }
            Awaiting::Data => {
                if reply.is_positive() {
                    self.begin_content(Framing::Dot, None);
                    self.phase = Phase::Data;
                    GO_AHEAD.write(out);
                    return;
                }
            }
            Awaiting::Chunk { bytes, last } => {
                let refusal = (!reply.is_positive()).then(|| reply.clone());
                self.begin_content(Framing::Length, refusal);
                self.phase = Phase::Chunk { remaining: bytes, last };
                return;
            }
            Awaiting::ContentEnd => self.end_transaction(),
        }
        self.count_error(reply);
        reply.write(out);
        self.close_if_fatal(reply);
    }

    /// Sends a challenge of SASL, base64; the answer comes as `AuthResponse`.
    pub fn challenge(&mut self, base64: &str, out: &mut Vec<u8>) {
        assert_eq!(self.phase, Phase::Awaiting(Awaiting::Auth));
        self.phase = Phase::AuthResponse;
        for part in ["334 ", base64, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }

    /// The driver's decisions on content, one for each accepted recipient (RFC 2033 §4.2).
    pub fn answer_each(&mut self, replies: &[Reply], out: &mut Vec<u8>) {
        assert_eq!(self.phase, Phase::Awaiting(Awaiting::ContentEnd));
        assert_eq!(replies.len(), self.recipient_count());
        self.phase = Phase::Command;
        self.end_transaction();
        for reply in replies {
            reply.write(out);
        }
    }

    /// TLS protects the session from here on: it begins anew (RFC 3207 §4.2).
    pub fn on_tls(&mut self) {
        assert_eq!(self.phase, Phase::Handshake);
        self.phase = Phase::Command;
        self.channel = Channel::Tls;
    }

    /// Ends the session from our side with a 421.
    pub fn close(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        reply.write(out);
        self.phase = Phase::Closed;
    }

    fn next_line<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> (usize, Option<Event<'i>>) {
        let Some(end) = memchr::memchr(b'\n', input) else {
            if self.is_discarding {
                // A CR is kept back: it may be the half of a CRLF.
                let kept = usize::from(input.ends_with(b"\r"));
                return (input.len() - kept, Some(Event::NeedInput));
            }
            if input.len() >= COMMAND_LINE_BYTES_MAX {
                self.is_discarding = true;
                return (input.len() - 1, None);
            }
            return (0, Some(Event::NeedInput));
        };
        let taken = end + 1;
        if end == 0 || input[end - 1] != b'\r' {
            // Whatever follows may be meant as part of this line by someone who reads it
            // differently: nothing more is taken from this client.
            self.close(&BARE_NEWLINE, out);
            return (taken, Some(Event::Close));
        }
        let is_response = self.phase == Phase::AuthResponse;
        self.phase = Phase::Command;
        if std::mem::take(&mut self.is_discarding) || taken > COMMAND_LINE_BYTES_MAX {
            let reply = if is_response { &AUTH_LINE_TOO_LONG } else { &LINE_TOO_LONG };
            return (taken, self.refuse(reply, out));
        }
        let line = &input[..end - 1];
        let utf8 = match &self.transaction {
            Some(transaction) if transaction.flags.has(EnvelopeFlags::SMTPUTF8) => Utf8::Allowed,
            _ => Utf8::Refused,
        };
        if memchr::memchr2(b'\r', 0, line).is_some() {
            return (taken, self.refuse(&BAD_OCTET, out));
        }
        if is_response {
            self.phase = Phase::Awaiting(Awaiting::Auth);
            return (taken, Some(Event::AuthResponse(line)));
        }
        let event = match Command::parse(line, utf8) {
            Ok(command) => self.on_command(command, out),
            Err(reply) => self.refuse(&reply, out),
        };
        (taken, event)
    }

    fn on_command<'i>(&mut self, command: Command<'i>, out: &mut Vec<u8>) -> Option<Event<'i>> {
        // Content in chunks admits BDAT, RSET and the harmless commands only (RFC 3030 §2).
        if self.content.is_some()
            && matches!(command, Command::Mail(_) | Command::Rcpt(_) | Command::Data)
        {
            return self.refuse(&BAD_SEQUENCE, out);
        }
        match (command, self.config.dialect) {
            (Command::Ehlo(name), Dialect::Smtp) | (Command::Lhlo(name), Dialect::Lmtp) => {
                self.on_greeting(Greeting::Extended, name, out)
            }
            (Command::Helo(name), Dialect::Smtp) => self.on_greeting(Greeting::Basic, name, out),
            (Command::Ehlo(_) | Command::Lhlo(_) | Command::Helo(_), _) => {
                self.refuse(&WRONG_GREETING, out)
            }
            (Command::Mail(mail), _) => self.on_mail(mail, out),
            (Command::Rcpt(rcpt), _) => self.on_rcpt(rcpt, out),
            (Command::Data, _) => match &self.transaction {
                None => self.refuse(&BAD_SEQUENCE, out),
                Some(transaction) if transaction.recipient_count == 0 => {
                    self.refuse(&NO_RECIPIENTS, out)
                }
                Some(transaction) => {
                    let declared_bytes = transaction.declared_bytes;
                    self.phase = Phase::Awaiting(Awaiting::Data);
                    Some(Event::BeginContent { declared_bytes })
                }
            },
            (Command::Bdat { bytes, last }, _) => self.on_bdat(bytes, last),
            (Command::Rset, _) => {
                OK.write(out);
                self.reset()
            }
            (Command::Noop, _) => {
                OK.write(out);
                None
            }
            (Command::Vrfy(text), _) => {
                self.phase = Phase::Awaiting(Awaiting::Vrfy);
                Some(Event::Vrfy(text))
            }
            (Command::Expn, _) => self.refuse(&NO_EXPN, out),
            (Command::Help, _) => {
                HELP.write(out);
                None
            }
            (Command::Auth { mechanism, initial_response }, _) => {
                self.on_auth(mechanism, initial_response, out)
            }
            (Command::StartTls, _) => self.on_start_tls(out),
            (Command::Quit, _) => {
                BYE.write(out);
                self.phase = Phase::Closed;
                Some(Event::Quit)
            }
        }
    }

    fn on_greeting<'i>(
        &mut self,
        greeting: Greeting,
        name: &str,
        out: &mut Vec<u8>,
    ) -> Option<Event<'i>> {
        self.greeting = greeting;
        self.helo_name = name.into();
        let hostname = &self.config.hostname;
        if greeting == Greeting::Basic {
            for part in ["250 ", hostname, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        } else {
            for part in ["250-", hostname, "\r\n250-PIPELINING\r\n250-SIZE "] {
                out.extend_from_slice(part.as_bytes());
            }
            // Writing into memory does not fail.
            let _ =
                std::io::Write::write_fmt(out, format_args!("{}", self.config.message_bytes_max));
            out.extend_from_slice(
                b"\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n",
            );
            if self.config.dialect == Dialect::Smtp {
                // What LMTP has answered for is reported on by its client (RFC 2033 §4.2).
                out.extend_from_slice(b"250-DSN\r\n");
            }
            if let Some(hold_max) = self.config.hold_max {
                let seconds = hold_max.as_secs();
                let _ =
                    std::io::Write::write_fmt(out, format_args!("250-FUTURERELEASE {seconds} "));
                write_internet_date(self.now_ms + hold_max.as_millis() as u64, out);
                out.extend_from_slice(b"\r\n");
            }
            match self.channel {
                Channel::Plain => {}
                Channel::PlainWithStartTls => out.extend_from_slice(b"250-STARTTLS\r\n"),
                // Under TLS only (RFC 8689 §2).
                Channel::Tls => out.extend_from_slice(b"250-REQUIRETLS\r\n"),
            }
            if self.offers_auth() {
                out.extend_from_slice(b"250-AUTH");
                for mechanism in MECHANISMS {
                    out.push(b' ');
                    out.extend_from_slice(mechanism.as_str().as_bytes());
                }
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"250 CHUNKING\r\n");
        }
        // A new greeting ends the mail transaction (RFC 5321 §4.1.4).
        self.reset()
    }

    /// Whether a password may be said now.
    fn offers_auth(&self) -> bool {
        match self.login {
            Login::NotOffered | Login::Done => false,
            Login::Required(Wire::Loopback) => true,
            Login::Required(Wire::Open) => self.channel == Channel::Tls,
        }
    }

    fn on_auth<'i>(
        &mut self,
        mechanism: &str,
        initial_response: Option<&'i [u8]>,
        out: &mut Vec<u8>,
    ) -> Option<Event<'i>> {
        let reply = match self.login {
            Login::NotOffered => &NO_AUTH,
            Login::Done => &LOGGED_IN,
            Login::Required(_) if self.greeting != Greeting::Extended => &BAD_SEQUENCE,
            Login::Required(_) if !self.offers_auth() => &ENCRYPTION_REQUIRED,
            Login::Required(_) => match Mechanism::from_name(mechanism) {
                Some(mechanism) => {
                    self.phase = Phase::Awaiting(Awaiting::Auth);
                    return Some(Event::Auth { mechanism, initial_response });
                }
                None => &UNKNOWN_MECHANISM,
            },
        };
        self.refuse(reply, out)
    }

    fn on_start_tls<'i>(&mut self, out: &mut Vec<u8>) -> Option<Event<'i>> {
        match self.channel {
            Channel::Plain => return self.refuse(&NO_START_TLS, out),
            Channel::Tls => return self.refuse(&TLS_ACTIVE, out),
            Channel::PlainWithStartTls => {}
        }
        if self.greeting != Greeting::Extended || self.content.is_some() {
            return self.refuse(&BAD_SEQUENCE, out);
        }
        READY_FOR_TLS.write(out);
        if self.login == Login::Done {
            // What was said before could have come from anybody (RFC 4954 §4).
            self.login = Login::Required(Wire::Open);
        }
        self.greeting = Greeting::None;
        self.helo_name = Box::default();
        self.transaction = None;
        self.phase = Phase::Handshake;
        Some(Event::StartTls)
    }

    fn on_mail<'i>(&mut self, mail: Mail<'i>, out: &mut Vec<u8>) -> Option<Event<'i>> {
        if self.greeting == Greeting::None || self.transaction.is_some() {
            return self.refuse(&BAD_SEQUENCE, out);
        }
        if self.message_count >= self.config.messages_max {
            self.close(&TOO_MANY_MESSAGES, out);
            return Some(Event::Close);
        }
        if matches!(self.login, Login::Required(_)) {
            return self.refuse(&AUTHENTICATION_REQUIRED, out);
        }
        if mail.has_auth && self.login == Login::NotOffered {
            return self.refuse(&UNKNOWN_PARAMETER, out);
        }
        let declared_bytes = mail.size.unwrap_or(0);
        if declared_bytes > self.config.message_bytes_max {
            return self.refuse(&TOO_BIG, out);
        }
        if mail.require_tls && self.channel != Channel::Tls {
            return self.refuse(&UNKNOWN_PARAMETER, out);
        }
        match (mail.hold, self.config.hold_max) {
            (Some(_), None) => return self.refuse(&UNKNOWN_PARAMETER, out),
            (Some(hold), Some(hold_max)) => {
                let release_ms_max = self.now_ms + hold_max.as_millis() as u64;
                if hold.release_ms(self.now_ms) > release_ms_max {
                    return self.refuse(&BAD_PARAMETER, out);
                }
            }
            (None, _) => {}
        }
        self.phase = Phase::Awaiting(Awaiting::Mail { flags: mail.flags, declared_bytes });
        Some(Event::Mail(mail))
    }

    fn on_rcpt<'i>(&mut self, rcpt: Rcpt<'i>, out: &mut Vec<u8>) -> Option<Event<'i>> {
        match &self.transaction {
            None => self.refuse(&BAD_SEQUENCE, out),
            Some(it) if it.recipient_count >= self.config.recipients_max => {
                TOO_MANY_RECIPIENTS.write(out);
                None
            }
            Some(_) => {
                self.phase = Phase::Awaiting(Awaiting::Rcpt);
                Some(Event::Rcpt(rcpt))
            }
        }
    }

    fn on_bdat<'i>(&mut self, bytes: u64, last: bool) -> Option<Event<'i>> {
        if self.content.is_some() {
            self.phase = Phase::Chunk { remaining: bytes, last };
            return None;
        }
        let refusal = match &self.transaction {
            None => BAD_SEQUENCE,
            Some(transaction) if transaction.recipient_count == 0 => NO_RECIPIENTS,
            Some(transaction) => {
                let declared_bytes = transaction.declared_bytes.max(bytes);
                self.phase = Phase::Awaiting(Awaiting::Chunk { bytes, last });
                return Some(Event::BeginContent { declared_bytes });
            }
        };
        // The octets of the chunk are on their way all the same.
        self.begin_content(Framing::Length, Some(refusal));
        self.phase = Phase::Chunk { remaining: bytes, last };
        None
    }

    fn begin_content(&mut self, framing: Framing, refusal: Option<Reply>) {
        self.content = Some(Box::new(Content {
            decoder: ContentDecoder::new(framing, self.config.bare_newline),
            header: HeaderWatch::default(),
            bytes: 0,
            refusal,
        }));
    }

    fn next_data<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> (usize, Option<Event<'i>>) {
        let content = self.content.as_mut().expect("content is under way");
        let (taken, step) = content.decoder.next(input);
        let event = match step {
            Step::NeedInput => Some(Event::NeedInput),
            Step::Piece(piece) => content.take(piece, &self.config),
            Step::End => self.end_content(out),
        };
        (taken, event)
    }

    fn next_chunk<'i>(
        &mut self,
        input: &'i [u8],
        remaining: u64,
        last: bool,
        out: &mut Vec<u8>,
    ) -> (usize, Option<Event<'i>>) {
        let content = self.content.as_mut().expect("content is under way");
        if remaining > 0 {
            let usable = input.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
            let (taken, step) = content.decoder.next(&input[..usable]);
            self.phase = Phase::Chunk { remaining: remaining - taken as u64, last };
            let event = match step {
                Step::Piece(piece) => content.take(piece, &self.config),
                // Only a part of the chunk has been there; of the whole there is more to do.
                Step::NeedInput if taken as u64 == remaining => None,
                Step::NeedInput => Some(Event::NeedInput),
                Step::End => unreachable!("a chunk ends by its length"),
            };
            return (taken, event);
        }
        if last {
            let rest = content.decoder.finish();
            if !rest.is_empty()
                && let Some(event) = content.take(rest, &self.config)
            {
                // Comes back here with nothing left to finish.
                return (0, Some(event));
            }
            return (0, self.end_content(out));
        }
        self.phase = Phase::Command;
        if content.refusal.is_some() {
            return (0, self.end_content(out));
        }
        CHUNK_TAKEN.write(out);
        (0, None)
    }

    /// All of the content has come: refuse it for what was found, or ask the driver.
    fn end_content<'i>(&mut self, out: &mut Vec<u8>) -> Option<Event<'i>> {
        let content = self.content.take().expect("content is under way");
        let decoder = &content.decoder;
        let mut refusal = content.refusal;
        if refusal.is_none() && content.header.received_count() > self.config.received_fields_max {
            refusal = Some(LOOP);
        }
        let bare = decoder.has_bare_newline && self.config.bare_newline == BareNewline::Refuse;
        if refusal.is_none() && bare {
            refusal = Some(BARE_NEWLINE_IN_CONTENT);
        }
        match refusal {
            Some(reply) => {
                self.phase = Phase::Command;
                let recipient_count = self.recipient_count();
                self.end_transaction();
                if self.config.dialect == Dialect::Lmtp {
                    for _ in 1..recipient_count {
                        reply.write(out);
                    }
                }
                match self.refuse(&reply, out) {
                    Some(event) => Some(event),
                    None => Some(Event::ContentRefused),
                }
            }
            None => {
                self.phase = Phase::Awaiting(Awaiting::ContentEnd);
                Some(Event::ContentEnd(ContentSeen {
                    bytes: content.bytes,
                    leading_dot: decoder.leading_dot,
                    eight_bit: decoder.eight_bit,
                    received_fields: content.header.received_count(),
                    tls_optional: content.header.says_tls_optional(),
                    has_date: content.header.has_date(),
                    has_message_id: content.header.has_message_id(),
                }))
            }
        }
    }

    fn reset<'i>(&mut self) -> Option<Event<'i>> {
        let was_open = self.transaction.take().is_some() | self.content.take().is_some();
        was_open.then_some(Event::Reset)
    }

    fn end_transaction(&mut self) {
        self.transaction = None;
        self.content = None;
        self.message_count += 1;
    }

    /// Answers an error of the client; `Close` when it was one too many.
    fn refuse<'i>(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Option<Event<'i>> {
        reply.write(out);
        self.count_error(reply);
        if self.error_count > self.config.errors_max {
            self.close(&TOO_MANY_ERRORS, out);
            return Some(Event::Close);
        }
        None
    }

    fn count_error(&mut self, reply: &Reply) {
        self.error_count += u32::from(reply.is_permanent());
    }

    fn close_if_fatal(&mut self, reply: &Reply) {
        if reply.code == 421 {
            self.phase = Phase::Closed;
        }
    }
}

impl Content {
    /// Counts a piece and hands it on, unless the content is refused already.
    fn take<'i>(&mut self, piece: &'i [u8], config: &ServerConfig) -> Option<Event<'i>> {
        self.bytes += piece.len() as u64;
        if self.bytes > config.message_bytes_max && self.refusal.is_none() {
            self.refusal = Some(TOO_BIG);
        }
        if self.refusal.is_some() {
            return None;
        }
        self.header.feed(piece);
        Some(Event::Content(piece))
    }
}

/// What AUTH offers: what tells the least first.
const MECHANISMS: [Mechanism; 3] = [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];
const NO_AUTH: Reply = Reply::new(502, status::BAD_COMMAND_SEQUENCE, "AUTH is not offered");
const LOGGED_IN: Reply = Reply::new(503, status::BAD_COMMAND_SEQUENCE, "Authenticated already");
const ENCRYPTION_REQUIRED: Reply =
    Reply::new(538, status::ENCRYPTION_REQUIRED, "Passwords need TLS; say STARTTLS first");
const UNKNOWN_MECHANISM: Reply =
    Reply::new(504, status::INVALID_ARGUMENTS, "This mechanism is not offered");
const AUTHENTICATION_REQUIRED: Reply =
    Reply::new(530, status::AUTHENTICATION_REQUIRED, "Authentication required");
const AUTH_LINE_TOO_LONG: Reply =
    Reply::new(500, status::AUTH_LINE_TOO_LONG, "Line too long; authentication is over");
const OK: Reply = Reply::new(250, status::OK, "Ok");
const GO_AHEAD: Reply = Reply::bare(354, "End data with <CRLF>.<CRLF>");
const CHUNK_TAKEN: Reply = Reply::new(250, status::OK_CONTENT, "Chunk received");
const READY_FOR_TLS: Reply = Reply::new(220, status::OK, "Ready to start TLS");
const NO_START_TLS: Reply =
    Reply::new(502, status::BAD_COMMAND_SEQUENCE, "STARTTLS is not offered");
const TLS_ACTIVE: Reply = Reply::new(503, status::BAD_COMMAND_SEQUENCE, "TLS is active already");
const BYE: Reply = Reply::new(221, status::OK, "Bye");
const HELP: Reply =
    Reply::new(214, status::OK, "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT");
const NO_EXPN: Reply = Reply::new(502, status::BAD_COMMAND_SEQUENCE, "EXPN is not offered");
const BAD_SEQUENCE: Reply =
    Reply::new(503, status::BAD_COMMAND_SEQUENCE, "Bad sequence of commands");
const WRONG_GREETING: Reply =
    Reply::new(500, status::BAD_COMMAND_SEQUENCE, "Wrong greeting for this protocol");
const NO_RECIPIENTS: Reply = Reply::new(554, status::BAD_COMMAND_SEQUENCE, "No valid recipients");
const LINE_TOO_LONG: Reply = Reply::new(500, status::SYNTAX_ERROR, "Line too long");
const BAD_OCTET: Reply = Reply::new(500, status::SYNTAX_ERROR, "CR or NUL in a command");
const BARE_NEWLINE: Reply =
    Reply::new(521, status::SYNTAX_ERROR, "A command ends in CRLF; bare LF received");
const BARE_NEWLINE_IN_CONTENT: Reply =
    Reply::new(550, status::CONTENT_REFUSED, "Bare CR or LF in the message");
const LOOP: Reply = Reply::new(554, status::ROUTING_LOOP, "Too many Received fields: a mail loop");
const TOO_BIG: Reply = Reply::new(552, status::MESSAGE_TOO_BIG, "Message exceeds the size limit");
const TOO_MANY_RECIPIENTS: Reply =
    Reply::new(452, status::TOO_MANY_RECIPIENTS, "Too many recipients");
const TOO_MANY_ERRORS: Reply =
    Reply::new(421, status::TOO_MANY_CONNECTIONS, "Too many errors; closing");
const TOO_MANY_MESSAGES: Reply =
    Reply::new(421, status::TOO_MANY_CONNECTIONS, "Too many messages in one session; closing");

#[cfg(test)]
mod tests;
