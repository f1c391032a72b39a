//! `[[source]]`, `[[pool]]`, `[[egress]]` and `[[limit]]`: what mail leaves from, and how much of
//! it a site takes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Config;
use super::explain::Out;
use super::login::{Form, Login};
use super::parse::ConfigError;
use super::table::{Checked, Table};
use super::values::{write_conditions, write_duration};
use crate::mail::Stream;
use crate::mail::address::is_domain;
use crate::proto::classify::NamePattern;
use crate::proto::socks5::SECRET_BYTES_MAX;

/// `[[source]]`: an address that mail leaves from: one of this host, or of its proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Each address belongs to one source: the world tells senders apart by it.
    pub address: IpAddr,
    /// Name in EHLO; the one of `[delivery]` by default.
    pub ehlo_name: Option<String>,
    /// Who connects in its place.
    pub proxy: Option<Proxy>,
}

/// A proxy: the world sees the source's address there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub protocol: ProxyProtocol,
    pub address: SocketAddr,
    /// For `Socks5` only.
    pub login: Option<Login>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// RFC 1928: it is asked for each connection, and answers.
    Socks5,
    /// It is told by a PROXY header from where to where, and answers nothing.
    Haproxy,
}

/// `[[pool]]`: sources that share a line of mail by their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    /// Not empty, each source once.
    pub members: Vec<PoolMember>,
}

/// `"a"`, or `"a*3"` for three times the share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMember {
    /// Name of a `[[source]]`.
    pub source: String,
    /// 1..=1000.
    pub weight: u32,
}

/// `[[egress]]`: which mail leaves from which pool. What is not said matches everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Egress {
    /// Of the recipient.
    pub domain: Option<NamePattern>,
    pub tenant: Option<NamePattern>,
    pub campaign: Option<NamePattern>,
    /// Name of a `[[pool]]`.
    pub pool: String,
}

/// `[[limit]]`: what a site takes at most, from each source by itself, all shards together.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// `match`: the next hop, or one of its MX hosts, with at most one `*`; every one by default.
    pub site: Option<NamePattern>,
    /// Of the recipient: mail to each such domain is a site by itself.
    pub domain: Option<NamePattern>,
    /// Name of a `[[source]]`; every source by default.
    pub source: Option<String>,
    pub limits: SiteLimits,
}

/// Limits of one site. What is `None` is not limited, or left to `[delivery]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteLimits {
    /// At once.
    pub connections: Option<u32>,
    pub connections_per_second: Option<u32>,
    pub messages_per_second: Option<u32>,
    pub messages_per_minute: Option<u32>,
    pub messages_per_hour: Option<u32>,
    pub messages_per_day: Option<u32>,
    pub messages_per_connection: Option<u32>,
    pub idle_timeout: Option<Duration>,
}

/// A limit in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaidLimit {
    /// As in the file, or `IDLE_TIMEOUT_MS`.
    pub key: &'static str,
    pub value: u64,
    /// Of the `[[limit]]` that says it, 0-based.
    pub index: usize,
}

impl SiteLimits {
    /// Adds from `other` what is not said here.
    fn complete(&mut self, other: &SiteLimits) {
        let SiteLimits {
            connections,
            connections_per_second,
            messages_per_second,
            messages_per_minute,
            messages_per_hour,
            messages_per_day,
            messages_per_connection,
            idle_timeout,
        } = other;
        self.connections = self.connections.or(*connections);
        self.connections_per_second = self.connections_per_second.or(*connections_per_second);
        self.messages_per_second = self.messages_per_second.or(*messages_per_second);
        self.messages_per_minute = self.messages_per_minute.or(*messages_per_minute);
        self.messages_per_hour = self.messages_per_hour.or(*messages_per_hour);
        self.messages_per_day = self.messages_per_day.or(*messages_per_day);
        self.messages_per_connection = self.messages_per_connection.or(*messages_per_connection);
        self.idle_timeout = self.idle_timeout.or(*idle_timeout);
    }

