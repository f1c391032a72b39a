//! Asking whether a mailbox exists: the way that its mail would go, up to RCPT and never further.
//!
//! A question is a connection and a mail transaction under the same leases as a message.

mod verdict;

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use verdict::Verdict;

use super::connection::Permits;
use super::discovery::{Discovery, discover, discover_host};
use super::known::Known;
use super::lease::Token;
use super::lease::cell::Kind;
use super::site::Site;
use super::{Delivery, Inner, view};
use crate::config::{NextHop, NextHopProtocol};
use crate::mail::address::{AddressRef, Utf8};
use crate::mail::{Reply, ReplyClass, Stream, status};
use crate::proto::classify::ReplyContext;
use crate::proto::smtp::prober::{Event, Prober};
use crate::proto::smtp::server::Dialect;
use crate::routing::mx::Policy;
use crate::routing::{Hop, Place};
use crate::runtime::clock;
use crate::runtime::net::TcpStream;
use crate::runtime::stream::Stream as Connection;
use crate::runtime::timer::{self, Deadline};
use verdict::{Answer, Judged, Next};

/// What is known of a mailbox, and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub address: String,
    pub verdict: Verdict,
    /// Percent; 0 where it is unknown.
    pub confidence: u8,
    /// Why, in a word: `no-mailbox`, `greylisted`, `source-blocked`, ...
    pub reason: String,
    /// The host that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What was said, in order: command and reply.
    pub evidence: Vec<Evidence>,
    /// Time that it took, in milliseconds.
    pub took_ms: u64,
}

/// A step that said something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// `DNS`, `connection`, `MAIL`, `RCPT`, `RCPT of a random mailbox`, `RCPT of postmaster`, ...
    pub step: String,
    pub reply: String,
}

/// An address to connect to, and what it is called.
struct Candidate {
    address: std::net::SocketAddr,
    name: String,
}

impl Delivery {
    /// What earlier deliveries of this shard tell of a mailbox, and how many seconds ago.
    pub fn known_mailbox(&self, address: &str) -> Option<(Known, u64)> {
        self.inner.known.borrow().find(address, clock::unix_ms() / 1000)
    }

    /// Asks where mail to `address` would go. No message is sent; it takes no longer than
    /// `verify.timeout`.
    pub async fn verify(&self, address: &str) -> Verification {
        let started = clock::now();
        let mut asking = Asking {
            inner: self.inner.clone(),
            end: started + self.inner.config.borrow().verify.timeout,
            host: None,
            evidence: Vec::new(),
        };
        let judged = match AddressRef::parse(address.as_bytes(), Utf8::Allowed) {
            Ok(parsed) if !parsed.domain().is_empty() => {
                asking.ask(parsed).await.unwrap_or_else(|judged| judged)
            }
            _ => Judged::new(Verdict::Undeliverable, 100, "no-address"),
        };
        Verification {
            address: address.to_owned(),
            verdict: judged.verdict,
            confidence: judged.confidence,
            reason: judged.reason.to_owned(),
            host: asking.host,
            evidence: asking.evidence,
            took_ms: started.elapsed().as_millis() as u64,
        }
    }
}

/// By what an earlier delivery to the mailbox ended.
pub fn of_known(address: &str, known: Known, seconds_ago: u64) -> Verification {
    let (verdict, reason, what) = match known {
        Known::Accepted => (Verdict::Deliverable, "delivered-before", "took a message"),
        Known::Refused => (Verdict::Undeliverable, "refused-before", "had no such mailbox"),
    };
    let reply = format!("its host {what} {seconds_ago} seconds ago");
    Verification {
        address: address.to_owned(),
        verdict,
        confidence: 90,
        reason: reason.to_owned(),
        host: None,
        evidence: vec![Evidence { step: "delivery".into(), reply }],
        took_ms: 0,
    }
}

/// One question under way. Each step ends in what it found, or in the verdict.
struct Asking {
    inner: Rc<Inner>,
    end: Instant,
    host: Option<String>,
    evidence: Vec<Evidence>,
}

impl Asking {
    async fn ask(&mut self, address: AddressRef<'_>) -> Result<Judged, Judged> {
        let domain = address.domain().to_lowercase();
        let (deadline, left) = (Deadline::default(), self.left());
        let way = timer::timeout(&deadline, left, self.way_to(&domain)).await;
        let too_slow = |_| Judged::new(Verdict::Unknown, 0, "dns-too-slow");
        let (place, candidates) = way.map_err(too_slow)??;
        let site = self.site(place, &domain);
        if site.is_blocked(clock::coarse_ms()) {
            return Err(Judged::new(Verdict::Unknown, 0, "suspended-here"));
        }
        if !site.demand.allows_plain() {
            return Err(Judged::new(Verdict::Unknown, 0, "tls-demanded"));
        }
        // In use for a second after the connection: the peer may see its end that late.
        let permits = self.permits(&site).await?;
        let judged = self.session(&site, &candidates, address, &domain).await;
        drop(permits);
        judged
    }

