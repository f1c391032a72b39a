//! The session on one connection: greeting, groups of messages, their replies, the end.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Inner;
use super::connect::{NotConnected, Via};
use super::connection::{END_WAIT_MAX, Last, Work};
use super::content::{Form, Stuffing};
use super::finding::Target;
use super::lease::Token;
use super::login;
use super::site::Site;
use super::tls::{self, NoTls, Peer, Protected, Reported};
use super::wanted::{Check, Excluded};
use crate::config::{self, NextHopProtocol};
use crate::limits::TLS_DOMAINS_COUNTED_MAX;
use crate::mail::{
    EnhancedStatusCode, EnvelopeFlags, Protection, Recipient, Reply, TlsTag, status,
};
use crate::proto::smtp::client::{Begin, Client, Event, NO_REQUIRE_TLS, Transaction};
use crate::proto::smtp::server::Dialect;
use crate::queue::{Attempt, Content, IN_DOUBT_WAIT, LoadError, Message, Queue, Remote, Task};
use crate::routing::Place;
use crate::runtime::clock;
use crate::runtime::net::TcpStream;
use crate::runtime::stream::Stream;

/// Whether the connection can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Continue,
    /// It works, and its host does not.
    Leave,
    Close,
}

/// A message whose transaction has begun.
struct UnderWay {
    queue: Queue,
    /// Until its outcome is handed in.
    task: Option<Task>,
    /// In use until its reply; where none comes, for a while longer.
    lease: Option<Token>,
    message: Rc<Message>,
    started: Instant,
    /// Its commands in `Link::out`.
    commands: Range<usize>,
}

impl UnderWay {
    fn is_large(&self) -> bool {
        matches!(self.message.content, Content::Chunked { .. })
    }

    /// The task, for whoever ends its attempt.
    fn end(mut self) -> Task {
        self.task.take().expect("an attempt ends once")
    }

    /// Its last reply has come.
    fn release(&mut self) {
        self.lease.take().into_iter().for_each(Token::finish);
    }

    fn settle(self, inner: &Inner, site: &Site, replies: Vec<Reply>, attempt: Attempt) {
        let (message, started) = (self.message.clone(), self.started);
        inner.settle(self.end(), &message, replies, started, attempt, site);
    }
}

impl Drop for UnderWay {
    /// Only a defect of ours leaves a task here: the message may have gone out, and is not lost.
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            self.queue.put_back_until(task, IN_DOUBT_WAIT);
        }
    }
}

/// Why an attempt broke off.
enum Broken {
    /// The connection is gone, closed by the peer, or too slow.
    Connection(Reply),
    /// Our own bytes cannot be read: nothing is to be sent (I12).
    Content(LoadError),
}

/// Why there is no session.
pub(super) enum NotOpened {
    /// Our own address cannot be used: nothing was sent.
    Source(io::Error),
    /// The proxy of the source cannot be used.
    Proxy(io::Error),
    /// The host would not have us, and there is another one.
    Host,
    /// TLS does not work with this host, and mail may go without it.
    Tls,
    /// The site does not take us for who we say.
    Login(Reply),
    /// Mail under REQUIRETLS cannot have what it asks for from this host.
    Unfit(Reply),
    /// The site cannot be used now.
    Site(Reply),
}

impl From<io::Error> for NotOpened {
    fn from(error: io::Error) -> Self {
        NotOpened::Site(lost_reply(&error))
    }
}

pub(super) struct Link {
    stream: Stream,
    via: Via,
    protection: Option<Protection>,
    /// Of the peer.
    address: SocketAddr,
    /// The peer in words: the host where the site has several.
    name: Rc<str>,
    /// Of the peer, where it was found by a name.
    host: Option<Rc<str>>,
    client: Client,
    /// What came and the client has not taken yet.
    input: Vec<u8>,
    out: Vec<u8>,
    /// Messages that ended in a reply on this connection.
    done_count: u32,
    /// The host cannot do its work, and another one may.
    is_unfit: bool,
    /// What was asked of the host.
    check: Check,
    /// A policy that is only tested would not have let it pass.
    is_amiss: bool,
    /// Domains whose mail the session was counted for.
    counted_for: Vec<Box<str>>,
    timeouts: config::Delivery,
}

