//! Reports on the TLS of sessions with MX hosts (RFC 8460): counted by every shard, put together by
//! the first, written to files and sent to whoever asks for them.

mod counts;
mod ledger;
mod store;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustls::pki_types::ServerName;

pub(super) use counts::Counts;
use ledger::{Ledger, Pending};
pub use store::ReportStore;

use super::{Delivery, DeliveryMemo, Inner};
use crate::config::TlsReports;
use crate::event::notice;
use crate::limits::TLS_REPORTS_AT_ONCE_MAX;
use crate::mail::envelope::Notify;
use crate::mail::{Envelope, EnvelopeFlags, Recipient, Stream, TlsOutcome, TlsTag};
use crate::proto::dns::{Kind, Name, Record};
use crate::proto::tlsrpt::{Mail, PolicyReport, Receiver, compose, receivers};
use crate::runtime::{clock, task, timer};
use crate::web::{Method, Request, Web};

/// What this shard knows for reports.
pub(super) struct TlsReporting {
    counts: RefCell<Counts>,
    /// Of the first shard only.
    collector: Option<Collector>,
}

struct Collector {
    ledger: RefCell<Ledger>,
    store: ReportStore,
    /// Of its own: slow receivers are not to hold up anybody else's requests.
    web: Web,
    in_hand_count: Cell<usize>,
    saved_ms: Cell<u64>,
}

impl TlsReporting {
    pub fn new(shard: usize, store: ReportStore) -> Self {
        let collector = (shard == COLLECTING_SHARD).then(|| Collector {
            ledger: RefCell::new(store.take_restored()),
            store,
            web: Web::default(),
            in_hand_count: Cell::new(0),
            saved_ms: Cell::new(0),
        });
        Self { counts: RefCell::default(), collector }
    }
}

impl Inner {
    /// Counts a session for its report.
    pub(super) fn count_for_report(&self, outcome: &TlsOutcome) {
        if !self.tls_reporting.counts.borrow_mut().add(outcome) {
            self.metrics.delivery.tls_sessions_unreported.add(1);
        }
    }

    /// Takes what a shard has counted.
    pub(super) fn collect_tls_sessions(&self, counted: Vec<PolicyReport>) {
        let collector = self.tls_reporting.collector.as_ref();
        let collector = collector.expect("only the collecting shard is told");
        let lost = collector.ledger.borrow_mut().add(counted);
        self.metrics.delivery.tls_sessions_unreported.add(lost);
    }

    /// Hands what was counted here to the shard that puts reports together.
    fn hand_in_tls_sessions(&self) {
        let counted = self.tls_reporting.counts.borrow_mut().take();
        if counted.is_empty() {
            return;
        }
        if self.tls_reporting.collector.is_some() {
            return self.collect_tls_sessions(counted);
        }
        let memo = DeliveryMemo::TlsSessions(counted);
        if !(self.send)(COLLECTING_SHARD, memo.clone()) {
            self.outbox.borrow_mut().push_back((COLLECTING_SHARD, memo));
        }
    }

    /// Has the state written, if it changed and the last time is long enough ago.
    fn save_tls_reports(&self, period_ms: u64) {
        let Some(collector) = &self.tls_reporting.collector else { return };
        let now_ms = clock::coarse_ms();
        let mut ledger = collector.ledger.borrow_mut();
        if !ledger.is_dirty || now_ms < collector.saved_ms.get() + period_ms {
            return;
        }
        if collector.store.save(ledger.write()) {
            collector.saved_ms.set(now_ms);
        } else {
            ledger.is_dirty = true;
        }
    }
}

