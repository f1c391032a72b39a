//! What operators see of the way of mail: its sites, their leases, and what holds them back.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::directory::{Answer, Question};
use super::lease::SiteKey;
use super::lease::cell::LimitUse;
use super::sts::StsPolicy;
use super::suspensions::{SuspendedBy, Suspension, SuspensionKind};
use super::wanted::Published;
use super::{Delivery, Inner};
use crate::config::{Config, Pool};
use crate::queue::Flow;
use crate::routing::Hop;
use crate::routing::dane::Dane;
use crate::runtime::{clock, timer};

/// The way of a flow as one shard sees it.
#[derive(Clone, Debug, Default)]
pub struct WayView {
    /// As `sites_of` says.
    pub sites: Vec<SiteView>,
    /// What rules for replies say of its mail.
    pub suspensions: Vec<RuleSuspension>,
    /// Where the DNS says where it goes.
    pub dns: Option<DnsView>,
}

/// What the DNS says of the way of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsView {
    /// Those that take the mail, the best first; empty where there are none.
    pub hosts: Vec<HostView>,
    /// Why there are none; absent while the DNS is being asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mta_sts: Option<StsView>,
    /// Why the policy that the domain has announced could not be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mta_sts_failure: Option<String>,
    /// Milliseconds for which that is believed.
    pub believed_ms: u64,
}

/// The MTA-STS policy of a domain (RFC 8461).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StsView {
    pub id: String,
    /// `enforce` or `testing`.
    pub mode: String,
    /// Patterns of MX hosts.
    pub mx: Vec<String>,
}

impl From<&StsPolicy> for StsView {
    fn from(sts: &StsPolicy) -> Self {
        let StsPolicy { id, policy, .. } = sts;
        let mx = policy.mx.iter().map(|it| it.to_string()).collect();
        StsView { id: id.to_string(), mode: policy.mode.as_str().to_owned(), mx }
    }
}

/// A host that takes mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    pub name: String,
    pub preference: u16,
    /// What the name is an alias for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical: Option<String>,
    /// What its TLSA records say, where there are any that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dane: Option<String>,
    pub addresses: Vec<AddressView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressView {
    pub address: SocketAddr,
    /// Milliseconds for which others are tried before it; 0 where it is not known to fail.
    pub failed_ms: u64,
    /// Connections that failed in a row, and what came of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<(u32, String)>,
}

impl DnsView {
    /// Adds what another shard knows of the hosts, or takes its view where there is none here.
    pub fn merge(&mut self, other: DnsView) {
        if self.hosts.is_empty() {
            *self = other;
            return;
        }
        let of_other = other.hosts.into_iter().flat_map(|host| host.addresses);
        for it in of_other.filter(|it| it.failed_ms > 0) {
            let of_own = self.hosts.iter_mut().flat_map(|host| &mut host.addresses);
            for own in of_own.filter(|own| own.address == it.address) {
                if it.failed_ms > own.failed_ms {
                    own.clone_from(&it);
                }
            }
        }
    }
}

/// One of its sites.
#[derive(Clone, Debug)]
pub struct SiteView {
    pub key: SiteKey,
    /// Its share of the pool.
    pub weight: u32,
    /// Unix milliseconds until which its source is left alone because it cannot be used.
    pub source_until_ms: Option<u64>,
    /// Where this shard knows nothing of the site, that of a site which was never asked.
    pub state: SiteState,
    /// What is used of its limits by all shards; empty where another shard knows.
    pub uses: Vec<LimitUse>,
}

/// How a site stands on one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteState {
    /// Open or being opened.
    pub connections: usize,
    /// Connections it may have now, and at the most.
    pub window: usize,
    pub window_max: usize,
    pub verdict: SiteVerdict,
    /// Milliseconds for which it is left alone after failures; 0 where it is not.
    pub asked_in_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteVerdict {
    Working,
    /// The last connection could not be opened, and there is no other.
    Failing,
    /// Many could not be opened in a row.
    Dead,
    /// Dead, and asked just now whether it still is.
    HalfOpen,
}

impl SiteVerdict {
    pub fn as_str(self) -> &'static str {
        match self {
            SiteVerdict::Working => "working",
            SiteVerdict::Failing => "failing",
            SiteVerdict::Dead => "dead",
            SiteVerdict::HalfOpen => "half-open",
        }
    }
}