impl Link {
    /// Connects and greets.
    pub async fn open(inner: &Rc<Inner>, site: &Site) -> Result<Link, NotOpened> {
        let source = site.key.source;
        let (timeouts, ehlo_name) = {
            let config = inner.config.borrow();
            let of_source = source.and_then(|address| config.source_at(address));
            let of_source = of_source.and_then(|source| source.ehlo_name.as_ref());
            let ehlo_name = of_source.or(config.delivery.ehlo_name.as_ref());
            (config.delivery.clone(), ehlo_name.unwrap_or(&config.hostname).clone())
        };
        if let Place::Socket(path) = &site.key.hop.place {
            let stream = TcpStream::connect_socket(path, timeouts.connect_timeout).await;
            let stream = stream.map_err(|error| NotOpened::Site(no_answer(&error)))?;
            // Without TLS nobody asks where that would be.
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            let check = Check::Configured(site.wanted.demand.clone());
            let peer = Peer { wanted: &site.wanted, check, address, host: None };
            return Link::establish(inner, stream, site, &peer, timeouts, &ehlo_name).await;
        }
        let targets = inner.targets(&site.key.hop.place, source).map_err(NotOpened::Site)?;
        let mut targets = targets;
        if site.wanted.demand.require_tls {
            let (unfit, now_ms) = (inner.unfit.borrow(), clock::coarse_ms());
            targets.sort_by_key(|target| unfit.is_broken(target.address, now_ms));
        }
        let mut refusal = None;
        for (index, target) in targets.iter().enumerate() {
            let mut rest = targets[index + 1..].iter().filter(|it| it.is_wanted(site));
            let next = rest.next();
            // Where another address is left nobody waits long for this one.
            let timeout = match next {
                Some(_) => timeouts.connect_timeout.min(CONNECT_QUICKLY),
                None => timeouts.connect_timeout,
            };
            let (address, host) = (target.address, target.host.as_deref());
            let peer = match Peer::new(&site.wanted, address, host, &target.dane) {
                Ok(peer) => peer,
                Err(Excluded { reply, failure, kind }) => {
                    let (address, host) = (address.ip(), host.unwrap_or_default());
                    let reported = Reported { kind, associations: None, address, host };
                    inner.on_tls_failure(site, &reported, failure, reply.text.to_string());
                    refusal = Some(reply);
                    continue;
                }
            };
            let (stream, via) = match inner.connect(target.address, source, timeout).await {
                Ok(connected) => connected,
                Err(NotConnected::Source(error)) => return Err(NotOpened::Source(error)),
                Err(NotConnected::Proxy(error)) => return Err(NotOpened::Proxy(error)),
                Err(NotConnected::Host(error)) => {
                    let reply = no_answer(&error);
                    inner.on_host_failed(target, source, &reply);
                    refusal = Some(reply);
                    continue;
                }
            };
            let opened = Link::establish(inner, stream, site, &peer, timeouts, &ehlo_name).await;
            return match opened {
                Ok(mut link) => {
                    link.via = via;
                    inner.hosts.borrow_mut().on_used(target.address, source);
                    Ok(link)
                }
                Err(NotOpened::Site(reply)) => {
                    inner.on_host_failed(target, source, &reply);
                    // The peer has seen a connection: another host is asked under other leases.
                    let is_other_good = next.is_some_and(|it| it.failed_until_ms.is_none());
                    Err(if is_other_good { NotOpened::Host } else { NotOpened::Site(reply) })
                }
                Err(NotOpened::Unfit(reply)) => {
                    let (mut unfit, now_ms) = (inner.unfit.borrow_mut(), clock::coarse_ms());
                    unfit.on_failed(target.address, now_ms);
                    let is_good = |target: &Target| {
                        let failed = target.failed_until_ms.is_some();
                        !failed && !unfit.is_broken(target.address, now_ms)
                    };
                    let is_other_good = next.into_iter().chain(rest).any(is_good);
                    Err(if is_other_good { NotOpened::Host } else { NotOpened::Unfit(reply) })
                }
                Err(why) => Err(why),
            };
        }
        Err(NotOpened::Site(refusal.expect("a site has a target")))
    }

