//! One SMTP session: reads, drives the protocol machine, commits, replies.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::lmtp::{self, Accepted, Delivering};
use super::policy::{self, Leads};
use super::recipients::{Named, Recipients};
use super::submission::{self, Missing, Next, Said, Submission};
use super::{Entrance, Inner, LOGGED_OUT, SHUTTING_DOWN, Terms};
use crate::config::{ListenerTls, Protocol};
use crate::entrance;
use crate::mail::{
    self, AddressRef, Envelope, EnvelopeFlags, Protection, QueueId, Reply, TlsTag, status,
};
use crate::proto::message::received::Received;
use crate::proto::message::removal::FieldRemoval;
use crate::proto::smtp::command::Hold;
use crate::proto::smtp::server::{Channel, ContentSeen, Dialect, Event, Server, Wire};
use crate::queue::{Draft, Refusal};
use crate::routing::local::Target;
use crate::runtime::net::TcpStream;
use crate::runtime::stream::Stream;
use crate::runtime::{clock, timer};
use crate::tls;

/// Serves a client until it leaves, goes too far, is silent too long, or the shard drains.
pub(super) async fn run(
    inner: &Rc<Inner>,
    terms: Rc<Terms>,
    stream: TcpStream,
    (client, wire): (Option<IpAddr>, Wire),
    entrance: Rc<Entrance>,
) {
    // Whoever submits may relay once it has logged in.
    let is_near = || client.is_some_and(|client| policy::may_relay(&terms, client));
    let may_relay = entrance.protocol == Protocol::Smtp && is_near();
    let mut stream = Stream::from(stream);
    let mut protection = None;
    let channel = match (entrance.tls, &terms.config.tls.context) {
        (ListenerTls::Implicit, Some(context)) => {
            let secured = Box::pin(handshake(inner, &terms, context, &mut stream));
            let Ok(of_session) = secured.await else {
                return;
            };
            protection = Some(of_session);
            Channel::Tls
        }
        // A reload took the certificate away: nothing is said without it.
        (ListenerTls::Implicit, None) => return,
        (ListenerTls::StartTls, Some(_)) => Channel::PlainWithStartTls,
        (ListenerTls::StartTls, None) | (ListenerTls::None, _) => Channel::Plain,
    };
    let server = match entrance.protocol {
        Protocol::Lmtp => Server::new(terms.lmtp.clone(), channel),
        Protocol::Submission => Server::new(terms.server(true), channel).requiring_login(wire),
        _ => Server::new(terms.server(may_relay), channel),
    };
    let is_submission = entrance.protocol == Protocol::Submission;
    let mut session = Session {
        inner,
        terms: &terms,
        stream,
        protection,
        client,
        entrance,
        may_relay,
        submission: is_submission.then(Box::default),
        server,
        kept: Vec::new(),
        out: Vec::new(),
        transaction: None,
    };
    session.server.greet(&mut session.out);
    // An error of the socket ends the session; nothing was promised to the client.
    let _ = session.serve().await;
}

struct Session<'s> {
    inner: &'s Rc<Inner>,
    terms: &'s Terms,
    stream: Stream,
    protection: Option<Protection>,
    /// `None` where it came by a socket of this machine: only by LMTP.
    client: Option<IpAddr>,
    entrance: Rc<Entrance>,
    may_relay: bool,
    /// Where clients log in.
    submission: Option<Box<Submission>>,
    server: Server,
    /// Octets that came and are not dealt with: a partial line, or what stands behind content that
    /// is being committed.
    kept: Vec<u8>,
    out: Vec<u8>,
    transaction: Option<Box<Transaction>>,
}

/// A mail transaction under way.
struct Transaction {
    reverse_path: Box<str>,
    recipients: Recipients,
    flags: EnvelopeFlags,
    tls: TlsTag,
    envelope_id: Option<Box<str>>,
    hold: Option<Hold>,
    declared_bytes: u64,
    /// What RCPT led to while its answer waits for what other shards say.
    asked: Option<(Named, Vec<Target>)>,
    /// By LMTP, in place of `recipients`.
    accepted: Vec<Accepted>,
    content: Intake,
    /// What is to be added to a header section.
    missing: Missing,
    /// Monotonic milliseconds.
    content_began_ms: u64,
}

