//! Address lists (RFC 5322 §3.4, obsolete forms included), read forgivingly for display.
//!
//! Not for routing mail: what reaches an SMTP envelope is parsed by `mail::address`.

use super::lexer::{Lexer, is_white};

/// One entry of an address list, quotes and comments removed; encoded words stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Mailbox {
        /// The display name, or the comment that stands in for it.
        name: Option<Vec<u8>>,
        /// `@one,@two` of an obsolete source route.
        route: Option<Vec<u8>>,
        local_part: Vec<u8>,
        /// `None`: the address has no `@`.
        domain: Option<Vec<u8>>,
    },
    GroupStart {
        name: Vec<u8>,
    },
    GroupEnd,
}

/// Hands every entry of an address list to `on_entry`.
pub fn for_each_entry(body: &[u8], mut on_entry: impl FnMut(Entry)) {
    let mut lexer = Lexer::new(body);
    let mut in_group = false;
    loop {
        let (entry, end) = Draft::default().read(&mut lexer);
        if end == End::Colon && !in_group {
            in_group = true;
            on_entry(Entry::GroupStart { name: entry.phrase });
            continue;
        }
        if let Some(mailbox) = entry.into_mailbox() {
            on_entry(mailbox);
        }
        if in_group && end != End::Comma && end != End::Colon {
            in_group = false;
            on_entry(Entry::GroupEnd);
        }
        if end == End::OfField {
            return;
        }
    }
}

/// What ended an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Comma,
    /// What came was the name of a group.
    Colon,
    Semicolon,
    OfField,
}

/// An entry as far as it has been read.
#[derive(Default)]
struct Draft {
    /// All words, one space where there was white space: a display name.
    phrase: Vec<u8>,
    comment: Vec<u8>,
    /// The inside of `<...>`.
    angle: Option<Address>,
    /// The words read as an address without angle brackets.
    plain: Address,
}

#[derive(Default)]
struct Address {
    route: Option<Vec<u8>>,
    local_part: Vec<u8>,
    domain: Option<Vec<u8>>,
    /// A word that belongs to nothing has followed the domain.
    is_over: bool,
}

impl Draft {
    fn read(mut self, lexer: &mut Lexer) -> (Self, End) {
        loop {
            let spaced = lexer.skip_cfws(Some(&mut self.comment));
            let Some(octet) = lexer.peek() else {
                return (self, End::OfField);
            };
            match octet {
                b',' | b';' => {
                    lexer.bump();
                    return (self, if octet == b',' { End::Comma } else { End::Semicolon });
                }
                b':' => {
                    lexer.bump();
                    // Behind an address a colon is dirt.
                    if self.angle.is_none() && self.plain.domain.is_none() {
                        return (self, End::Colon);
                    }
                }
                b'<' => {
                    lexer.bump();
                    let address = Address::read_angle(lexer, &mut self.comment);
                    self.angle.get_or_insert(address);
                }
                b'>' | b')' => {
                    lexer.bump();
                }
                _ => {
                    let word = take_word(lexer);
                    if self.angle.is_none() {
                        if spaced && !self.phrase.is_empty() {
                            self.phrase.push(b' ');
                        }
                        self.phrase.extend_from_slice(&word.octets);
                        self.plain.push(&word, spaced);
                    }
                }
            }
        }
    }

    fn into_mailbox(self) -> Option<Entry> {
        let comment = (!self.comment.is_empty()).then_some(self.comment);
        let (address, name) = match self.angle {
            Some(address) => {
                (address, if self.phrase.is_empty() { comment } else { Some(self.phrase) })
            }
            None if self.phrase.is_empty() => return None,
            // Words without an address: shown as they are.
            None if self.plain.domain.is_none() => {
                (Address { local_part: self.phrase, ..Address::default() }, comment)
            }
            None => (self.plain, comment),
        };
        if address.local_part.is_empty() && address.domain.is_none() && name.is_none() {
            return None;
        }
        let Address { route, local_part, domain, .. } = address;
        Some(Entry::Mailbox { name, route, local_part, domain })
    }
}

impl Address {
    /// The inside of `<...>`, its first bracket taken.
    fn read_angle(lexer: &mut Lexer, comment: &mut Vec<u8>) -> Self {
        let mut address = Self::default();
        lexer.skip_cfws(None);
        if lexer.peek() == Some(b'@') {
            let route = lexer.until(|octet| matches!(octet, b':' | b'>'));
            if lexer.eat(b':') {
                address.route =
                    Some(route.iter().copied().filter(|octet| !is_white(*octet)).collect());
            }
        }
        loop {
            let spaced = lexer.skip_cfws(Some(comment));
            match lexer.peek() {
                None | Some(b',' | b';') => return address,
                Some(b'>') => {
                    lexer.bump();
                    return address;
                }
                Some(octet @ (b':' | b'<' | b')')) => {
                    lexer.bump();
                    address.push(&Word { octets: vec![octet], is_quoted: false }, spaced);
                }
                Some(_) => address.push(&take_word(lexer), spaced),
            }
        }
    }

