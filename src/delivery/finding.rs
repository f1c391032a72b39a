//! Finding out where flows go: routes, what the directory knows, and questions to the DNS.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::directory::{Answer, Asking, Question};
use super::discovery::{Discovery, discover, discover_host};
use super::held_up::HeldUp;
use super::site::Site;
use super::sts::{Silent, StsFound};
use super::tls::NOT_VOUCHED_FOR;
use super::wanted::Published;
use super::{Delivery, Inner};
use crate::config::{Config, NextHop, NextHopProtocol};
use crate::dns::{Resolver, Settings};
use crate::limits::MESSAGE_HOSTS_MAX;
use crate::mail::{Outcome, Reply, TlsTag, WaitCause, status};
use crate::metrics::Metrics;
use crate::queue::ledger::Waiting;
use crate::queue::{Flow, FlowId};
use crate::routing::dane::Dane;
use crate::routing::local::Local;
use crate::routing::mx::{Destination, Policy};
use crate::routing::{Hop, Place, Routes};
use crate::runtime::sync::zip;
use crate::runtime::{clock, net, task};

/// How the way of mail is found under one configuration.
pub(super) struct Wayfinder {
    pub routes: Routes,
    pub local: Local,
    pub resolver: Resolver,
    pub policy: Policy,
    /// In lower case.
    hostname: Rc<str>,
    /// Whether some domain's mail is a site by itself.
    has_apart: bool,
}

impl Wayfinder {
    pub fn new(config: &Config, metrics: Rc<Metrics>) -> Self {
        Self {
            routes: Routes::new(config),
            local: Local::new(config),
            resolver: Resolver::new(Settings::of_machine(&config.dns), metrics),
            // Where the system does not say, names alone tell us from others.
            policy: Policy::new(config, &net::machine_addresses().unwrap_or_default()),
            hostname: config.hostname.to_ascii_lowercase().into(),
            has_apart: config.limits.iter().any(|limit| limit.domain.is_some()),
        }
    }
}

/// Where a flow goes.
pub(super) enum Way {
    /// To this place; to be asked again at a moment, in monotonic milliseconds.
    To { hop: Hop, published: Published, renew_ms: u64 },
    /// Nowhere: for good or for now, as the reply says.
    Refused(Reply),
    /// That is being found out.
    Asked,
}

/// An address to connect to, and how its host is called where it has a name.
pub(super) struct Target {
    pub address: SocketAddr,
    pub host: Option<Box<str>>,
    /// What the TLSA records of the host say.
    pub dane: Dane,
    /// Monotonic milliseconds until which it counts as failing, if it does.
    pub failed_until_ms: Option<u64>,
}

impl Target {
    /// Whether the mail of a site may go there.
    pub fn is_wanted(&self, site: &Site) -> bool {
        self.host.as_deref().is_none_or(|host| site.wanted.check(host, &self.dane).is_ok())
    }
}

impl Inner {
    /// Where a flow goes; it waits for the answer where the DNS has to be asked, and `flow` is
    /// announced then.
    pub(super) fn find_way(&self, id: FlowId, flow: &Flow) -> Way {
        let finder = self.finder.borrow().clone();
        let next_hop = match self.next_hop_of(flow) {
            Ok(next_hop) => next_hop,
            Err(reply) => return Way::Refused(reply),
        };
        let Some(question) = self.question_of(&next_hop, flow) else {
            let place = Place::known(&next_hop).expect("everything else is a question");
            let hop = self.hop(place, flow, &finder);
            return Way::To { hop, published: Published::default(), renew_ms: u64::MAX };
        };
        let now_ms = clock::coarse_ms();
        let answer = self.directory.borrow_mut().find(&question, Some(id), now_ms);
        match answer {
            Answer::To { place: Place::Exchanges(_), .. }
                if flow.stream.tls == TlsTag::Required
                    && !self.directory.borrow().is_vouched_for(&question) =>
            {
                Way::Refused(NOT_VOUCHED_FOR)
            }
            Answer::To { place, published, until_ms } => {
                let hop = self.hop(place, flow, &finder);
                Way::To { hop, published, renew_ms: until_ms }
            }
            Answer::Refused(reply) => Way::Refused(reply),
            Answer::Asked => Way::Asked,
        }
    }

    /// Where a flow goes, if that is known.
    pub(super) fn hop_of(&self, flow: &Flow) -> Option<Hop> {
        self.known_way(flow).map(|(hop, _)| hop)
    }

    /// Where a flow goes and what was found beside it, if that is known.
    pub(super) fn known_way(&self, flow: &Flow) -> Option<(Hop, Published)> {
        let finder = self.finder.borrow().clone();
        let next_hop = self.next_hop_of(flow).ok()?;
        let (place, published) = match self.question_of(&next_hop, flow) {
            Some(question) => self.directory.borrow().place(&question)?,
            None => {
                let place = Place::known(&next_hop).expect("everything else is a question");
                (place, Published::default())
            }
        };
        Some((self.hop(place, flow, &finder), published))
    }

