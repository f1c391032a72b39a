//! One connection of the sink, over the server's own SMTP machine.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringpost::mail::{EnhancedStatusCode, Reply, status};
use ringpost::proto::smtp::server::{Channel, Dialect, Event, Server, ServerConfig};
use ringpost::runtime::clock;
use ringpost::runtime::net::TcpStream;
use ringpost::runtime::stream::Stream;
use ringpost::runtime::timer;

use rustls::ServerConnection;

use super::Rules;
use super::behaviour::{Phase, happens};
use super::mode::{Dead, Mode};
use super::tally::{Counters, Tally};
use crate::audit::DeliveryId;
use crate::ids::IdWriter;
use crate::message;
use crate::usage;

/// What the connections of one shard share.
pub struct Shard {
    pub rules: Arc<Rules>,
    pub config: Rc<ServerConfig>,
    pub counters: Arc<[Counters]>,
    pub index: usize,
    pub tally: RefCell<Tally>,
    pub received: RefCell<IdWriter>,
}

impl Shard {
    pub fn counters(&self) -> &Counters {
        &self.counters[self.index]
    }
}

/// Serves one client until it goes, or until the dice or the mode say that we go.
pub async fn serve(shard: Rc<Shard>, stream: TcpStream, peer: SocketAddr) {
    let mut stream = Stream::from(stream);
    shard.counters().on_connection();
    let counted = shard.rules.limited.as_ref().map(|limited| limited.on_accepted(peer));
    let mut session = Session::new(shard.clone());
    session.greet(counted.as_ref().is_none_or(|(_, allowed)| *allowed));
    // A client that vanished is its own business; what it did not finish does not count.
    let _ = session.converse(&mut stream).await;
    if session.then == Then::Drop {
        shard.counters().on_dropped();
        stream.abort();
    } else if counted.is_some() {
        await_end(&mut stream).await;
    }
}

/// Until the client's FIN or RST has come: so long it counts as connected.
async fn await_end(stream: &mut Stream) {
    // Of a client that has gone already there is nothing to wait for, and the read says so.
    let _ = stream.shutdown_write().await;
    stream.set_deadline(Some(END_WAIT_MAX));
    while let Ok(false) = stream.read_scratch(<[u8]>::is_empty).await {}
}

/// What follows the octets that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    /// The client waits for the handshake.
    StartTls,
    Close,
    /// Without a reply, as a crashing host does.
    Drop,
}

struct Session {
    shard: Rc<Shard>,
    machine: Server,
    out: Vec<u8>,
    /// Octets that the machine could not take yet.
    rest: Vec<u8>,
    then: Then,
    /// To wait before `out` is sent.
    wait: Duration,
    /// Indexes of the accepted recipients of this transaction.
    recipients: Vec<u16>,
    /// Domain of the last recipient; empty where no rule asks for it.
    domain: String,
    /// The beginning of the content, until the id was found in it.
    head: Vec<u8>,
    id: Option<(crate::ids::RunId, u64)>,
    head_done: bool,
    drop_before_dot: bool,
    content_bytes: u64,
    /// Envelope and content, where they are stored.
    envelope: String,
    content: Vec<u8>,
}

impl Session {
    fn new(shard: Rc<Shard>) -> Self {
        Self {
            machine: Server::new(
                shard.config.clone(),
                match shard.rules.tls {
                    Some(_) => Channel::PlainWithStartTls,
                    None => Channel::Plain,
                },
            ),
            shard,
            out: Vec::with_capacity(512),
            rest: Vec::new(),
            then: Then::GoOn,
            wait: Duration::ZERO,
            recipients: Vec::new(),
            domain: String::new(),
            head: Vec::new(),
            id: None,
            head_done: false,
            drop_before_dot: false,
            content_bytes: 0,
            envelope: String::new(),
            content: Vec::new(),
        }
    }

    fn greet(&mut self, allowed: bool) {
        let refusal = match self.mode() {
            Mode::Dead(Dead::HangUp) => {
                self.then = Then::Close;
                return;
            }
            Mode::Dead(_) => Some(UNAVAILABLE),
            _ if !allowed => Some(TOO_MANY_CONNECTIONS),
            _ => self.refusal(Phase::Connect),
        };
        match refusal {
            Some(refusal) => {
                refusal.write(&mut self.out);
                self.then = Then::Close;
            }
            None => self.machine.greet(&mut self.out),
        }
    }

    fn mode(&self) -> Mode {
        self.shard.rules.mode.mode()
    }

    /// What the mode and the rules want to be waited for; a change of the mode ends it.
    async fn pause(&mut self) {
        let mode = self.mode();
        let mut left = std::mem::take(&mut self.wait);
        if let Mode::Slow(delay) = mode
            && !self.out.is_empty()
        {
            left += delay;
        }
        while left > Duration::ZERO && self.mode() == mode {
            timer::sleep(left.min(PAUSE_STEP)).await;
            left = left.saturating_sub(PAUSE_STEP);
        }
    }

