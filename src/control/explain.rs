//! Why mail goes where it goes, and what holds for it on the way.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::socket::{Out, Stop, parse_id, shown};
use super::wire::Line;
use super::{ANSWER_WAIT, Control, asking};
use crate::config::{
    Config, DELAY_NOTICE_ASKED_FOR, IDLE_TIMEOUT_MS, NextHop, SaidLimit, parse_next_hop,
};
use crate::delivery::lease::SiteKey;
use crate::delivery::lease::cell::LimitUse;
use crate::delivery::view::{
    DnsView, RuleSuspension, SiteState, SiteView, WayView, rules_file, sites_of,
};
use crate::mail::{Class, QueueId, Stream, TlsTag};
use crate::queue::{StandingOrder, StandingOrders};
use crate::routing::{Hop, Matched, Place, Routes};
use crate::runtime::clock;
use crate::shard::ask::{Ask, QueuedTask};

/// The way of mail to a domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    pub domain: String,
    /// What leads to the next hop.
    pub route: String,
    /// In words; none where mail is refused.
    pub next_hop: Option<String>,
    /// The `[[pool]]` it leaves from; without one the kernel chooses the address.
    pub pool: Option<String>,
    pub tls: TlsWay,
    /// Who we say we are there, where the next hop wants to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginWay>,
    pub sites: Vec<SiteWay>,
    /// Where the DNS says where it goes, what a running server knows of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsView>,
    pub retry: RetryWay,
    /// The file of rules by which replies are judged.
    pub rules: String,
    /// Orders of operators that let this mail wait.
    pub suspensions: Vec<StandingOrder>,
    /// What rules for replies say of this mail.
    pub suspensions_by_rule: Vec<RuleSuspension>,
}

/// What is asked of a server before the mail goes to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsWay {
    /// The table that says it.
    pub said_by: String,
    /// As in the configuration.
    pub level: String,
    pub version_min: String,
    /// Names of which the certificate has to be for one; that of the host where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// Who we say we are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginWay {
    pub username: String,
    /// The table that says it.
    pub said_by: String,
}

/// A next hop as it is seen from one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteWay {
    /// The next hop in words.
    pub site: String,
    /// Name and address of the `[[source]]`.
    pub source: Option<String>,
    pub address: Option<IpAddr>,
    /// Who connects for it, where it does not do so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Its share of the pool.
    pub weight: u32,
    /// Unix milliseconds until which the source is left alone because it cannot be used.
    pub source_suspended_until_ms: Option<u64>,
    pub limits: Vec<LimitWay>,
    /// How it stands on each shard of a running server.
    pub shards: Vec<OnShard>,
}

/// How a site stands on one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnShard {
    pub shard: usize,
    #[serde(flatten)]
    pub state: SiteState,
}

/// A limit in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitWay {
    /// As in the configuration; a time in milliseconds has `_ms` behind its name.
    pub key: String,
    pub value: u64,
    /// The table that says it.
    pub said_by: String,
    /// What is used of it over all shards, where that is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// What it comes to while a rule slows the site down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowed_to: Option<u64>,
}

/// When mail that does not get through is tried again, and until when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryWay {
    /// The table that says it.
    pub said_by: String,
    /// Milliseconds: the first wait, and the longest.
    pub wait_min_ms: u64,
    pub wait_max_ms: u64,
    /// By which the wait grows with each attempt.
    pub factor: f64,
    /// Share of the wait by which it is spread either way.
    pub jitter: f64,
    /// Milliseconds after which an undelivered recipient is Failed.
    pub lifetime_ms: u64,
    /// Age in milliseconds at which it is told that a recipient is Delayed.
    pub delay_notice_ms: u64,
    /// Who is told: only whoever asked by NOTIFY=DELAY, or all but who asked for something else.
    pub delay_notice_to_all: bool,
}

/// What an operator wants to know the way of.
pub struct Subject<'a> {
    pub domain: &'a str,
    pub stream: &'a Stream,
    /// By order of an operator.
    pub next_hop: Option<NextHop>,
}

