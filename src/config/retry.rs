//! `[[retry]]`: how often and for how long mail is tried that does not get through.

use std::fmt;
use std::time::Duration;

use super::explain::Out;
use super::table::{Checked, Table};
use super::values::{write_conditions, write_duration};
use super::{Config, Queue};
use crate::mail::{Class, Stream};
use crate::proto::classify::NamePattern;

/// `[[retry]]`: mail that it is for, and what holds for it. What is not said of the mail matches
/// everything; what is not said of the policy is as `[queue]` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Of the recipient.
    pub domain: Option<NamePattern>,
    pub tenant: Option<NamePattern>,
    pub class: Option<Class>,
    pub policy: RetryPolicy,
}

/// When a Delayed recipient is tried again, and when that is enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// After the first attempt.
    pub wait_min: Duration,
    pub wait_max: Duration,
    /// By which the wait grows with each attempt, 1..=100.
    pub factor: f64,
    /// Share of the wait by which it is spread either way, so that retries do not march in step;
    /// 0..=1.
    pub jitter: f64,
    /// From acceptance, or from the release where that is later.
    pub lifetime: Duration,
    /// Age at which a reverse-path is told that its mail is Delayed, once for each task. `None`:
    /// only where NOTIFY=DELAY asks for it, after `DELAY_NOTICE_ASKED_FOR`.
    pub delay_notice: Option<Duration>,
}

impl Queue {
    /// What holds for mail of which no `[[retry]]` says more.
    pub fn retry(&self) -> RetryPolicy {
        RetryPolicy {
            wait_min: self.retry_wait_min,
            wait_max: self.retry_wait_max,
            factor: 2.0,
            jitter: 0.2,
            lifetime: self.lifetime,
            delay_notice: None,
        }
    }
}

impl Config {
    /// The policy of the first `[[retry]]` that is for mail of `stream` to `domain` (lower case).
    pub fn retry_of(&self, domain: &str, stream: &Stream) -> RetryPolicy {
        let rule = self.retry_rule_of(domain, stream);
        rule.map_or_else(|| self.queue.retry(), |(_, rule)| rule.policy)
    }

    /// That `[[retry]]` with its position, 0-based; `None` where none is for such mail.
    pub fn retry_rule_of(&self, domain: &str, stream: &Stream) -> Option<(usize, &Retry)> {
        let fits = |pattern: &Option<NamePattern>, name: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(name))
        };
        self.retries.iter().enumerate().find(|(_, rule)| {
            fits(&rule.domain, domain)
                && fits(&rule.tenant, &stream.tenant)
                && rule.class.is_none_or(|class| class == stream.class)
        })
    }
}

/// As an operator finds it: `domain=*.slow.test class=bulk`; empty for one that is for all mail.
impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |pattern: &Option<NamePattern>| pattern.as_ref().map(NamePattern::to_string);
        let class = self.class.map(|class| class.as_str().to_owned());
        let conditions =
            [("domain", text(&self.domain)), ("tenant", text(&self.tenant)), ("class", class)];
        write_conditions(conditions, f)
    }
}

/// Reads the rules; `[queue]` has been read.
pub(super) fn read(root: &Table<'_, '_>, config: &mut Config) -> Checked<()> {
    let defaults = config.queue.retry();
    config.retries = root.tables("retry", |it| read_rule(it, defaults))?;
    for (index, rule) in config.retries.iter().enumerate() {
        let RetryPolicy { wait_min, wait_max, .. } = rule.policy;
        if wait_min > wait_max {
            let index = index.to_string();
            let paths: [&[_]; 2] = [&["retry", &index, "wait_min"], &["retry", &index, "wait_max"]];
            let message = format!(
                "retry.wait_min: {} is above wait_max, {}; make it at most that",
                write_duration(wait_min),
                write_duration(wait_max)
            );
            return Err(root.wrong_at(&paths, message));
        }
    }
    Ok(())
}

fn read_rule(table: &Table<'_, '_>, defaults: RetryPolicy) -> Checked<Retry> {
    let mut rule = Retry { domain: None, tenant: None, class: None, policy: defaults };
    for (key, pattern) in [("domain", &mut rule.domain), ("tenant", &mut rule.tenant)] {
        table.parsed(key, "a name with at most one *, such as \"*.example.test\"", |text| {
            *pattern = Some(NamePattern::parse(text)?);
            Some(())
        })?;
    }
    table.parsed("class", "\"transactional\" or \"bulk\"", |text| {
        rule.class = Some(Class::parse(text)?);
        Some(())
    })?;
    let policy = &mut rule.policy;
    table.duration("wait_min", &mut policy.wait_min, WAIT_MIN)?;
    table.duration("wait_max", &mut policy.wait_max, WAIT_MIN)?;
    table.fraction("factor", &mut policy.factor, 1.0, 100.0)?;
    table.fraction("jitter", &mut policy.jitter, 0.0, 1.0)?;
    table.duration("lifetime", &mut policy.lifetime, Duration::from_secs(1))?;
    let mut delay_notice = Duration::ZERO;
    table.duration("delay_notice", &mut delay_notice, Duration::ZERO)?;
    policy.delay_notice = (!delay_notice.is_zero()).then_some(delay_notice);
    Ok(rule)
}

