//! Asking whether a mailbox exists: the way that its mail would go, up to RCPT and never further.
//!
//! A question is a connection and a mail transaction under the same leases as a message.

mod verdict;

use std::io;
use std::net::SocketAddr;
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
use super::tls::{self, Peer, Protected};
use super::wanted::{Published, Wanted};
use super::{Delivery, Inner, view};
use crate::config::{NextHop, NextHopProtocol};
use crate::mail::address::{AddressRef, Utf8};
use crate::mail::{Protection, Reply, ReplyClass, Stream, VerifiedBy};
use crate::proto::classify::ReplyContext;
use crate::proto::smtp::prober::{Event, Prober};
use crate::proto::smtp::server::Dialect;
use crate::routing::dane::Dane;
use crate::routing::mx::Policy;
use crate::routing::{Hop, Place};
use crate::runtime::clock;
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
    /// `DNS`, `connection`, `STARTTLS`, `TLS`, `MAIL`, `RCPT`, `RCPT of a random mailbox`,
    /// `RCPT of postmaster`, ...
    pub step: String,
    pub reply: String,
}

/// An address to connect to, and what it is called.
struct Candidate {
    address: SocketAddr,
    name: String,
    /// The name by which it was found.
    host: Option<String>,
    /// What its TLSA records say.
    dane: Dane,
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

/// Why a session ended before the question did.
enum Stopped {
    Judged(Judged),
    /// TLS does not work with this host, and mail may go without it.
    TlsBroke,
}

impl From<Judged> for Stopped {
    fn from(judged: Judged) -> Self {
        Stopped::Judged(judged)
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
        if let Some(judged) = self.judge_mailbox_here(address.as_str()) {
            return Ok(judged);
        }
        let domain = address.domain().to_lowercase();
        let (deadline, left) = (Deadline::default(), self.left());
        let way = timer::timeout(&deadline, left, self.way_to(&domain)).await;
        let too_slow = |_| Judged::new(Verdict::Unknown, 0, "dns-too-slow");
        let (place, published, candidates) = way.map_err(too_slow)??;
        let site = self.site(place, &published, &domain);
        if site.is_blocked(clock::coarse_ms()) {
            return Err(Judged::new(Verdict::Unknown, 0, "suspended-here"));
        }
        if self.inner.credentials_for(&site.key.hop.place).is_some() {
            return Err(Judged::new(Verdict::Unknown, 0, "login-demanded"));
        }
        for _ in 0..SESSIONS_MAX {
            // In use for a second after the connection: the peer may see its end that late.
            let (permits, message) = self.permits(&site).await?;
            let result = self.session(&site, &candidates, address, &domain).await;
            drop(permits);
            match result {
                Ok(judged) | Err(Stopped::Judged(judged)) => return Ok(judged),
                // No mail transaction began; the next session goes without TLS.
                Err(Stopped::TlsBroke) => message.into_iter().for_each(Token::put_back),
            }
        }
        Err(Judged::new(Verdict::Unknown, 0, "tls-failed"))
    }

    /// The verdict on a mailbox of this server; `None` for one of somewhere else.
    fn judge_mailbox_here(&self, address: &str) -> Option<Judged> {
        let accounts = self.inner.accounts.borrow();
        match self.inner.finder.borrow().local.resolve(&accounts, address)? {
            Ok(targets) if targets.iter().all(|it| it.account.is_some()) => {
                Some(Judged::new(Verdict::Deliverable, 100, "local-mailbox"))
            }
            Ok(_) => None,
            Err(reply) if reply.is_permanent() => {
                Some(Judged::new(Verdict::Undeliverable, 100, "no-local-mailbox"))
            }
            Err(_) => Some(Judged::new(Verdict::Unknown, 0, "local-aliases")),
        }
    }

