//! One connection of the source: a message is one send, and replies are read by their codes.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpost::runtime::net::TcpStream;
use ringpost::runtime::stream::Stream;
use ringpost::runtime::timer;
use ringpost::tls::client::{Contexts, Demand};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::dispatch::{Turn, Turns};
use super::replies::{Replies, receive};
use super::tally::{Counters, Phase, Tally};
use super::work::Work;
use crate::audit::DeliveryId;
use crate::ids::IdWriter;
use crate::message::Template;
use crate::usage;

/// What the connections of one shard share.
pub struct Shard {
    pub work: Arc<Work>,
    pub turns: Rc<Turns>,
    pub counters: Arc<[Counters]>,
    /// Which of the counters are ours.
    pub index: usize,
    pub tally: RefCell<Tally>,
    pub accepted: RefCell<IdWriter>,
    pub times: RefCell<IdWriter>,
}

impl Shard {
    fn counters(&self) -> &Counters {
        &self.counters[self.index]
    }
}

/// Sends messages until the run is over, over one connection after another.
pub async fn run(shard: Rc<Shard>) {
    let mut failing_since: Option<Instant> = None;
    while let Some(turn) = shard.turns.next().await {
        let accepted_before = shard.counters().accepted();
        let Err(error) = converse(&shard, turn).await else {
            failing_since = None;
            continue;
        };
        shard.counters().on_connection_error();
        shard.tally.borrow_mut().on_error(error.to_string());
        if shard.counters().accepted() > accepted_before {
            failing_since = None;
        }
        let since = *failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= shard.work.patience {
            shard.counters().on_given_up();
            return;
        }
        timer::sleep(RECONNECT_WAIT).await;
    }
}

async fn converse(shard: &Shard, first: Turn) -> io::Result<()> {
    let mut session = match Session::open(shard).await {
        Ok(session) => session,
        Err(error) => {
            shard.turns.give_back(first);
            return Err(error);
        }
    };
    let mut next = Some(first);
    let mut messages_left = shard.work.messages_per_connection;
    let mut envelope_sent_at = None;
    while let Some(turn) = next.take() {
        messages_left -= 1;
        session.block_for(turn);
        let started = match envelope_sent_at.take() {
            Some(sent_at) => sent_at,
            None => {
                let now = Instant::now();
                session.send_envelope(turn).await.inspect_err(|_| shard.turns.give_back(turn))?;
                now
            }
        };
        let started = turn.intended.unwrap_or(started);
        let proceed = match shard.work.bdat {
            // The content is on its way already.
            true => Ok(true),
            false => session.envelope_replies(turn).await,
        };
        let proceed = proceed.inspect_err(|_| shard.turns.give_back(turn))?;
        if proceed {
            if shard.work.pipelining && !shard.work.bdat && messages_left > 0 {
                next = shard.turns.now();
            }
            let sent = session.send_content(turn, next).await;
            if sent.is_ok() && next.is_some() {
                envelope_sent_at = Some(Instant::now());
            }
            let finished = match sent {
                Ok(content_sent_at) => session.finish(turn, started, content_sent_at).await,
                Err(error) => Err(error),
            };
            if let Err(error) = finished {
                shard.counters().on_in_doubt();
                if let Some(next) = next {
                    shard.turns.give_back(next);
                }
                return Err(error);
            }
        }
        if next.is_none() && messages_left > 0 {
            next = shard.turns.next().await;
        }
    }
    session.send(&[b"QUIT\r\n"]).await
}

struct Session<'a> {
    shard: &'a Shard,
    stream: Stream,
    replies: Replies,
    extended: bool,
    id_block: Vec<u8>,
    /// Recipients of the current message that were accepted, by index.
    accepted: Vec<u16>,
}

impl<'a> Session<'a> {
    async fn open(shard: &'a Shard) -> io::Result<Self> {
        let work = &shard.work;
        let stream = TcpStream::connect(work.target, None, work.reply_timeout).await?.into();
        let replies = Replies::default();
        let (id_block, accepted) = (Vec::with_capacity(128), Vec::new());
        let mut session = Self { shard, stream, replies, extended: true, id_block, accepted };
        session.expect(Phase::Connect, 220).await?;
        let mut lines = session.greet().await?;
        if work.tls {
            session.start_tls(&lines).await?;
            lines = session.greet().await?;
        }
        let offers = |keyword: &str| offers(&lines, keyword);
        session.extended = offers("SIZE") && offers("8BITMIME");
        for (wanted, keyword) in [(work.pipelining, "PIPELINING"), (work.bdat, "CHUNKING")] {
            if wanted && !offers(keyword) {
                return Err(io::Error::other(format!("the server does not offer {keyword}")));
            }
        }
        shard.counters().on_connection();
        Ok(session)
    }