impl Delivery {
    /// Hands in what is counted, and on the collecting shard makes and sends reports.
    pub(super) async fn run_tls_reports(self) {
        let inner = &self.inner;
        loop {
            let interval = inner.config.borrow().tls_reports.interval;
            timer::sleep((interval / 8).min(HAND_IN_PERIOD)).await;
            // What full inboxes refused goes first; what is counted waits where it is.
            if inner.outbox.borrow().is_empty() {
                inner.hand_in_tls_sessions();
            }
            let Some(collector) = &inner.tls_reporting.collector else { continue };
            let config = inner.config.borrow().clone();
            let interval_ms = interval.as_millis() as u64;
            let (now_ms, hostname) = (clock::unix_ms(), &config.hostname);
            let mut random = clock::random_u64;
            let mut ledger = collector.ledger.borrow_mut();
            let count = ledger.close(now_ms, interval_ms, hostname, &mut random);
            drop(ledger);
            if count > 0 {
                notice!("ringpost: TLS reports for {count} domains are due");
            }
            while collector.in_hand_count.get() < TLS_REPORTS_AT_ONCE_MAX {
                let due = collector.ledger.borrow_mut().take_due(now_ms);
                let Some((number, pending)) = due else { break };
                collector.in_hand_count.set(collector.in_hand_count.get() + 1);
                task::spawn(self.clone().report(number, pending));
            }
            inner.save_tls_reports(((interval / 4).min(SAVE_PERIOD)).as_millis() as u64);
        }
    }

