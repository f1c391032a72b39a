//! Which queued mail an order of an operator is for. `Pure.`

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::write_conditions;
use crate::mail::{Class, Stream};
use crate::proto::classify::NamePattern;

/// Conditions on mail as an operator writes them; those that are there all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// Destination domain: `a.test`, or `*.a.test` for what is below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The next hop in words, `smtp://192.0.2.1:25`, or without its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// `transactional` or `bulk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// The same, understood. Patterns hold at most one `*`; case does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowPattern {
    pub domain: Option<NamePattern>,
    pub site: Option<NamePattern>,
    pub tenant: Option<NamePattern>,
    pub campaign: Option<NamePattern>,
    pub class: Option<Class>,
}

/// Which tasks are meant. Conditions that are there all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// One message of this shard, by its number.
    pub message: Option<u64>,
    pub flows: FlowPattern,
    pub reverse_path: Option<ReversePathPattern>,
    /// Unix milliseconds: accepted before, or to be released before where that is later.
    pub before_ms: Option<u64>,
    /// Likewise: at that time or later.
    pub from_ms: Option<u64>,
}

/// Which reverse-paths are meant. A pattern holds at most one `*`; case does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReversePathPattern {
    /// `None` for the null one.
    pattern: Option<NamePattern>,
    /// Where the pattern leaves no choice of it, in lower case.
    domain: Option<Box<str>>,
}

impl Selection {
    /// Whether a message is meant that was accepted, or to be released where that is later, at
    /// `since_ms`.
    pub fn takes_age(&self, since_ms: u64) -> bool {
        self.before_ms.is_none_or(|before_ms| since_ms < before_ms)
            && self.from_ms.is_none_or(|from_ms| since_ms >= from_ms)
    }
}

impl ReversePathPattern {
    /// `a@example.test`, `*@example.test`, or `<>`. The error is for the operator.
    pub fn parse(text: &str) -> Result<ReversePathPattern, String> {
        let path = text.strip_prefix('<').and_then(|it| it.strip_suffix('>')).unwrap_or(text);
        if path.is_empty() && !text.is_empty() {
            return Ok(ReversePathPattern { pattern: None, domain: None });
        }
        let pattern = NamePattern::parse(path).filter(|_| path.len() <= REVERSE_PATH_BYTES_MAX);
        let pattern = pattern.ok_or_else(|| {
            format!(
                "reverse-path: found {text:?}; expected an address with at most one *, up to \
                 {REVERSE_PATH_BYTES_MAX} octets, or <>"
            )
        })?;
        let domain = path.rsplit_once('@').map(|(_, domain)| domain);
        let domain = domain.filter(|domain| !domain.contains('*'));
        let domain = domain.map(|domain| domain.to_ascii_lowercase().into());
        Ok(ReversePathPattern { pattern: Some(pattern), domain })
    }

    pub fn takes(&self, reverse_path: &str) -> bool {
        match &self.pattern {
            Some(pattern) => pattern.matches(reverse_path),
            None => reverse_path.is_empty(),
        }
    }

    /// Whether one of this domain (lower case) may be meant; an empty domain is not known.
    pub fn may_take(&self, domain: &str) -> bool {
        match &self.domain {
            _ if domain.is_empty() => true,
            Some(wanted) => **wanted == *domain,
            None => self.pattern.is_some(),
        }
    }
}

impl Conditions {
    /// Whether nothing is said: everything is meant.
    pub fn is_empty(&self) -> bool {
        *self == Conditions::default()
    }

    /// The error is for the operator.
    pub fn parse(&self) -> Result<FlowPattern, String> {
        let pattern = |name: &str, text: &Option<String>| {
            text.as_deref().map(|text| parse_pattern(name, text)).transpose()
        };
        let class = self.class.as_deref().map(parse_class).transpose()?;
        Ok(FlowPattern {
            domain: pattern("domain", &self.domain)?,
            site: pattern("site", &self.site)?,
            tenant: pattern("tenant", &self.tenant)?,
            campaign: pattern("campaign", &self.campaign)?,
            class,
        })
    }
}

/// A name with at most one `*`.
fn parse_pattern(name: &str, text: &str) -> Result<NamePattern, String> {
    let pattern = NamePattern::parse(text).filter(|_| text.len() <= PATTERN_BYTES_MAX);
    pattern.ok_or_else(|| {
        format!("{name}: found {text:?}; expected a name with at most one *, up to 255 octets")
    })
}

/// The error is for the operator.
pub fn parse_class(text: &str) -> Result<Class, String> {
    let class = Class::parse(text);
    class.ok_or_else(|| format!("class: found {text:?}; expected transactional or bulk"))
}

/// `domain=*.a.test tenant=acme`, or `all`.
impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("all");
        }
        let named = [
            ("domain", &self.domain),
            ("site", &self.site),
            ("tenant", &self.tenant),
            ("campaign", &self.campaign),
            ("class", &self.class),
        ];
        write_conditions(named.map(|(name, value)| (name, value.as_ref())), f)
    }
}

