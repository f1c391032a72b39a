//! What a new configuration can change in a running server, and what an operator should think over.

use std::time::Duration;

use super::{Acme, Config, ConfigError, Durability, ListenAddress, Listener, NextHop};

impl Config {
    /// The configuration that a running server goes on with when it is given `new`, and the keys
    /// whose new value has to wait for the next start.
    ///
    /// Those are the keys by which sockets are bound, threads pinned and files opened; they keep
    /// the running value.
    pub fn reloaded(&self, new: &Config) -> (Config, Vec<&'static str>) {
        let mut merged = new.clone();
        let mut waiting = Vec::new();
        let mut keep = |key, differs: bool| {
            if differs {
                waiting.push(key);
            }
        };
        keep("node", new.node != self.node);
        keep("data_dir", new.data_dir != self.data_dir);
        keep("user", new.user != self.user);
        keep("group", new.group != self.group);
        keep("shards.cores", new.shards.cores != self.shards.cores);
        keep("shards.count", new.shards.count != self.shards.count);
        keep("shards.control_core", new.shards.control_core != self.shards.control_core);
        keep("listener", new.listeners != self.listeners);
        keep("journal", new.journal != self.journal);
        let (was, is) = (&self.mailboxes, &new.mailboxes);
        // Partitions are opened at the start.
        let opens = was.domains.is_empty() && !is.domains.is_empty();
        keep("mailboxes.domains", opens);
        keep("mailboxes.undelete", was.undelete != is.undelete);
        keep("mailboxes.bytes_max", was.bytes_max != is.bytes_max);
        keep("metrics.listen", new.metrics != self.metrics);
        keep("log.path", new.log.path != self.log.path);
        let listen = |config: &Config| config.acme.as_ref().map(|acme| acme.listen);
        keep("acme.listen", listen(new) != listen(self));
        merged.node = self.node;
        merged.data_dir = self.data_dir.clone();
        merged.user = self.user.clone();
        merged.group = self.group.clone();
        merged.shards = super::Shards { drain: new.shards.drain, ..self.shards.clone() };
        merged.listeners = self.listeners.clone();
        merged.journal = self.journal.clone();
        if opens {
            merged.mailboxes.domains.clear();
            merged.aliases.clear();
        }
        merged.mailboxes.undelete = was.undelete;
        merged.mailboxes.bytes_max = was.bytes_max;
        merged.metrics = self.metrics.clone();
        merged.log.path = self.log.path.clone();
        merged.acme = match (merged.acme, &self.acme) {
            (Some(new), Some(old)) => Some(Acme { listen: old.listen, ..new }),
            // Without a place to answer at nothing is asked for.
            _ => None,
        };
        (merged, waiting)
    }

    /// The same with certificates and keys read anew.
    pub fn with_certificates_anew(&self) -> Result<Config, ConfigError> {
        let mut config = self.clone();
        config.load_tls()?;
        Ok(config)
    }