    /// Where mail for the domain goes.
    async fn way_to(&mut self, domain: &str) -> Result<(Place, Published, Vec<Candidate>), Judged> {
        let finder = self.inner.finder.borrow().clone();
        let next_hop = finder.routes.resolve(domain).map_err(|reply| self.no_way(&reply))?;
        let (resolver, policy) = (&finder.resolver, &finder.policy);
        let discovery = match &next_hop {
            NextHop::Address { protocol, address } => {
                let name = address.to_string();
                let (host, dane) = (None, Dane::None);
                let candidates = vec![Candidate { address: *address, name, host, dane }];
                let place = Place::Address { protocol: *protocol, address: *address };
                return Ok((place, Published::default(), candidates));
            }
            NextHop::Socket(_) => return Err(Judged::new(Verdict::Unknown, 0, "local-socket")),
            NextHop::Mailboxes => return Err(Judged::new(Verdict::Unknown, 0, "local-alias")),
            NextHop::Maildir(_) => return Err(Judged::new(Verdict::Unknown, 0, "local-files")),
            NextHop::Mx(None) => self.inner.discover_domain(&finder, domain).await,
            NextHop::Mx(Some(other)) => discover(resolver, other, policy).await,
            NextHop::Host { protocol, host, port } => {
                let asks_tlsa = policy.asks_tlsa && *protocol == NextHopProtocol::Smtp;
                let policy = Policy { port: *port, asks_tlsa, ..policy.clone() };
                discover_host(resolver, host, &policy).await
            }
        };
        let Discovery { result, published, .. } = discovery;
        let plan = result.map_err(|reply| self.no_way(&reply))?;
        let place = match next_hop {
            NextHop::Host { protocol, host, port } => Place::Host { protocol, host, port },
            _ => Place::Exchanges(plan.roll_up_key.as_str().into()),
        };
        let targets = plan.targets(&mut clock::random_u64).into_iter();
        let candidates = targets.map(|(host, address)| {
            let name = format!("{} ({address})", host.name);
            Candidate { address, name, host: Some(host.name.clone()), dane: host.dane.clone() }
        });
        Ok((place, published, candidates.take(CANDIDATES_MAX).collect()))
    }

    fn no_way(&mut self, reply: &Reply) -> Judged {
        self.note("DNS", reply);
        verdict::judge_domain(reply)
    }

    /// As the site of a message without tenant and campaign, from its first source.
    fn site(&self, place: Place, published: &Published, domain: &str) -> Rc<Site> {
        let config = self.inner.config.borrow().clone();
        let hop = Hop::new(place, config.is_apart(domain).then_some(domain));
        let pool = config.pool_of(domain, &Stream::default());
        let (key, _) = view::sites_of(&config, &hop, pool).swap_remove(0);
        let demand = config.demand_to(key.hop.place.next_hop().as_ref(), domain);
        self.inner.site(key, &Wanted::new(demand, config.published_of(domain), published))
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
    ) -> Result<Judged, Stopped> {
        let source = site.key.source;
        let of_family =
            |it: &&Candidate| source.is_none_or(|source| source.is_ipv4() == it.address.is_ipv4());
        for candidate in candidates.iter().filter(of_family) {
            let timeout = self.inner.config.borrow().delivery.connect_timeout;
            let timeout = timeout.min(self.left());
            self.host = Some(candidate.name.clone());
            let stream = match self.inner.connect(candidate.address, source, timeout).await {
                Ok((stream, _)) => stream,
                Err(failed) => {
                    self.note_error("connection", failed.error());
                    continue;
                }
            };
            let prober = self.prober(site, address);
            let stream = Connection::from(stream);
            let (input, out) = (Vec::new(), Vec::new());
            let mut talk = Talk { stream, prober, input, out, end: self.end };
            self.greet(&mut talk, site, candidate, domain).await?;
            return Ok(self.question(&mut talk, site, address, domain).await?);
        }
        Err(Judged::new(Verdict::Unknown, 0, "no-host-answers").into())
    }

    fn prober(&self, site: &Site, address: AddressRef<'_>) -> Prober {
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
    }

    /// Up to the mail transaction, with the protection that mail would have.
    async fn greet(
        &mut self,
        talk: &mut Talk,
        site: &Site,
        candidate: &Candidate,
        domain: &str,
    ) -> Result<(), Stopped> {
        let Candidate { address, host, dane, .. } = candidate;
        let peer = match Peer::new(&site.wanted, *address, host.as_deref(), dane) {
            Ok(peer) => peer,
            Err(excluded) => {
                self.note("TLS", &excluded.reply);
                return Err(Judged::new(Verdict::Unknown, 0, "tls-policy").into());
            }
        };
        let is_broken = {
            let broken = self.inner.broken_tls.borrow();
            peer.check.allows_plain() && broken.is_broken(peer.address, clock::coarse_ms())
        };
        let mut protection: Option<Protection> = None;
        loop {
            match self.event(talk, site, domain).await? {
                Event::Greeted if protection.is_some() => break,
                Event::Greeted if peer.check.is_none() => {
                    self.note_text("TLS", "none: it is not to be used");
                    break;
                }
                Event::Greeted if talk.prober.offers_tls() && is_broken => {
                    self.note_text("TLS", "none: it failed with this host lately");
                    break;
                }
                Event::Greeted if talk.prober.offers_tls() => talk.prober.start_tls(&mut talk.out),
                Event::Greeted => {
                    self.note_text("TLS", "none: the host does not offer it");
                    self.without_tls(&peer, "tls-not-offered")?;
                    break;
                }
                Event::TlsRefused(reply) => {
                    self.note("STARTTLS", &reply);
                    self.note_text("TLS", "none: the host refuses it");
                    self.without_tls(&peer, "tls-refused")?;
                    break;
                }
                Event::StartTls => {
                    let found = self.start_tls(talk, &peer).await?;
                    let Protection { version, cipher, verified_by } = found;
                    let verified = match verified_by {
                        Some(VerifiedBy::Ca) => "verified",
                        Some(VerifiedBy::Dane) => "verified by DANE",
                        Some(VerifiedBy::MtaSts) => "verified by MTA-STS",
                        None => "not verified",
                    };
                    let text = format!("{version}, {cipher}, certificate {verified}");
                    self.note_text("TLS", &text);
                    protection = Some(found);
                    talk.prober.on_tls(&mut talk.out);
                }
                _ => unreachable!("no mail transaction has begun"),
            }
        }
        if let Err(reply) = talk.prober.begin(&mut talk.out) {
            self.note("EHLO", &reply);
            return Err(Judged::new(Verdict::Undeliverable, 95, "no-smtputf8").into());
        }
        Ok(())
    }