    /// Where mail for the domain goes.
    async fn way_to(&mut self, domain: &str) -> Result<(Place, Vec<Candidate>), Judged> {
        let finder = self.inner.finder.borrow().clone();
        let next_hop = finder.routes.resolve(domain).map_err(|reply| self.no_way(&reply))?;
        let (resolver, policy) = (&finder.resolver, &finder.policy);
        let discovery = match &next_hop {
            NextHop::Address { protocol, address } => {
                let name = address.to_string();
                let candidates = vec![Candidate { address: *address, name }];
                let place = Place::Address { protocol: *protocol, address: *address };
                return Ok((place, candidates));
            }
            NextHop::Mx(None) => discover(resolver, domain, policy).await,
            NextHop::Mx(Some(other)) => discover(resolver, other, policy).await,
            NextHop::Host { host, port, .. } => {
                let policy = Policy { port: *port, ..policy.clone() };
                discover_host(resolver, host, &policy).await
            }
        };
        let Discovery { result, .. } = discovery;
        let plan = result.map_err(|reply| self.no_way(&reply))?;
        let place = match next_hop {
            NextHop::Host { protocol, host, port } => Place::Host { protocol, host, port },
            _ => Place::Exchanges(plan.roll_up_key.as_str().into()),
        };
        let targets = plan.targets(&mut clock::random_u64).into_iter();
        let candidates = targets.map(|(host, address)| {
            let name = format!("{} ({address})", host.name);
            Candidate { address, name }
        });
        Ok((place, candidates.take(CANDIDATES_MAX).collect()))
    }

    fn no_way(&mut self, reply: &Reply) -> Judged {
        self.note("DNS", reply);
        verdict::judge_domain(reply)
    }

    /// As the site of a message without tenant and campaign, from its first source.
    fn site(&self, place: Place, domain: &str) -> Rc<Site> {
        let config = self.inner.config.borrow().clone();
        let hop = Hop::new(place, config.is_apart(domain).then_some(domain));
        let pool = config.pool_of(domain, &Stream::default());
        let (key, _) = view::sites_of(&config, &hop, pool).swap_remove(0);
        self.inner.site(key, config.demand_of(domain))
    }

    /// The leases of one connection with one mail transaction, which are waited for.
    async fn permits(&self, site: &Rc<Site>) -> Result<(Permits, Option<Token>), Judged> {
        loop {
            if let Ok(permits) = self.inner.opening_permits(site) {
                if !site.lease.is_limited(Kind::Message) {
                    return Ok((permits, None));
                }
                let message = self.inner.leases.take(&site.lease, Kind::Message, 1);
                if message.is_some() {
                    return Ok((permits, message));
                }
                permits.put_back();
            }
            if clock::now() >= self.end {
                return Err(Judged::new(Verdict::Unknown, 0, "limits-of-the-site"));
            }
            timer::sleep(LEASE_POLL).await;
        }
    }

    async fn session(
        &mut self,
        site: &Site,
        candidates: &[Candidate],
        address: AddressRef<'_>,
        domain: &str,
    ) -> Result<Judged, Judged> {
        let source = site.key.source;
        let of_family =
            |it: &&Candidate| source.is_none_or(|source| source.is_ipv4() == it.address.is_ipv4());
        for candidate in candidates.iter().filter(of_family) {
            let timeout = self.inner.config.borrow().delivery.connect_timeout;
            let timeout = timeout.min(self.left());
            self.host = Some(candidate.name.clone());
            match TcpStream::connect(candidate.address, source, timeout).await {
                Ok(stream) => return self.talk(site, stream, address, domain).await,
                Err(error) => self.note_error("connection", &error),
            }
        }
        Err(Judged::new(Verdict::Unknown, 0, "no-host-answers"))
    }