/// Mail that a rule for replies slowed down or suspended, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSuspension {
    /// In words.
    pub site: String,
    /// Name of the `[[source]]` whose mail alone it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The tenant whose mail alone it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `slow`, `suspend` or `dead`.
    pub effect: String,
    /// Connections and limited rates are down to one in so many; 1 where it is not `slow`.
    pub factor: u32,
    /// Unix milliseconds.
    pub until_ms: u64,
    /// Position of the rule in its file, 1-based.
    pub rule: usize,
    pub file: String,
    /// Of the reply that it matched.
    pub class: String,
    pub reply: String,
}

/// The file of rules that a configuration judges replies by.
pub fn rules_file(config: &Config) -> String {
    let path = config.delivery.rules_path.as_ref();
    path.map_or(SHIPPED_RULES.to_owned(), |path| path.display().to_string())
}

/// The sites that mail to a place by a pool goes to, with their weights.
pub fn sites_of(config: &Config, hop: &Hop, pool: Option<&Pool>) -> Vec<(SiteKey, u32)> {
    // What does not leave the machine has no source.
    let pool = pool.filter(|_| hop.place.has_source());
    let Some(pool) = pool else { return vec![(SiteKey { hop: hop.clone(), source: None }, 1)] };
    let members = pool.members.iter().map(|member| {
        let source = config.source(&member.source).map(|source| source.address);
        (SiteKey { hop: hop.clone(), source }, member.weight)
    });
    members.collect()
}

impl Delivery {
    /// How the sites of a flow stand here; none where it is not known where it goes. Suspends while
    /// the DNS is asked, but not for long.
    pub async fn way_of(&self, flow: &Flow) -> WayView {
        let inner = &self.inner;
        let dns = match inner.question(flow) {
            Some(question) => Some(self.dns_view(&question, &flow.domain).await),
            None => None,
        };
        let Some((hop, published)) = inner.known_way(flow) else {
            return WayView { dns, ..WayView::default() };
        };
        let config = inner.config.borrow().clone();
        let sites = sites_of(&config, &hop, config.pool_of(&flow.domain, &flow.stream));
        let tenant = &*flow.stream.tenant;
        let suspensions = inner.suspensions.borrow();
        let of_flow = suspensions.iter().filter(|it| {
            let is_of_tenant = it.scope.tenant.as_deref().is_none_or(|of| of == tenant);
            let is_of_site = |(key, _): &(SiteKey, u32)| {
                it.scope.source.is_none() || it.scope.source == key.source
            };
            it.scope.hop == hop && is_of_tenant && sites.iter().any(is_of_site)
        });
        WayView {
            suspensions: of_flow.map(|it| shown(it, &config)).collect(),
            sites: sites
                .into_iter()
                .map(|it| inner.site_view(it, &published, flow, &config))
                .collect(),
            dns,
        }
    }

    /// What the DNS says; asked for what is not known.
    async fn dns_view(&self, question: &Question, domain: &str) -> DnsView {
        let inner = &self.inner;
        let end = clock::now() + DNS_PATIENCE;
        loop {
            let now_ms = clock::coarse_ms();
            let answer = inner.directory.borrow_mut().find(question, None, now_ms);
            self.ask_dns();
            if answer != Answer::Asked || clock::now() >= end {
                return inner.dns_known(question, domain, now_ms);
            }
            timer::sleep(DNS_POLL).await;
        }
    }

    /// What rules for replies hold back or slow down now.
    pub fn suspensions(&self) -> Vec<RuleSuspension> {
        let config = self.inner.config.borrow();
        self.inner.suspensions.borrow().iter().map(|it| shown(it, &config)).collect()
    }
}

