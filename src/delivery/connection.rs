//! One connection to a site, from its opening to QUIT: task after task.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::content::{Form, Stuffing};
use super::site::Site;
use super::{Delivery, Inner};
use crate::config::{self, NextHopProtocol};
use crate::mail::{EnhancedStatusCode, EnvelopeFlags, Reply, status};
use crate::proto::smtp::client::{Begin, Client, Event, Transaction};
use crate::proto::smtp::server::Dialect;
use crate::queue::schedule::retry_wait;
use crate::queue::{Content, LoadError, Message, Task};
use crate::runtime::net::TcpStream;
use crate::runtime::timer::Deadline;
use crate::runtime::{clock, timer};

/// Opens a connection and delivers on it until there is nothing left to do.
pub(super) async fn run(inner: Rc<Inner>, delivery: Delivery, site: Rc<Site>) {
    match Link::open(&inner, &site).await {
        Ok(link) => {
            site.on_opened();
            inner.metrics.delivery.connections.add(1);
            inner.metrics.delivery.connections_open.add(1);
            serve(&inner, &delivery, &site, link).await;
            inner.metrics.delivery.connections_open.sub(1);
            site.on_closed();
            // What became ready while the last task ended has nobody to take it.
            if site.may_have_work() {
                delivery.attend(&site);
            }
        }
        Err(reply) => {
            inner.metrics.delivery.connect_failures.add(1);
            let failures = site.on_open_failed();
            let wait = {
                let config = inner.config.borrow();
                retry_wait(failures, clock::random_u64(), &config.queue)
            };
            // One task tells the log and the operator why; the others wait without an attempt.
            if let Some(task) = site.take(&inner.queue) {
                fail_attempt(&inner, &site, task, &reply).await;
            }
            site.suspend_until(clock::coarse_ms() + wait.as_millis() as u64);
            delivery.postpone(site, wait).await;
        }
    }
}

async fn fail_attempt(inner: &Rc<Inner>, site: &Site, task: Task, reply: &Reply) {
    let started = clock::now();
    match inner.queue.load(task).await {
        Ok(message) => {
            let replies = vec![reply.clone(); message.recipient_indexes.len()];
            inner.settle(task, &message, replies, site.name.clone(), started, false);
        }
        Err(error) => inner.queue.hold(task, &error),
    }
}

async fn serve(inner: &Rc<Inner>, delivery: &Delivery, site: &Rc<Site>, mut link: Link) {
    let mut message_count = 0;
    let (message_count_max, idle_timeout) = {
        let config = inner.config.borrow();
        (config.delivery.messages_per_connection_max, config.delivery.idle_timeout)
    };
    let idle = Deadline::default();
    while message_count < message_count_max && !inner.draining.get() {
        let Some(task) = site.take(&inner.queue) else {
            site.on_idle();
            let woken = timer::timeout(&idle, idle_timeout, site.work.notified()).await;
            site.on_busy();
            match woken {
                Ok(()) => continue,
                Err(timer::Elapsed) => break,
            }
        };
        if site.may_have_work() {
            delivery.attend(site);
        }
        if link.deliver(inner, site, task, message_count > 0).await == After::Close {
            return;
        }
        message_count += 1;
    }
    link.quit().await;
}

/// Whether the connection can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Continue,
    Close,
}

/// Why an attempt broke off.
enum Broken {
    /// The connection is gone, closed by the peer, or too slow.
    Connection(Reply),
    /// Our own bytes cannot be read: nothing is to be sent (I12).
    Content(LoadError),
}

struct Link {
    stream: TcpStream,
    client: Client,
    /// What came after the last whole reply line.
    kept: Vec<u8>,
    out: Vec<u8>,
    events: Vec<Event>,
    timeouts: config::Delivery,
}