    /// The number keys with the largest value of each.
    fn numbers(&mut self) -> [(&'static str, &mut Option<u32>, u32); 7] {
        [
            ("connections", &mut self.connections, CONNECTIONS_MAX),
            ("connections_per_second", &mut self.connections_per_second, RATE_MAX),
            ("messages_per_second", &mut self.messages_per_second, RATE_MAX),
            ("messages_per_minute", &mut self.messages_per_minute, RATE_MAX),
            ("messages_per_hour", &mut self.messages_per_hour, RATE_MAX),
            ("messages_per_day", &mut self.messages_per_day, RATE_MAX),
            ("messages_per_connection", &mut self.messages_per_connection, RATE_MAX),
        ]
    }
}

impl Config {
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == name)
    }

    pub fn source_at(&self, address: IpAddr) -> Option<&Source> {
        self.sources.iter().find(|source| source.address == address)
    }

    /// The pool that mail of `stream` to `domain` leaves from; `None` where no `[[egress]]` says:
    /// the kernel chooses the address.
    pub fn pool_of(&self, domain: &str, stream: &Stream) -> Option<&Pool> {
        let fits = |pattern: &Option<NamePattern>, name: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(name))
        };
        let egress = self.egress.iter().find(|it| {
            fits(&it.domain, domain)
                && fits(&it.tenant, &stream.tenant)
                && fits(&it.campaign, &stream.campaign)
        })?;
        self.pools.iter().find(|pool| pool.name == egress.pool)
    }

    /// Whether mail to a domain is a site by itself.
    pub fn is_apart(&self, domain: &str) -> bool {
        let patterns = self.limits.iter().filter_map(|limit| limit.domain.as_ref());
        patterns.into_iter().any(|pattern| pattern.matches(domain))
    }

    /// What a site takes: of each key the first `[[limit]]` that matches and says something.
    /// `site` is the next hop in words, `domain` the one whose mail it is a site of by itself.
    pub fn limits_of(&self, site: &str, domain: Option<&str>, source: Option<&str>) -> SiteLimits {
        let mut limits = SiteLimits::default();
        for (_, limit) in self.limits_for(site, domain, source) {
            limits.complete(&limit.limits);
        }
        limits
    }

    /// As `limits_of`, each key with its value and who says it.
    pub fn limits_said(
        &self,
        site: &str,
        domain: Option<&str>,
        source: Option<&str>,
    ) -> Vec<SaidLimit> {
        let mut said: Vec<SaidLimit> = Vec::new();
        for (index, limit) in self.limits_for(site, domain, source) {
            let mut limits = limit.limits;
            let idle_ms = limits.idle_timeout.map(|it| it.as_millis() as u64);
            let numbers = limits.numbers().map(|(key, value, _)| (key, value.map(u64::from)));
            for (key, value) in numbers.into_iter().chain([(IDLE_TIMEOUT_MS, idle_ms)]) {
                let Some(value) = value.filter(|_| said.iter().all(|it| it.key != key)) else {
                    continue;
                };
                said.push(SaidLimit { key, value, index });
            }
        }
        said
    }

    /// The limits that are for a site, with their positions.
    fn limits_for(
        &self,
        site: &str,
        domain: Option<&str>,
        source: Option<&str>,
    ) -> impl Iterator<Item = (usize, &Limit)> {
        self.limits.iter().enumerate().filter(move |(_, limit)| {
            (limit.source.is_none() || limit.source.as_deref() == source)
                && limit.site.as_ref().is_none_or(|pattern| pattern.matches_site(site))
                && limit
                    .domain
                    .as_ref()
                    .is_none_or(|pattern| domain.is_some_and(|domain| pattern.matches(domain)))
        })
    }
}