    /// Goes on in the clear, if mail may.
    fn without_tls(&self, peer: &Peer<'_>, reason: &'static str) -> Result<(), Judged> {
        match peer.check.allows_plain() {
            true => Ok(()),
            false => Err(Judged::new(Verdict::Unknown, 0, reason)),
        }
    }

    async fn start_tls(&mut self, talk: &mut Talk, peer: &Peer<'_>) -> Result<Protection, Stopped> {
        talk.stream.set_deadline(Some(self.left()));
        match tls::start(&self.inner, &mut talk.stream, peer).await {
            Ok(Protected { protection, .. }) => Ok(protection),
            Err(error) => {
                self.note_error("TLS", &error);
                if !peer.check.allows_plain() {
                    return Err(Judged::new(Verdict::Unknown, 0, "tls-failed").into());
                }
                let mut broken = self.inner.broken_tls.borrow_mut();
                broken.on_failed(peer.address, clock::coarse_ms());
                Err(Stopped::TlsBroke)
            }
        }
    }

    /// The mail transaction: the mailbox, and whom its answer makes worth asking for.
    async fn question(
        &mut self,
        talk: &mut Talk,
        site: &Site,
        address: AddressRef<'_>,
        domain: &str,
    ) -> Result<Judged, Judged> {
        let mut asked = vec![("RCPT", address.as_str().to_owned())];
        let mut answers: Vec<Answer> = Vec::new();
        loop {
            let event = match self.event(talk, site, domain).await {
                // What is known when the connection has gone counts.
                Err(judged) => match answers.as_slice() {
                    [] => return Err(judged),
                    [mailbox, rest @ ..] => return Ok(verdict::judge(mailbox, rest.first())),
                },
                Ok(event) => event,
            };
            match event {
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
                Event::Ended => return Ok(verdict::judge(&answers[0], answers.get(1))),
                _ => unreachable!("a mail transaction has begun"),
            }
        }
    }

    /// The next event that the session goes on after, or ends in order by.
    async fn event(&mut self, talk: &mut Talk, site: &Site, domain: &str) -> Result<Event, Judged> {
        match talk.event().await {
            Ok(Event::Refused(command, reply)) => {
                self.note(command, &reply);
                let class = self.class(&reply, site, domain);
                Err(verdict::judge_refusal(command, &reply, class))
            }
            Ok(Event::Closed(reply)) => {
                self.note(talk.prober.awaits(), &reply);
                Err(Judged::new(Verdict::Unknown, 0, "connection-lost"))
            }
            Ok(event) => Ok(event),
            Err(error) => {
                self.note_error(talk.prober.awaits(), &error);
                let is_slow = error.kind() == io::ErrorKind::TimedOut;
                let reason = if is_slow { "too-slow" } else { "connection-lost" };
                Err(Judged::new(Verdict::Unknown, 0, reason))
            }
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
        self.note_text(step, &reply.to_string());
    }

    fn note_error(&mut self, step: &str, error: &io::Error) {
        self.note_text(step, &error.to_string());
    }

    fn note_text(&mut self, step: &str, text: &str) {
        self.evidence.push(Evidence { step: step.to_owned(), reply: text.to_owned() });
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

/// Sessions for one question: behind one in which TLS broke another goes without it.
const SESSIONS_MAX: usize = 2;
/// Addresses that are tried.
const CANDIDATES_MAX: usize = 4;
const LEASE_POLL: Duration = Duration::from_millis(20);
