//! The effective configuration as a file that says the same.

use std::fmt::Write;
use std::path::Path;

use super::parse::{BARE_NEWLINES, DURABILITIES, FAMILIES, LOG_FORMATS};
use super::values::{write_duration, write_size};
use super::{Config, access, credentials, egress, listener, mailboxes, retry, tls};

impl Config {
    /// Every key with its value, in the form that `Config::parse` reads; passwords are left out.
    pub fn explain(&self) -> String {
        let mut out = Out(String::new());
        out.text("hostname", Some(&self.hostname));
        out.plain("node", self.node);
        out.text("data_dir", self.data_dir.to_str());
        out.text("user", self.user.as_deref());
        out.text("group", self.group.as_deref());
        out.text("smarthost", self.smarthost.as_ref().map(|hop| hop.to_string()).as_deref());
        out.table("[shards]");
        match &self.shards.cores {
            Some(cores) => out.plain("cores", format_args!("{cores:?}")),
            None => out.text("cores", Some("auto")),
        }
        out.optional("count", self.shards.count);
        out.optional("control_core", self.shards.control_core);
        out.text("drain", Some(&write_duration(self.shards.drain)));
        for it in &self.listeners {
            listener::explain(it, &mut out);
        }
        tls::explain_certificates(self, &mut out);
        let it = &self.reception;
        out.table("[reception]");
        let networks: Vec<String> = it.relay_networks.iter().map(|net| net.to_string()).collect();
        out.plain("relay_networks", format_args!("{networks:?}"));
        out.text("message_bytes_max", Some(&write_size(it.message_bytes_max)));
        out.plain("recipients_max", it.recipients_max);
        out.plain("errors_max", it.errors_max);
        out.text("idle_timeout", Some(&write_duration(it.idle_timeout)));
        out.text("content_timeout", Some(&write_duration(it.content_timeout)));
        out.plain("sessions_max", it.sessions_max);
        out.plain("sessions_per_client_max", it.sessions_per_client_max);
        out.plain("messages_per_session_max", it.messages_per_session_max);
        out.plain("received_fields_max", it.received_fields_max);
        out.choice("bare_newline", it.bare_newline, BARE_NEWLINES);
        out.plain("refuse_null_mx", it.refuse_null_mx);
        out.text("hold_max", Some(&write_duration(it.hold_max)));
        out.table("[reception.headers]");
        for (key, name) in it.headers.entries() {
            out.text(key, name);
        }
        mailboxes::explain(self, &mut out);
        access::explain(&self.access, &mut out);
        let it = &self.journal;
        out.table("[journal]");
        out.text("segment_bytes", Some(&write_size(it.segment_bytes)));
        out.text("bytes_max", Some(&write_size(it.bytes_max)));
        out.text("min_free_bytes", Some(&write_size(it.min_free_bytes)));
        out.choice("durability", it.durability, DURABILITIES);
        let it = &self.queue;
        out.table("[queue]");
        out.text("retry_wait_min", Some(&write_duration(it.retry_wait_min)));
        out.text("retry_wait_max", Some(&write_duration(it.retry_wait_max)));
        out.text("lifetime", Some(&write_duration(it.lifetime)));
        out.text("double_bounce", it.double_bounce.as_deref());
        out.plain("notifications_per_minute", it.notifications_per_minute);
        out.text("content_cache_bytes", Some(&write_size(it.content_cache_bytes as u64)));
        out.plain("messages_max", it.messages_max);
        retry::explain(self, &mut out);
        let it = &self.delivery;
        out.table("[delivery]");
        out.text("ehlo_name", it.ehlo_name.as_deref());
        out.plain("connections_max", it.connections_max);
        out.plain("connections_start", it.connections_start);
        out.plain("failures_dead", it.failures_dead);
        out.text("probe_wait_min", Some(&write_duration(it.probe_wait_min)));
        out.text("probe_wait_max", Some(&write_duration(it.probe_wait_max)));
        out.plain("messages_per_connection_max", it.messages_per_connection_max);
        out.text("idle_timeout", Some(&write_duration(it.idle_timeout)));
        out.text("connect_timeout", Some(&write_duration(it.connect_timeout)));
        out.text("command_timeout", Some(&write_duration(it.command_timeout)));
        out.text("content_timeout", Some(&write_duration(it.content_timeout)));
        out.text("end_of_data_timeout", Some(&write_duration(it.end_of_data_timeout)));
        out.text("rules", it.rules_path.as_ref().and_then(|path| path.to_str()));
        out.plain("mx_port", it.mx_port);
        out.choice("address_families", it.address_families, FAMILIES);
        tls::explain_delivery(self, &mut out);
        let it = &self.dns;
        out.table("[dns]");
        let upstreams: Vec<String> = it.upstreams.iter().map(|it| it.to_string()).collect();
        out.plain("upstreams", format_args!("{upstreams:?}"));
        out.text("timeout", it.timeout.map(write_duration).as_deref());
        out.optional("attempts", it.attempts);
        out.plain("cache_entries_max", it.cache_entries_max);
        out.text("cache_bytes_max", Some(&write_size(it.cache_bytes_max as u64)));
        out.text("ttl_min", Some(&write_duration(it.ttl_min)));
        out.text("ttl_max", Some(&write_duration(it.ttl_max)));
        out.text("stale_max", Some(&write_duration(it.stale_max)));
        out.plain("trust_ad", it.trust_ad);
        if let Some(acme) = &self.acme {
            super::acme::explain(acme, &mut out);
        }
        super::tls_reports::explain(&self.tls_reports, &mut out);
        super::verify::explain(&self.verify, &mut out);
        for route in &self.routes {
            out.table("[[route]]");
            out.text("domain", Some(&route.domain));
            out.text("next_hop", Some(&route.next_hop.to_string()));
        }
        credentials::explain(self, &mut out);
        egress::explain(self, &mut out);
        out.table("[metrics]");
        out.text("listen", self.metrics.listen.map(|address| address.to_string()).as_deref());
        out.table("[log]");
        out.text("path", self.log.path.as_ref().and_then(|path| path.to_str()));
        out.choice("format", self.log.format, LOG_FORMATS);
        out.plain("outcomes", self.log.outcomes);
        out.0
    }
}

/// A configuration file in the making.
pub(super) struct Out(String);

impl Out {
    pub fn table(&mut self, header: &str) {
        // Writing into memory does not fail, here and below.
        let _ = writeln!(self.0, "\n{header}");
    }

    pub fn comment(&mut self, text: &str) {
        let _ = writeln!(self.0, "# {text}");
    }

    pub fn plain(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    pub fn path(&mut self, key: &str, path: Option<&Path>) {
        self.text(key, path.and_then(Path::to_str));
    }

    pub fn optional(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.plain(key, value);
        }
    }

    pub fn text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            let mut quoted = String::from("\"");
            for c in value.chars() {
                match c {
                    '"' | '\\' => quoted.extend(['\\', c]),
                    c if c.is_control() => {
                        let _ = write!(quoted, "\\u{:04X}", u32::from(c));
                    }
                    c => quoted.push(c),
                }
            }
            quoted.push('"');
            self.plain(key, quoted);
        }
    }

    pub fn choice<T: PartialEq>(&mut self, key: &str, value: T, choices: &[(&str, T)]) {
        let name = choices.iter().find(|(_, it)| *it == value).map(|(name, _)| *name);
        self.text(key, name);
    }
}