/// As an operator finds it: `match=192.0.2.* source=a`.
impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |pattern: &Option<NamePattern>| pattern.as_ref().map(NamePattern::to_string);
        let conditions = [
            ("match", text(&self.site)),
            ("domain", text(&self.domain)),
            ("source", self.source.clone()),
        ];
        write_conditions(conditions, f)
    }
}

/// The time of `SiteLimits::idle_timeout` among the numbers.
pub const IDLE_TIMEOUT_MS: &str = "idle_timeout_ms";

pub(super) fn read(root: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    config.sources = root.tables("source", read_source)?;
    config.pools = root.tables("pool", read_pool)?;
    config.egress = root.tables("egress", read_egress)?;
    config.limits = root.tables("limit", read_limit)?;
    check_names(root, config)
}

/// Every name stands for one thing that exists.
fn check_names(root: &Table<'_, '_>, config: &Config) -> Checked<()> {
    let wrong = |table: &str, index: usize, key: &str, text: String| {
        let message = format!("{table}.{key}: {text}");
        Err(root.wrong_at(&[&[table, &index.to_string(), key]], message))
    };
    for (index, source) in config.sources.iter().enumerate() {
        let earlier = &config.sources[..index];
        if earlier.iter().any(|it| it.name == source.name) {
            let text = format!("another [[source]] has the name {} already", source.name);
            return wrong("source", index, "name", text);
        }
        if let Some(other) = earlier.iter().find(|it| it.address == source.address) {
            let text = format!("{} is the address of source {} already", other.address, other.name);
            return wrong("source", index, "address", text);
        }
    }
    for (index, pool) in config.pools.iter().enumerate() {
        if config.pools[..index].iter().any(|it| it.name == pool.name) {
            let text = format!("another [[pool]] has the name {} already", pool.name);
            return wrong("pool", index, "name", text);
        }
        for (position, member) in pool.members.iter().enumerate() {
            if config.source(&member.source).is_none() {
                return wrong("pool", index, "sources", no_source(&member.source));
            }
            if pool.members[..position].iter().any(|it| it.source == member.source) {
                let text = format!("{} stands there twice; use a weight", member.source);
                return wrong("pool", index, "sources", text);
            }
        }
    }
    for (index, egress) in config.egress.iter().enumerate() {
        if !config.pools.iter().any(|pool| pool.name == egress.pool) {
            let text = format!("no [[pool]] has the name {}", egress.pool);
            return wrong("egress", index, "pool", text);
        }
    }
    for (index, limit) in config.limits.iter().enumerate() {
        if let Some(name) = limit.source.as_ref().filter(|name| config.source(name).is_none()) {
            return wrong("limit", index, "source", no_source(name));
        }
    }
    Ok(())
}

fn no_source(name: &str) -> String {
    format!("no [[source]] has the name {name}")
}

fn read_source(table: &Table<'_, '_>) -> Checked<Source> {
    let name = read_name(table, "name")?.ok_or_else(|| table.missing("name"))?;
    let mut address = None;
    table.parsed("address", "an IP address such as \"192.0.2.1\"", |text| {
        address = Some(text.parse().ok()?);
        Some(())
    })?;
    let address = address.ok_or_else(|| table.missing("address"))?;
    let mut ehlo_name = None;
    table.parsed("ehlo_name", "a host name such as mx.example", |name| {
        (is_domain(name) && name.is_ascii()).then(|| ehlo_name = Some(name.to_owned()))
    })?;
    let proxy = read_proxy(table)?;
    Ok(Source { name, address, ehlo_name, proxy })
}

fn read_proxy(table: &Table<'_, '_>) -> Checked<Option<Proxy>> {
    let mut proxy = None;
    table.parsed("proxy", "\"socks5://ADDRESS:PORT\" or \"haproxy://ADDRESS:PORT\"", |text| {
        proxy = Some(Proxy::parse(text)?);
        Some(())
    })?;
    let login = PROXY_LOGIN.read(table)?;
    let is_socks5 = proxy.as_ref().is_some_and(|it| it.protocol == ProxyProtocol::Socks5);
    if login.is_some() && !is_socks5 {
        return Err(table.refused(PROXY_LOGIN.username, "only a proxy by socks5 asks for one"));
    }
    Ok(proxy.map(|proxy| Proxy { login, ..proxy }))
}

