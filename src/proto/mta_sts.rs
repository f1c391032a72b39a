//! MTA-STS (RFC 8461): the record that announces a policy, and the policy.

use std::fmt;

use super::dns::{Name, Record};

/// What a domain asks of those who send mail to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    pub mode: Mode,
    /// Not empty but for `Mode::None`.
    pub mx: Vec<MxPattern>,
    /// Seconds for which it is to be remembered, at most a year.
    pub max_age_s: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Mail goes to hosts that match, under TLS that stands up, or not at all.
    Enforce,
    /// What would not go under `Enforce` is told of, and goes.
    Testing,
    /// As without a policy.
    None,
}

impl Mode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        }
    }
}

/// A name of MX hosts, or all that stand one label below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MxPattern {
    name: Name,
    is_below: bool,
}

impl MxPattern {
    /// `mx.example.com` or `*.example.com`; A-labels in any case.
    pub fn parse(text: &str) -> Option<MxPattern> {
        let (name, is_below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let is_host = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.');
        if !name.bytes().all(is_host) {
            return None;
        }
        let name = Name::parse(name).filter(|name| !name.is_root())?;
        Some(MxPattern { name, is_below })
    }

    /// Whether it is for a host, a name as `Name` writes it (RFC 8461 §4.1).
    pub fn matches(&self, host: &str) -> bool {
        match (self.is_below, host.split_once('.')) {
            (false, _) => self.name.as_str() == host,
            (true, Some((_, rest))) => self.name.as_str() == rest,
            (true, None) => false,
        }
    }
}

impl fmt::Display for MxPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_below { "*." } else { "" }, self.name)
    }
}

/// What is wrong with a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    NotText,
    /// The first field that is missing or cannot be read.
    Field(&'static str),
    /// A line without a colon.
    Line,
    TooManyPatterns,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::NotText => f.write_str("it is no text"),
            PolicyError::Field(name) => write!(f, "no usable \"{name}\""),
            PolicyError::Line => f.write_str("a line without a colon"),
            PolicyError::TooManyPatterns => f.write_str("too many \"mx\""),
        }
    }
}

impl Policy {
    /// Reads a policy (RFC 8461 §3.2). Of fields that come twice the first counts, but for `mx`;
    /// unknown ones say nothing.
    pub fn parse(text: &[u8]) -> Result<Policy, PolicyError> {
        let text = std::str::from_utf8(text).map_err(|_| PolicyError::NotText)?;
        let (mut version, mut mode, mut max_age) = (None, None, None);
        let mut mx = Vec::new();
        for line in text.split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.trim_matches(BLANKS).is_empty() {
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(PolicyError::Line)?;
            let value = value.trim_matches(BLANKS);
            match name.trim_matches(BLANKS) {
                "version" => version = version.or(Some(value)),
                "mode" => mode = mode.or(Some(value)),
                "max_age" => max_age = max_age.or(Some(value)),
                "mx" if mx.len() == MX_PATTERNS_MAX => return Err(PolicyError::TooManyPatterns),
                "mx" => mx.push(MxPattern::parse(value).ok_or(PolicyError::Field("mx"))?),
                _ => {}
            }
        }
        if version != Some(VERSION) {
            return Err(PolicyError::Field("version"));
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(PolicyError::Field("mode")),
        };
        let max_age = max_age.and_then(seconds).ok_or(PolicyError::Field("max_age"))?;
        if mx.is_empty() && mode != Mode::None {
            return Err(PolicyError::Field("mx"));
        }
        Ok(Policy { mode, mx, max_age_s: max_age.min(MAX_AGE_S_MAX.into()) as u32 })
    }

    /// Whether a host, a name as `Name` writes it, may get the mail.
    pub fn allows(&self, host: &str) -> bool {
        self.mx.iter().any(|pattern| pattern.matches(host))
    }

    /// Its lines, as it reads back and as reports repeat it (RFC 8460 §4.4).
    pub fn lines(&self) -> Vec<String> {
        let mut lines =
            vec![format!("version: {VERSION}"), format!("mode: {}", self.mode.as_str())];
        lines.extend(self.mx.iter().map(|pattern| format!("mx: {pattern}")));
        lines.push(format!("max_age: {}", self.max_age_s));
        lines
    }
}

/// The id under which a domain announces its policy: that of the one record with the right version
/// (RFC 8461 §3.1). `None` where there is no such record, where there are several, and where it
/// cannot be read: all count as no announcement.
pub fn announced_id(records: &[Record]) -> Option<&str> {
    let mut texts = records.iter().filter_map(|record| match record {
        Record::Txt(text) if has_version(text) => Some(text),
        _ => None,
    });
    let (text, None) = (texts.next()?, texts.next()) else { return None };
    let text = std::str::from_utf8(text).ok()?;
    let mut ids = text.split(';').skip(1).filter_map(|field| {
        let (name, value) = field.split_once('=')?;
        (name.trim_matches(BLANKS) == "id").then(|| value.trim_matches(BLANKS))
    });
    let is_id = |id: &&str| {
        (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|it| it.is_ascii_alphanumeric())
    };
    ids.next().filter(is_id)
}

fn has_version(text: &[u8]) -> bool {
    let rest = text.strip_prefix(b"v=STSv1");
    rest.is_some_and(|rest| matches!(rest.trim_ascii_start(), [b';', ..]))
}