enum Intake {
    None,
    Draft {
        draft: Draft,
        /// Takes out what is meant for us; only where a field has a meaning.
        removal: Option<Box<FieldRemoval>>,
        /// What the draft had no room for.
        overflow: Vec<u8>,
    },
    /// Straight into mailboxes.
    Mailboxes(Box<Delivering>),
    /// Content comes, and will be answered with this.
    Refused(Refusal),
}

/// What the machine cannot go on without.
enum Need {
    Input,
    /// An answer of the DNS, before MAIL is answered.
    ReversePath,
    /// What other shards say of quotas, and files of Maildirs, before RCPT is answered.
    Quota,
    /// Some time, before MAIL is answered.
    Patience,
    /// The content is whole.
    Commit(ContentSeen),
    /// The draft is full.
    Room,
    /// The client waits to hear whether it is who it says.
    Login(Said),
    /// The client waits for the handshake.
    Tls,
    /// Replies are to be flushed, then the session is over.
    Close,
    /// The client has closed.
    End,
}

impl Session<'_> {
    async fn serve(&mut self) -> io::Result<()> {
        let mut need = Need::Input;
        loop {
            // What is in a box is what few sessions need, or none for long: idle ones do not pay
            // for it.
            need = match need {
                Need::Input => {
                    self.flush().await?;
                    match self.read().await {
                        Ok(need) => need,
                        Err(error) => return self.give_up(error).await,
                    }
                }
                Need::ReversePath => {
                    self.flush().await?;
                    Box::pin(self.check_reverse_path()).await
                }
                Need::Quota => {
                    Box::pin(self.check_quota()).await;
                    self.resume()
                }
                Need::Patience => {
                    self.flush().await?;
                    self.inner.metrics.reception.transactions_slowed.add(1);
                    timer::sleep(SLOW_MAIL).await;
                    self.server.answer(&policy::MAIL_OK, &mut self.out);
                    self.resume()
                }
                Need::Commit(seen) => {
                    Box::pin(self.commit(seen)).await;
                    self.resume()
                }
                Need::Room => {
                    Box::pin(self.make_room()).await;
                    self.resume()
                }
                Need::Login(said) => {
                    self.flush().await?;
                    Box::pin(self.log_in(said)).await;
                    self.resume()
                }
                Need::Tls => {
                    self.flush().await?;
                    Box::pin(self.start_tls()).await?;
                    Need::Input
                }
                Need::Close => return self.say_last().await,
                Need::End => return Ok(()),
            };
        }
    }

    /// Waits for octets and runs the machine over them.
    async fn read(&mut self) -> io::Result<Need> {
        let reception = &self.terms.config.reception;
        let is_idle = self.transaction.is_none() && self.kept.is_empty();
        let timeout = match &self.transaction {
            // However steadily the octets drip, content has an end.
            Some(transaction) if self.server.is_in_content() => {
                let passed_ms = clock::coarse_ms().saturating_sub(transaction.content_began_ms);
                let left =
                    reception.content_timeout.saturating_sub(Duration::from_millis(passed_ms));
                left.min(reception.idle_timeout)
            }
            _ => reception.idle_timeout,
        };
        self.stream.set_deadline(Some(timeout));
        if is_idle {
            // Thousands of sessions wait like this one: it keeps no buffer.
            self.kept = Vec::new();
            self.out = Vec::new();
        }
        let draining = &self.inner.draining;
        let may_stop = is_idle && self.server.is_between_commands();
        let Session { inner, terms, stream, server, kept, out, transaction, .. } = self;
        let (may_relay, submission) = (self.may_relay, self.submission.as_deref());
        let is_over = || submission.is_some_and(|it| it.is_over(inner));
        let stop = || (may_stop && draining.get()) || is_over();
        let mut machine = Machine { inner, terms, may_relay, submission, server, out, transaction };
        stream
            .read_scratch_unless(stop, |bytes| {
                if bytes.is_empty() {
                    return Need::End;
                }
                if kept.is_empty() {
                    let (taken, need) = machine.run(bytes);
                    kept.extend_from_slice(&bytes[taken..]);
                    need
                } else {
                    kept.extend_from_slice(bytes);
                    let (taken, need) = machine.run(kept);
                    kept.drain(..taken);
                    need
                }
            })
            .await
    }

    /// Runs the machine over what is there already.
    fn resume(&mut self) -> Need {
        let kept = std::mem::take(&mut self.kept);
        let (taken, need) = self.machine().run(&kept);
        self.kept = kept;
        self.kept.drain(..taken);
        need
    }

    fn machine(&mut self) -> Machine<'_> {
        let Session { inner, terms, server, out, transaction, .. } = self;
        let (may_relay, submission) = (self.may_relay, self.submission.as_deref());
        Machine { inner, terms, may_relay, submission, server, out, transaction }
    }

    /// Protects what comes from here on. An error ends the session: nobody knows what the client
    /// has said then.
    async fn start_tls(&mut self) -> io::Result<()> {
        assert!(self.kept.is_empty());
        let context = self.terms.config.tls.context.as_ref().expect("STARTTLS was offered");
        let protection = handshake(self.inner, self.terms, context, &mut self.stream).await?;
        self.protection = Some(protection);
        if let Some(submission) = &mut self.submission {
            // Nothing that was said without TLS holds.
            **submission = Submission::default();
            self.may_relay = false;
        }
        self.server.on_tls();
        Ok(())
    }

    /// Goes on with AUTH.
    async fn log_in(&mut self, said: Said) {
        let submission = self.submission.as_mut().expect("AUTH was offered");
        let client = self.client.expect("whoever submits has an address");
        match submission.go_on(self.inner, self.terms, client, said).await {
            Next::Challenge(base64) => self.server.challenge(&base64, &mut self.out),
            Next::Answer(reply) => {
                self.may_relay = reply.is_positive();
                self.server.answer(&reply, &mut self.out);
            }
        }
    }

    /// Flushes; nothing follows.
    async fn say_last(&mut self) -> io::Result<()> {
        self.stream.set_deadline(Some(self.terms.config.reception.idle_timeout));
        self.stream.write_last(&self.out).await
    }

    /// Answers MAIL, or finds that it needs patience too.
    async fn check_reverse_path(&mut self) -> Need {
        let transaction = self.transaction.as_ref().expect("MAIL began it");
        let reply = policy::on_mail(self.terms, &transaction.reverse_path).await;
        if reply.is_positive() && self.inner.queue.is_filling() {
            return Need::Patience;
        }
        if !reply.is_positive() {
            self.transaction = None;
        }
        self.server.answer(&reply, &mut self.out);
        self.resume()
    }

    /// Answers RCPT.
    async fn check_quota(&mut self) {
        let transaction = self.transaction.as_mut().expect("RCPT belongs to a transaction");
        let (named, targets) = transaction.asked.take().expect("it was asked");
        let full = self.inner.full(self.terms, &targets, transaction.declared_bytes).await;
        let found = full.map(|()| Leads::Home(targets));
        self.machine().take_recipient(named, found);
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.set_deadline(Some(self.terms.config.reception.idle_timeout));
            self.stream.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Takes responsibility for the message, or says why not.
    async fn commit(&mut self, seen: ContentSeen) {
        let started = clock::now();
        let transaction = self.transaction.take().expect("content belongs to a transaction");
        let mut transaction = *transaction;
        let result = match std::mem::replace(&mut transaction.content, Intake::None) {
            Intake::Draft { draft, removal, .. } => {
                if !seen.leading_dot {
                    transaction.flags.set(EnvelopeFlags::NO_LEADING_DOT);
                }
                if seen.eight_bit {
                    transaction.flags.set(EnvelopeFlags::EIGHT_BIT_CONTENT);
                }
                // REQUIRETLS goes before what the header section says (RFC 8689 §4.1).
                if seen.tls_optional && transaction.tls == TlsTag::None {
                    transaction.tls = TlsTag::Optional;
                }
                transaction.missing = Missing {
                    date: self.submission.is_some() && !seen.has_date,
                    message_id: self.submission.is_some() && !seen.has_message_id,
                };
                self.take_in(transaction, draft, removal).await
            }
            Intake::Mailboxes(delivering) => {
                let delivered = self.deliver(transaction, *delivering, seen, started);
                return Box::pin(delivered).await;
            }
            Intake::Refused(refusal) => Err(refusal.reply()),
            Intake::None => unreachable!("content was begun"),
        };
        let numbers = &self.inner.metrics.reception;
        let reply = match result {
            Ok(id) => {
                numbers.messages_accepted.add(1);
                numbers.bytes_accepted.add(seen.bytes);
                self.inner.metrics.commit_latency.record(started.elapsed());
                queued(id)
            }
            Err(reply) => {
                numbers.messages_refused.add(1);
                reply
            }
        };
        self.server.answer(&reply, &mut self.out);
    }

    /// Delivers, and answers for each recipient.
    async fn deliver(
        &mut self,
        mut transaction: Transaction,
        delivering: Delivering,
        seen: ContentSeen,
        started: Instant,
    ) {
        if !seen.leading_dot {
            transaction.flags.set(EnvelopeFlags::NO_LEADING_DOT);
        }
        if seen.eight_bit {
            transaction.flags.set(EnvelopeFlags::EIGHT_BIT_CONTENT);
        }
        let accepted = std::mem::take(&mut transaction.accepted);
        let (flags, now_ms) = (transaction.flags, clock::unix_ms());
        let envelope = self.envelope(transaction, now_ms, Vec::new());
        let trace_of = |recipient: &str, out: &mut Vec<u8>| {
            let recipient = Some(recipient).filter(|it| !it.is_empty());
            self.write_trace(flags, None, recipient, now_ms, out);
        };
        let replies = delivering.commit(accepted, envelope, &trace_of).await;
        let numbers = &self.inner.metrics.reception;
        if replies.iter().any(Reply::is_positive) {
            numbers.messages_accepted.add(1);
            numbers.bytes_accepted.add(seen.bytes);
            self.inner.metrics.commit_latency.record(started.elapsed());
        } else {
            numbers.messages_refused.add(1);
        }
        self.server.answer_each(&replies, &mut self.out);
    }

    /// Commits a draft whose content is whole but for what is still withheld of it.
    async fn take_in(
        &self,
        transaction: Transaction,
        mut draft: Draft,
        removal: Option<Box<FieldRemoval>>,
    ) -> Result<QueueId, Reply> {
        let now_ms = clock::unix_ms();
        let mut header_prefix = Vec::with_capacity(RECEIVED_BYTES);
        let recipient = transaction.recipients.only();
        let (flags, id) = (transaction.flags, draft.id());
        self.write_trace(flags, Some(id), recipient, now_ms, &mut header_prefix);
        let hostname = &self.terms.config.hostname;
        transaction.missing.write(now_ms, id, hostname, &mut header_prefix);
        let mut envelope = self.envelope(transaction, now_ms, header_prefix);
        if let (Some(removal), Some(fields)) = (removal, &self.terms.fields) {
            let mut rest = Vec::new();
            let found = removal.finish(|piece| rest.extend_from_slice(piece));
            let Envelope { stream, release_ms, accepted_ms, .. } = &mut envelope;
            fields.apply(found, stream, release_ms, *accepted_ms)?;
            let taken = draft.append(&rest);
            if taken < rest.len() {
                draft.room().await.map_err(Refusal::reply)?;
                let taken = taken + draft.append(&rest[taken..]);
                assert_eq!(taken, rest.len(), "a line's beginning is smaller than an empty buffer");
            }
        }
        draft.commit(envelope).await.map_err(Refusal::reply)
    }

    /// Appends the Received field.
    fn write_trace(
        &self,
        flags: EnvelopeFlags,
        queue_id: Option<QueueId>,
        recipient: Option<&str>,
        unix_ms: u64,
        out: &mut Vec<u8>,
    ) {
        let protocol = self.protocol(flags);
        let hostname = &self.terms.config.hostname;
        let (helo_name, client, protection) =
            (self.server.helo_name(), self.client, self.protection);
        let field = Received {
            helo_name,
            client,
            protocol,
            protection,
            hostname,
            queue_id,
            recipient,
            unix_ms,
        };
        field.write(out);
    }

    fn envelope(&self, transaction: Transaction, now_ms: u64, header_prefix: Vec<u8>) -> Envelope {
        let Transaction { reverse_path, recipients, flags, tls, envelope_id, hold, .. } =
            transaction;
        let recipients = recipients.into_all();
        Envelope {
            reverse_path,
            recipients,
            flags,
            accepted_ms: now_ms,
            release_ms: hold.map_or(0, |hold| hold.release_ms(now_ms)),
            stream: mail::Stream { tls, ..self.entrance.stream.clone() },
            envelope_id,
            client: self.client,
            header_prefix,
            // Filled in by the draft.
            content_bytes: 0,
            content_hash: 0,
        }
    }

    /// What is spoken, as a trace field says it (RFC 3848, RFC 6531 §4.3).
    fn protocol(&self, flags: EnvelopeFlags) -> &'static str {
        let is_utf8 = flags.has(EnvelopeFlags::SMTPUTF8);
        if self.server.dialect() == Dialect::Lmtp {
            return match (is_utf8, self.protection.is_some()) {
                (true, true) => "UTF8LMTPS",
                (true, false) => "UTF8LMTP",
                (false, true) => "LMTPS",
                (false, false) => "LMTP",
            };
        }
        // Whoever submits has logged in.
        let is_authenticated = self.submission.is_some();
        match (is_utf8, self.protection.is_some(), is_authenticated) {
            _ if !self.server.is_esmtp() => "SMTP",
            (true, true, true) => "UTF8SMTPSA",
            (true, true, false) => "UTF8SMTPS",
            (true, false, true) => "UTF8SMTPA",
            (true, false, false) => "UTF8SMTP",
            (false, true, true) => "ESMTPSA",
            (false, true, false) => "ESMTPS",
            (false, false, true) => "ESMTPA",
            (false, false, false) => "ESMTP",
        }
    }

    /// Lets the draft write down what it has, then gives it what it had no room for.
    async fn make_room(&mut self) {
        let transaction = self.transaction.as_mut().expect("content belongs to a transaction");
        if let Intake::Draft { draft, overflow, .. } = &mut transaction.content {
            match draft.room().await {
                Ok(()) => {
                    let taken = draft.append(overflow);
                    assert_eq!(taken, overflow.len(), "a read is smaller than an empty buffer");
                    *overflow = Vec::new();
                }
                Err(refusal) => transaction.content = Intake::Refused(refusal),
            }
        } else if let Intake::Mailboxes(delivering) = &mut transaction.content {
            delivering.room().await;
        }
    }

    /// Ends the session for what the socket said.
    async fn give_up(&mut self, error: io::Error) -> io::Result<()> {
        let is_over = self.submission.as_ref().is_some_and(|it| it.is_over(self.inner));
        let reply = match error.kind() {
            io::ErrorKind::Interrupted if is_over => LOGGED_OUT,
            io::ErrorKind::Interrupted => SHUTTING_DOWN,
            io::ErrorKind::TimedOut => TIMED_OUT,
            _ => return Err(error),
        };
        self.server.close(&reply, &mut self.out);
        self.say_last().await
    }
}