    /// Hands in and saves what there is, before the process ends: waits until `end` at most.
    pub async fn end_tls_reports(&self, end: Instant) {
        let inner = &self.inner;
        inner.hand_in_tls_sessions();
        let Some(collector) = &inner.tls_reporting.collector else { return };
        inner.save_tls_reports(0);
        let Some(done) = collector.store.synchronise() else { return };
        while done.try_recv().is_err() && clock::now() < end {
            timer::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Does what is to be done for one report, and says when to try the rest again.
    async fn report(self, number: u64, mut pending: Pending) {
        let inner = &self.inner;
        let collector = inner.tls_reporting.collector.as_ref().expect("it has the report");
        let is_done = self.try_report(collector, &mut pending).await;
        collector.in_hand_count.set(collector.in_hand_count.get() - 1);
        let mut ledger = collector.ledger.borrow_mut();
        let now_ms = clock::unix_ms();
        pending.attempts += 1;
        if !is_done && now_ms < pending.end_ms + LIFETIME_MS {
            let wait_ms = RETRY_MS_MIN << pending.attempts.min(RETRY_DOUBLINGS_MAX);
            pending.due_ms = now_ms + wait_ms;
            return ledger.put_back(number, pending);
        }
        if !is_done {
            inner.metrics.delivery.tls_reports_failed.add(1);
            notice!("ringpost: the TLS report for {} could not be sent", pending.domain);
        }
        ledger.finish(number);
    }

    /// Whether nothing is left to do.
    async fn try_report(&self, collector: &Collector, pending: &mut Pending) -> bool {
        let inner = &self.inner;
        let (settings, hostname, directory) = {
            let config = inner.config.borrow();
            let directory = config.tls_reports.directory(&config.data_dir);
            (config.tls_reports.clone(), config.hostname.clone(), directory)
        };
        let report = pending.report(settings.organization(&hostname), &settings.contact(&hostname));
        let text = serde_json::to_string(&report).expect("plain data has a JSON form");
        let file_name = pending.file_name(&hostname);
        if let (Some(directory), false) = (directory, pending.is_written) {
            let written =
                collector.store.write(directory, format!("{file_name}.json"), text.clone());
            pending.is_written = written;
            inner.metrics.delivery.tls_reports_written.add(u64::from(written));
        }
        let is_written = pending.is_written || !settings.is_written();
        if !settings.send {
            return is_written;
        }
        let Ok(receivers) = self.receivers_of(&pending.domain).await else { return false };
        let Ok(compressed) = gzip(text.as_bytes()) else { return false };
        let mut is_sent = true;
        for receiver in receivers {
            let name = receiver.to_string();
            if pending.done.contains(&name) {
                continue;
            }
            let sent = match &receiver {
                Receiver::Mailbox(address) => {
                    let mail = Mail {
                        from: settings.from.as_deref().expect("sending needs one"),
                        to: address,
                        domain: &pending.domain,
                        submitter: &hostname,
                        report_id: &pending.id,
                        file_name: &file_name,
                        now_ms: clock::unix_ms(),
                        report: &compressed,
                    };
                    self.send_mail(&settings, &mail).await
                }
                Receiver::Https { host, port, path } => {
                    self.post(collector, (host, *port, path), compressed.clone()).await
                }
            };
            match sent {
                Ok(()) => {
                    inner.metrics.delivery.tls_reports_sent.add(1);
                    pending.done.push(name);
                }
                Err(reason) if pending.attempts == 0 => {
                    notice!("ringpost: TLS report for {} to {name}: {reason}", pending.domain);
                    is_sent = false;
                }
                Err(_) => is_sent = false,
            }
        }
        is_sent && is_written
    }

    /// Who wants the reports of a domain; an error where the DNS does not answer.
    async fn receivers_of(&self, domain: &str) -> Result<Vec<Receiver>, ()> {
        let Some(name) = Name::parse(&format!("_smtp._tls.{domain}")) else {
            return Ok(Vec::new());
        };
        let resolver = self.resolver();
        match resolver.lookup(&name, Kind::Txt).await.result {
            Ok(answer) => {
                let texts = answer.records.iter().filter_map(|record| match record {
                    Record::Txt(text) => Some(&**text),
                    _ => None,
                });
                Ok(receivers(texts))
            }
            Err(error) if error.is_denial() => Ok(Vec::new()),
            Err(_) => Err(()),
        }
    }

    /// Puts a report into the queue. TLS that fails is no reason to lose it (RFC 8460 §3).
    async fn send_mail(&self, settings: &TlsReports, mail: &Mail<'_>) -> Result<(), String> {
        let mut content = Vec::new();
        compose(mail, &mut content);
        let refused = |refusal: crate::queue::Refusal| refusal.reply().to_string();
        let mut draft = self.inner.queue.begin(content.len() as u64).map_err(refused)?;
        let mut rest = content.as_slice();
        while !rest.is_empty() {
            rest = &rest[draft.append(rest)..];
            draft.room().await.map_err(refused)?;
        }
        let notify = Notify(Notify::NEVER);
        let envelope = Envelope {
            reverse_path: settings.reverse_path.as_deref().unwrap_or("").into(),
            recipients: vec![Recipient { notify, ..Recipient::new(mail.to) }],
            flags: EnvelopeFlags(EnvelopeFlags::NO_LEADING_DOT),
            accepted_ms: mail.now_ms,
            release_ms: 0,
            stream: Stream { tls: TlsTag::Optional, ..Stream::default() },
            envelope_id: None,
            client: None,
            header_prefix: Vec::new(),
            // Filled in by the draft.
            content_bytes: 0,
            content_hash: 0,
        };
        draft.commit(envelope).await.map(drop).map_err(refused)
    }

    async fn post(
        &self,
        collector: &Collector,
        (host, port, path): (&str, u16, &str),
        body: Vec<u8>,
    ) -> Result<(), String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let addresses = self.addresses_of(host, port).await;
        let tls = self.inner.config.borrow().delivery.tls.contexts.web();
        let request = Request {
            method: Method::Post { content_type: "application/tlsrpt+gzip", body },
            host: name,
            addresses,
            path: path.to_owned(),
            tls,
            body_bytes_max: RESPONSE_BYTES_MAX,
            time_max: POST_TIME_MAX,
        };
        collector.web.ask(request).await.map(drop).map_err(|failure| failure.to_string())
    }

    /// None where the name leads nowhere, or the DNS does not say.
    async fn addresses_of(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return vec![SocketAddr::new(address, port)];
        }
        let Some(name) = Name::parse(host) else { return Vec::new() };
        let resolver = self.resolver();
        let mut addresses = Vec::new();
        for kind in [Kind::Aaaa, Kind::A] {
            let Ok(answer) = resolver.lookup(&name, kind).await.result else { continue };
            addresses.extend(answer.records.iter().filter_map(|record| match record {
                Record::Address(address) => Some(SocketAddr::new(*address, port)),
                _ => None,
            }));
        }
        addresses
    }
}

fn gzip(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text)?;
    encoder.finish()
}

/// The one that puts reports together.
const COLLECTING_SHARD: usize = 0;
/// How often shards hand in what they have counted, and how often that is made durable.
const HAND_IN_PERIOD: Duration = Duration::from_secs(10);
const SAVE_PERIOD: Duration = Duration::from_secs(60);
/// Longest time for a web server to take a report, and octets of its answer that are read.
const POST_TIME_MAX: Duration = Duration::from_secs(60);
const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// For so long after its period a report is tried (RFC 8460 §5.4: a day at least).
const LIFETIME_MS: u64 = 2 * 86_400_000;
/// Waits double from the first on, up to about four hours.
const RETRY_MS_MIN: u64 = 30_000;
const RETRY_DOUBLINGS_MAX: u32 = 9;