    /// Greets, and says who we are where the site wants to know.
    async fn establish(
        inner: &Inner,
        stream: TcpStream,
        site: &Site,
        peer: &Peer<'_>,
        timeouts: config::Delivery,
        ehlo_name: &str,
    ) -> Result<Link, NotOpened> {
        let mut link = Link::greet(inner, stream, site, peer, timeouts, ehlo_name).await?;
        if let Some(credentials) = inner.credentials_for(&site.key.hop.place) {
            link.log_in(inner, &credentials).await?;
        }
        Ok(link)
    }

    async fn greet(
        inner: &Inner,
        stream: TcpStream,
        site: &Site,
        peer: &Peer<'_>,
        timeouts: config::Delivery,
        ehlo_name: &str,
    ) -> Result<Link, NotOpened> {
        let protocol = site.key.hop.protocol();
        let dialect = match protocol {
            NextHopProtocol::Smtp => Dialect::Smtp,
            NextHopProtocol::Lmtp => Dialect::Lmtp,
        };
        let client = Client::new(dialect, ehlo_name);
        let (input, out) = (Vec::new(), Vec::new());
        let Peer { address, host, .. } = *peer;
        let name = match host {
            Some(host) => format!("{protocol}://{host}:{}", address.port()).into(),
            None => site.name.clone(),
        };
        let host = host.map(Rc::from);
        let (stream, protection, done_count) = (stream.into(), None, 0);
        let mut link = Link {
            stream,
            via: Via::Host,
            protection,
            address,
            name,
            host,
            client,
            input,
            out,
            done_count,
            is_unfit: false,
            check: peer.check.clone(),
            is_amiss: false,
            counted_for: Vec::new(),
            timeouts,
        };
        let is_broken = || {
            let broken = inner.broken_tls.borrow();
            peer.check.allows_plain() && broken.is_broken(address, clock::coarse_ms())
        };
        loop {
            match link.event(link.timeouts.command_timeout).await? {
                Event::Write => link.flush().await?,
                Event::Ready
                    if peer.wanted.demand.require_tls
                        && link.protection.is_some()
                        && !link.client.capabilities().require_tls =>
                {
                    link.end(Last::Quit).await;
                    return Err(NotOpened::Unfit(NO_REQUIRE_TLS));
                }
                Event::Ready if link.protection.is_some() || peer.check.is_none() => {
                    return Ok(link);
                }
                Event::Ready if link.client.capabilities().start_tls && !is_broken() => {
                    link.client.start_tls(&mut link.out);
                    link.flush().await?;
                }
                Event::Ready => return link.without_tls(inner, site, peer, NoTls::NotOffered),
                Event::TlsRefused(reply) => {
                    return link.without_tls(inner, site, peer, NoTls::Refused(reply));
                }
                Event::StartTls => {
                    link.start_tls(inner, site, peer).await?;
                    link.client.on_tls(&mut link.out);
                    link.flush().await?;
                }
                Event::Closed(reply) => return Err(NotOpened::Site(as_transient(reply))),
                Event::NeedInput
                | Event::SaltPassword(_)
                | Event::Authenticated
                | Event::NotAuthenticated(_)
                | Event::SendContent
                | Event::Done(_) => {
                    unreachable!("nothing but a greeting was said")
                }
            }
        }
    }

    /// Goes on in the clear, if that may be.
    fn without_tls(
        self,
        inner: &Inner,
        site: &Site,
        peer: &Peer<'_>,
        why: NoTls,
    ) -> Result<Link, NotOpened> {
        inner.on_no_tls(site, peer, &why);
        match peer.check.allows_plain() {
            true => Ok(self),
            false => Err(not_protected(peer, &why)),
        }
    }