/// Reads the passwords that stand in files.
pub(super) fn load(sources: &mut [Source]) -> Result<(), ConfigError> {
    let proxies = sources.iter_mut().filter_map(|source| source.proxy.as_mut());
    let mut logins = proxies.filter_map(|proxy| proxy.login.as_mut());
    logins.try_for_each(|login| PROXY_LOGIN.load(login, "source"))
}

fn read_pool(table: &Table<'_, '_>) -> Checked<Pool> {
    let name = read_name(table, "name")?.ok_or_else(|| table.missing("name"))?;
    let mut members = Vec::new();
    table.one_or_more("sources", &mut members, |text| {
        PoolMember::parse(text).ok_or_else(|| {
            format!("the name of a [[source]], with a weight from 1 to {WEIGHT_MAX} as in \"a*3\"")
        })
    })?;
    if members.is_empty() {
        return Err(table.missing("sources"));
    }
    Ok(Pool { name, members })
}

fn read_egress(table: &Table<'_, '_>) -> Checked<Egress> {
    let (mut domain, mut tenant, mut campaign) = (None, None, None);
    for (key, field) in
        [("domain", &mut domain), ("tenant", &mut tenant), ("campaign", &mut campaign)]
    {
        table.parsed(key, "a name with at most one *", |text| {
            *field = Some(NamePattern::parse(text)?);
            Some(())
        })?;
    }
    let pool = read_name(table, "pool")?.ok_or_else(|| table.missing("pool"))?;
    Ok(Egress { domain, tenant, campaign, pool })
}

fn read_limit(table: &Table<'_, '_>) -> Checked<Limit> {
    let (mut site, mut domain) = (None, None);
    for (key, right, field) in [
        ("match", "ADDRESS:PORT or an MX host, with at most one *", &mut site),
        ("domain", "a domain with at most one *", &mut domain),
    ] {
        table.parsed(key, right, |text| {
            *field = Some(NamePattern::parse(text)?);
            Some(())
        })?;
    }
    if site.is_none() && domain.is_none() {
        return Err(table.missing("match"));
    }
    let source = read_name(table, "source")?;
    let mut limits = SiteLimits::default();
    for (key, field, max) in limits.numbers() {
        table.optional_number(key, field, 1, max)?;
    }
    let mut idle_timeout = Duration::MAX;
    table.duration("idle_timeout", &mut idle_timeout, Duration::ZERO)?;
    limits.idle_timeout = (idle_timeout != Duration::MAX).then_some(idle_timeout);
    if limits == SiteLimits::default() {
        let keys = limits.numbers().map(|(key, ..)| key).join(", ");
        let message = format!("limit: limits nothing; add {keys} or idle_timeout");
        return Err(table.wrong_at(&[], message));
    }
    Ok(Limit { site, domain, source, limits })
}

fn read_name(table: &Table<'_, '_>, key: &str) -> Checked<Option<String>> {
    let mut name = None;
    table.parsed(key, "a name of letters, digits, \".\", \"_\" and \"-\"", |text| {
        is_name(text).then(|| name = Some(text.to_owned()))
    })?;
    Ok(name)
}