    /// The place in words, or what leads there while that is not known.
    pub(super) fn site_in_words(&self, flow: &Flow) -> Option<String> {
        match self.hop_of(flow) {
            Some(hop) => Some(hop.to_string()),
            None => self.next_hop_of(flow).ok().map(|next_hop| next_hop.to_string()),
        }
    }

    /// Where a flow is routed to, or the reply that refuses it.
    fn next_hop_of(&self, flow: &Flow) -> Result<NextHop, Reply> {
        match &flow.next_hop {
            Some(next_hop) => Ok(next_hop.clone()),
            None => self.finder.borrow().routes.resolve(&flow.domain),
        }
    }

    /// What is to be asked for a flow, if anything is.
    pub(super) fn question(&self, flow: &Flow) -> Option<Question> {
        self.question_of(&self.next_hop_of(flow).ok()?, flow)
    }

    fn question_of(&self, next_hop: &NextHop, flow: &Flow) -> Option<Question> {
        match flow.domain.is_empty() {
            true => Question::of(next_hop, &self.finder.borrow().hostname),
            false => Question::of(next_hop, &flow.domain),
        }
    }

    fn hop(&self, place: Place, flow: &Flow, finder: &Wayfinder) -> Hop {
        let may_be = finder.has_apart && !flow.domain.is_empty();
        let is_apart = may_be && self.config.borrow().is_apart(&flow.domain);
        Hop::new(place, is_apart.then_some(&*flow.domain))
    }

    /// The addresses of a place other than a socket in the order in which to try them from a
    /// source, those that failed lately last; or why there are none.
    pub(super) fn targets(
        &self,
        place: &Place,
        source: Option<IpAddr>,
    ) -> Result<Vec<Target>, Reply> {
        if let Place::Address { address, .. } = place {
            let (host, dane, failed_until_ms) = (None, Dane::None, None);
            return Ok(vec![Target { address: *address, host, dane, failed_until_ms }]);
        }
        let directory = self.directory.borrow();
        let known = directory.plan(place).ok_or(FORGOTTEN)?;
        let now_ms = clock::coarse_ms();
        let hosts = self.hosts.borrow();
        let targets = known.plan.targets(&mut clock::random_u64).into_iter();
        let of_family = targets.filter(|(_, address)| {
            source.is_none_or(|source| source.is_ipv4() == address.is_ipv4())
        });
        let mut targets: Vec<Target> = of_family
            .map(|(host, address)| Target {
                address,
                host: Some(host.name.as_str().into()),
                dane: host.dane.clone(),
                failed_until_ms: hosts.failed_until_ms(address, source, now_ms),
            })
            .collect();
        // The sort keeps the order of those that are as good as one another.
        targets.sort_by_key(|target| target.failed_until_ms);
        if targets.is_empty() { Err(NO_ADDRESS_OF_FAMILY) } else { Ok(targets) }
    }

    /// A host of a place cannot do its work: others go first for a while. Returns whether there is
    /// one left that has not failed lately; where there is none, nothing is remembered.
    pub(super) fn leave_host(&self, host: SocketAddr, site: &Site, reply: &Reply) -> bool {
        let Ok(targets) = self.targets(&site.key.hop.place, site.key.source) else { return false };
        let others = targets.iter().filter(|it| it.address != host && it.is_wanted(site));
        let (good, failed): (Vec<_>, Vec<_>) =
            others.partition(|target| target.failed_until_ms.is_none());
        if good.is_empty() || failed.len() + 1 >= MESSAGE_HOSTS_MAX {
            return false;
        }
        let mut hosts = self.hosts.borrow_mut();
        hosts.on_failed(host, site.key.source, reply, clock::coarse_ms());
        true
    }

    /// Under another configuration all is found out anew.
    pub(super) fn reload_ways(&self, config: &Config) {
        self.finder.replace(Rc::new(Wayfinder::new(config, self.metrics.clone())));
        self.directory.borrow_mut().clear();
        self.queue.close_line(self.asking_line.replace(self.queue.open_line()));
    }

    /// When the answer to the question of a flow was waited for, around what its line says.
    pub(super) fn waiting_for_dns(
        &self,
        flow: &Flow,
        line: Option<Rc<dyn Waiting>>,
    ) -> Option<Rc<dyn Waiting>> {
        let Some(question) = self.question(flow) else { return line };
        let now_ms = clock::coarse_ms();
        let waits = self.directory.borrow().waits(&question, now_ms);
        if waits.is_empty() {
            return line;
        }
        let start_ms = clock::unix_ms().saturating_sub(clock::monotonic_ms());
        let unix = |(from_ms, to_ms)| (start_ms + from_ms, start_ms + to_ms);
        let times = waits.into_iter().map(unix).collect();
        Some(Rc::new(HeldUp { cause: WaitCause::Dns, times, line }))
    }
}

