//! What a next hop's reply means, and what follows from it: rules in order, the first that matches
//! decides; where none does, the enhanced status code, then the reply code.
//!
//! Only replies other than 2xx are judged. Judging allocates nothing and takes no lock: one pass
//! over the text finds every plain text of every rule, expressions are finished tables.

mod pattern;

use std::time::Duration;

use aho_corasick::automaton::OverlappingState;
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::limits::{REPLY_RULES_MAX, REPLY_TEXT_JUDGED_BYTES_MAX, REPLY_TEXTS_MAX};
use crate::mail::{EnhancedStatusCode, Outcome, Reply, ReplyClass};

pub use pattern::{CodePattern, Expression, NamePattern, StatusPattern, fold_text};

/// Rules, ready to judge. Immutable: shards share them.
pub struct Rules {
    rules: Vec<Rule>,
    /// For each rule its plain texts, as positions in `texts`.
    rule_texts: Vec<Box<[u16]>>,
    /// Every plain text of the rules once; `None` when there is none.
    texts: Option<AhoCorasick>,
}

/// What has to hold, and what follows. Of a list one entry has to match; an empty one always does.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub codes: Vec<CodePattern>,
    pub statuses: Vec<StatusPattern>,
    /// Folded by `fold_text`, not empty.
    pub texts: Vec<Box<str>>,
    pub expressions: Vec<Expression>,
    pub sites: Vec<NamePattern>,
    pub domains: Vec<NamePattern>,
    pub sources: Vec<NamePattern>,
    pub tenants: Vec<NamePattern>,
    pub class: ReplyClass,
    /// Failed or Delayed, whatever the reply code says.
    pub outcome: Option<Outcome>,
    pub effect: Option<Effect>,
}

/// What a reply does to the mail that comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connections, and the rates that a `[[limit]]` gives, go down to one in `factor`.
    Slow { factor: u32, period: Duration },
    /// Nothing goes out.
    Suspend { scope: Scope, period: Duration },
    /// The site takes no mail at all: what waits for it is Failed.
    Dead,
}

/// Whose mail is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Site,
    SiteAndSource,
    SiteAndTenant,
}

/// A reply and where it was given. Names that nobody knows are empty.
#[derive(Clone, Copy, Debug)]
pub struct ReplyContext<'a> {
    pub reply: &'a Reply,
    /// The next hop.
    pub site: &'a str,
    /// Of the recipient.
    pub domain: &'a str,
    /// What we send from.
    pub source: &'a str,
    pub tenant: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub class: ReplyClass,
    /// In place of what the reply code says.
    pub outcome: Option<Outcome>,
    pub effect: Option<Effect>,
    /// Position of the rule that decided, 0-based; `None` where the codes did.
    pub rule: Option<usize>,
}

/// More rules or texts than `limits` allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRules;

impl Rules {
    pub fn new(rules: Vec<Rule>) -> Result<Rules, TooManyRules> {
        if rules.len() > REPLY_RULES_MAX {
            return Err(TooManyRules);
        }
        let mut texts: Vec<&str> =
            rules.iter().flat_map(|rule| &rule.texts).map(|it| &**it).collect();
        texts.sort_unstable();
        texts.dedup();
        if texts.len() > REPLY_TEXTS_MAX {
            return Err(TooManyRules);
        }
        let position = |text: &str| texts.binary_search(&text).expect("every text is in it") as u16;
        let rule_texts = rules
            .iter()
            .map(|rule| rule.texts.iter().map(|text| position(text)).collect())
            .collect();
        let texts = if texts.is_empty() {
            None
        } else {
            let mut builder = AhoCorasick::builder();
            builder.kind(Some(AhoCorasickKind::ContiguousNFA)).match_kind(MatchKind::Standard);
            Some(builder.build(&texts).map_err(|_| TooManyRules)?)
        };
        Ok(Rules { rules, rule_texts, texts })
    }

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Judges a reply other than 2xx.
    pub fn judge(&self, context: &ReplyContext<'_>) -> Judgement {
        let mut room = [0; REPLY_TEXT_JUDGED_BYTES_MAX];
        let text = fold(&context.reply.text, &mut room);
        let found = self.find_texts(text);
        // qmail and others write the code into the text: `no such mailbox (#5.1.1)`.
        let status = context.reply.status.or_else(|| status_within(text));
        for (index, (rule, texts)) in self.rules.iter().zip(&self.rule_texts).enumerate() {
            if found.has_one_of(texts) && rule.matches(context, status, text) {
                let Rule { class, outcome, effect, .. } = *rule;
                return Judgement { class, outcome, effect, rule: Some(index) };
            }
        }
        let class = status
            .and_then(ReplyClass::of_status)
            .unwrap_or(ReplyClass::of_code(context.reply.code));
        Judgement { class, outcome: None, effect: None, rule: None }
    }