    /// Adds a word. White space beside a dot or `@` is no part of an address; elsewhere it ends the
    /// domain, and is kept in the local-part.
    fn push(&mut self, word: &Word, spaced: bool) {
        if self.is_over {
            return;
        }
        if !word.is_quoted && word.octets == b"@" && self.domain.is_none() {
            self.domain = Some(Vec::new());
            return;
        }
        let joins = |before: &[u8]| {
            matches!(before.last(), None | Some(b'.')) || word.octets.first() == Some(&b'.')
        };
        match &mut self.domain {
            None => {
                if spaced && !joins(&self.local_part) {
                    self.local_part.push(b' ');
                }
                self.local_part.extend_from_slice(&word.octets);
            }
            Some(domain) if spaced && !joins(domain) => self.is_over = true,
            Some(domain) => domain.extend_from_slice(&word.octets),
        }
    }
}

struct Word {
    octets: Vec<u8>,
    is_quoted: bool,
}

/// A quoted string, a domain literal, `@`, or an atom with its dots.
fn take_word(lexer: &mut Lexer) -> Word {
    let mut octets = Vec::new();
    match lexer.peek() {
        Some(b'"') => {
            lexer.bump();
            lexer.quoted(&mut octets);
            return Word { octets, is_quoted: true };
        }
        Some(b'@') => {
            lexer.bump();
            octets.push(b'@');
        }
        Some(b'[') => {
            octets.extend_from_slice(lexer.until(|octet| matches!(octet, b']' | b'>' | b',')));
            if lexer.eat(b']') {
                octets.push(b']');
            }
        }
        _ => {
            let ends = |octet| is_white(octet) || b"\"@<>(),;:[".contains(&octet);
            octets.extend_from_slice(lexer.until(ends));
        }
    }
    Word { octets, is_quoted: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(octets: &[u8]) -> String {
        String::from_utf8_lossy(octets).into_owned()
    }

    /// `name|route|local-part|domain`, groups as `{name` and `}`.
    fn check(body: &str, expected: &[&str]) {
        let mut found = Vec::new();
        for_each_entry(body.as_bytes(), |entry| {
            found.push(match entry {
                Entry::GroupStart { name } => format!("{{{}", text(&name)),
                Entry::GroupEnd => "}".into(),
                Entry::Mailbox { name, route, local_part, domain } => [
                    name.map_or("-".into(), |name| text(&name)),
                    route.map_or("-".into(), |route| text(&route)),
                    text(&local_part),
                    domain.map_or("-".into(), |domain| text(&domain)),
                ]
                .join("|"),
            });
        });
        assert_eq!(found, expected, "{body:?}");
    }

    #[test]
    fn mailboxes_in_all_forms() {
        check("a@b", &["-|-|a|b"]);
        check("<boss@nil.test>, ,", &["-|-|boss|nil.test"]);
        check("\"Giant; \\\"Big\\\" Box\" <s@x>", &["Giant; \"Big\" Box|-|s|x"]);
        check("Joe Q. Public <j.q@x>", &["Joe Q. Public|-|j.q|x"]);
        check("user@domain (Real Name)", &["Real Name|-|user|domain"]);
        check("Mary\r\n\t<m (c) @ x . y (z)>", &["Mary|-|m|x.y"]);
        check("<@one , @two:a@b>", &["-|@one,@two|a|b"]);
        check("\"john doe\"@[IPv6:::1]", &["-|-|john doe|[IPv6:::1]"]);
        check("phil@x <phil@x>", &["phil@x|-|phil|x"]);
        check("\"a@b\" <c@d>", &["a@b|-|c|d"]);
        check("=?utf-8?q?a?= =?utf-8?q?b?= <a@b>", &["=?utf-8?q?a?= =?utf-8?q?b?=|-|a|b"]);
    }

    #[test]
    fn groups_begin_and_end() {
        check("g: a@b, c@d;, h:;", &["{g", "-|-|a|b", "-|-|c|d", "}", "{h", "}"]);
        check("undisclosed-recipients:;", &["{undisclosed-recipients", "}"]);
        check("open: a@b", &["{open", "-|-|a|b", "}"]);
        check(
            "one: a@b; two: c@d; e@f",
            &["{one", "-|-|a|b", "}", "{two", "-|-|c|d", "}", "-|-|e|f"],
        );
    }

    #[test]
    fn broken_lists_give_what_is_in_them() {
        check("", &[]);
        check(" , ;;", &[]);
        check("root", &["-|-|root|-"]);
        check("two words", &["-|-|two words|-"]);
        check("a@b c@d", &["-|-|a|b"]);
        check("<a@b, c@d", &["-|-|a|b", "-|-|c|d"]);
        check("\"open", &["-|-|open|-"]);
        check("(open", &[]);
        check("Name <>", &["Name|-||-"]);
        check("<mailto:l@h?x=y>", &["-|-|mailto:l|h?x=y"]);
        check("a@", &["-|-|a|"]);
    }
}
