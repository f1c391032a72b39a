//! Patterns of mailbox names (RFC 9051 §6.3.9): `*` stands for anything, `%` for anything without a
//! hierarchy separator. `Pure.`

use crate::limits::MAILBOX_NAME_BYTES_MAX;
use crate::proto::imap::mailbox::HIERARCHY_SEPARATOR;

/// A pattern, with its reference in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
    /// Longer than any name: it matches none.
    is_too_long: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Octet(u8),
    /// `%`
    Level,
    /// `*`
    Anything,
}

impl Pattern {
    pub fn new(reference: &str, pattern: &str) -> Pattern {
        let mut tokens: Vec<Token> = Vec::new();
        let text = [reference, pattern].concat();
        for octet in text.bytes() {
            match (octet, tokens.last()) {
                // A run of wildcards is one.
                (b'*' | b'%', Some(Token::Anything)) | (b'%', Some(Token::Level)) => {}
                (b'*', Some(Token::Level)) => {
                    tokens.pop();
                    tokens.push(Token::Anything);
                }
                (b'*', _) => tokens.push(Token::Anything),
                (b'%', _) => tokens.push(Token::Level),
                (octet, _) => tokens.push(Token::Octet(octet)),
            }
        }
        let octets = tokens.iter().filter(|token| matches!(token, Token::Octet(_))).count();
        let is_too_long = octets > MAILBOX_NAME_BYTES_MAX;
        if is_too_long {
            tokens = Vec::new();
        }
        Pattern { tokens, is_too_long }
    }

    /// Steps that a comparison with one name may take.
    pub fn cost(&self) -> usize {
        self.tokens.len() * MAILBOX_NAME_BYTES_MAX
    }

    /// Whether a level of the hierarchy is meant although it is no mailbox (RFC 3501 §6.3.8).
    pub fn ends_in_level(&self) -> bool {
        self.tokens.last() == Some(&Token::Level)
    }

    pub fn matches(&self, name: &str) -> bool {
        if self.is_too_long {
            return false;
        }
        // INBOX is that in any case, also where names stand below it.
        let inbox_bytes = match name.strip_prefix(INBOX) {
            Some(rest) if rest.is_empty() || rest.starts_with(HIERARCHY_SEPARATOR) => INBOX.len(),
            _ => 0,
        };
        // Which tokens may come next, after each octet of the name.
        let mut next = vec![false; self.tokens.len() + 1];
        next[0] = true;
        self.pass_wildcards(&mut next);
        for (index, octet) in name.bytes().enumerate() {
            let is_next = |token: &Token| match token {
                Token::Octet(known) if index < inbox_bytes => known.eq_ignore_ascii_case(&octet),
                Token::Octet(known) => *known == octet,
                Token::Level | Token::Anything => false,
            };
            let mut is_possible = false;
            for at in (0..=self.tokens.len()).rev() {
                let stays = next[at]
                    && match self.tokens.get(at) {
                        Some(Token::Anything) => true,
                        Some(Token::Level) => octet != HIERARCHY_SEPARATOR as u8,
                        Some(Token::Octet(_)) | None => false,
                    };
                let comes = at > 0 && next[at - 1] && is_next(&self.tokens[at - 1]);
                next[at] = stays || comes;
                is_possible |= next[at];
            }
            if !is_possible {
                return false;
            }
            self.pass_wildcards(&mut next);
        }
        next[self.tokens.len()]
    }

    /// A wildcard may stand for nothing.
    fn pass_wildcards(&self, next: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            if next[at] && !matches!(token, Token::Octet(_)) {
                next[at + 1] = true;
            }
        }
    }
}

const INBOX: &str = "INBOX";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_levels_and_for_anything() {
        let check = |pattern: &str, matching: &[&str]| {
            let names = ["INBOX", "INBOX/a", "a", "a/b", "a/b/c", "ab", "b/a", "Entwürfe", "50%"];
            let pattern = Pattern::new("", pattern);
            let found: Vec<&str> = names.into_iter().filter(|name| pattern.matches(name)).collect();
            assert_eq!(found, matching, "{pattern:?}");
        };
        let all = ["INBOX", "INBOX/a", "a", "a/b", "a/b/c", "ab", "b/a", "Entwürfe", "50%"];
        check("*", &all);
        check("**%*", &all);
        check("%", &["INBOX", "a", "ab", "Entwürfe", "50%"]);
        check("%%", &["INBOX", "a", "ab", "Entwürfe", "50%"]);
        check("a%", &["a", "ab"]);
        check("a*", &["a", "a/b", "a/b/c", "ab"]);
        check("a/%", &["a/b"]);
        check("%/%", &["INBOX/a", "a/b", "b/a"]);
        check("*b", &["a/b", "ab"]);
        check("*a*", &["INBOX/a", "a", "a/b", "a/b/c", "ab", "b/a"]);
        check("inbox", &["INBOX"]);
        check("Inbox/%", &["INBOX/a"]);
        check("inbox*", &["INBOX", "INBOX/a"]);
        check("InB%", &["INBOX"]);
        check("%box/A", &[]);
        check("a", &["a"]);
        check("", &[]);
        check("%ü%", &["Entwürfe"]);
        check("A", &[]);
    }

    #[test]
    fn a_reference_stands_in_front() {
        assert!(Pattern::new("a/", "%").matches("a/b"));
        assert!(!Pattern::new("a/", "%").matches("b/a"));
        assert!(Pattern::new("in", "box").matches("INBOX"));
    }

    #[test]
    fn a_pattern_costs_what_its_length_allows() {
        let nasty = "%*a".repeat(20_000);
        assert!(!Pattern::new("", &nasty).matches(&"a".repeat(MAILBOX_NAME_BYTES_MAX)));
        let nasty = "*a".repeat(MAILBOX_NAME_BYTES_MAX);
        assert!(Pattern::new("", &nasty).matches(&"a".repeat(MAILBOX_NAME_BYTES_MAX)));
        assert!(!Pattern::new("", &nasty).matches(&"a".repeat(MAILBOX_NAME_BYTES_MAX - 1)));
    }
}