    /// What is allowed and yet most likely a mistake, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |condition: bool, text: &str| {
            if condition {
                warnings.push(text.to_owned());
            }
        };
        warn(
            self.journal.durability == Durability::None,
            "journal.durability is \"none\": 250 is NOT durable, mail can be lost; benchmarks only",
        );
        warn(
            self.asks_web() && !self.delivery.tls.contexts.knows_a_ca(),
            "this machine has no CA certificates, so no MTA-STS policy can be had; install them \
             (ca-certificates), name a file in delivery.tls.ca, or say delivery.tls.mta_sts = \
             false",
        );
        warn(
            self.delivery.end_of_data_timeout < Duration::from_secs(600),
            "delivery.end_of_data_timeout is below ten minutes: a slow next hop gets duplicates \
             (RFC 5321 section 4.5.3.2.6)",
        );
        warn(
            self.delivery.command_timeout < Duration::from_secs(300),
            "delivery.command_timeout is below five minutes (RFC 5321 section 4.5.3.2)",
        );
        warn(
            self.reception.idle_timeout < Duration::from_secs(300),
            "reception.idle_timeout is below five minutes (RFC 5321 section 4.5.3.2.7)",
        );
        warn(
            self.queue.lifetime < Duration::from_secs(4 * 86_400),
            "queue.lifetime is below four days (RFC 5321 section 4.5.4.1)",
        );
        warn(
            self.reception.recipients_max < 100,
            "reception.recipients_max is below 100 (RFC 5321 section 4.5.3.1.8)",
        );
        warn(
            self.reception.relay_networks.iter().any(|network| network.prefix_bits == 0),
            "reception.relay_networks holds a whole address family: an open relay",
        );
        warn(
            self.smarthost.is_none() && self.routes.is_empty() && self.mailboxes.domains.is_empty(),
            "neither smarthost nor [[route]] nor mailboxes.domains: every recipient will be \
             refused",
        );
        warn(self.group.is_some() && self.user.is_none(), "group without user has no effect");
        for credentials in &self.credentials {
            let hop = &credentials.next_hop;
            if self.routes.iter().map(|it| &it.next_hop).chain(&self.smarthost).all(|it| it != hop)
            {
                warnings.push(format!("[[credentials]] for {hop}: nothing is routed there"));
            }
        }
        for hop in self.routes.iter().map(|route| &route.next_hop).chain(&self.smarthost) {
            let leads_to = |listener: &Listener| match (hop, &listener.address) {
                (NextHop::Address { address, .. }, ListenAddress::Network(own)) => address == own,
                (NextHop::Socket(path), ListenAddress::Socket { path: own, .. }) => path == own,
                _ => false,
            };
            if self.listeners.iter().any(leads_to) {
                warnings.push(format!("next hop {hop} is a [[listener]] of this server: a loop"));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Credentials, Login};
    use crate::proto::sasl;
    use crate::tls::client::Level;

    #[test]
    fn what_was_bound_and_pinned_waits_for_the_next_start() {
        let mut running = Config::embedded();
        running.mailboxes.domains.clear();
        let mut new = running.clone();
        new.reception.recipients_max = 7;
        new.shards.drain = Duration::from_secs(1);
        assert_eq!(running.reloaded(&new), (new.clone(), vec![]));
        let wanted = new.clone();
        new.node = 9;
        new.listeners.clear();
        new.shards.count = Some(3);
        new.log.path = Some("log".into());
        new.mailboxes.domains.push("a.test".into());
        let (merged, waiting) = running.reloaded(&new);
        assert_eq!(merged, wanted);
        assert_eq!(waiting, ["node", "shards.count", "listener", "mailboxes.domains", "log.path"]);
    }

    #[test]
    fn the_embedded_default_gives_no_reason_to_warn() {
        assert_eq!(Config::embedded().warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_likely_mistake_is_named() {
        let check = |change: fn(&mut Config), expected: &str| {
            let mut config = Config::embedded();
            change(&mut config);
            let warnings = config.warnings();
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(expected), "{warnings:?}");
        };
        check(|it| it.journal.durability = Durability::None, "NOT durable");
        check(|it| it.delivery.end_of_data_timeout = Duration::from_secs(60), "duplicates");
        check(|it| it.reception.relay_networks[0].prefix_bits = 0, "open relay");
        let nowhere = |it: &mut Config| {
            it.smarthost = None;
            it.mailboxes.domains.clear();
        };
        check(nowhere, "every recipient");
        check(|it| it.smarthost = NextHop::parse("smtp://127.0.0.1:2525"), "a loop");
        let by_socket = |it: &mut Config| {
            it.listeners[3].address = ListenAddress::Socket { path: "/s".into(), mode: 0o600 };
            it.smarthost = NextHop::parse("lmtp+unix:///s");
        };
        check(by_socket, "a loop");
        check(|it| it.group = Some("mail".into()), "without user");
        let credentials = |it: &mut Config| {
            let next_hop = NextHop::parse("smtp://mail.test:587").expect("a next hop");
            let (name, password) = ("a".to_owned(), "b".to_owned());
            let login = sasl::Credentials { authorization_id: String::new(), name, password };
            let login = Login { credentials: login.into(), password_file: None };
            it.credentials.push(Credentials { next_hop, login, level: Level::Verify });
        };
        check(credentials, "nothing is routed there");
    }
}
