//! Configuration: one struct a room, with defaults and units. A value of `Config` is valid.
//!
//! **Owns** the file format: names, types, ranges, defaults, and the message of every error.
//! **Uses** `mail`, `proto` (rules for replies, credentials), `tls` (contexts), `limits`.
//! **Holds** that a `Config` is immutable; a reload makes a new one.
//! **Start reading** at `Config`.

mod access;
mod acme;
mod credentials;
mod defaults;
mod dns;
mod egress;
mod explain;
mod listener;
mod login;
mod mailboxes;
mod parse;
mod reload;
mod retry;
mod rules;
mod table;
mod tls;
mod tls_reports;
mod values;
mod verify;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::classify::Rules;

pub use access::Access;
pub use acme::{Acme, read_identity};
pub use credentials::Credentials;
pub use dns::Dns;
pub use egress::{
    Egress, IDLE_TIMEOUT_MS, Limit, Pool, PoolMember, Proxy, ProxyProtocol, SaidLimit, SiteLimits,
    Source,
};
pub use listener::{ListenAddress, Listener, ListenerTls, NEW_SUFFIX, Protocol};
pub use login::Login;
pub use mailboxes::{Alias, Mailboxes, OverQuota};
pub use parse::ConfigError;
pub use retry::{DELAY_NOTICE_ASKED_FOR, Retry, RetryPolicy};
pub use rules::parse_rules;
pub use tls::{Certificate, DeliveryTls, PublishedCounts, Tls, TlsPolicy};
pub use tls_reports::TlsReports;
pub use values::{parse_duration, parse_next_hop, parse_size, write_conditions, write_duration};
pub use verify::Verify;

/// Everything an operator can say. `Config::embedded()` is what runs without a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name in the greeting, EHLO and trace fields; the machine's host name by default.
    pub hostname: String,
    /// First group of every queue id, 0..=65535; differs between machines that share a log.
    pub node: u16,
    /// Journals, control socket. Created where missing.
    pub data_dir: PathBuf,
    /// User and group to become after binding; only for a start as root.
    pub user: Option<String>,
    pub group: Option<String>,
    pub shards: Shards,
    pub listeners: Vec<Listener>,
    /// Of our servers: the first that is valid for the name a client asks for.
    pub certificates: Vec<Certificate>,
    pub tls: Tls,
    pub acme: Option<Acme>,
    pub reception: Reception,
    pub access: Access,
    pub mailboxes: Mailboxes,
    pub aliases: Vec<Alias>,
    pub journal: Journal,
    pub queue: Queue,
    /// The first that is for a task counts; `queue` says what holds for the others.
    pub retries: Vec<Retry>,
    pub delivery: Delivery,
    /// The first that matches; `delivery.tls` says what holds for the others.
    pub tls_policies: Vec<TlsPolicy>,
    pub dns: Dns,
    pub tls_reports: TlsReports,
    pub verify: Verify,
    /// Looked up by exact domain, then by the longest `*.suffix`.
    pub routes: Vec<Route>,
    /// Where mail goes for which no route matches; without one it is refused at RCPT. `mx` makes
    /// this server find its own way.
    pub smarthost: Option<NextHop>,
    /// Who we are to next hops that want to know.
    pub credentials: Vec<Credentials>,
    pub sources: Vec<Source>,
    pub pools: Vec<Pool>,
    /// The first that matches says which pool.
    pub egress: Vec<Egress>,
    /// Of each key the first that matches.
    pub limits: Vec<Limit>,
    pub metrics: Metrics,
    pub log: Log,
}

/// `[shards]`
#[derive(Clone, Debug, PartialEq)]
pub struct Shards {
    /// Cores to pin to, in order; shard i runs on cores[i mod n]. `None` is `"auto"`: all that this
    /// process may use.
    pub cores: Option<Vec<usize>>,
    /// Shards; the number of cores by default, at most `limits::SHARDS_MAX`.
    pub count: Option<usize>,
    /// Core of the control thread; not pinned by default.
    pub control_core: Option<usize>,
    /// Longest time a stop may take before open sessions are cut.
    pub drain: Duration,
}

/// `[reception]`
#[derive(Clone, Debug, PartialEq)]
pub struct Reception {
    /// Networks that may relay to anywhere a route exists.
    pub relay_networks: Vec<Network>,
    pub message_bytes_max: u64,
    pub recipients_max: usize,
    /// Errors of one session before 421.
    pub errors_max: u32,
    /// Longest silence of a client (RFC 5321 §4.5.3.2.7 says at least five minutes).
    pub idle_timeout: Duration,
    /// Longest time from the first octet of content to its end.
    pub content_timeout: Duration,
    /// Sessions of all clients on one shard.
    pub sessions_max: usize,
    /// Sessions of one client address (IPv6: one /64) over all shards, exact.
    pub sessions_per_client_max: usize,
    /// Mail transactions of one session before 421.
    pub messages_per_session_max: u32,
    /// Received fields before 554 5.4.6.
    pub received_fields_max: u32,
    pub bare_newline: BareNewline,
    /// Whether MAIL is refused where the domain of its reverse-path says that it takes no mail: no
    /// DSN could get there (RFC 7505 §4.2). Asks the DNS about each domain.
    pub refuse_null_mx: bool,
    /// Longest time for which a client may ask that a message is held before its first attempt;
    /// zero: it may not.
    pub hold_max: Duration,
    pub headers: Headers,
}

