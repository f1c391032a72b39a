//! How a sink treats its clients: replies by probability, latency, and drops, by domain.
//!
//! Pure; the caller brings the randomness.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use crate::units;

/// Which command a rule answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Connect,
    Mail,
    Rcpt,
    Data,
    End,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::End => "end",
        }
    }
}

/// `rcpt:450:5%`, or for the recipients of one domain only `rcpt@example.test:450:5%`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyRule {
    pub phase: Phase,
    pub domain: Option<String>,
    pub code: u16,
    pub share: f64,
}

impl FromStr for ReplyRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}`: use PHASE:CODE:SHARE, as in rcpt:450:5%");
        let mut parts = text.split(':');
        let (Some(place), Some(code), Some(share), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let (phase, domain) = match place.split_once('@') {
            Some((phase, domain)) => (phase, Some(domain.to_ascii_lowercase())),
            None => (place, None),
        };
        let phase = match phase {
            "connect" => Phase::Connect,
            "mail" => Phase::Mail,
            "rcpt" => Phase::Rcpt,
            "data" => Phase::Data,
            "end" => Phase::End,
            _ => return Err(format!("`{phase}`: a phase is connect, mail, rcpt, data or end")),
        };
        if domain.is_some() && matches!(phase, Phase::Connect | Phase::Mail) {
            return Err(format!("`{text}`: no domain is known before RCPT"));
        }
        let code: u16 = code.parse().map_err(|_| wrong())?;
        if !(400..=599).contains(&code) {
            return Err(format!("`{text}`: a refusal has a code of 400 to 599"));
        }
        Ok(Self { phase, domain, code, share: units::share(share)? })
    }
}

/// Before the reply to end of data: `20ms`, `uniform:1ms-20ms`, `exponential:5ms`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    Fixed(Duration),
    Uniform(Duration, Duration),
    /// By its mean; cut at ten times that.
    Exponential(Duration),
}

impl Latency {
    pub fn draw(self, random: u64) -> Duration {
        match self {
            Self::Fixed(latency) => latency,
            Self::Uniform(min, max) => min + (max - min).mul_f64(unit(random)),
            Self::Exponential(mean) => mean.mul_f64((-(1.0 - unit(random)).ln()).min(10.0)),
        }
    }
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(range) = text.strip_prefix("uniform:") {
            let (min, max) =
                range.split_once('-').ok_or_else(|| format!("`{text}`: use uniform:1ms-20ms"))?;
            let (min, max) = (units::duration(min)?, units::duration(max)?);
            if min > max {
                return Err(format!("`{text}`: the shorter time comes first"));
            }
            return Ok(Self::Uniform(min, max));
        }
        match text.strip_prefix("exponential:") {
            Some(mean) => Ok(Self::Exponential(units::duration(mean)?)),
            None => Ok(Self::Fixed(units::duration(text)?)),
        }
    }
}

/// `20ms` for all, or `example.test=20ms` for one domain.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyRule {
    pub domain: Option<String>,
    pub latency: Latency,
}

impl FromStr for LatencyRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (domain, latency) = match text.split_once('=') {
            Some((domain, latency)) => (Some(domain.to_ascii_lowercase()), latency),
            None => (None, text),
        };
        Ok(Self { domain, latency: latency.parse()? })
    }
}

/// Where a rule applies: a phase, of all domains or of one.
type Place = (Phase, Option<String>);

/// The personality of a sink: what it does to whom.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Rules for every domain by phase, and for one domain.
    replies: HashMap<Place, Vec<(u16, f64)>>,
    latencies: HashMap<Option<String>, Latency>,
    pub drop_before_dot: f64,
    pub drop_after_dot: f64,
    by_domain: bool,
}

impl Behaviour {
    pub fn new(replies: &[ReplyRule], latencies: &[LatencyRule]) -> Self {
        let mut behaviour = Self::default();
        for rule in replies {
            behaviour.by_domain |= rule.domain.is_some();
            let key = (rule.phase, rule.domain.clone());
            behaviour.replies.entry(key).or_default().push((rule.code, rule.share));
        }
        for rule in latencies {
            behaviour.by_domain |= rule.domain.is_some();
            behaviour.latencies.insert(rule.domain.clone(), rule.latency);
        }
        behaviour
    }

    /// Whether the domain of a recipient makes a difference.
    pub fn is_by_domain(&self) -> bool {
        self.by_domain
    }

    /// The code of a refusal, if the dice say so. Rules of one place share one throw, so their
    /// shares add up.
    pub fn refusal(&self, phase: Phase, domain: Option<&str>, random: u64) -> Option<u16> {
        if self.replies.is_empty() {
            return None;
        }
        let own = domain.and_then(|domain| self.replies.get(&(phase, Some(domain.to_owned()))));
        let rules = own.or_else(|| self.replies.get(&(phase, None)))?;
        let mut thrown = unit(random);
        for (code, share) in rules {
            if thrown < *share {
                return Some(*code);
            }
            thrown -= share;
        }
        None
    }

    pub fn latency(&self, domain: Option<&str>, random: u64) -> Duration {
        if self.latencies.is_empty() {
            return Duration::ZERO;
        }
        let own = domain.and_then(|domain| self.latencies.get(&Some(domain.to_owned())));
        let latency = own.or_else(|| self.latencies.get(&None));
        latency.map_or(Duration::ZERO, |latency| latency.draw(random))
    }
}

/// Whether something of this probability happens.
pub fn happens(share: f64, random: u64) -> bool {
    share > 0.0 && unit(random) < share
}

/// A number in 0..1 from random bits.
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: u64 = 0;
    const HALF: u64 = 1 << 63;
    const HIGH: u64 = u64::MAX;

    #[test]
    fn reply_rules_are_read_or_refused() {
        let rule: ReplyRule = "rcpt@Example.TEST:450:5%".parse().expect("valid");
        assert_eq!(rule.domain.as_deref(), Some("example.test"));
        assert_eq!((rule.phase, rule.code, rule.share), (Phase::Rcpt, 450, 0.05));
        for wrong in ["rcpt:450", "rcpt:250:5%", "helo:450:5%", "mail@a.test:450:5%", "end:451:x"] {
            assert!(wrong.parse::<ReplyRule>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_domain_with_rules_of_its_own_does_not_follow_the_general_ones() {
        let rules: Vec<ReplyRule> = ["rcpt:550:25%", "rcpt:450:50%", "rcpt@calm.test:451:0%"]
            .iter()
            .map(|rule| rule.parse().expect("valid"))
            .collect();
        let behaviour = Behaviour::new(&rules, &[]);
        let check = |domain, random, expected| {
            assert_eq!(behaviour.refusal(Phase::Rcpt, Some(domain), random), expected);
        };
        check("other.test", LOW, Some(550));
        check("other.test", HALF, Some(450));
        check("other.test", HIGH, None);
        check("calm.test", LOW, None);
        assert_eq!(behaviour.refusal(Phase::End, Some("other.test"), LOW), None);
    }

    #[test]
    fn latencies_are_drawn_within_their_distribution() {
        let check = |text: &str, random, expected_ms| {
            let latency: Latency = text.parse().expect("valid");
            assert_eq!(latency.draw(random).as_millis(), expected_ms, "{text}");
        };
        check("20ms", HIGH, 20);
        check("uniform:10ms-20ms", HALF, 15);
        check("exponential:10ms", HALF, 6);
        check("exponential:10ms", HIGH, 100);
        assert!("uniform:20ms-10ms".parse::<Latency>().is_err());
        let rule: LatencyRule = "slow.test=1s".parse().expect("valid");
        let behaviour = Behaviour::new(&[], &[rule]);
        assert_eq!(behaviour.latency(Some("slow.test"), LOW), Duration::from_secs(1));
        assert_eq!(behaviour.latency(Some("fast.test"), LOW), Duration::ZERO);
    }
}