/// Up to ten digits.
fn seconds(text: &str) -> Option<u64> {
    let is_number = (1..=10).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

const VERSION: &str = "STSv1";
const BLANKS: [char; 2] = [' ', '\t'];
const ID_BYTES_MAX: usize = 32;
/// Longest time for which a policy may ask to be remembered (RFC 8461 §3.2).
const MAX_AGE_S_MAX: u32 = 31_557_600;
/// Patterns of one policy: four times the MX hosts that are tried, and more than anybody has.
const MX_PATTERNS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version: STSv1\r\nmode: enforce\r\nmx: mail.A.test\nmx: *.b.test \r\n\
                        future: x\r\nmode: none\r\nmax_age: 604800\r\n";

    fn record(text: &str) -> Record {
        Record::Txt(text.as_bytes().into())
    }

    #[test]
    fn a_policy_is_read_and_reads_back() {
        let policy = Policy::parse(TEXT.as_bytes()).expect("valid");
        assert_eq!(
            policy.lines(),
            [
                "version: STSv1",
                "mode: enforce",
                "mx: mail.a.test",
                "mx: *.b.test",
                "max_age: 604800"
            ]
        );
        assert_eq!(Policy::parse(policy.lines().join("\n").as_bytes()), Ok(policy));
        let none = Policy::parse(b"version:STSv1\nmode:none\nmax_age:9999999999").expect("valid");
        assert_eq!((none.mode, none.mx.len(), none.max_age_s), (Mode::None, 0, 31_557_600));
    }

    #[test]
    fn a_policy_cut_anywhere_is_the_same_or_refused() {
        let whole = Policy::parse(TEXT.as_bytes()).expect("valid");
        for end in 0..TEXT.len() {
            match Policy::parse(&TEXT.as_bytes()[..end]) {
                // Some digits of the last line may be missing.
                Ok(policy) => assert_eq!(Policy { max_age_s: 604_800, ..policy }, whole, "{end}"),
                Err(_) => assert!(end < TEXT.len() - 7, "{end}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_named() {
        let check = |text: &str, expected| {
            assert_eq!(Policy::parse(text.as_bytes()), Err(expected), "{text}");
        };
        let field = PolicyError::Field;
        check("", field("version"));
        check("version: STSv2\nmode: none\nmax_age: 1", field("version"));
        check("version: STSv1\nmode: maybe\nmax_age: 1", field("mode"));
        check("version: STSv1\nmode: none", field("max_age"));
        check("version: STSv1\nmode: none\nmax_age: -1", field("max_age"));
        check("version: STSv1\nmode: none\nmax_age: 12345678901", field("max_age"));
        check("version: STSv1\nmode: enforce\nmax_age: 1", field("mx"));
        check("version: STSv1\nmx: a b", field("mx"));
        check("version: STSv1\nmx: *.*.a.test", field("mx"));
        check("<html>", PolicyError::Line);
        let many = "mx: a.test\n".repeat(MX_PATTERNS_MAX + 1);
        check(&many, PolicyError::TooManyPatterns);
        assert_eq!(Policy::parse(b"version: STSv1\xff"), Err(PolicyError::NotText));
    }

    #[test]
    fn a_pattern_is_a_name_or_one_label_below_it() {
        let matches = |pattern: &str, host| MxPattern::parse(pattern).expect("one").matches(host);
        assert!(matches("MX.a.test.", "mx.a.test"));
        assert!(!matches("mx.a.test", "x.mx.a.test"));
        assert!(matches("*.a.test", "mx.a.test"));
        assert!(!matches("*.a.test", "a.test"));
        assert!(!matches("*.a.test", "x.mx.a.test"));
        assert!(!matches("*.a.test", "test"));
        for text in ["", ".", "*.", "*", "a..test", "*a.test", "m\u{fc}.test", "a.*.test"] {
            assert_eq!(MxPattern::parse(text), None, "{text}");
        }
    }

    #[test]
    fn one_record_announces_and_no_more() {
        let id = |texts: &[&str]| {
            let records: Vec<Record> = texts.iter().map(|text| record(text)).collect();
            announced_id(&records).map(str::to_owned)
        };
        assert_eq!(id(&["x", "v=STSv1; id=20190429T010101;"]).as_deref(), Some("20190429T010101"));
        assert_eq!(id(&["v=STSv1 ;x=y; id = 7"]).as_deref(), Some("7"));
        for texts in [
            &["v=STSv1; id=1", "v=STSv1; id=2"][..],
            &["v=STSv1; id=1", "v=STSv1; id=1"],
            &["v=STSv1"],
            &["v=STSv1;"],
            &["v=STSv1; id="],
            &["v=STSv1; id=a-b"],
            &["v=STSv1; id=012345678901234567890123456789012"],
            &["v=STSv10; id=1"],
            &[" v=STSv1; id=1"],
            &["id=1; v=STSv1"],
            &[],
        ] {
            assert_eq!(id(texts), None, "{texts:?}");
        }
        let text = "v=STSv1; id=20190429T010101";
        for end in 0..text.len() {
            let id = id(&[&text[..end]]);
            assert!(id.is_none_or(|id| "20190429T010101".starts_with(&id)), "{end}");
        }
    }
}
