//! What holds where a file says nothing, and what holds without a file.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{
    BareNewline, Config, Delivery, DeliveryTls, Durability, Families, Headers, Journal,
    ListenAddress, Listener, ListenerTls, Log, LogFormat, Mailboxes, Metrics, Network, NextHop,
    NextHopProtocol, Protocol, Queue, Reception, Shards, Tls,
};

use crate::mail::Stream;

impl Default for Config {
    /// A file must add at least a listener, and says where mail goes.
    fn default() -> Self {
        Self {
            hostname: machine_name(),
            node: 0,
            data_dir: "ringpost-data".into(),
            user: None,
            group: None,
            shards: Shards {
                cores: None,
                count: None,
                control_core: None,
                drain: Duration::from_secs(30),
            },
            listeners: Vec::new(),
            certificates: Vec::new(),
            acme: None,
            tls: Tls::default(),
            reception: Reception {
                relay_networks: loopback(),
                message_bytes_max: 64 << 20,
                recipients_max: 1000,
                errors_max: 20,
                idle_timeout: Duration::from_secs(300),
                content_timeout: Duration::from_secs(1800),
                sessions_max: 20_000,
                sessions_per_client_max: 1000,
                messages_per_session_max: 1_000_000,
                received_fields_max: 50,
                bare_newline: BareNewline::Refuse,
                refuse_null_mx: false,
                hold_max: Duration::from_secs(7 * 86_400),
                headers: Headers::default(),
            },
            access: super::Access::default(),
            mailboxes: Mailboxes::default(),
            aliases: Vec::new(),
            journal: Journal {
                segment_bytes: 64 << 20,
                bytes_max: 16 << 30,
                min_free_bytes: 1 << 30,
                durability: Durability::Fdatasync,
            },
            queue: Queue {
                retry_wait_min: Duration::from_secs(5 * 60),
                retry_wait_max: Duration::from_secs(4 * 3600),
                lifetime: Duration::from_secs(5 * 86_400),
                double_bounce: None,
                notifications_per_minute: 300,
                content_cache_bytes: 64 << 20,
                messages_max: 10_000_000,
            },
            retries: Vec::new(),
            delivery: Delivery {
                ehlo_name: None,
                connections_max: 20,
                connections_start: 5,
                failures_dead: 1,
                probe_wait_min: Duration::from_secs(30),
                probe_wait_max: Duration::from_secs(10 * 60),
                messages_per_connection_max: 10_000,
                idle_timeout: Duration::from_secs(10),
                connect_timeout: Duration::from_secs(30),
                command_timeout: Duration::from_secs(300),
                content_timeout: Duration::from_secs(180),
                end_of_data_timeout: Duration::from_secs(600),
                rules_path: None,
                rules: super::rules::shipped(),
                mx_port: 25,
                address_families: Families::Ipv6First,
                tls: DeliveryTls::default(),
            },
            tls_policies: Vec::new(),
            dns: super::Dns::default(),
            tls_reports: super::TlsReports::default(),
            verify: super::Verify::default(),
            routes: Vec::new(),
            credentials: Vec::new(),
            smarthost: None,
            sources: Vec::new(),
            pools: Vec::new(),
            egress: Vec::new(),
            limits: Vec::new(),
            metrics: Metrics { listen: None },
            log: Log { path: None, format: LogFormat::Text, outcomes: true },
        }
    }
}

impl Config {
    /// What `ringpost` runs without a file: loopback only, everything to the load generator's
    /// sink, nothing to the internet.
    pub fn embedded() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut config = Self {
            listeners: [
                (2525, Protocol::Smtp, ListenerTls::StartTls),
                (2587, Protocol::Submission, ListenerTls::StartTls),
                (2465, Protocol::Submission, ListenerTls::Implicit),
                (2424, Protocol::Lmtp, ListenerTls::StartTls),
                (2143, Protocol::Imap, ListenerTls::StartTls),
                (2993, Protocol::Imap, ListenerTls::Implicit),
                (2110, Protocol::Pop3, ListenerTls::StartTls),
                (2995, Protocol::Pop3, ListenerTls::Implicit),
            ]
            .map(|(port, protocol, tls)| Listener {
                address: ListenAddress::Network(local(port)),
                protocol,
                tls,
                proxy_networks: Vec::new(),
                stream: Stream::default(),
            })
            .into(),
            smarthost: Some(NextHop::Address {
                protocol: NextHopProtocol::Smtp,
                address: local(2526),
            }),
            metrics: Metrics { listen: Some(local(2080)) },
            ..Self::default()
        };
        config.reception.sessions_per_client_max = 10_000;
        config.tls.self_signed = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        config.mailboxes.domains.push("localhost.test".to_owned());
        // Whoever tries it out sees a sink that comes up later.
        config.queue.retry_wait_min = Duration::from_secs(10);
        config
    }
}

fn loopback() -> Vec<Network> {
    vec![
        Network { address: Ipv4Addr::new(127, 0, 0, 0).into(), prefix_bits: 8 },
        Network { address: Ipv6Addr::LOCALHOST.into(), prefix_bits: 128 },
    ]
}

/// The kernel's name for this machine.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if crate::mail::address::is_domain(name) { name.to_owned() } else { "localhost".to_owned() }
}
