//! What a rule compares with. Each reads what an operator writes, and compares without allocating.

use regex_automata::Input;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;

use crate::limits::{REPLY_EXPRESSION_BYTES_MAX, REPLY_PATTERN_BYTES_MAX};
use crate::mail::EnhancedStatusCode;

/// `421`, `45x`, `4xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePattern {
    first: u16,
    last: u16,
}

impl CodePattern {
    pub fn parse(text: &str) -> Option<CodePattern> {
        let digit_count = text.trim_end_matches(['x', 'X']).len();
        let digits = &text[..digit_count];
        let is_code = text.len() == 3
            && text.starts_with(['2', '3', '4', '5'])
            && digits.bytes().all(|octet| octet.is_ascii_digit());
        if !is_code {
            return None;
        }
        let span = 10_u16.pow(3 - digit_count as u32);
        let first = digits.parse::<u16>().ok()? * span;
        Some(CodePattern { first, last: first + span - 1 })
    }

    pub fn matches(self, code: u16) -> bool {
        (self.first..=self.last).contains(&code)
    }
}

/// `5.1.1`, `4.7.*`, `*.2.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPattern {
    class: Option<u16>,
    subject: Option<u16>,
    detail: Option<u16>,
}

impl StatusPattern {
    pub fn parse(text: &str) -> Option<StatusPattern> {
        let mut numbers = text.split('.').map(|number| match number {
            "*" => Some(None),
            _ if number.is_empty() || number.len() > 3 => None,
            _ if !number.bytes().all(|octet| octet.is_ascii_digit()) => None,
            _ => number.parse().ok().map(Some),
        });
        let mut next = || numbers.next().flatten();
        let pattern = StatusPattern { class: next()?, subject: next()?, detail: next()? };
        let class_is_right = matches!(pattern.class, None | Some(2 | 4 | 5));
        (class_is_right && numbers.next().is_none()).then_some(pattern)
    }

    pub fn matches(self, status: EnhancedStatusCode) -> bool {
        let fits = |wanted: Option<u16>, number| wanted.is_none_or(|wanted| wanted == number);
        fits(self.class, u16::from(status.class))
            && fits(self.subject, status.subject)
            && fits(self.detail, status.detail)
    }
}

/// A name, or one with a `*` somewhere: `*.example.test`, `mx-*`. Case does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    start: Box<str>,
    /// What follows the `*`; `None` without one.
    end: Option<Box<str>>,
}

impl NamePattern {
    pub fn parse(text: &str) -> Option<NamePattern> {
        let (start, end) = match text.split_once('*') {
            Some((start, end)) => (start, Some(end)),
            None => (text, None),
        };
        let is_one = !text.is_empty() && end.is_none_or(|end| !end.contains('*'));
        is_one.then(|| NamePattern { start: start.into(), end: end.map(Into::into) })
    }

    pub fn matches(&self, name: &str) -> bool {
        let (name, start) = (name.as_bytes(), self.start.as_bytes());
        let Some(end) = self.end.as_deref().map(str::as_bytes) else {
            return name.eq_ignore_ascii_case(start);
        };
        name.len() >= start.len() + end.len()
            && name[..start.len()].eq_ignore_ascii_case(start)
            && name[name.len() - end.len()..].eq_ignore_ascii_case(end)
    }

    /// Whether a site is meant, said in words: `smtp://192.0.2.1:25`, `smtp://mx1.a.test:25`,
    /// `mx://mx1.a.test,mx2.a.test`, each with the domain that it is for behind a `#` where there
    /// is one. As a whole, without the scheme, and by the name of any of its hosts.
    pub fn matches_site(&self, site: &str) -> bool {
        let site = site.split_once('#').map_or(site, |(site, _)| site);
        let Some((scheme, place)) = site.split_once("://") else { return self.matches(site) };
        if self.matches(site) || self.matches(place) {
            return true;
        }
        match scheme {
            "mx" => place.split(',').any(|host| self.matches(host)),
            _ => place.rsplit_once(':').is_some_and(|(host, _)| self.matches(host)),
        }
    }
}

/// As it was written.
impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.end {
            Some(end) => write!(f, "{}*{end}", self.start),
            None => f.write_str(&self.start),
        }
    }
}

/// A regular expression over folded text, as a finished table.
#[derive(Clone)]
pub struct Expression {
    source: Box<str>,
    table: dense::DFA<Vec<u32>>,
}

impl Expression {
    /// The error says in one line what is wrong.
    pub fn parse(text: &str) -> Result<Expression, String> {
        if text.is_empty() || text.len() > REPLY_PATTERN_BYTES_MAX {
            return Err(format!("expected 1 to {REPLY_PATTERN_BYTES_MAX} octets"));
        }
        // ASCII only: that keeps the tables small, and `\b` what it can be in a table.
        let syntax = syntax::Config::new().unicode(false).utf8(false).case_insensitive(true);
        let nfa = thompson::Config::new()
            .utf8(false)
            .which_captures(thompson::WhichCaptures::None)
            .nfa_size_limit(Some(REPLY_EXPRESSION_BYTES_MAX));
        let config = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(REPLY_EXPRESSION_BYTES_MAX))
            .determinize_size_limit(Some(REPLY_EXPRESSION_BYTES_MAX));
        let table = dense::Builder::new()
            .configure(config)
            .syntax(syntax.nest_limit(NESTING_MAX))
            .thompson(nfa)
            .build(text)
            .map_err(|error| reason(&error))?;
        if table.has_empty() && table_matches(&table, b"") {
            return Err("it matches every text".to_owned());
        }
        Ok(Expression { source: text.into(), table })
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        table_matches(&self.table, text)
    }
}

fn table_matches(table: &dense::DFA<Vec<u32>>, text: &[u8]) -> bool {
    // Without Unicode word boundaries there is no octet at which the search could give up.
    matches!(table.try_search_fwd(&Input::new(text).earliest(true)), Ok(Some(_)))
}

/// The last line of what went wrong: the lines before it draw the expression.
fn reason(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let text = deepest.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

/// A plain text as it is compared; `None` when nothing is left to compare, or too much.
pub fn fold_text(text: &str) -> Option<Box<str>> {
    let mut folded = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c.is_ascii_whitespace() { ' ' } else { c.to_ascii_lowercase() };
        if c != ' ' || !folded.ends_with(' ') {
            folded.push(c);
        }
    }
    let is_text = !folded.trim().is_empty() && folded.len() <= REPLY_PATTERN_BYTES_MAX;
    is_text.then(|| folded.into())
}

/// Parentheses within parentheses.
const NESTING_MAX: u32 = 20;