    async fn converse(&mut self, stream: &mut Stream) -> io::Result<()> {
        loop {
            self.pause().await;
            if self.then == Then::Drop {
                return Ok(());
            }
            if !self.out.is_empty() {
                stream.set_deadline(Some(SILENCE_MAX));
                stream.write_all(&self.out).await?;
                self.out.clear();
            }
            if self.then == Then::Close {
                return Ok(());
            }
            if self.then == Then::StartTls {
                let context = self.shard.rules.tls.as_ref().expect("it was offered").config();
                let connection = ServerConnection::new(context).map_err(io::Error::other)?;
                stream.start_tls(connection).await?;
                self.machine.on_tls();
                self.then = Then::GoOn;
            }
            stream.set_deadline(Some(SILENCE_MAX));
            let ended = stream
                .read_scratch(|bytes| {
                    if bytes.is_empty() {
                        return Ok(true);
                    }
                    if matches!(self.mode(), Mode::Dead(_)) {
                        self.then = Then::Drop;
                        return Ok(false);
                    }
                    self.take(bytes).map(|()| false)
                })
                .await??;
            if ended {
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.rest.is_empty() {
            let taken = self.take_front(bytes)?;
            self.rest.extend_from_slice(&bytes[taken..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(bytes);
        let taken = self.take_front(&joined)?;
        joined.drain(..taken);
        self.rest = joined;
        Ok(())
    }

    /// Runs the machine over `input` as far as it gets; returns the octets it took.
    fn take_front(&mut self, input: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while self.then == Then::GoOn {
            let (consumed, event) = self.machine.next(&input[taken..], &mut self.out);
            taken += consumed;
            match event {
                Event::NeedInput => break,
                Event::Mail(mail) => {
                    self.reset();
                    if self.shard.rules.store.is_some() {
                        let path = mail.reverse_path.map_or("", |path| path.as_str());
                        self.envelope = format!("MAIL FROM:<{path}>\n");
                    }
                    let limited = self.shard.rules.limited.as_ref();
                    if limited.is_some_and(|limited| !limited.on_mail()) {
                        self.machine.answer(&TOO_MANY_MESSAGES, &mut self.out);
                    } else {
                        self.answer(Phase::Mail, SENDER_OK);
                    }
                }
                Event::Rcpt(rcpt) => {
                    let path = rcpt.forward_path;
                    if self.shard.rules.behaviour.is_by_domain() {
                        self.domain = path.domain().to_ascii_lowercase();
                    }
                    let index = recipient_index(path.local_part());
                    if self.answer(Phase::Rcpt, RECIPIENT_OK) {
                        self.recipients.push(index);
                        if self.shard.rules.store.is_some() {
                            self.envelope.push_str(&format!("RCPT TO:<{}>\n", path.as_str()));
                        }
                    }
                }
                Event::Vrfy(_) => self.machine.answer(&VRFY, &mut self.out),
                Event::Auth { .. } | Event::AuthResponse(_) => unreachable!("AUTH is not offered"),
                Event::BeginContent { .. } => {
                    let share = self.shard.rules.behaviour.drop_before_dot;
                    self.drop_before_dot = happens(share, clock::random_u64());
                    self.answer(Phase::Data, GO_AHEAD);
                }
                Event::Content(piece) => self.on_content(piece),
                Event::ContentEnd(_) => self.on_content_end()?,
                Event::ContentRefused | Event::Reset => self.reset(),
                Event::StartTls => {
                    self.reset();
                    self.then = Then::StartTls;
                }
                Event::Quit | Event::Close => self.then = Then::Close,
            }
        }
        Ok(taken)
    }

    fn on_content(&mut self, piece: &[u8]) {
        self.content_bytes += piece.len() as u64;
        if self.shard.rules.store.is_some() {
            self.content.extend_from_slice(piece);
        }
        if self.drop_before_dot {
            self.then = Then::Drop;
        }
        if self.head_done {
            return;
        }
        if self.head.is_empty() {
            self.id = message::find_id(piece);
        }
        if self.id.is_none() {
            self.head.extend_from_slice(&piece[..piece.len().min(HEAD_BYTES_MAX)]);
            self.id = message::find_id(&self.head);
        }
        self.head_done = self.id.is_some() || self.head.len() >= HEAD_BYTES_MAX;
    }

    fn on_content_end(&mut self) -> io::Result<()> {
        let behaviour = &self.shard.rules.behaviour;
        self.wait += behaviour.latency(self.known_domain(), clock::random_u64());
        if happens(behaviour.drop_after_dot, clock::random_u64()) {
            self.then = Then::Drop;
            return Ok(());
        }
        let limited = self.shard.rules.limited.as_ref();
        let refused = match limited.is_some_and(|limited| !limited.on_content_end()) {
            true => Some(TOO_MANY_MESSAGES),
            false => self.refusal(Phase::End),
        };
        if refused.is_none() {
            self.book()?;
        }
        let reply = refused.unwrap_or(RECEIVED);
        match self.shard.config.dialect {
            Dialect::Smtp => self.machine.answer(&reply, &mut self.out),
            Dialect::Lmtp => {
                let replies = vec![reply; self.recipients.len()];
                self.machine.answer_each(&replies, &mut self.out);
            }
        }
        self.reset();
        Ok(())
    }

    /// Counts the message for every recipient: from here on it is ours.
    fn book(&mut self) -> io::Result<()> {
        let shard = &self.shard;
        let now_us = usage::unix_us();
        shard.counters().on_received(self.recipients.len() as u64, self.content_bytes, now_us);
        shard.tally.borrow().on_received_at(now_us);
        if let Some((run, sequence)) = self.id
            && shard.rules.run.is_none_or(|ours| ours == run)
        {
            let mut received = shard.received.borrow_mut();
            for index in &self.recipients {
                let id = DeliveryId::new(sequence, *index);
                received.push(id)?;
                if let Some(arrivals) = &shard.rules.arrivals {
                    arrivals.note(id, now_us);
                }
            }
        } else {
            shard.counters().on_foreign();
        }
        if let Some(directory) = &shard.rules.store {
            let number = shard.rules.next_stored();
            let path = directory.join(format!("{number:08}"));
            fs::write(path.with_extension("envelope"), &self.envelope)?;
            fs::write(path.with_extension("eml"), &self.content)?;
        }
        Ok(())
    }

    /// Answers with `positive`, or with the refusal of a rule; true when positive.
    fn answer(&mut self, phase: Phase, positive: Reply) -> bool {
        let refusal = self.refusal(phase);
        self.machine.answer(refusal.as_ref().unwrap_or(&positive), &mut self.out);
        if refusal.as_ref().is_some_and(|refusal| refusal.code == 421) {
            self.then = Then::Close;
        }
        refusal.is_none()
    }

    fn refusal(&self, phase: Phase) -> Option<Reply> {
        if phase == Phase::Rcpt && self.mode() == Mode::TempFail {
            self.shard.tally.borrow_mut().on_refusal(phase, NOT_NOW.code);
            return Some(NOT_NOW);
        }
        let behaviour = &self.shard.rules.behaviour;
        let code = behaviour.refusal(phase, self.known_domain(), clock::random_u64())?;
        self.shard.tally.borrow_mut().on_refusal(phase, code);
        let class = if code < 500 { TRANSIENT } else { PERMANENT };
        Some(Reply::new(code, class, "as the rules of this sink say"))
    }

    fn known_domain(&self) -> Option<&str> {
        (!self.domain.is_empty()).then_some(&self.domain)
    }

    fn reset(&mut self) {
        self.recipients.clear();
        self.domain.clear();
        self.head.clear();
        self.id = None;
        self.head_done = false;
        self.drop_before_dot = false;
        self.content_bytes = 0;
        self.envelope.clear();
        self.content.clear();
    }
}

/// The index at the end of a local-part that the source made: `recipient-3`.
fn recipient_index(local_part: &str) -> u16 {
    let index = local_part.rsplit_once('-').and_then(|(_, index)| index.parse().ok());
    index.unwrap_or(0)
}

/// The header section in which the id is looked for.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// A client that neither closes nor says anything ceases to count after this.
const END_WAIT_MAX: Duration = Duration::from_secs(30);
/// A change of the mode is noticed within this.
const PAUSE_STEP: Duration = Duration::from_millis(100);
const TRANSIENT: EnhancedStatusCode = EnhancedStatusCode::new(4, 0, 0);
const PERMANENT: EnhancedStatusCode = EnhancedStatusCode::new(5, 0, 0);
const SENDER_OK: Reply = Reply::new(250, status::OK, "reverse-path");
const RECIPIENT_OK: Reply = Reply::new(250, status::OK, "recipient");
const GO_AHEAD: Reply = Reply::bare(354, "end with CRLF.CRLF");
const RECEIVED: Reply = Reply::new(250, status::OK, "received");
const VRFY: Reply = Reply::bare(252, "send and see");
const UNAVAILABLE: Reply = Reply::new(421, TRANSIENT, "this sink is dead for now");
const TOO_MANY_CONNECTIONS: Reply = Reply::new(421, TRANSIENT, "too many connections");
const TOO_MANY_MESSAGES: Reply = Reply::new(451, TRANSIENT, "too many messages in a second");
const NOT_NOW: Reply = Reply::new(451, TRANSIENT, "this sink takes nothing for now");