    /// EHLO; the lines of the reply.
    async fn greet(&mut self) -> io::Result<Vec<String>> {
        self.replies.kept_lines = Some(Vec::new());
        self.send(&[b"EHLO source.test\r\n"]).await?;
        self.expect(Phase::Ehlo, 250).await?;
        Ok(self.replies.kept_lines.take().unwrap_or_default())
    }

    async fn start_tls(&mut self, lines: &[String]) -> io::Result<()> {
        if !offers(lines, "STARTTLS") {
            return Err(io::Error::other("the server does not offer STARTTLS"));
        }
        self.send(&[b"STARTTLS\r\n"]).await?;
        self.expect(Phase::Ehlo, 220).await?;
        let context = Contexts::default().context(&Demand::default());
        let name = ServerName::IpAddress(self.shard.work.target.ip().into());
        let connection = ClientConnection::new(context, name).map_err(io::Error::other)?;
        self.stream.start_tls(connection).await
    }

    fn template(&self, turn: Turn) -> &'a Template {
        self.shard.work.template(turn.index)
    }

    fn mail(&self, turn: Turn) -> &'a [u8] {
        let template = self.template(turn);
        if self.extended { &template.mail_esmtp } else { &template.mail_plain }
    }

    fn block_for(&mut self, turn: Turn) {
        let work = &self.shard.work;
        let sequence = work.first_sequence + turn.index;
        self.template(turn).id_block.write(work.run, sequence, &mut self.id_block);
    }

    /// MAIL, RCPT and DATA in one send; with BDAT the content as well.
    async fn send_envelope(&mut self, turn: Turn) -> io::Result<()> {
        let work = &self.shard.work;
        if !work.pipelining || work.bdat {
            return Ok(());
        }
        self.send(&[self.mail(turn), work.recipients(turn.index), b"DATA\r\n"]).await
    }

    /// Whether the content may follow.
    async fn envelope_replies(&mut self, turn: Turn) -> io::Result<bool> {
        let work = &self.shard.work;
        let pipelining = work.pipelining;
        if !pipelining {
            self.send(&[self.mail(turn)]).await?;
        }
        let mail = self.reply(Phase::Mail).await?;
        if !pipelining && mail >= 400 {
            return Ok(self.refused());
        }
        self.accepted.clear();
        for index in 0..work.recipient_count {
            if !pipelining {
                self.send(&[work.recipient(turn.index, index)]).await?;
            }
            if self.reply(Phase::Rcpt).await? < 300 {
                self.accepted.push(index);
            }
        }
        if !pipelining {
            if self.accepted.is_empty() {
                self.send(&[b"RSET\r\n"]).await?;
                self.reply(Phase::Mail).await?;
                return Ok(self.refused());
            }
            self.send(&[b"DATA\r\n"]).await?;
        }
        let data = self.reply(Phase::Data).await?;
        if data == 354 && self.accepted.is_empty() {
            // The server waits for content that is for nobody (RFC 2920 §3.1).
            self.send(&[b".\r\n"]).await?;
            self.reply(Phase::End).await?;
        }
        if data == 354 && !self.accepted.is_empty() {
            return Ok(true);
        }
        if data != 354 && mail < 300 {
            self.send(&[b"RSET\r\n"]).await?;
            self.reply(Phase::Mail).await?;
        }
        Ok(self.refused())
    }

    fn refused(&self) -> bool {
        self.shard.counters().on_refused();
        false
    }

    /// Sends the content, and behind it the envelope of `next` (RFC 2920 §3.1 allows it). Returns
    /// when the last octet was handed to the kernel, or just before.
    async fn send_content(&mut self, turn: Turn, next: Option<Turn>) -> io::Result<Instant> {
        let work = &self.shard.work;
        let template = self.template(turn);
        let id_block = std::mem::take(&mut self.id_block);
        let sent_at = if work.bdat {
            self.send_bdat(turn, template, &id_block).await?
        } else {
            let (head, tail) = split_tail(&template.stuffed);
            if !head.is_empty() {
                self.send(&[&id_block, head]).await?;
            }
            let id_block: &[u8] = if head.is_empty() { &id_block } else { &[] };
            let sent_at = Instant::now();
            match next {
                Some(next) => {
                    let (mail, recipients) = (self.mail(next), work.recipients(next.index));
                    self.send(&[id_block, tail, mail, recipients, b"DATA\r\n"]).await?;
                }
                None => self.send(&[id_block, tail]).await?,
            }
            sent_at
        };
        self.id_block = id_block;
        Ok(sent_at)
    }

    async fn send_bdat(
        &mut self,
        turn: Turn,
        template: &Template,
        id_block: &[u8],
    ) -> io::Result<Instant> {
        let work = &self.shard.work;
        let (mail, recipients) = (self.mail(turn), work.recipients(turn.index));
        if !work.pipelining {
            self.send(&[mail]).await?;
            self.reply(Phase::Mail).await?;
            for index in 0..work.recipient_count {
                self.send(&[work.recipient(turn.index, index)]).await?;
                self.note_recipient(index).await?;
            }
        }
        let (head, tail) = split_tail(&template.content);
        let envelope: [&[u8]; 2] = if work.pipelining { [mail, recipients] } else { [&[], &[]] };
        if head.is_empty() {
            let sent_at = Instant::now();
            self.send(&[envelope[0], envelope[1], &template.bdat, id_block, tail]).await?;
            return Ok(sent_at);
        }
        self.send(&[envelope[0], envelope[1], &template.bdat, id_block, head]).await?;
        let sent_at = Instant::now();
        self.send(&[tail]).await?;
        Ok(sent_at)
    }

    async fn note_recipient(&mut self, index: u16) -> io::Result<()> {
        if index == 0 {
            self.accepted.clear();
        }
        if self.reply(Phase::Rcpt).await? < 300 {
            self.accepted.push(index);
        }
        Ok(())
    }

    /// Reads the reply to the content and books the message.
    async fn finish(
        &mut self,
        turn: Turn,
        started: Instant,
        content_sent_at: Instant,
    ) -> io::Result<()> {
        let work = &self.shard.work;
        if work.bdat && work.pipelining {
            self.reply(Phase::Mail).await?;
            for index in 0..work.recipient_count {
                self.note_recipient(index).await?;
            }
        }
        let code = self.reply(Phase::End).await?;
        if code >= 300 {
            self.refused();
            return Ok(());
        }
        let now = Instant::now();
        let sequence = work.first_sequence + turn.index;
        let mut accepted = self.shard.accepted.borrow_mut();
        let mut times = self.shard.times.borrow_mut();
        for index in &self.accepted {
            accepted.push(DeliveryId::new(sequence, *index))?;
            times.push_at(DeliveryId::new(sequence, *index), usage::unix_us)?;
        }
        self.shard.counters().on_accepted(self.accepted.len() as u64);
        let mut tally = self.shard.tally.borrow_mut();
        tally.end_of_data.record(now - content_sent_at);
        tally.transaction.record(now.saturating_duration_since(started));
        tally.last_accepted_at = Some(now);
        Ok(())
    }

    async fn expect(&mut self, phase: Phase, code: u16) -> io::Result<()> {
        let found = self.reply(phase).await?;
        if found == code {
            return Ok(());
        }
        let refusal = self.replies.refusal.take().unwrap_or_else(|| found.to_string());
        Err(io::Error::other(format!("the server said: {refusal}")))
    }

    async fn reply(&mut self, phase: Phase) -> io::Result<u16> {
        loop {
            if let Some(code) = self.replies.next_code() {
                if code >= 400 {
                    let refusal = self.replies.refusal.take();
                    self.shard.tally.borrow_mut().on_refusal(phase, code, refusal);
                }
                return Ok(code);
            }
            self.stream.set_deadline(Some(self.shard.work.reply_timeout));
            receive(&mut self.stream, &mut self.replies, "SMTP").await?;
        }
    }

    async fn send(&mut self, slices: &[&[u8]]) -> io::Result<()> {
        self.stream.set_deadline(Some(self.shard.work.reply_timeout));
        self.stream.write_all_vectored(slices).await
    }
}

fn offers(lines: &[String], keyword: &str) -> bool {
    lines.iter().any(|line| line.split_whitespace().next() == Some(keyword))
}

/// Cuts long content so that the clock for the reply starts near its last octet.
fn split_tail(content: &[u8]) -> (&[u8], &[u8]) {
    if content.len() <= TAIL_BYTES_MAX {
        return (&[], content);
    }
    content.split_at(content.len() - TAIL_BYTES_MAX)
}

const TAIL_BYTES_MAX: usize = 64 * 1024;
const RECONNECT_WAIT: Duration = Duration::from_millis(20);