pub(super) fn explain(config: &Config, out: &mut Out) {
    for rule in &config.retries {
        out.table("[[retry]]");
        out.text("domain", rule.domain.as_ref().map(|it| it.to_string()).as_deref());
        out.text("tenant", rule.tenant.as_ref().map(|it| it.to_string()).as_deref());
        if let Some(class) = rule.class {
            out.text("class", Some(class.as_str()));
        }
        let policy = &rule.policy;
        out.text("wait_min", Some(&write_duration(policy.wait_min)));
        out.text("wait_max", Some(&write_duration(policy.wait_max)));
        out.plain("factor", policy.factor);
        out.plain("jitter", policy.jitter);
        out.text("lifetime", Some(&write_duration(policy.lifetime)));
        out.text("delay_notice", policy.delay_notice.map(write_duration).as_deref());
    }
}

/// Age at which NOTIFY=DELAY is answered where no rule says when.
pub const DELAY_NOTICE_ASKED_FOR: Duration = Duration::from_secs(4 * 3600);
const WAIT_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:2525\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(&format!("{text}\n{LISTENER}"), "f").map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_rule_that_fits_counts_and_the_rest_is_as_the_queue_says() {
        let config = parse(
            "[[retry]]\ndomain = \"*.slow.test\"\nwait_min = \"1h\"\nfactor = 1\njitter = 0.5\n\
             [[retry]]\ntenant = \"acme*\"\nclass = \"transactional\"\nlifetime = \"1h\"\n\
             delay_notice = \"10m\"\n\
             [queue]\nretry_wait_max = \"3h\"\nlifetime = \"2d\"\n",
        );
        let config = config.expect("valid");
        let policy = |domain: &str, tenant: &str, class| {
            let stream = Stream { tenant: tenant.into(), class, ..Stream::default() };
            config.retry_of(domain, &stream)
        };
        let of_queue = policy("fast.test", "acme", Class::Bulk);
        assert_eq!(of_queue, config.queue.retry());
        assert_eq!(of_queue.lifetime, Duration::from_secs(2 * 86_400));
        let slow = policy("mx.slow.test", "acme", Class::Transactional);
        let wait_min = Duration::from_secs(3600);
        assert_eq!(slow, RetryPolicy { wait_min, factor: 1.0, jitter: 0.5, ..of_queue });
        let urgent = policy("fast.test", "ACME two", Class::Transactional);
        let lifetime = Duration::from_secs(3600);
        let delay_notice = Some(Duration::from_secs(600));
        assert_eq!(urgent, RetryPolicy { lifetime, delay_notice, ..of_queue });
        let stream =
            Stream { tenant: "acme".into(), class: Class::Transactional, ..Stream::default() };
        let (index, rule) = config.retry_rule_of("fast.test", &stream).expect("a rule");
        assert_eq!((index, rule.to_string().as_str()), (1, "tenant=acme* class=transactional"));
        assert_eq!(Config::parse(&config.explain(), "f"), Ok(config));
    }

    #[test]
    fn every_error_names_its_line() {
        let check = |text: &str, line: usize, expected: &str| {
            let shown = parse(text).expect_err(text);
            let start = format!("f:{line}: ");
            assert!(shown.starts_with(&start) && shown.contains(expected), "{text}\n{shown}");
        };
        check("[[retry]]\nfactor = 0.5", 2, "retry.factor: found a fraction; expected a number");
        check("[[retry]]\nfactor = \"2\"", 2, "retry.factor: found \"2\"; expected a number");
        check("[[retry]]\njitter = 2", 2, "retry.jitter: found 2; expected a number from 0 to 1");
        check("[[retry]]\nclass = \"urgent\"", 2, "retry.class: found \"urgent\"");
        check("[[retry]]\ndomain = \"*.*\"", 2, "retry.domain: found \"*.*\"");
        check("[[retry]]\nwait = \"1h\"", 2, "retry.wait: unknown key");
        check("\n[[retry]]\nwait_min = \"5h\"", 3, "retry.wait_min: 5h is above wait_max, 4h");
        check("[[retry]]\nwait_max = \"1m\"", 2, "above wait_max, 1m");
        check("[[retry]]\nlifetime = \"0s\"", 2, "at least 1s");
    }
}