    async fn start_tls(
        &mut self,
        inner: &Inner,
        site: &Site,
        peer: &Peer<'_>,
    ) -> Result<(), NotOpened> {
        self.stream.set_deadline(Some(self.timeouts.command_timeout));
        let error = match tls::start(inner, &mut self.stream, peer).await {
            Ok(Protected { protection, amiss }) => {
                self.protection = Some(protection);
                if let Some(amiss) = amiss {
                    self.is_amiss = true;
                    inner.on_amiss(site, peer, amiss);
                }
                return Ok(());
            }
            Err(error) => NoTls::Failed(error),
        };
        inner.on_no_tls(site, peer, &error);
        if peer.check.allows_plain() {
            inner.broken_tls.borrow_mut().on_failed(peer.address, clock::coarse_ms());
            return Err(NotOpened::Tls);
        }
        Err(not_protected(peer, &error))
    }

    /// Counts the session, protected as it is, for the domains whose mail it carries.
    fn count_protected(&mut self, inner: &Inner, site: &Site, messages: &VecDeque<UnderWay>) {
        for it in messages {
            let recipient = usize::from(it.message.recipient_indexes[0]);
            let domain = it.message.envelope.recipients[recipient].domain();
            // Reports are not to tell of the sessions by which they went (RFC 8460 §3).
            let is_told = it.message.envelope.stream.tls != TlsTag::Optional;
            if is_told && !self.counted_for.iter().any(|it| it.eq_ignore_ascii_case(domain)) {
                let reported = Reported {
                    kind: self.check.kind(),
                    associations: self.check.associations(),
                    address: self.address.ip(),
                    host: self.host.as_deref().unwrap_or_default(),
                };
                inner.on_tls_success(site, &reported, domain);
                self.counted_for.push(domain.into());
            }
        }
    }

    async fn log_in(
        &mut self,
        inner: &Inner,
        credentials: &config::Credentials,
    ) -> Result<(), NotOpened> {
        // A reload may have made it stricter since the site was made.
        if !login::may_be_told(credentials.level, self.protection.as_ref()) {
            return Err(NotOpened::Login(login::NOT_PROTECTED));
        }
        let (login, nonce) = (&credentials.login.credentials, login::nonce());
        let said = self.client.authenticate(login, &nonce, login::HASHES, &mut self.out);
        said.map_err(|reply| NotOpened::Login(login::refusal(&reply)))?;
        self.flush().await?;
        loop {
            match self.event(self.timeouts.command_timeout).await? {
                Event::Write => self.flush().await?,
                Event::SaltPassword(recipe) => {
                    let salted = inner.salted(&login.password, &recipe).await;
                    self.client.on_salted(&salted, &mut self.out);
                    self.flush().await?;
                }
                Event::Authenticated => return Ok(()),
                // Another host may be better off (RFC 4954 §4, 454 4.7.0).
                Event::NotAuthenticated(reply) if reply.is_transient() => {
                    return Err(NotOpened::Site(login::refusal(&reply)));
                }
                Event::NotAuthenticated(reply) => {
                    return Err(NotOpened::Login(login::refusal(&reply)));
                }
                Event::Closed(reply) => return Err(NotOpened::Site(as_transient(reply))),
                Event::NeedInput
                | Event::Ready
                | Event::StartTls
                | Event::TlsRefused(_)
                | Event::SendContent
                | Event::Done(_) => unreachable!("nothing but AUTH was said"),
            }
        }
    }

    /// Whether nothing waits to be read.
    pub fn is_quiet(&self) -> bool {
        self.stream.is_quiet()
    }