impl Inner {
    fn dns_known(&self, question: &Question, domain: &str, now_ms: u64) -> DnsView {
        let counts = self.config.borrow().published_of(domain);
        let directory = self.directory.borrow();
        let Some((result, published, until_ms)) = directory.known(question) else {
            return DnsView::default();
        };
        let believed_ms = until_ms.saturating_sub(now_ms);
        let place = match result {
            Ok(place) => place,
            Err(reply) => {
                let refusal = Some(reply.to_string());
                return DnsView { refusal, believed_ms, ..DnsView::default() };
            }
        };
        let memory = self.hosts.borrow();
        let address = |address: &SocketAddr| {
            let failed = memory.failure(*address, now_ms);
            AddressView {
                address: *address,
                failed_ms: failed.map_or(0, |it| it.until_ms - now_ms),
                failure: failed.map(|it| (it.count, it.reply.to_string())),
            }
        };
        let hosts = directory.plan(place).into_iter().flat_map(|known| &known.plan.hosts);
        let hosts = hosts.map(|host| HostView {
            name: host.name.clone(),
            preference: host.preference,
            canonical: host.canonical.as_ref().map(|name| name.as_str().to_owned()),
            dane: dane_in_words(&host.dane).filter(|_| counts.dane && published.dane),
            addresses: host.addresses.iter().map(address).collect(),
        });
        let sts = published.sts.as_ref().filter(|_| counts.mta_sts);
        let failure = published.sts_failure.as_ref().filter(|_| counts.mta_sts);
        DnsView {
            hosts: hosts.collect(),
            refusal: None,
            mta_sts: sts.map(|sts| StsView::from(&**sts)),
            mta_sts_failure: failure.map(|it| it.reason.to_string()),
            believed_ms,
        }
    }

    fn site_view(
        &self,
        (key, weight): (SiteKey, u32),
        published: &Published,
        flow: &Flow,
        config: &Config,
    ) -> SiteView {
        let now_ms = clock::coarse_ms();
        let until_ms = self.sources.borrow().unusable_until(key.source, now_ms);
        let connections_max = config.delivery.connections_max;
        let never_asked = SiteState {
            connections: 0,
            window: config.delivery.connections_start.min(connections_max),
            window_max: connections_max,
            verdict: SiteVerdict::Working,
            asked_in_ms: 0,
        };
        let wanted = self.wanted(&key.hop, published, &flow.domain, &flow.stream);
        let site = self.sites_of(&key).into_iter().find(|site| site.wanted == wanted);
        SiteView {
            weight,
            source_until_ms: until_ms.map(unix_ms_of),
            state: site.map_or(never_asked, |site| site.view(&config.delivery, now_ms)),
            uses: self.leases.uses(&key).unwrap_or_default(),
            key,
        }
    }
}

fn dane_in_words(dane: &Dane) -> Option<String> {
    Some(match dane {
        Dane::None => return None,
        Dane::Unknown(error) => format!("TLSA records cannot be had: {error}"),
        Dane::Unusable => "TLSA records of unknown kinds: TLS, whoever it is".to_owned(),
        Dane::Usable(associations) => {
            let records = associations.records.iter().map(|record| record.to_string());
            format!("TLSA {}", records.collect::<Vec<_>>().join(", "))
        }
    })
}

fn shown(suspension: &Suspension, config: &Config) -> RuleSuspension {
    let Suspension { scope, kind, until_ms, by, reply, class } = suspension;
    let SuspendedBy::Rule(rule) = by;
    let (effect, factor) = match kind {
        SuspensionKind::Slow(factor) => ("slow", *factor),
        SuspensionKind::Suspend => ("suspend", 1),
        SuspensionKind::Dead => ("dead", 1),
    };
    let name_of = |address| config.source_at(address).map(|source| source.name.clone());
    RuleSuspension {
        site: scope.hop.to_string(),
        source: scope.source.map(|it| name_of(it).unwrap_or_else(|| it.to_string())),
        tenant: scope.tenant.as_deref().map(str::to_owned),
        effect: effect.to_owned(),
        factor,
        until_ms: unix_ms_of(*until_ms),
        rule: rule + 1,
        file: rules_file(config),
        class: class.as_str().to_owned(),
        reply: reply.to_string(),
    }
}

/// A time of the monotonic clock by the wall clock.
fn unix_ms_of(monotonic_ms: u64) -> u64 {
    clock::unix_ms().saturating_add_signed(monotonic_ms as i64 - clock::monotonic_ms() as i64)
}

/// How long an operator waits for the DNS, and how often it is looked whether it has answered.
const DNS_PATIENCE: Duration = Duration::from_secs(3);
const DNS_POLL: Duration = Duration::from_millis(20);
const SHIPPED_RULES: &str = "tuning/providers.toml, as shipped";