fn is_name(text: &str) -> bool {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

impl PoolMember {
    fn parse(text: &str) -> Option<PoolMember> {
        let (source, weight) = match text.split_once('*') {
            Some((source, weight)) => (source, weight.parse().ok()?),
            None => (text, 1),
        };
        let is_right = is_name(source) && (1..=WEIGHT_MAX).contains(&weight);
        is_right.then(|| PoolMember { source: source.to_owned(), weight })
    }
}

impl Proxy {
    fn parse(text: &str) -> Option<Proxy> {
        let (scheme, address) = text.split_once("://")?;
        let protocol = match scheme {
            "socks5" => ProxyProtocol::Socks5,
            "haproxy" => ProxyProtocol::Haproxy,
            _ => return None,
        };
        let address: SocketAddr = address.parse().ok()?;
        (address.port() != 0).then_some(Proxy { protocol, address, login: None })
    }
}

/// As in the configuration, without the login.
impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.protocol {
            ProxyProtocol::Socks5 => "socks5",
            ProxyProtocol::Haproxy => "haproxy",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// As in the list of a pool.
impl std::fmt::Display for PoolMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.weight {
            1 => f.write_str(&self.source),
            weight => write!(f, "{}*{weight}", self.source),
        }
    }
}

pub(super) fn explain(config: &Config, out: &mut Out) {
    for source in &config.sources {
        out.table("[[source]]");
        out.text("name", Some(&source.name));
        out.text("address", Some(&source.address.to_string()));
        out.text("ehlo_name", source.ehlo_name.as_deref());
        if let Some(proxy) = &source.proxy {
            out.text("proxy", Some(&proxy.to_string()));
            if let Some(login) = &proxy.login {
                PROXY_LOGIN.explain(login, out);
            }
        }
    }
    for pool in &config.pools {
        out.table("[[pool]]");
        out.text("name", Some(&pool.name));
        let members: Vec<String> = pool.members.iter().map(PoolMember::to_string).collect();
        out.plain("sources", format_args!("{members:?}"));
    }
    let text = |pattern: &Option<NamePattern>| pattern.as_ref().map(NamePattern::to_string);
    for egress in &config.egress {
        out.table("[[egress]]");
        out.text("domain", text(&egress.domain).as_deref());
        out.text("tenant", text(&egress.tenant).as_deref());
        out.text("campaign", text(&egress.campaign).as_deref());
        out.text("pool", Some(&egress.pool));
    }
    for limit in &config.limits {
        out.table("[[limit]]");
        out.text("match", text(&limit.site).as_deref());
        out.text("domain", text(&limit.domain).as_deref());
        out.text("source", limit.source.as_deref());
        let mut limits = limit.limits;
        for (key, value, _) in limits.numbers() {
            out.optional(key, *value);
        }
        out.text("idle_timeout", limits.idle_timeout.map(write_duration).as_deref());
    }
}