    /// Whether the peer has said something that nobody asked for.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Delivers `first`, and where the next hop lets several share a round trip, more of what is
    /// ready behind it, at most `count_max` together. Returns how many were tried.
    pub async fn deliver(
        &mut self,
        inner: &Rc<Inner>,
        site: &Rc<Site>,
        first: Work,
        count_max: u32,
    ) -> (u32, After) {
        let started = clock::now();
        let mut under_way = self.begin(inner, site, first, count_max).await;
        let count = under_way.len() as u32;
        if count == 0 {
            return (1, After::Continue);
        }
        let does = self.protection.is_some() && !self.is_amiss;
        if does && self.counted_for.len() < TLS_DOMAINS_COUNTED_MAX {
            self.count_protected(inner, site, &under_way);
        }
        let result = self.transact(inner, site, &mut under_way).await;
        site.on_round_trip(started.elapsed() / count);
        match result {
            Ok(()) if self.is_unfit => (count, After::Leave),
            Ok(()) => {
                site.on_success(count, &inner.config.borrow().delivery);
                (count, After::Continue)
            }
            Err(Broken::Content(error)) => {
                for message in under_way {
                    inner.queue.hold(message.end(), &error);
                }
                (count, After::Close)
            }
            Err(Broken::Connection(reply)) => {
                let lost = self.client.lost();
                assert_eq!(lost.len(), under_way.len());
                if !lost.iter().all(|it| it.untried && self.done_count > 0) {
                    site.on_failure(&inner.config.borrow().delivery);
                }
                if self.done_count == 0 && self.host.is_some() {
                    let mut hosts = inner.hosts.borrow_mut();
                    let (source, now_ms) = (site.key.source, clock::coarse_ms());
                    hosts.on_failed(self.address, source, &reply, now_ms);
                }
                for (message, lost) in under_way.into_iter().zip(lost) {
                    if lost.untried && self.done_count > 0 {
                        // The session ended, which says nothing of a message it did not begin.
                        inner.queue.put_back(message.end());
                        continue;
                    }
                    let replies = lost.replies.into_iter().map(|it| it.unwrap_or(reply.clone()));
                    let attempt = Attempt { in_doubt: lost.in_doubt, ..self.attempt(site) };
                    message.settle(inner, site, replies.collect(), attempt);
                }
                (count, After::Close)
            }
        }
    }

    /// Begins transactions into `out`: one, or as many as may share a write.
    async fn begin(
        &mut self,
        inner: &Rc<Inner>,
        site: &Rc<Site>,
        first: Work,
        count_max: u32,
    ) -> VecDeque<UnderWay> {
        self.out.clear();
        let mut under_way: VecDeque<UnderWay> = VecDeque::with_capacity(1);
        let count_max = GROUP_MESSAGES_MAX.min(count_max as usize);
        let mut content_bytes = 0;
        let mut next = Some(first);
        while let Some(Work { task, lease }) = next.take() {
            let started = clock::now();
            match inner.queue.load(task).await {
                Err(error) => {
                    lease.into_iter().for_each(Token::put_back);
                    inner.queue.hold(task, &error);
                }
                Ok(mut message) => {
                    if !self.client.capabilities().eight_bit_mime {
                        message = message.in_seven_bits().map_or(message, Rc::new);
                    }
                    let is_large = matches!(message.content, Content::Chunked { .. });
                    if is_large && !under_way.is_empty() {
                        // Large content has the connection to itself.
                        inner.put_back(Work { task, lease });
                        return under_way;
                    }
                    let start = self.out.len();
                    let begin = self.begin_one(site, &message);
                    content_bytes += message.envelope.content_bytes;
                    let commands = start..self.out.len();
                    let queue = inner.queue.clone();
                    let task = Some(task);
                    let mut it = UnderWay { queue, task, lease, message, started, commands };
                    match begin {
                        Begin::Refused(reply) => {
                            it.lease.take().into_iter().for_each(Token::put_back);
                            let replies = vec![reply; it.message.recipient_indexes.len()];
                            it.settle(inner, site, replies, self.attempt(site));
                        }
                        begin => {
                            let shares = begin == Begin::ContentFollows && !is_large;
                            under_way.push_back(it);
                            if !shares || !self.client.pipelines() {
                                return under_way;
                            }
                            self.client.content_sent();
                        }
                    }
                }
            }
            if under_way.len() < count_max && content_bytes < GROUP_BYTES {
                next = inner.take(site);
            }
        }
        under_way
    }