impl FlowPattern {
    /// `site` says the next hop in words; it is asked only where that counts.
    pub fn takes<S: AsRef<str>>(
        &self,
        domain: &str,
        stream: &Stream,
        site: impl FnOnce() -> Option<S>,
    ) -> bool {
        let fits = |pattern: &Option<NamePattern>, name: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(name))
        };
        fits(&self.domain, domain)
            && fits(&self.tenant, &stream.tenant)
            && fits(&self.campaign, &stream.campaign)
            && self.class.is_none_or(|class| class == stream.class)
            && self.site.as_ref().is_none_or(|pattern| {
                site().is_some_and(|site| pattern.matches_site(site.as_ref()))
            })
    }
}

/// RFC 5321 §4.5.3.1.3, without the angle brackets.
const REVERSE_PATH_BYTES_MAX: usize = 254;
/// A domain name is at most this long (RFC 5321 §4.5.3.1.2).
const PATTERN_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(tenant: &str, campaign: &str, class: Class) -> Stream {
        Stream { tenant: tenant.into(), campaign: campaign.into(), class, ..Stream::default() }
    }

    #[test]
    fn a_pattern_takes_a_domain_or_what_is_below_it() {
        for (pattern, domain, expected) in [
            ("A.test", "a.test", true),
            ("a.test", "b.a.test", false),
            ("*.a.test", "b.a.test", true),
            ("*.a.test", "a.test", false),
            ("*.a.test", "xa.test", false),
            ("*.a.test", "", false),
        ] {
            let conditions = Conditions { domain: Some(pattern.into()), ..Conditions::default() };
            let flows = conditions.parse().expect("a pattern");
            let taken = flows.takes(domain, &Stream::default(), || None::<&str>);
            assert_eq!(taken, expected, "{pattern} {domain}");
        }
    }

    #[test]
    fn all_conditions_hold_together() {
        let conditions = Conditions {
            site: Some("127.0.0.*".into()),
            tenant: Some("acme".into()),
            campaign: Some("spring*".into()),
            class: Some("bulk".into()),
            ..Conditions::default()
        };
        let flows = conditions.parse().expect("patterns");
        let site = || Some("smtp://127.0.0.1:25");
        let right = stream("acme", "spring-1", Class::Bulk);
        assert!(flows.takes("a.test", &right, site));
        assert!(!flows.takes("a.test", &right, || Some("smtp://127.0.1.1:25")));
        assert!(!flows.takes("a.test", &right, || None::<&str>));
        assert!(!flows.takes("a.test", &stream("acme", "summer", Class::Bulk), site));
        assert!(!flows.takes("a.test", &stream("acme", "spring", Class::Transactional), site));
        assert!(!flows.takes("a.test", &stream("other", "spring", Class::Bulk), site));
        assert_eq!(
            conditions.to_string(),
            "site=127.0.0.* tenant=acme campaign=spring* class=bulk"
        );
        assert!(FlowPattern::default().takes("", &Stream::default(), || None::<&str>));
        assert_eq!(Conditions::default().to_string(), "all");
    }

    #[test]
    fn a_reverse_path_is_meant_whole_by_its_domain_or_as_the_null_one() {
        let null = ("", "");
        let (a, b) = (("News@a.test", "a.test"), ("x@b.a.test", "b.a.test"));
        for (pattern, expected) in [
            ("news@A.test", [true, false, false]),
            ("<news@a.test>", [true, false, false]),
            ("*@a.test", [true, false, false]),
            ("*a.test", [true, true, false]),
            ("x@*", [false, true, false]),
            ("<>", [false, false, true]),
            ("*", [true, true, true]),
        ] {
            let parsed = ReversePathPattern::parse(pattern).expect(pattern);
            for ((path, domain), expected) in [a, b, null].into_iter().zip(expected) {
                assert_eq!(parsed.takes(path), expected, "{pattern} {path}");
                assert!(parsed.may_take(domain) || !expected, "{pattern} {path}");
                assert!(parsed.may_take(""), "{pattern}: its domain is not known");
            }
        }
        let of_domain = ReversePathPattern::parse("*@a.test").expect("a pattern");
        assert!(!of_domain.may_take("b.a.test"));
        for text in ["", "*@*", &"x".repeat(255)] {
            let error = ReversePathPattern::parse(text).expect_err(text);
            assert!(error.starts_with("reverse-path: found "), "{error}");
        }
    }

    #[test]
    fn an_age_is_from_a_time_up_to_another() {
        let between = Selection { before_ms: Some(20), from_ms: Some(10), ..Selection::default() };
        let taken = [9, 10, 19, 20].map(|since_ms| between.takes_age(since_ms));
        assert_eq!(taken, [false, true, true, false]);
        assert!(Selection::default().takes_age(0));
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        let tenant = |text: &str| Conditions { tenant: Some(text.into()), ..Default::default() };
        for text in ["", "*a*", &"x".repeat(256)] {
            let error = tenant(text).parse().expect_err(text);
            assert!(error.starts_with("tenant: found "), "{error}");
        }
        let class = Conditions { class: Some("urgent".into()), ..Default::default() };
        assert!(class.parse().expect_err("no class").contains("transactional or bulk"));
    }
}