    fn find_texts(&self, text: &[u8]) -> Found {
        let mut found = Found([0; REPLY_TEXTS_MAX / 64]);
        let Some(texts) = &self.texts else { return found };
        let mut state = OverlappingState::start();
        loop {
            texts.find_overlapping(text, &mut state);
            let Some(hit) = state.get_match() else { return found };
            let position = hit.pattern().as_usize();
            found.0[position / 64] |= 1 << (position % 64);
        }
    }
}

impl Rule {
    /// Whether everything but the plain texts matches.
    fn matches(
        &self,
        context: &ReplyContext<'_>,
        status: Option<EnhancedStatusCode>,
        text: &[u8],
    ) -> bool {
        one_of(&self.codes, |it| it.matches(context.reply.code))
            && one_of(&self.statuses, |it| status.is_some_and(|status| it.matches(status)))
            && one_of(&self.sites, |it| it.matches_site(context.site))
            && one_of(&self.domains, |it| it.matches(context.domain))
            && one_of(&self.sources, |it| it.matches(context.source))
            && one_of(&self.tenants, |it| it.matches(context.tenant))
            && one_of(&self.expressions, |it| it.matches(text))
    }
}

fn one_of<T>(patterns: &[T], matches: impl Fn(&T) -> bool) -> bool {
    patterns.is_empty() || patterns.iter().any(matches)
}

/// One bit for each plain text that the reply holds.
struct Found([u64; REPLY_TEXTS_MAX / 64]);

impl Found {
    fn has_one_of(&self, texts: &[u16]) -> bool {
        one_of(texts, |it| self.0[usize::from(*it) / 64] & (1 << (it % 64)) != 0)
    }
}

/// Two files that say the same make the same rules.
impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rules({})", self.rules.len())
    }
}

/// Lower case, each run of white space one space: what was broken over lines reads as one.
fn fold<'a>(text: &str, room: &'a mut [u8; REPLY_TEXT_JUDGED_BYTES_MAX]) -> &'a [u8] {
    let mut count = 0;
    for octet in text.trim_ascii().bytes() {
        if count == room.len() {
            break;
        }
        let folded = if octet.is_ascii_whitespace() { b' ' } else { octet.to_ascii_lowercase() };
        if folded == b' ' && count > 0 && room[count - 1] == b' ' {
            continue;
        }
        room[count] = folded;
        count += 1;
    }
    &room[..count]
}

/// The enhanced status code behind a `#`, or one that stands at the start.
fn status_within(text: &[u8]) -> Option<EnhancedStatusCode> {
    let at = memchr::memchr(b'#', text).map_or(0, |at| at + 1);
    let end = text[at..]
        .iter()
        .position(|octet| !octet.is_ascii_digit() && *octet != b'.')
        .map_or(text.len(), |length| at + length);
    EnhancedStatusCode::parse_prefix(&text[at..end]).map(|(status, _)| status)
}

const _: () = assert!(REPLY_TEXTS_MAX.is_multiple_of(64));
const _: () = assert!(REPLY_TEXTS_MAX <= u16::MAX as usize);

#[cfg(test)]
mod tests;