    fn begin_one(&mut self, site: &Site, message: &Message) -> Begin {
        let envelope = &message.envelope;
        let recipients: Vec<&Recipient> = message
            .recipient_indexes
            .iter()
            .map(|index| &envelope.recipients[usize::from(*index)])
            .collect();
        let transaction = Transaction {
            reverse_path: &envelope.reverse_path,
            recipients: &recipients,
            flags: envelope.flags,
            tls: match envelope.stream.tls {
                TlsTag::Required if !site.wanted.demand.require_tls => TlsTag::RequiredWhereOffered,
                tls => tls,
            },
            envelope_id: envelope.envelope_id.as_deref(),
            message_bytes: envelope.header_prefix.len() as u64 + envelope.content_bytes,
        };
        self.client.begin(&transaction, &mut self.out)
    }

    /// An attempt in this session.
    fn attempt(&self, site: &Site) -> Attempt {
        let remote = Remote {
            address: site.key.hop.place.has_source().then(|| self.address.ip()),
            host: self.host.clone(),
            delivers: site.key.hop.protocol() == NextHopProtocol::Lmtp,
            offers_dsn: self.client.capabilities().dsn,
        };
        let protection = self.protection;
        Attempt { remote: Some(remote), protection, ..Attempt::without_session(self.name.clone()) }
    }

    /// Whether the host has refused a message to all its recipients because it cannot do its work,
    /// and there is another one to try in the same attempt (RFC 5321 §5.1).
    fn leaves_to_others(
        &self,
        inner: &Inner,
        site: &Site,
        message: &Message,
        replies: &[Reply],
    ) -> bool {
        // Most are taken.
        if self.host.is_none() || !replies.iter().all(Reply::is_transient) {
            return false;
        }
        let envelope = &message.envelope;
        let is_fault_of_host = |(index, reply): (&u16, &Reply)| {
            let domain = envelope.recipients[usize::from(*index)].domain();
            let tenant = &envelope.stream.tenant;
            inner.is_fault_of_host(reply, &self.name, site, domain, tenant)
        };
        message.recipient_indexes.iter().zip(replies).all(is_fault_of_host)
            && inner.leave_host(self.address, site, &replies[0])
    }

    /// Sends what was begun, and settles each message as its replies come.
    async fn transact(
        &mut self,
        inner: &Rc<Inner>,
        site: &Site,
        under_way: &mut VecDeque<UnderWay>,
    ) -> Result<(), Broken> {
        if self.client.pipelines() && !under_way[0].is_large() {
            self.send_group(under_way).await?;
        } else if self.client.sends_by_chunk() {
            self.send_content(inner, &under_way[0].message, Form::Verbatim).await?;
        } else {
            self.flush().await.map_err(|error| broken(&error))?;
        }
        loop {
            let timeout = if self.client.awaits_final_reply() {
                self.timeouts.end_of_data_timeout
            } else {
                self.timeouts.command_timeout
            };
            match self.event(timeout).await.map_err(|error| broken(&error))? {
                Event::Done(replies) => {
                    let mut done = under_way.pop_front().expect("the client knows what is open");
                    done.release();
                    self.done_count += 1;
                    if self.leaves_to_others(inner, site, &done.message, &replies) {
                        // Nobody has taken anything of it.
                        inner.metrics.delivery.hosts_left.add(1);
                        inner.queue.put_back(done.end());
                        self.is_unfit = true;
                    } else {
                        done.settle(inner, site, replies, self.attempt(site));
                    }
                    if under_way.is_empty() {
                        return Ok(());
                    }
                }
                Event::Write => self.flush().await.map_err(|error| broken(&error))?,
                Event::SendContent => {
                    let message = under_way[0].message.clone();
                    let verbatim = message.envelope.flags.has(EnvelopeFlags::NO_LEADING_DOT);
                    let form = if verbatim { Form::Verbatim } else { Form::Stuffed };
                    self.send_content(inner, &message, form).await?;
                }
                Event::Closed(reply) => return Err(Broken::Connection(as_transient(reply))),
                Event::NeedInput
                | Event::Ready
                | Event::StartTls
                | Event::TlsRefused(_)
                | Event::SaltPassword(_)
                | Event::Authenticated
                | Event::NotAuthenticated(_) => {
                    unreachable!("a transaction is open")
                }
            }
        }
    }