impl Delivery {
    /// Lets questions go out, as many as may.
    pub(super) fn ask_dns(&self) {
        loop {
            let asking = self.inner.directory.borrow_mut().poll_asking();
            let Some(asking) = asking else { return };
            task::spawn(self.clone().run_discovery(asking));
        }
    }

    async fn run_discovery(self, asking: Asking) {
        let inner = &self.inner;
        let finder = inner.finder.borrow().clone();
        let Wayfinder { resolver, policy, .. } = &*finder;
        let discovery = match &asking.question {
            Question::Mx(domain) => inner.discover_domain(&finder, domain).await,
            Question::MxOf(domain) => discover(resolver, domain, policy).await,
            Question::Host { protocol, host, port } => {
                let asks_tlsa = policy.asks_tlsa && *protocol == NextHopProtocol::Smtp;
                let policy = Policy { port: *port, asks_tlsa, ..policy.clone() };
                discover_host(resolver, host, &policy).await
            }
        };
        inner.metrics.delivery.discoveries.add(1);
        let retry_wait = inner.dns_wait();
        let now_ms = clock::coarse_ms();
        let flows = inner.directory.borrow_mut().answer(&asking, discovery, retry_wait, now_ms);
        for flow in flows {
            self.place(flow);
        }
        self.ask_dns();
    }

    /// Ends what is ready of a flow that goes nowhere: for good with a permanent reply. With a
    /// transient one a task tells the log why, and the others wait without an attempt.
    pub(super) async fn refuse(self, flow: FlowId, reply: Reply) {
        let inner = &self.inner;
        let line = inner.queue.open_line();
        inner.queue.assign(flow, line);
        let site: Rc<str> = "no route".into();
        if reply.is_permanent() {
            while let Some(task) = inner.queue.take(line) {
                inner.end(task, &reply, Outcome::Failed, None, site.clone()).await;
            }
        } else if let Some(task) = inner.queue.take(line) {
            inner.end(task, &reply, Outcome::Delayed, None, site).await;
            let wait = inner.dns_wait();
            while let Some(task) = inner.queue.take(line) {
                // Spread over a fifth, so that they do not come back as one crowd.
                let spread = wait / 5 * (clock::random_u64() % 1000) as u32 / 1000;
                inner.queue.put_back_until(task, wait + spread);
            }
        }
        inner.queue.close_line(line);
    }
}

impl Inner {
    /// The MX hosts of a domain, and its policy for those who send mail there.
    pub(super) async fn discover_domain(&self, finder: &Wayfinder, domain: &str) -> Discovery {
        let Wayfinder { resolver, policy, .. } = finder;
        let (is_asked, port, tls) = {
            let config = self.config.borrow();
            let tls = &config.delivery.tls;
            (config.published_of(domain).mta_sts, tls.mta_sts_port, tls.contexts.web())
        };
        let name = match Destination::parse(domain) {
            Ok(Destination::Domain(name)) if is_asked => name,
            _ => return discover(resolver, domain, policy).await,
        };
        let sts = self.policies.of_domain(&name, resolver, port, tls);
        let (mut discovery, sts) = zip(discover(resolver, domain, policy), sts).await;
        match sts {
            Ok(StsFound { policy, failure, ttl }) => {
                if let Some(failure) = &failure {
                    self.on_sts_failure(name.as_str(), failure);
                }
                discovery.published.sts = policy;
                discovery.published.sts_failure = failure.map(Rc::new);
                discovery.ttl = discovery.ttl.min(ttl);
            }
            Err(Silent) if discovery.result.is_ok() => discovery.result = Err(NO_POLICY_YET),
            Err(Silent) => {}
        }
        discovery
    }

    /// How long a failure of the DNS is believed: mail does not wait longer than by its own clock.
    fn dns_wait(&self) -> Duration {
        DNS_WAIT.min(self.config.borrow().queue.retry_wait_min)
    }
}

/// Wait before a domain is asked for again after the DNS failed.
const DNS_WAIT: Duration = Duration::from_secs(30);
const NO_POLICY_YET: Reply =
    Reply::new(451, status::TLS_FAILED, "MTA-STS: the policy of the domain cannot be had now");
const FORGOTTEN: Reply =
    Reply::new(451, status::DIRECTORY_FAILURE, "The hosts of this site are being found out anew");
const NO_ADDRESS_OF_FAMILY: Reply = Reply::new(
    451,
    status::NO_ADDRESS_OF_FAMILY,
    "No host has an address of the family that we send from",
);