const PROXY_LOGIN: Form = Form {
    username: "proxy_username",
    password: "proxy_password",
    password_file: "proxy_password_file",
    bytes_max: SECRET_BYTES_MAX,
};
const NAME_BYTES_MAX: usize = 64;
const WEIGHT_MAX: u32 = 1000;
const CONNECTIONS_MAX: u32 = 100_000;
const RATE_MAX: u32 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:2525\"\n";

    fn check(text: &str, line: usize, expected: &str) {
        let error = Config::parse(&format!("{text}\n{LISTENER}"), "f").expect_err(text);
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("f:{line}: ")), "{text}\n{shown}");
        assert!(shown.contains(expected), "{text}\n{shown}");
    }

    #[test]
    fn every_error_names_its_line_and_key() {
        let a = "[[source]]\nname = \"a\"\naddress = \"192.0.2.1\"\n";
        check("[[source]]\naddress = \"::1\"", 1, "source.name: missing");
        check("[[source]]\nname = \"a b\"", 2, "source.name: found \"a b\"; expected a name");
        check("[[source]]\nname = \"a\"", 1, "source.address: missing");
        check("[[source]]\nname = \"a\"\naddress = \"h\"", 3, "source.address: found \"h\"");
        check(&format!("{a}ehlo_name = \"x y\""), 4, "source.ehlo_name: found \"x y\"");
        check(&[a, a].concat(), 5, "another [[source]] has the name a");
        check(&format!("{a}proxy = \"http://127.0.0.1:1080\""), 4, "source.proxy: found \"http:");
        check(&format!("{a}proxy = \"socks5://127.0.0.1:0\""), 4, "source.proxy: found");
        check(&format!("{a}proxy_username = \"u\""), 1, "source.proxy_password_file: missing");
        let login = "proxy_username = \"u\"\nproxy_password = \"4711\"";
        check(&format!("{a}{login}"), 4, "source.proxy_username: only a proxy by socks5 asks");
        let haproxy = format!("{a}proxy = \"haproxy://127.0.0.1:1\"\n{login}");
        check(&haproxy, 5, "source.proxy_username: only a proxy by socks5 asks");
        let long = format!("{a}proxy_username = \"u\"\nproxy_password = \"{}\"", "x".repeat(256));
        check(&long, 5, "source.proxy_password: is empty, too long or holds NUL");
        let b = "[[source]]\nname = \"b\"\naddress = \"192.0.2.1\"\n";
        check(&[a, b].concat(), 6, "192.0.2.1 is the address of source a already");
        check("[[pool]]\nname = \"p\"", 1, "pool.sources: missing");
        check("[[pool]]\nname = \"p\"\nsources = []", 3, "pool.sources: found a list; expected");
        let pool = |list: &str| format!("{a}[[pool]]\nname = \"p\"\nsources = {list}");
        check(&pool("[\"a*0\"]"), 6, "pool.sources: found \"a*0\"; expected the name of a [[s");
        check(&pool("[\"b\"]"), 6, "pool.sources: no [[source]] has the name b");
        check(&pool("[\"a\", \"a*2\"]"), 6, "pool.sources: a stands there twice");
        let twice = format!("{}\n[[pool]]\nname = \"p\"\nsources = \"a\"", pool("\"a\""));
        check(&twice, 8, "another [[pool]] has the name p");
        check("[[egress]]\ndomain = \"*\"", 1, "egress.pool: missing");
        check("[[egress]]\npool = \"p\"", 2, "egress.pool: no [[pool]] has the name p");
        check("[[egress]]\ntenant = \"*a*\"", 2, "egress.tenant: found \"*a*\"");
        check("[[limit]]\nconnections = 1", 1, "limit.match: missing");
        check("[[limit]]\ndomain = \"a*b*\"\nconnections = 1", 2, "limit.domain: found \"a*b*\"");
        check("[[limit]]\nmatch = \"*\"", 1, "limit: limits nothing; add connections, conn");
        let limit = |more: &str| format!("[[limit]]\nmatch = \"*\"\n{more}");
        check(&limit("connections = 0"), 3, "limit.connections: found 0");
        check(&limit("messages_per_day = \"1k\""), 3, "limit.messages_per_day: found \"1k\"");
        check(&limit("idle_timeout = 5"), 3, "limit.idle_timeout: found 5; expected a duration");
        check(&limit("connections = 1\nsource = \"a\""), 4, "limit.source: no [[source]] has");
        check(&limit("connections = 1\nconnection = 1"), 4, "limit.connection: unknown key");
    }

    fn example() -> Config {
        let text = "[[source]]\nname = \"a\"\naddress = \"192.0.2.1\"\nehlo_name = \"a.example\"\n\
             [[source]]\nname = \"b\"\naddress = \"2001:db8::1\"\n\
             proxy = \"haproxy://[::1]:2500\"\n\
             [[source]]\nname = \"c\"\naddress = \"192.0.2.3\"\n\
             proxy = \"socks5://192.0.2.9:1080\"\nproxy_username = \"u\"\n\
             proxy_password_file = \"p\"\n\
             [[pool]]\nname = \"bulk\"\nsources = [\"a*3\", \"b\"]\n\
             [[pool]]\nname = \"fine\"\nsources = \"b\"\n\
             [[egress]]\ndomain = \"*.x.test\"\ntenant = \"acme\"\ncampaign = \"spring*\"\n\
             pool = \"bulk\"\n[[egress]]\npool = \"fine\"\n\
             [[limit]]\nmatch = \"127.0.0.1:*\"\nsource = \"a\"\nconnections = 2\n\
             [[limit]]\ndomain = \"*.big.test\"\nmessages_per_hour = 7\n\
             [[limit]]\nmatch = \"*.mx.test\"\nmessages_per_second = 9\n\
             [[limit]]\nmatch = \"127.0.0.1:25\"\nconnections = 3\nconnections_per_second = 1\n\
             messages_per_second = 50\nmessages_per_minute = 60\nmessages_per_hour = 600\n\
             messages_per_day = 6000\nmessages_per_connection = 10\nidle_timeout = \"0s\"\n";
        Config::parse(&format!("{text}{LISTENER}"), "f").expect("valid")
    }

    #[test]
    fn what_was_read_is_explained_and_reads_back() {
        let config = example();
        assert_eq!(Config::parse(&config.explain(), "f"), Ok(config));
    }

    #[test]
    fn the_first_egress_that_matches_wins() {
        let config = example();
        let pool = |domain: &str, tenant: &str, campaign: &str| {
            let (tenant, campaign) = (tenant.into(), campaign.into());
            let stream = Stream { tenant, campaign, ..Stream::default() };
            config.pool_of(domain, &stream).map(|pool| pool.name.as_str())
        };
        assert_eq!(pool("a.X.test", "acme", "spring-1"), Some("bulk"));
        assert_eq!(pool("a.x.test", "acme", "summer"), Some("fine"));
        assert_eq!(pool("x.test", "acme", "spring-1"), Some("fine"));
        let stream = Stream::default();
        assert_eq!(Config::embedded().pool_of("x.test", &stream), None);
    }

    #[test]
    fn of_each_key_the_first_limit_that_matches_wins() {
        let config = example();
        let limits = |address: &str, source: Option<&str>| {
            config.limits_of(&format!("smtp://{address}"), None, source)
        };
        let of_a = limits("127.0.0.1:25", Some("a"));
        assert_eq!((of_a.connections, of_a.messages_per_second), (Some(2), Some(50)));
        assert_eq!(limits("127.0.0.1:25", None).connections, Some(3));
        assert_eq!(limits("127.0.0.1:26", Some("a")).connections, Some(2));
        assert_eq!(limits("127.0.0.1:26", Some("b")), SiteLimits::default());
        let of_mx = |site: &str, domain: Option<&str>| {
            let limits = config.limits_of(site, domain, None);
            (limits.messages_per_second, limits.messages_per_hour)
        };
        assert_eq!(of_mx("mx://a.MX.test", None), (Some(9), None));
        assert_eq!(of_mx("mx://a.other.test,b.mx.test", None), (Some(9), None));
        assert_eq!(of_mx("mx://b.mx.test,c.other.test", None), (Some(9), None));
        assert_eq!(of_mx("mx://a.other.test", Some("x.big.test")), (None, Some(7)));
        assert_eq!(of_mx("mx://a.other.test", Some("big.test")), (None, None));
        assert!(config.is_apart("x.big.test") && !config.is_apart("a.mx.test"));
        let said = |address: &str, source: Option<&str>| {
            let said = config.limits_said(&format!("smtp://{address}"), None, source);
            said.iter().map(|it| (it.key, it.value, it.index)).collect::<Vec<_>>()
        };
        let of_a = said("127.0.0.1:25", Some("a"));
        assert!(of_a.contains(&("connections", 2, 0)) && !of_a.contains(&("connections", 3, 3)));
        assert!(of_a.contains(&("messages_per_second", 50, 3)), "{of_a:?}");
        assert!(of_a.contains(&(IDLE_TIMEOUT_MS, 0, 3)), "{of_a:?}");
        assert_eq!(said("127.0.0.1:26", Some("b")), []);
    }
}