/// `[reception.headers]`: names of header fields by which a client that may relay says what a
/// message is part of and when it may go. They are removed from the content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers {
    pub tenant: Option<String>,
    pub campaign: Option<String>,
    /// `transactional` or `bulk`.
    pub class: Option<String>,
    /// Seconds from now, or a date of RFC 3339; within `hold_max`.
    pub release: Option<String>,
}

impl Headers {
    /// The keys with their values.
    pub fn entries(&self) -> [(&'static str, Option<&str>); 4] {
        [
            ("tenant", self.tenant.as_deref()),
            ("campaign", self.campaign.as_deref()),
            ("class", self.class.as_deref()),
            ("release", self.release.as_deref()),
        ]
    }
}

/// What happens to a CR or LF that is not part of a CRLF in content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareNewline {
    /// 550 5.6.0 after end of data.
    Refuse,
    /// Each becomes CRLF. Only CRLF.CRLF ends data all the same.
    Normalise,
}

/// `10.0.0.0/8`, `::1/128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub prefix_bits: u8,
}

/// `[journal]`
#[derive(Clone, Debug, PartialEq)]
pub struct Journal {
    pub segment_bytes: u64,
    /// Most disk one shard's journal may take.
    pub bytes_max: u64,
    /// Space of the file system that growth leaves free.
    pub min_free_bytes: u64,
    pub durability: Durability,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// One data sync a batch after its write.
    Fdatasync,
    /// Each write through to the medium (O_DSYNC).
    Dsync,
    /// Not durable; benchmarks only.
    None,
}

/// `[queue]`
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub retry_wait_min: Duration,
    pub retry_wait_max: Duration,
    /// Time after which an undelivered recipient is Failed.
    pub lifetime: Duration,
    /// Mailbox that is told of reports made here that Failed; without one they are only counted.
    pub double_bounce: Option<String>,
    /// Reports of one shard to one address in any minute; further ones go later.
    pub notifications_per_minute: u32,
    /// Fresh content a shard keeps in memory for the first attempt.
    pub content_cache_bytes: usize,
    /// Index entries a shard keeps; more answers 452 4.3.1.
    pub messages_max: usize,
}

/// `[delivery]`
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Name in EHLO; `hostname` by default.
    pub ehlo_name: Option<String>,
    /// Connections of one shard to one site: the ceiling.
    pub connections_max: usize,
    /// Connections that a site gets before it has shown what it bears, and after a failure.
    pub connections_start: usize,
    /// Connections that failed in a row, none being open, after which a site counts as dead: its
    /// mail is put back, and one connection asks from time to time.
    pub failures_dead: u32,
    /// Wait before a dead site is asked again: the first, doubled each time up to the last. Never
    /// longer than mail waits by `[queue]`.
    pub probe_wait_min: Duration,
    pub probe_wait_max: Duration,
    pub messages_per_connection_max: u32,
    /// A connection without work is closed after this.
    pub idle_timeout: Duration,
    pub connect_timeout: Duration,
    /// Greeting, MAIL, RCPT and the other commands (RFC 5321 §4.5.3.2).
    pub command_timeout: Duration,
    /// Between two writes of content.
    pub content_timeout: Duration,
    /// After end of data; below ten minutes duplicates follow (RFC 5321 §4.5.3.2.6).
    pub end_of_data_timeout: Duration,
    /// `rules`: file in place of the shipped `tuning/providers.toml`.
    pub rules_path: Option<PathBuf>,
    /// What replies of next hops mean, as that file says.
    pub rules: Arc<Rules>,
    /// Where MX hosts listen.
    pub mx_port: u16,
    /// Which addresses of a host are tried, in which order.
    pub address_families: Families,
    pub tls: DeliveryTls,
}

/// Which addresses of a host are tried, in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// One of each in turn, an IPv6 address first.
    Ipv6First,
    /// One of each in turn, an IPv4 address first.
    Ipv4First,
    Ipv6Only,
    Ipv4Only,
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// `example.test`, `*.example.test`; lower case.
    pub domain: String,
    pub next_hop: NextHop,
}

/// Where mail goes next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// `smtp://ADDRESS:PORT`, `lmtp://ADDRESS:PORT`.
    Address { protocol: NextHopProtocol, address: SocketAddr },
    /// `smtp://HOST:PORT`, `lmtp://HOST:PORT`: the addresses of a host, whatever MX records it
    /// has. Lower case.
    Host { protocol: NextHopProtocol, host: Arc<str>, port: u16 },
    /// `lmtp+unix://PATH`: a socket of this machine. Absolute, of printable ASCII.
    Socket(Arc<str>),
    /// `mx`: the MX hosts of the recipient's domain. `mx://DOMAIN`: those of this one; lower case.
    Mx(Option<Arc<str>>),
    /// `maildir:///PATH`: a directory of files for each mailbox; `{domain}` and `{local_part}`
    /// stand for parts of its address. Absolute, of printable ASCII.
    Maildir(Arc<str>),
    /// The mailboxes of this server. Nobody writes it: `[mailboxes]` says whose they are.
    Mailboxes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHopProtocol {
    Smtp,
    Lmtp,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Where `GET /metrics` is answered; not at all by default.
    pub listen: Option<SocketAddr>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// File that gets one line for each outcome; standard output by default.
    pub path: Option<PathBuf>,
    pub format: LogFormat,
    /// Whether each recipient's outcome is logged.
    pub outcomes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}