    async fn talk(
        &mut self,
        site: &Site,
        stream: TcpStream,
        address: AddressRef<'_>,
        domain: &str,
    ) -> Result<Judged, Judged> {
        let prober = {
            let config = self.inner.config.borrow();
            let source = site.key.source.and_then(|address| config.source_at(address));
            let ehlo_name = source.and_then(|source| source.ehlo_name.as_ref());
            let ehlo_name = ehlo_name.or(config.delivery.ehlo_name.as_ref());
            let ehlo_name = ehlo_name.unwrap_or(&config.hostname);
            let dialect = match site.key.hop.protocol() {
                NextHopProtocol::Smtp => Dialect::Smtp,
                NextHopProtocol::Lmtp => Dialect::Lmtp,
            };
            let reverse_path = config.verify.reverse_path(&config.hostname);
            let needs_smtputf8 = !address.as_str().is_ascii();
            Prober::new(dialect, ehlo_name, &reverse_path, needs_smtputf8)
        };
        let stream = Connection::from(stream);
        let mut talk = Talk { stream, prober, input: Vec::new(), out: Vec::new(), end: self.end };
        let mut asked = vec![("RCPT", address.as_str().to_owned())];
        let mut answers: Vec<Answer> = Vec::new();
        loop {
            let event = match talk.event().await {
                Ok(event) => event,
                Err(error) => {
                    self.note_error(talk.prober.awaits(), &error);
                    return self.broken_off(&answers, error.kind());
                }
            };
            match event {
                Event::NeedInput | Event::Write => unreachable!("`event` does these"),
                Event::Ready => talk.prober.ask(&asked[0].1, &mut talk.out),
                Event::Answered(reply) => {
                    let (step, _) = asked[answers.len()];
                    self.note(step, &reply);
                    let class = (!reply.is_positive()).then(|| self.class(&reply, site, domain));
                    answers.push(Answer { reply, class });
                    let next = match answers.as_slice() {
                        [mailbox] => verdict::next_after(mailbox),
                        _ => Next::Nobody,
                    };
                    match next {
                        Next::Random => {
                            let local_part = format!("rp{:016x}", clock::random_u64());
                            asked.push(("RCPT of a random mailbox", local_part));
                        }
                        Next::Postmaster => {
                            asked.push(("RCPT of postmaster", "postmaster".to_owned()));
                        }
                        Next::Nobody => {
                            talk.prober.end(&mut talk.out);
                            continue;
                        }
                    }
                    let (_, local_part) = &asked[answers.len()];
                    talk.prober.ask(&format!("{local_part}@{domain}"), &mut talk.out);
                }
                Event::Refused(command, reply) => {
                    self.note(command, &reply);
                    if reply.status == Some(status::NON_ASCII_ADDRESS) && !reply.is_remote {
                        return Ok(Judged::new(Verdict::Undeliverable, 95, "no-smtputf8"));
                    }
                    let class = self.class(&reply, site, domain);
                    return Err(verdict::judge_refusal(command, &reply, class));
                }
                Event::Ended => return Ok(verdict::judge(&answers[0], answers.get(1))),
                Event::Closed(reply) => {
                    self.note(talk.prober.awaits(), &reply);
                    return self.broken_off(&answers, io::ErrorKind::UnexpectedEof);
                }
            }
        }
    }

    /// What is known when the connection has gone.
    fn broken_off(&self, answers: &[Answer], how: io::ErrorKind) -> Result<Judged, Judged> {
        match answers {
            [] if how == io::ErrorKind::TimedOut => {
                Err(Judged::new(Verdict::Unknown, 0, "too-slow"))
            }
            [] => Err(Judged::new(Verdict::Unknown, 0, "connection-lost")),
            [mailbox, rest @ ..] => Ok(verdict::judge(mailbox, rest.first())),
        }
    }

    fn class(&self, reply: &Reply, site: &Site, domain: &str) -> ReplyClass {
        let config = self.inner.config.borrow();
        let source = site.key.source.and_then(|address| config.source_at(address));
        let source = source.map_or("", |source| source.name.as_str());
        let context = ReplyContext { reply, site: &site.name, domain, source, tenant: "" };
        config.delivery.rules.judge(&context).class
    }

    fn note(&mut self, step: &str, reply: &Reply) {
        self.evidence.push(Evidence { step: step.to_owned(), reply: reply.to_string() });
    }

    fn note_error(&mut self, step: &str, error: &io::Error) {
        self.evidence.push(Evidence { step: step.to_owned(), reply: error.to_string() });
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(clock::now()).max(Duration::from_millis(1))
    }
}

/// The session on a connection.
struct Talk {
    stream: Connection,
    prober: Prober,
    input: Vec<u8>,
    out: Vec<u8>,
    end: Instant,
}

impl Talk {
    /// The next event that needs a decision; what is to be written is written, what is to be read
    /// is read.
    async fn event(&mut self) -> io::Result<Event> {
        loop {
            let left = self.end.saturating_duration_since(clock::now());
            self.stream.set_deadline(Some(left.max(Duration::from_millis(1))));
            if !self.out.is_empty() {
                self.stream.write_all(&self.out).await?;
                self.out.clear();
            }
            let (taken, event) = self.prober.next(&self.input, &mut self.out);
            self.input.drain(..taken);
            match event {
                Event::Write => continue,
                Event::NeedInput => {}
                event => return Ok(event),
            }
            self.stream.read_more(&mut self.input).await?;
        }
    }
}

/// Addresses that are tried.
const CANDIDATES_MAX: usize = 4;
const LEASE_POLL: Duration = Duration::from_millis(20);