/// Does the server's half of the handshake, and counts it.
async fn handshake(
    inner: &Inner,
    terms: &Terms,
    context: &tls::server::Context,
    stream: &mut Stream,
) -> io::Result<Protection> {
    let numbers = &inner.metrics.reception;
    let time_max = terms.config.reception.idle_timeout;
    let secured = entrance::handshake(context, stream, time_max).await;
    let secured = secured.inspect_err(|_| numbers.tls_failures.add(1))?;
    match secured.protection.version {
        tls::TLS13 => numbers.tls13_sessions.add(1),
        _ => numbers.tls12_sessions.add(1),
    }
    numbers.tls_resumed.add(u64::from(secured.is_resumed));
    Ok(secured.protection)
}

/// The machine with its decisions, between two waits.
struct Machine<'m> {
    inner: &'m Rc<Inner>,
    terms: &'m Terms,
    may_relay: bool,
    submission: Option<&'m Submission>,
    server: &'m mut Server,
    out: &'m mut Vec<u8>,
    transaction: &'m mut Option<Box<Transaction>>,
}

impl Machine<'_> {
    /// Whether a reverse-path is the client's, where it has to be.
    fn may_say(&self, reverse_path: Option<AddressRef<'_>>) -> bool {
        let Some(submission) = self.submission else { return true };
        let account = submission.account.as_ref().expect("MAIL comes after the login");
        let accounts = self.inner.accounts.borrow();
        submission::may_say(&self.terms.local, &accounts, account, reverse_path)
    }

    /// Runs over the front of `input` until something is needed; returns how much was taken.
    fn run(&mut self, input: &[u8]) -> (usize, Need) {
        self.server.set_now(clock::unix_ms());
        let mut at = 0;
        loop {
            let (taken, event) = self.server.next(&input[at..], self.out);
            at += taken;
            match event {
                Event::NeedInput => return (at, Need::Input),
                Event::Mail(mail) => {
                    if !self.may_say(mail.reverse_path) {
                        self.inner.metrics.reception.reverse_paths_refused.add(1);
                        self.server.answer(&submission::NOT_YOURS, self.out);
                        continue;
                    }
                    let reverse_path = mail.reverse_path.map_or("", |path| path.as_str()).into();
                    *self.transaction = Some(Box::new(Transaction {
                        reverse_path,
                        recipients: Recipients::default(),
                        flags: mail.flags,
                        tls: match (mail.require_tls, mail.reverse_path) {
                            (false, _) => TlsTag::None,
                            (true, Some(_)) => TlsTag::Required,
                            (true, None) => TlsTag::RequiredWhereOffered,
                        },
                        envelope_id: mail.envelope_id.map(Box::from),
                        hold: mail.hold,
                        declared_bytes: mail.size.unwrap_or(0),
                        asked: None,
                        accepted: Vec::new(),
                        content: Intake::None,
                        missing: Missing::default(),
                        content_began_ms: 0,
                    }));
                    let reverse_path = mail.reverse_path.map_or("", |path| path.as_str());
                    if policy::asks_dns(self.terms, self.may_relay, reverse_path) {
                        return (at, Need::ReversePath);
                    }
                    if self.inner.queue.is_filling() {
                        return (at, Need::Patience);
                    }
                    self.server.answer(&policy::MAIL_OK, self.out);
                }
                Event::Rcpt(rcpt) => {
                    let named = Named::new(&rcpt);
                    match self.find(rcpt.forward_path) {
                        Ok(Leads::Home(targets)) => {
                            if self.take_found(named, targets) {
                                return (at, Need::Quota);
                            }
                        }
                        found => self.take_recipient(named, found),
                    }
                }
                Event::Auth { mechanism, initial_response } => {
                    let initial_response = initial_response.map(Box::from);
                    return (at, Need::Login(Said::Auth { mechanism, initial_response }));
                }
                Event::AuthResponse(response) => {
                    return (at, Need::Login(Said::Response(response.into())));
                }
                Event::Vrfy(_) => self.server.answer(&policy::VRFY, self.out),
                Event::BeginContent { declared_bytes } => self.begin_content(declared_bytes),
                Event::Content(piece) => {
                    if self.take_content(piece) {
                        return (at, Need::Room);
                    }
                }
                Event::ContentEnd(seen) => return (at, Need::Commit(seen)),
                Event::ContentRefused => {
                    self.inner.metrics.reception.messages_refused.add(1);
                    *self.transaction = None;
                }
                Event::Reset => *self.transaction = None,
                Event::StartTls => {
                    *self.transaction = None;
                    return (at, Need::Tls);
                }
                Event::Quit | Event::Close => return (at, Need::Close),
            }
        }
    }

    fn find(&self, forward_path: AddressRef<'_>) -> Result<Leads, Reply> {
        let accounts = self.inner.accounts.borrow();
        policy::on_rcpt(self.terms, &accounts, self.may_relay, forward_path)
    }

    /// Answers RCPT for those that a local domain led to; returns whether other shards have to be
    /// asked first.
    fn take_found(&mut self, named: Named, targets: Vec<Target>) -> bool {
        let transaction = self.transaction.as_mut().expect("RCPT belongs to a transaction");
        match self.inner.full_here(self.terms, &targets, transaction.declared_bytes) {
            Some(full) => {
                self.take_recipient(named, full.map(|()| Leads::Home(targets)));
                false
            }
            None => {
                transaction.asked = Some((named, targets));
                true
            }
        }
    }

    /// Answers RCPT.
    fn take_recipient(&mut self, named: Named, found: Result<Leads, Reply>) {
        let transaction = self.transaction.as_mut().expect("RCPT belongs to a transaction");
        let is_lmtp = self.server.dialect() == Dialect::Lmtp;
        let taken = match found {
            Ok(Leads::Away) => transaction.recipients.add(named),
            Ok(Leads::Home(targets)) if is_lmtp => {
                lmtp::accept(&mut transaction.accepted, named, targets)
            }
            Ok(Leads::Home(targets)) => transaction.recipients.add_found(&named, targets),
            Err(reply) => Err(reply),
        };
        let numbers = &self.inner.metrics.reception;
        match taken {
            Ok(()) => numbers.recipients_accepted.add(1),
            Err(_) => numbers.recipients_refused.add(1),
        }
        let reply = taken.err().unwrap_or(policy::RECIPIENT_OK);
        self.server.answer(&reply, self.out);
    }

    fn begin_content(&mut self, declared_bytes: u64) {
        let transaction = self.transaction.as_mut().expect("content belongs to a transaction");
        transaction.content_began_ms = clock::coarse_ms();
        if self.server.dialect() == Dialect::Lmtp {
            let over_quota = self.terms.config.mailboxes.over_quota;
            let accepted = &transaction.accepted;
            let begun = Delivering::begin(self.inner, accepted, declared_bytes, over_quota);
            let reply = match begun {
                Ok(delivering) => {
                    transaction.content = Intake::Mailboxes(Box::new(delivering));
                    policy::MAIL_OK
                }
                Err(reply) => reply,
            };
            return self.server.answer(&reply, self.out);
        }
        let reply = match self.inner.queue.begin(declared_bytes) {
            Ok(draft) => {
                let fields = self.terms.fields.as_ref().filter(|_| self.may_relay);
                let removal = fields.map(|fields| FieldRemoval::new(fields.names.clone()));
                let removal = removal.map(Box::new);
                transaction.content = Intake::Draft { draft, removal, overflow: Vec::new() };
                policy::MAIL_OK
            }
            Err(refusal) => refusal.reply(),
        };
        self.server.answer(&reply, self.out);
    }

    /// Gives the draft a piece; returns whether it needs room first.
    fn take_content(&mut self, piece: &[u8]) -> bool {
        let transaction = self.transaction.as_mut().expect("content belongs to a transaction");
        match &mut transaction.content {
            Intake::Draft { draft, removal, overflow } => {
                let mut keep = |piece: &[u8]| {
                    let taken = draft.append(piece);
                    overflow.extend_from_slice(&piece[taken..]);
                };
                match removal {
                    Some(removal) => removal.feed(piece, keep),
                    None => keep(piece),
                }
                !overflow.is_empty()
            }
            Intake::Mailboxes(delivering) => delivering.append(piece),
            Intake::Refused(_) => false,
            Intake::None => unreachable!("content was begun"),
        }
    }
}

pub(super) fn queued(id: QueueId) -> Reply {
    Reply::with_text(250, status::OK, format!("Ok: queued as {id}"))
}

/// Before MAIL is answered while room gets short.
const SLOW_MAIL: Duration = Duration::from_millis(200);
const TIMED_OUT: Reply = Reply::new(421, status::BAD_CONNECTION, "Timed out; closing");
/// A Received field of ordinary names.
const RECEIVED_BYTES: usize = 256;
