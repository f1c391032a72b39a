//! The server's configuration for a scenario: every key that a scenario writes stands here.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::sink::limited::Limits;

/// What a scenario asks of the server.
pub struct Plan<'a> {
    pub directory: &'a str,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    /// Where the mail for `domain` (`*.domain` too) goes.
    pub routes: Vec<(&'a str, SocketAddr)>,
    pub shard_count: Option<usize>,
    pub retry_wait: Duration,
    pub limit: Option<(SocketAddr, Limits)>,
    /// Header fields say tenant, campaign and class.
    pub stream_fields: bool,
    /// Where mail without a route goes by its MX records.
    pub mx: Option<MxPlan>,
    /// With clients and next hops, where they offer it.
    pub tls: Option<TlsPlan>,
    /// Where the server listens as well.
    pub more_listeners: Vec<SocketAddr>,
}

/// A certificate, and a listener that begins with TLS.
pub struct TlsPlan {
    pub chain: PathBuf,
    pub key: PathBuf,
    pub implicit: SocketAddr,
}

/// Delivery by MX records.
pub struct MxPlan {
    /// The name server.
    pub dns: SocketAddr,
    /// Where MX hosts listen.
    pub port: u16,
}

impl Plan<'_> {
    /// Bounds of reception and queue out of the way, durability as shipped.
    pub fn write(&self) -> String {
        let Self { directory, address, metrics, .. } = self;
        let mut text = format!(
            "hostname = \"ringpost.test\"\n\
             data_dir = \"{directory}/data\"\n\
             [[listener]]\n\
             address = \"{address}\"\n\
             [reception]\n\
             relay_networks = [\"127.0.0.0/8\"]\n\
             message_bytes_max = \"1GiB\"\n\
             sessions_max = 60000\n\
             sessions_per_client_max = 60000\n\
             messages_per_session_max = 1000000000\n\
             [journal]\n\
             bytes_max = \"1TiB\"\n\
             [metrics]\n\
             listen = \"{metrics}\"\n\
             [log]\n\
             path = \"{directory}/outcomes.log\"\n"
        );
        // A key of the file as a whole has to come first.
        if self.mx.is_some() {
            text.insert_str(0, "smarthost = \"mx\"\n");
        }
        if let Some(TlsPlan { chain, key, implicit }) = &self.tls {
            let _ = write!(
                text,
                "[[certificate]]\nchain = {chain:?}\nkey = {key:?}\n\
                 [[listener]]\naddress = \"{implicit}\"\ntls = \"implicit\"\n"
            );
        }
        for listener in &self.more_listeners {
            let _ = write!(text, "[[listener]]\naddress = \"{listener}\"\n");
        }
        if let Some(MxPlan { dns, port }) = &self.mx {
            let _ = write!(text, "[dns]\nupstreams = [\"{dns}\"]\n[delivery]\nmx_port = {port}\n");
        }
        let wait_ms = self.retry_wait.as_millis();
        // Writing into memory does not fail, here and below.
        let _ = write!(
            text,
            "[queue]\nmessages_max = 100000000\nretry_wait_min = \"{wait_ms}ms\"\n\
             retry_wait_max = \"{}ms\"\n",
            2 * wait_ms
        );
        text.push_str("[shards]\ndrain = \"5s\"\n");
        if let Some(count) = self.shard_count {
            let _ = writeln!(text, "count = {count}");
        }
        for (domain, sink) in &self.routes {
            for domain in [(*domain).to_owned(), format!("*.{domain}")] {
                let _ = write!(
                    text,
                    "[[route]]\ndomain = \"{domain}\"\nnext_hop = \"smtp://{sink}\"\n"
                );
            }
        }
        if let Some((site, limits)) = &self.limit {
            text.push_str(&limit_table(*site, limits));
        }
        if self.stream_fields {
            text.push_str(&headers_table());
        }
        text
    }
}

/// What the server may do to a site, all its shards together.
fn limit_table(site: SocketAddr, limits: &Limits) -> String {
    format!(
        "[[limit]]\nmatch = \"{site}\"\nconnections = {}\nmessages_per_second = {}\n",
        limits.connections, limits.messages_per_second
    )
}

/// Which header fields say what a message is part of.
fn headers_table() -> String {
    format!(
        "[reception.headers]\ntenant = \"{TENANT_FIELD}\"\ncampaign = \"{CAMPAIGN_FIELD}\"\n\
         class = \"{CLASS_FIELD}\"\n"
    )
}

pub const TENANT_FIELD: &str = "X-Tenant";
pub const CAMPAIGN_FIELD: &str = "X-Campaign";
pub const CLASS_FIELD: &str = "X-Class";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_reads_what_a_plan_writes() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let plan = Plan {
            directory: "/nowhere",
            address: at(1),
            metrics: at(2),
            routes: vec![("slow.test", at(3)), ("dead.test", at(4))],
            shard_count: Some(2),
            retry_wait: Duration::from_secs(30),
            limit: None,
            stream_fields: false,
            mx: Some(MxPlan { dns: at(53), port: 26 }),
            tls: Some(TlsPlan { chain: "a.pem".into(), key: "a.key".into(), implicit: at(465) }),
            more_listeners: vec![at(26)],
        };
        let config = ringpost::config::Config::parse(&plan.write(), "f").expect("valid");
        assert_eq!((config.routes.len(), config.shards.count), (4, Some(2)));
        assert_eq!((config.listeners.len(), config.delivery.mx_port), (3, 26));
        assert_eq!(config.certificates.len(), 1);
        assert_eq!(config.smarthost.map(|it| it.to_string()).as_deref(), Some("mx"));
        assert_eq!(config.queue.retry_wait_max, Duration::from_secs(60));
    }
}