impl Link {
    /// Connects and greets. `Err` is why the site cannot be used now.
    async fn open(inner: &Rc<Inner>, site: &Site) -> Result<Link, Reply> {
        let (timeouts, ehlo_name) = {
            let config = inner.config.borrow();
            let ehlo_name = config.delivery.ehlo_name.as_ref().unwrap_or(&config.hostname);
            (config.delivery.clone(), ehlo_name.clone())
        };
        let address = site.next_hop.address;
        let stream = TcpStream::connect(address, None, timeouts.connect_timeout)
            .await
            .map_err(|error| no_answer(&error))?;
        let dialect = match site.next_hop.protocol {
            NextHopProtocol::Smtp => Dialect::Smtp,
            NextHopProtocol::Lmtp => Dialect::Lmtp,
        };
        let client = Client::new(dialect, &ehlo_name);
        let (kept, out, events) = (Vec::new(), Vec::new(), Vec::new());
        let mut link = Link { stream, client, kept, out, events, timeouts };
        loop {
            let event = link.event(link.timeouts.command_timeout).await;
            match event.map_err(|error| lost_reply(&error))? {
                Event::Write => link.flush().await.map_err(|error| lost_reply(&error))?,
                Event::Ready => return Ok(link),
                Event::Closed(reply) => return Err(as_transient(reply)),
                Event::NeedInput | Event::SendContent | Event::Done(_) => {
                    unreachable!("no transaction is open")
                }
            }
        }
    }

    /// One attempt. `is_reused` tells that the connection has carried messages before.
    async fn deliver(
        &mut self,
        inner: &Rc<Inner>,
        site: &Site,
        task: Task,
        is_reused: bool,
    ) -> After {
        let started = clock::now();
        let message = match inner.queue.load(task).await {
            Ok(message) => message,
            Err(error) => {
                inner.queue.hold(task, &error);
                return After::Continue;
            }
        };
        match self.transact(inner, &message).await {
            Ok(replies) => {
                inner.settle(task, &message, replies, site.name.clone(), started, false);
                After::Continue
            }
            Err(Broken::Content(error)) => {
                inner.queue.hold(task, &error);
                After::Close
            }
            Err(Broken::Connection(reply)) => {
                let lost = self.client.lost();
                if is_reused && !lost.in_doubt && lost.replies.iter().all(Option::is_none) {
                    // The peer had closed it before: this message was not tried.
                    inner.queue.put_back(task);
                    return After::Close;
                }
                let replies = lost.replies.into_iter().map(|it| it.unwrap_or(reply.clone()));
                let (replies, name) = (replies.collect(), site.name.clone());
                inner.settle(task, &message, replies, name, started, lost.in_doubt);
                After::Close
            }
        }
    }

    /// One mail transaction; the reply that decided each recipient, in their order.
    async fn transact(
        &mut self,
        inner: &Rc<Inner>,
        message: &Message,
    ) -> Result<Vec<Reply>, Broken> {
        let envelope = &message.envelope;
        let recipients: Vec<&str> = message
            .recipient_indexes
            .iter()
            .map(|index| &*envelope.recipients[usize::from(*index)].address)
            .collect();
        let transaction = Transaction {
            reverse_path: &envelope.reverse_path,
            recipients: &recipients,
            flags: envelope.flags,
            message_bytes: envelope.header_prefix.len() as u64 + envelope.content_bytes,
        };
        self.out.clear();
        match self.client.begin(&transaction, &mut self.out) {
            Begin::Refused(reply) => return Ok(vec![reply; recipients.len()]),
            Begin::Wait => self.flush().await.map_err(|error| broken(&error))?,
            Begin::ContentFollows => self.send_content(inner, message, Form::Verbatim).await?,
        }
        loop {
            let timeout = if self.client.awaits_final_reply() {
                self.timeouts.end_of_data_timeout
            } else {
                self.timeouts.command_timeout
            };
            match self.event(timeout).await.map_err(|error| broken(&error))? {
                Event::Done(replies) => return Ok(replies),
                Event::Write => self.flush().await.map_err(|error| broken(&error))?,
                Event::SendContent => {
                    let verbatim = envelope.flags.has(EnvelopeFlags::NO_LEADING_DOT);
                    let form = if verbatim { Form::Verbatim } else { Form::Stuffed };
                    self.send_content(inner, message, form).await?;
                }
                Event::Closed(reply) => return Err(Broken::Connection(as_transient(reply))),
                Event::NeedInput | Event::Ready => unreachable!("a transaction is open"),
            }
        }
    }