/// The way of mail under a configuration and the orders that stand, as far as these say it.
pub fn way(subject: &Subject<'_>, config: &Config, orders: &StandingOrders, now_ms: u64) -> Way {
    let Subject { domain, stream, next_hop } = subject;
    // What is for this host has no domain.
    let host = config.hostname.to_ascii_lowercase();
    let domain = if domain.is_empty() { host.as_str() } else { domain };
    let resolved = Routes::new(config).explain(domain);
    let (route, next_hop) = match (next_hop, resolved) {
        (Some(next_hop), _) => ("order of an operator".to_owned(), Some(next_hop.clone())),
        (None, Ok((matched, next_hop))) => (in_words(matched, domain), Some(next_hop)),
        (None, Err(reply)) => (reply.to_string(), None),
    };
    let pool = config.pool_of(subject.domain, stream);
    let sites = match next_hop.as_ref().and_then(Place::known) {
        Some(place) => {
            let is_apart = !subject.domain.is_empty() && config.is_apart(subject.domain);
            let hop = Hop::new(place, is_apart.then_some(subject.domain));
            sites_of(config, &hop, pool)
        }
        // The DNS is asked by who has mail.
        None => Vec::new(),
    };
    let tls = tls_way(subject.domain, next_hop.as_ref(), config);
    let login = next_hop.as_ref().and_then(|next_hop| login_way(next_hop, config));
    let next_hop = next_hop.map(|it| it.to_string());
    let standing = orders.all(domain, stream, next_hop.as_deref(), now_ms);
    Way {
        domain: domain.to_owned(),
        route,
        pool: pool.map(|pool| pool.name.clone()),
        sites: sites.iter().map(|(key, weight)| site_way(key, *weight, config)).collect(),
        tls,
        login,
        dns: None,
        retry: retry_way(subject.domain, stream, config),
        rules: rules_file(config),
        suspensions: standing.cloned().collect(),
        suspensions_by_rule: Vec::new(),
        next_hop,
    }
}

fn in_words(matched: Matched, domain: &str) -> String {
    match matched {
        Matched::Route => format!("[[route]] {domain}"),
        Matched::Below(bytes) => format!("[[route]] *.{}", &domain[domain.len() - bytes..]),
        Matched::Local => "[mailboxes] domains".to_owned(),
        Matched::Smarthost => "smarthost".to_owned(),
    }
}

fn site_way(key: &SiteKey, weight: u32, config: &Config) -> SiteWay {
    let source = key.source.and_then(|address| config.source_at(address));
    let proxy = source.and_then(|source| source.proxy.as_ref()).map(|proxy| proxy.to_string());
    let source = source.map(|source| source.name.clone());
    let (site, domain) = (key.hop.to_string(), key.hop.domain.as_deref());
    let said = config.limits_said(&site, domain, source.as_deref());
    let limits = said.into_iter().map(|SaidLimit { key, value, index }| LimitWay {
        key: key.to_owned(),
        value,
        said_by: format!("[[limit]] {}: {}", index + 1, config.limits[index]),
        used: None,
        slowed_to: None,
    });
    let mut limits: Vec<LimitWay> = limits.collect();
    let delivery = &config.delivery;
    let count_max = u64::from(delivery.messages_per_connection_max);
    let idle_ms = delivery.idle_timeout.as_millis() as u64;
    // What `[delivery]` says holds as well: the lower count, and the time where none is said.
    let of_connection = limits.iter_mut().find(|it| it.key == "messages_per_connection");
    let mut of_delivery = Vec::new();
    match of_connection {
        Some(limit) if limit.value <= count_max => {}
        Some(limit) => (limit.value, limit.said_by) = (count_max, DELIVERY.to_owned()),
        None => of_delivery.push(("messages_per_connection", count_max)),
    }
    if limits.iter().all(|it| it.key != IDLE_TIMEOUT_MS) {
        of_delivery.push((IDLE_TIMEOUT_MS, idle_ms));
    }
    limits.extend(of_delivery.into_iter().map(|(key, value)| LimitWay {
        key: key.to_owned(),
        value,
        said_by: DELIVERY.to_owned(),
        used: None,
        slowed_to: None,
    }));
    SiteWay {
        site,
        source,
        address: key.source,
        proxy,
        weight,
        source_suspended_until_ms: None,
        limits,
        shards: Vec::new(),
    }
}

