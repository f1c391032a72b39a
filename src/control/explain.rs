//! Why mail goes where it goes, and what holds for it on the way.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::socket::{Out, Stop, parse_id};
use super::wire::Line;
use super::{ANSWER_WAIT, Control, asking};
use crate::config::{Config, NextHop, parse_next_hop};
use crate::mail::{Class, QueueId, Stream};
use crate::queue::{StandingOrder, StandingOrders};
use crate::routing::{Matched, Routes};
use crate::runtime::clock;
use crate::shard::ask::{Ask, QueuedTask};

/// The way of mail to a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    pub domain: String,
    /// What leads to the next hop.
    pub route: String,
    /// In words; none where mail is refused.
    pub next_hop: Option<String>,
    /// Milliseconds between attempts: the first wait, and the longest.
    pub retry_wait_min_ms: u64,
    pub retry_wait_max_ms: u64,
    /// Milliseconds after which an undelivered recipient is Failed.
    pub lifetime_ms: u64,
    /// The file of rules by which replies are judged.
    pub rules: String,
    /// Orders of operators that let this mail wait.
    pub suspensions: Vec<StandingOrder>,
}

/// What an operator wants to know the way of.
pub struct Subject<'a> {
    pub domain: &'a str,
    pub stream: &'a Stream,
    /// By order of an operator.
    pub next_hop: Option<NextHop>,
}

/// The way of mail under a configuration and the orders that stand.
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
    let next_hop = next_hop.map(|it| it.to_string());
    let site = next_hop.as_deref();
    let standing = orders.all(domain, stream, site, now_ms);
    let rules = config.delivery.rules_path.as_ref();
    let ms = |length: Duration| length.as_millis() as u64;
    Way {
        domain: domain.to_owned(),
        route,
        retry_wait_min_ms: ms(config.queue.retry_wait_min),
        retry_wait_max_ms: ms(config.queue.retry_wait_max),
        lifetime_ms: ms(config.queue.lifetime),
        rules: rules.map_or(SHIPPED_RULES.to_owned(), |path| path.display().to_string()),
        suspensions: standing.cloned().collect(),
        next_hop,
    }
}

fn in_words(matched: Matched, domain: &str) -> String {
    match matched {
        Matched::Route => format!("[[route]] {domain}"),
        Matched::Below(bytes) => format!("[[route]] *.{}", &domain[domain.len() - bytes..]),
        Matched::Smarthost => "smarthost".to_owned(),
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
        let way = way(&subject, &config, &control.suspensions(), clock::unix_ms());
        return Ok(out.line(&Line::Way(way))?);
    };
    let id = parse_id(&id.to_string(), control)?;
    let shard = usize::from(id.shard);
    let shown = asking::ask_one(&*control.shards, shard, ANSWER_WAIT, |reply| Ask::QueueShow {
        message: id.message,
        reply,
    })?;
    let Some(message) = shown else {
        return Err(Stop::Refused(format!("{id} is not queued here (any more)")));
    };
    let ways: Vec<Way> = message.tasks.iter().map(|task| way_of(task, control)).collect();
    out.line(&Line::Message(message))?;
    for way in ways {
        out.line(&Line::Way(way))?;
    }
    Ok(())
}

fn way_of(task: &QueuedTask, control: &Control) -> Way {
    let stream = Stream {
        tenant: task.tenant.as_str().into(),
        campaign: task.campaign.as_str().into(),
        class: Class::parse(&task.class).unwrap_or_default(),
    };
    let next_hop = task.site.as_deref().filter(|_| task.is_rerouted).and_then(parse_next_hop);
    let subject = Subject { domain: &task.destination, stream: &stream, next_hop };
    way(&subject, &control.config(), &control.suspensions(), clock::unix_ms())
}

const SHIPPED_RULES: &str = "tuning/providers.toml, as shipped";

#[cfg(test)]
mod tests {
    use super::*;
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
}