    /// Writes the commands in `out`, the header prefix, the content and, after DATA, its end.
    async fn send_content(
        &mut self,
        inner: &Rc<Inner>,
        message: &Message,
        form: Form,
    ) -> Result<(), Broken> {
        let is_data = self.out.is_empty();
        let commands = std::mem::take(&mut self.out);
        let end: &[u8] = if is_data { b".\r\n" } else { b"" };
        let mut stuffing = Stuffing::new(form);
        self.stream.set_deadline(Some(self.timeouts.content_timeout));
        match &message.content {
            Content::Whole(content) => {
                let mut slices = vec![commands.as_slice(), &message.envelope.header_prefix];
                stuffing.slices(content, &mut slices);
                slices.push(end);
                self.write(&slices).await?;
            }
            Content::Chunked { .. } => {
                self.write(&[&commands, &message.envelope.header_prefix]).await?;
                for chunk_index in 0..message.content.chunk_count() {
                    let chunk = inner.queue.load_chunk(message, chunk_index).await;
                    let chunk = chunk.map_err(Broken::Content)?;
                    let mut slices = Vec::new();
                    stuffing.slices(&chunk, &mut slices);
                    self.stream.set_deadline(Some(self.timeouts.content_timeout));
                    self.write(&slices).await?;
                }
                self.write(&[end]).await?;
            }
        }
        self.out = commands;
        self.out.clear();
        self.client.content_sent();
        Ok(())
    }

    async fn write(&mut self, slices: &[&[u8]]) -> Result<(), Broken> {
        self.stream.write_all_vectored(slices).await.map_err(|error| broken(&error))
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.set_deadline(Some(self.timeouts.command_timeout));
        let result = self.stream.write_all(&self.out).await;
        self.out.clear();
        result
    }

    /// The next thing that the peer's replies mean, other than that more is to be read.
    async fn event(&mut self, timeout: Duration) -> io::Result<Event> {
        while self.events.is_empty() {
            self.stream.set_deadline(Some(timeout));
            let Link { stream, client, kept, out, events, .. } = self;
            let is_end = stream
                .read_scratch(|bytes| {
                    if kept.is_empty() {
                        let taken = take_events(client, bytes, out, events);
                        kept.extend_from_slice(&bytes[taken..]);
                    } else {
                        kept.extend_from_slice(bytes);
                        let taken = take_events(client, kept, out, events);
                        kept.drain(..taken);
                    }
                    bytes.is_empty()
                })
                .await?;
            if is_end && self.events.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.events.remove(0))
    }

    /// Says QUIT and closes without waiting for the answer: it changes nothing.
    async fn quit(&mut self) {
        self.out.clear();
        self.client.quit(&mut self.out);
        // The peer may be gone already.
        let _ = self.flush().await;
    }
}

/// Runs the machine over `input`; returns how much it took.
fn take_events(
    client: &mut Client,
    input: &[u8],
    out: &mut Vec<u8>,
    events: &mut Vec<Event>,
) -> usize {
    let mut at = 0;
    loop {
        let (taken, event) = client.next(&input[at..], out);
        at += taken;
        match event {
            Event::NeedInput => return at,
            Event::Closed(_) => {
                events.push(event);
                return input.len();
            }
            event => events.push(event),
        }
    }
}

fn broken(error: &io::Error) -> Broken {
    Broken::Connection(lost_reply(error))
}

fn no_answer(error: &io::Error) -> Reply {
    Reply::with_text(421, status::NO_ANSWER, format!("Cannot connect: {error}"))
}

fn lost_reply(error: &io::Error) -> Reply {
    let text = match error.kind() {
        io::ErrorKind::TimedOut => "The connection timed out".to_owned(),
        io::ErrorKind::UnexpectedEof => "The connection was closed by the peer".to_owned(),
        _ => format!("The connection was lost: {error}"),
    };
    Reply::with_text(421, status::BAD_CONNECTION, text)
}

/// A refusal of the session says nothing about a message: it is tried again (RFC 5321 §4.2.4.2).
fn as_transient(reply: Reply) -> Reply {
    if reply.is_transient() {
        return reply;
    }
    let status = EnhancedStatusCode::new(4, 3, 0);
    Reply::with_text(421, status, format!("The session was refused: {reply}"))
}