fn tls_way(domain: &str, next_hop: Option<&NextHop>, config: &Config) -> TlsWay {
    let said_by = match config.tls_policy_of(domain) {
        Some((index, policy)) => format!("[[tls_policy]] {}: {}", index + 1, policy.domain),
        None => "[delivery.tls]".to_owned(),
    };
    let demand = config.demand_to(next_hop, domain);
    let credentials = next_hop.and_then(|next_hop| config.credentials_of(next_hop));
    let said_by = match credentials {
        _ if next_hop.is_some_and(NextHop::stays_here) => "it stays on this machine".to_owned(),
        Some((index, it)) if demand.level > config.demand_of(domain).level => {
            format!("[[credentials]] {}: {}", index + 1, it.next_hop)
        }
        _ => said_by,
    };
    TlsWay {
        said_by,
        level: demand.level.as_str().to_owned(),
        version_min: demand.version_min.as_str().to_owned(),
        names: demand.names.iter().map(|name| name.to_str().into_owned()).collect(),
    }
}

fn login_way(next_hop: &NextHop, config: &Config) -> Option<LoginWay> {
    let (index, credentials) = config.credentials_of(next_hop)?;
    let username = credentials.login.credentials.name.clone();
    Some(LoginWay { username, said_by: format!("[[credentials]] {}: {next_hop}", index + 1) })
}

fn retry_way(domain: &str, stream: &Stream, config: &Config) -> RetryWay {
    let said_by = match config.retry_rule_of(domain, stream) {
        Some((index, rule)) => format!("[[retry]] {}: {rule}", index + 1),
        None => "[queue]".to_owned(),
    };
    let policy = config.retry_of(domain, stream);
    let ms = |length: Duration| length.as_millis() as u64;
    RetryWay {
        said_by,
        wait_min_ms: ms(policy.wait_min),
        wait_max_ms: ms(policy.wait_max),
        factor: policy.factor,
        jitter: policy.jitter,
        lifetime_ms: ms(policy.lifetime),
        delay_notice_ms: ms(policy.delay_notice.unwrap_or(DELAY_NOTICE_ASKED_FOR)),
        delay_notice_to_all: policy.delay_notice.is_some(),
    }
}

impl Way {
    /// Adds what a shard knows; shards come in order.
    fn add(&mut self, shard: usize, view: WayView, config: &Config) {
        for of_shard in view.sites {
            let SiteView { key, weight, .. } = &of_shard;
            let name = key.hop.to_string();
            let is_it = |it: &SiteWay| it.site == name && it.address == key.source;
            let index = self.sites.iter().position(is_it).unwrap_or_else(|| {
                self.sites.push(site_way(key, *weight, config));
                self.sites.len() - 1
            });
            let site = &mut self.sites[index];
            let until_ms = &mut site.source_suspended_until_ms;
            *until_ms = (*until_ms).max(of_shard.source_until_ms);
            for LimitUse { key, used, allowed } in of_shard.uses {
                let Some(limit) = site.limits.iter_mut().find(|it| it.key == key) else { continue };
                limit.used = Some(used.into());
                let allowed = u64::from(allowed);
                limit.slowed_to = (allowed < limit.value).then_some(allowed);
            }
            site.shards.push(OnShard { shard, state: of_shard.state });
        }
        merge(&mut self.suspensions_by_rule, view.suspensions);
        match (&mut self.dns, view.dns) {
            (Some(known), Some(more)) => known.merge(more),
            (known, more) => *known = known.take().or(more),
        }
    }

    /// Nobody has asked for what was not counted: nothing of it is used.
    fn complete(&mut self) {
        let limits = self.sites.iter_mut().flat_map(|site| &mut site.limits);
        for limit in limits.filter(|it| COUNTED.contains(&it.key.as_str())) {
            limit.used.get_or_insert(0);
        }
    }
}

/// Adds what another shard says. All know the same, and some of it a moment later.
pub(super) fn merge(known: &mut Vec<RuleSuspension>, more: Vec<RuleSuspension>) {
    for it in more {
        let same = known.iter_mut().find(|other| {
            (&other.site, &other.source, &other.tenant, &other.effect)
                == (&it.site, &it.source, &it.tenant, &it.effect)
        });
        match same {
            Some(same) if same.until_ms >= it.until_ms => {}
            Some(same) => *same = it,
            None => known.push(it),
        }
    }
}