    /// Commands and content of several messages in one write.
    async fn send_group(&mut self, under_way: &VecDeque<UnderWay>) -> Result<(), Broken> {
        let out = std::mem::take(&mut self.out);
        let mut slices: Vec<&[u8]> = Vec::with_capacity(3 * under_way.len());
        for it in under_way {
            slices.push(&out[it.commands.clone()]);
            slices.push(&it.message.envelope.header_prefix);
            if let Content::Whole(content) = &it.message.content {
                slices.push(content);
            }
        }
        self.stream.set_deadline(Some(self.timeouts.content_timeout));
        self.write(&slices).await?;
        self.out = out;
        self.out.clear();
        Ok(())
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
        loop {
            if !self.input.is_empty() {
                let (taken, event) = self.client.next(&self.input, &mut self.out);
                self.input.drain(..taken);
                // What stands behind the 220 to STARTTLS without protection is not the server's.
                let has_the_turn = matches!(
                    event,
                    Event::Ready
                        | Event::Write
                        | Event::SendContent
                        | Event::StartTls
                        | Event::TlsRefused(_)
                        | Event::SaltPassword(_)
                        | Event::Authenticated
                        | Event::NotAuthenticated(_)
                );
                if has_the_turn && !self.input.is_empty() {
                    return Ok(self.client.talked_early(&self.input));
                }
                if event != Event::NeedInput {
                    return Ok(event);
                }
            }
            self.stream.set_deadline(Some(timeout));
            self.stream.read_more(&mut self.input).await?;
        }
    }

    /// Ends the session without waiting for the peer: it changes nothing.
    pub async fn end(mut self, last: Last) {
        if last == Last::Quit {
            self.quit().await;
        }
    }

    /// Ends the session, and gives `slot` back once the peer's end is known.
    pub async fn end_for_certain(mut self, last: Last, slot: Token) {
        if last == Last::Quit {
            self.quit().await;
        }
        match self.stream.close_for_certain(END_WAIT_MAX).await {
            // Dropped, it is in use for a while longer, in which the host sees the end too.
            Ok(()) if self.via == Via::Proxy => drop(slot),
            Ok(()) => slot.finish(),
            // Dropped, it is in use for a while longer.
            Err(stream) => stream.abort(),
        }
    }

    async fn quit(&mut self) {
        self.out.clear();
        self.client.quit(&mut self.out);
        self.stream.set_deadline(Some(self.timeouts.command_timeout));
        // The peer may be gone already.
        let _ = self.stream.write_last(&self.out).await;
    }
}

fn not_protected(peer: &Peer<'_>, why: &NoTls) -> NotOpened {
    match peer.wanted.demand.require_tls {
        true => NotOpened::Unfit(tls::unfit(why, &peer.check)),
        false => NotOpened::Site(tls::refusal(why, &peer.check)),
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

impl Inner {
    /// An address could not be connected to, or its host would not have us. Where there is no
    /// choice nothing is remembered.
    fn on_host_failed(&self, target: &Target, source: Option<IpAddr>, reply: &Reply) {
        if target.host.is_some() {
            let mut hosts = self.hosts.borrow_mut();
            hosts.on_failed(target.address, source, reply, clock::coarse_ms());
        }
    }
}

/// Longest wait for a connection while there is another address: the kernel has sent three SYN by
/// then (RFC 6298 §2).
const CONNECT_QUICKLY: Duration = Duration::from_secs(5);
/// Messages that share a write: what is in doubt when the connection breaks stays few.
const GROUP_MESSAGES_MAX: usize = 5;
/// Content after which no further message joins them.
const GROUP_BYTES: u64 = 128 * 1024;