/// Answers for a queue id of this server, else for a domain.
pub(super) fn answer(subject: &str, control: &Control, out: &mut Out) -> Result<(), Stop> {
    let config = control.config();
    let id = subject.parse().ok().filter(|id: &QueueId| {
        id.node == config.node && control.shards.numbers().contains(&id.shard.into())
    });
    let Some(id) = id else {
        let domain = subject.to_ascii_lowercase();
        let stream = Stream::default();
        let subject = Subject { domain: &domain, stream: &stream, next_hop: None };
        return Ok(out.line(&Line::Way(way_now(&subject, control)?.into()))?);
    };
    let id = parse_id(&id.to_string(), control)?;
    let message = shown(id, control)?;
    let ways: Result<Vec<Way>, Stop> =
        message.tasks.iter().map(|task| way_of(task, control)).collect();
    out.line(&Line::Message(message))?;
    for way in ways? {
        out.line(&Line::Way(way.into()))?;
    }
    Ok(())
}

fn way_of(task: &QueuedTask, control: &Control) -> Result<Way, Stop> {
    let stream = Stream {
        tenant: task.tenant.as_str().into(),
        campaign: task.campaign.as_str().into(),
        class: Class::parse(&task.class).unwrap_or_default(),
        tls: TlsTag::parse(&task.tls).unwrap_or_default(),
    };
    let next_hop = task.rerouted_to.as_deref().and_then(parse_next_hop);
    let subject = Subject { domain: &task.destination, stream: &stream, next_hop };
    way_now(&subject, control)
}

/// The way of mail with what every shard knows of it.
fn way_now(subject: &Subject<'_>, control: &Control) -> Result<Way, Stop> {
    let config = control.config();
    let mut way = way(subject, &config, &control.suspensions(), clock::unix_ms());
    let make = |reply| Ask::Way {
        domain: subject.domain.into(),
        stream: subject.stream.clone(),
        next_hop: subject.next_hop.clone(),
        reply,
    };
    for (shard, view) in asking::ask_all(&*control.shards, ANSWER_WAIT, make) {
        way.add(shard, view?, &config);
    }
    way.complete();
    if let (Some(_), Some(site)) = (&way.dns, way.sites.first()) {
        // The orders that mean the site by one of its hosts.
        let Subject { domain, stream, .. } = subject;
        let orders = control.suspensions();
        let standing = orders.all(domain, stream, Some(site.site.as_str()), clock::unix_ms());
        way.suspensions = standing.cloned().collect();
    }
    Ok(way)
}

const DELIVERY: &str = "[delivery]";
/// Limits that leases are of.
const COUNTED: [&str; 6] = [
    "connections",
    "connections_per_second",
    "messages_per_second",
    "messages_per_minute",
    "messages_per_hour",
    "messages_per_day",
];

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::delivery::view::{AddressView, HostView, SiteVerdict};
    use crate::queue::Conditions;

    #[test]
    fn the_way_is_what_the_configuration_and_orders_say() {
        let text = "smarthost = \"smtp://127.0.0.1:26\"\n[[listener]]\naddress = \"127.0.0.1:25\"\n\
                    [[route]]\ndomain = \"*.a.test\"\nnext_hop = \"lmtp://127.0.0.1:24\"\n";
        let config = Config::parse(text, "f").expect("valid");
        let mut orders = StandingOrders::default();
        let site = Some("lmtp://*".to_owned());
        let order = StandingOrder {
            number: 0,
            mail: Conditions { site, ..Conditions::default() },
            since_ms: 1,
            until_ms: Some(100),
            by: "root".into(),
            note: String::new(),
        };
        orders.add(order).expect("room");
        let of = |domain: &str, next_hop: Option<&str>, now_ms: u64| {
            let stream = Stream::default();
            let next_hop = next_hop.and_then(parse_next_hop);
            let way = way(&Subject { domain, stream: &stream, next_hop }, &config, &orders, now_ms);
            (way.route, way.next_hop.unwrap_or_default(), way.suspensions.len())
        };
        let told = |route: &str, hop: &str, count: usize| (route.to_owned(), hop.to_owned(), count);
        let route = "[[route]] *.a.test";
        assert_eq!(of("x.a.test", None, 50), told(route, "lmtp://127.0.0.1:24", 1));
        assert_eq!(of("x.a.test", None, 100), told(route, "lmtp://127.0.0.1:24", 0));
        assert_eq!(of("b.test", None, 50), told("smarthost", "smtp://127.0.0.1:26", 0));
        let by_order = told("order of an operator", "lmtp://[::1]:24", 1);
        assert_eq!(of("b.test", Some("lmtp://[::1]:24"), 50), by_order);
    }

    #[test]
    fn credentials_say_who_we_are_and_what_a_server_must_show() {
        let text = "smarthost = \"smtp://mail.test:587\"\n[[listener]]\naddress = \"[::1]:25\"\n\
                    [[credentials]]\nnext_hop = \"smtp://mail.test:587\"\nusername = \"u\"\n\
                    password = \"secret\"\n\
                    [[tls_policy]]\ndomain = \"strict.test\"\nlevel = \"verify\"\n";
        let config = Config::parse(text, "f").expect("valid");
        let of = |domain: &str, next_hop: Option<&str>| {
            let (stream, next_hop) = (Stream::default(), next_hop.and_then(parse_next_hop));
            let subject = Subject { domain, stream: &stream, next_hop };
            let way = way(&subject, &config, &StandingOrders::default(), 0);
            assert!(!serde_json::to_string(&way).expect("JSON").contains("secret"));
            (way.tls.level, way.tls.said_by, way.login.map(|it| (it.username, it.said_by)))
        };
        let said_by = "[[credentials]] 1: smtp://mail.test:587".to_owned();
        let login = Some(("u".to_owned(), said_by.clone()));
        assert_eq!(of("a.test", None), ("verify".to_owned(), said_by, login.clone()));
        let (level, of_domain, of_user) = of("strict.test", None);
        assert_eq!((level.as_str(), of_user), ("verify", login));
        assert_eq!(of_domain, "[[tls_policy]] 1: strict.test");
        let (level, by_socket, _) = of("strict.test", Some("lmtp+unix:///run/lmtp"));
        assert_eq!((&*level, &*by_socket), ("none", "it stays on this machine"));
        let elsewhere = of("a.test", Some("smtp://other.test:587"));
        assert_eq!(elsewhere, ("opportunistic".to_owned(), "[delivery.tls]".to_owned(), None));
    }

    fn example() -> Config {
        let text = "smarthost = \"smtp://127.0.0.1:26\"\n[[listener]]\naddress = \"127.0.0.1:25\"\n\
                    [[source]]\nname = \"a\"\naddress = \"127.0.0.2\"\n\
                    [[source]]\nname = \"b\"\naddress = \"127.0.0.3\"\n\
                    [[pool]]\nname = \"p\"\nsources = [\"a*3\", \"b\"]\n\
                    [[egress]]\ntenant = \"acme\"\npool = \"p\"\n\
                    [[limit]]\nmatch = \"127.0.0.1:*\"\nsource = \"a\"\nconnections = 9\n\
                    messages_per_connection = 7\n\
                    [[limit]]\nmatch = \"127.0.0.1:26\"\nconnections = 5\nidle_timeout = \"2s\"\n\
                    [[retry]]\nclass = \"transactional\"\nlifetime = \"1h\"\n\
                    [[retry]]\ndomain = \"*.test\"\nfactor = 3\ndelay_notice = \"1h\"\n";
        Config::parse(text, "f").expect("valid")
    }

    fn way_to(domain: &str, tenant: &str, class: Class) -> Way {
        let stream = Stream { tenant: tenant.into(), class, ..Stream::default() };
        let subject = Subject { domain, stream: &stream, next_hop: None };
        way(&subject, &example(), &StandingOrders::default(), 0)
    }

    #[test]
    fn sites_limits_and_retries_are_named_with_who_says_them() {
        let bulk = way_to("x.test", "acme", Class::Bulk);
        assert_eq!(bulk.pool.as_deref(), Some("p"));
        let sites: Vec<_> = bulk.sites.iter().map(|it| (it.source.as_deref(), it.weight)).collect();
        assert_eq!(sites, [(Some("a"), 3), (Some("b"), 1)]);
        let limits = |site: &SiteWay| -> Vec<(String, u64, String)> {
            let limits = site.limits.iter();
            limits.map(|it| (it.key.clone(), it.value, it.said_by.clone())).collect()
        };
        let said = |key: &str, value, said_by: &str| (key.to_owned(), value, said_by.to_owned());
        let (first, second) = ("[[limit]] 1: match=127.0.0.1:* source=a", "[[limit]] 2: match=");
        let second = &format!("{second}127.0.0.1:26");
        let of_a = [
            said("connections", 9, first),
            said("messages_per_connection", 7, first),
            said("idle_timeout_ms", 2000, second),
        ];
        assert_eq!(limits(&bulk.sites[0]), of_a);
        let of_b = [
            said("connections", 5, second),
            said("idle_timeout_ms", 2000, second),
            said("messages_per_connection", 10_000, "[delivery]"),
        ];
        assert_eq!(limits(&bulk.sites[1]), of_b);
        assert_eq!(
            (bulk.retry.said_by.as_str(), bulk.retry.factor),
            ("[[retry]] 2: domain=*.test", 3.0)
        );
        assert!(bulk.retry.delay_notice_to_all && bulk.retry.delay_notice_ms == 3_600_000);
        let urgent = way_to("x.test", "", Class::Transactional);
        assert_eq!(urgent.retry.said_by, "[[retry]] 1: class=transactional");
        assert_eq!((urgent.pool, urgent.sites.len(), &urgent.sites[0].source), (None, 1, &None));
        assert_eq!(way_to("x.example", "", Class::Bulk).retry.said_by, "[queue]");
    }

    #[test]
    fn what_shards_know_adds_up() {
        let mut way = way_to("x.test", "acme", Class::Bulk);
        let key = |address: &str| SiteKey {
            hop: Hop::parse("smtp://127.0.0.1:26").expect("a hop"),
            source: Some(address.parse().expect("an address")),
        };
        let state = |connections| SiteState {
            connections,
            window: 4,
            window_max: 20,
            verdict: SiteVerdict::Working,
            asked_in_ms: 0,
        };
        let by_rule = |until_ms| RuleSuspension {
            site: "smtp://127.0.0.1:26".into(),
            source: None,
            tenant: None,
            effect: "slow".into(),
            factor: 2,
            until_ms,
            rule: 1,
            file: "f".into(),
            class: "rate".into(),
            reply: "421 slowly".into(),
        };
        for (connections, until_ms) in [(1, 500), (2, 400)] {
            let uses = match connections {
                1 => vec![LimitUse { key: "connections", used: 3, allowed: 4 }],
                _ => Vec::new(),
            };
            let source_until_ms = Some(9).filter(|_| connections == 2);
            let a = SiteView {
                key: key("127.0.0.2"),
                weight: 3,
                source_until_ms,
                state: state(connections),
                uses,
            };
            let b = SiteView {
                source_until_ms: None,
                uses: Vec::new(),
                key: key("127.0.0.3"),
                weight: 1,
                ..a.clone()
            };
            let address = AddressView {
                address: SocketAddr::from(([192, 0, 2, 1], 25)),
                failed_ms: until_ms,
                failure: Some((1, "421 no".into())),
            };
            let host = HostView {
                name: "m.test".into(),
                preference: 5,
                canonical: None,
                dane: None,
                addresses: vec![address],
            };
            let hosts = vec![host];
            let dns = Some(DnsView { hosts, believed_ms: 10, ..DnsView::default() });
            let suspensions = vec![by_rule(until_ms)];
            let view = WayView { sites: vec![a, b], suspensions, dns };
            way.add(connections, view, &example());
        }
        assert_eq!(way.sites.len(), 2);
        way.complete();
        let of_a = &way.sites[0];
        assert_eq!((of_a.limits[0].used, of_a.limits[0].slowed_to), (Some(3), Some(4)));
        assert_eq!(of_a.limits[1].used, None, "nobody counts messages of a connection");
        assert_eq!(
            (&*of_a.shards, of_a.source_suspended_until_ms),
            (&[1, 2].map(|it| OnShard { shard: it, state: state(it) })[..], Some(9))
        );
        assert_eq!(
            (way.sites[1].limits[0].used, way.sites[1].limits[0].slowed_to),
            (Some(0), None)
        );
        assert_eq!(way.suspensions_by_rule, [by_rule(500)]);
        let dns = way.dns.expect("both know");
        assert_eq!((dns.hosts.len(), dns.hosts[0].addresses[0].failed_ms), (1, 500));
    }
}
