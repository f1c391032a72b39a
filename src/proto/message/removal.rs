//! Takes named fields out of a header section while it passes, and keeps their values.

use std::rc::Rc;

/// Names of the fields to remove, in any case. At most a handful, each of at most
/// `FIELD_NAME_BYTES_MAX`.
pub type FieldNames = Rc<[Box<str>]>;

/// What was found of one name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Found {
    /// The field was not there.
    #[default]
    Nothing,
    /// Its value, unfolded, without the white space round it. Printable ASCII.
    Value(String),
    /// It came twice, is longer than `FIELD_VALUE_BYTES_MAX`, or is not printable ASCII.
    Unusable,
}

/// Content that passes in pieces of any size, lines ended by CRLF; the fields are removed up to the
/// first empty line. Memory: one line's name, and the values.
#[derive(Clone, Debug)]
pub struct FieldRemoval {
    names: FieldNames,
    state: State,
    /// The beginning of a line that may be one of the fields.
    withheld: Vec<u8>,
    value: Value,
    found: Vec<Found>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of a line, or so far within it as `withheld` is long.
    Name,
    /// In the rest of a line that is kept.
    Kept,
    /// In a line of field `index`, which is removed.
    Removed { index: usize },
    /// At the start of the line after it, which may be more of it.
    RemovedLineEnd { index: usize },
    /// Past the header section.
    Body,
}

/// The value of the field that is being removed.
#[derive(Clone, Debug, Default)]
struct Value {
    octets: Vec<u8>,
    is_too_long: bool,
}

/// How far a line's beginning says that it is one of the fields.
enum Match {
    No,
    SoFar,
    Field(usize),
}

impl FieldRemoval {
    pub fn new(names: FieldNames) -> Self {
        let found = vec![Found::Nothing; names.len()];
        let (withheld, value) = (Vec::new(), Value::default());
        Self { names, state: State::Name, withheld, value, found }
    }

    /// Takes the next piece; `keep` gets what stays of it and of what was withheld, in order.
    pub fn feed(&mut self, mut piece: &[u8], mut keep: impl FnMut(&[u8])) {
        while let Some(octet) = piece.first() {
            match self.state {
                State::Body => return keep(piece),
                State::Kept => {
                    let (line, rest) = split_line(piece);
                    keep(line);
                    if line.ends_with(b"\n") {
                        self.state = State::Name;
                    }
                    piece = rest;
                }
                State::Name if self.withheld.is_empty() && *octet == b'\r' => {
                    // An empty line ends the header section.
                    self.state = State::Body;
                }
                State::Name => {
                    self.withheld.push(*octet);
                    piece = &piece[1..];
                    match self.match_withheld() {
                        Match::SoFar => {}
                        Match::Field(index) => {
                            self.withheld.clear();
                            self.state = State::Removed { index };
                        }
                        Match::No => {
                            keep(&self.withheld);
                            // A line that is nothing but its line feed has ended with it.
                            self.state = match self.withheld.ends_with(b"\n") {
                                true => State::Name,
                                false => State::Kept,
                            };
                            self.withheld.clear();
                        }
                    }
                }
                State::Removed { index } => {
                    let (line, rest) = split_line(piece);
                    self.value.push(line);
                    if line.ends_with(b"\n") {
                        self.state = State::RemovedLineEnd { index };
                    }
                    piece = rest;
                }
                State::RemovedLineEnd { index } if matches!(octet, b' ' | b'\t') => {
                    self.state = State::Removed { index };
                }
                State::RemovedLineEnd { index } => {
                    self.end_field(index);
                    self.state = State::Name;
                }
            }
        }
    }

    /// The content has ended: `keep` gets what was withheld. Returns what was found of each name,
    /// in their order.
    pub fn finish(mut self, mut keep: impl FnMut(&[u8])) -> Vec<Found> {
        if !self.withheld.is_empty() {
            keep(&self.withheld);
        }
        if let State::Removed { index } | State::RemovedLineEnd { index } = self.state {
            self.end_field(index);
        }
        self.found
    }

    fn match_withheld(&self) -> Match {
        let withheld = self.withheld.as_slice();
        let (text, ends) = match withheld.strip_suffix(b":") {
            Some(text) => (text, true),
            None => (withheld, false),
        };
        // White space before the colon is obsolete, and was allowed (RFC 5322 §4.5).
        let name = text.trim_ascii_end();
        if name.len() + SPACES_MAX < text.len() {
            return Match::No;
        }
        let is_whole = ends || name.len() < text.len();
        let matches = |it: &str| match is_whole {
            true => it.as_bytes().eq_ignore_ascii_case(name),
            false => {
                it.get(..name.len()).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(name))
            }
        };
        match self.names.iter().position(|it| matches(it)) {
            Some(index) if ends => Match::Field(index),
            Some(_) if !withheld.ends_with(b"\r") && !withheld.ends_with(b"\n") => Match::SoFar,
            _ => Match::No,
        }
    }

    fn end_field(&mut self, index: usize) {
        let value = std::mem::take(&mut self.value);
        let found = &mut self.found[index];
        *found = match (&found, value.finish()) {
            (Found::Nothing, Some(value)) => Found::Value(value),
            _ => Found::Unusable,
        };
    }
}

impl Value {
    fn push(&mut self, line: &[u8]) {
        let is_end = |octet: &u8| matches!(octet, b'\r' | b'\n');
        for octet in line.iter().filter(|octet| !is_end(octet)) {
            let octet = if *octet == b'\t' { b' ' } else { *octet };
            if octet == b' ' && self.octets.is_empty() {
                continue;
            }
            // Room for white space at the end, which does not count.
            match self.octets.len() < 2 * FIELD_VALUE_BYTES_MAX {
                true => self.octets.push(octet),
                false => self.is_too_long |= octet != b' ',
            }
        }
    }

    fn finish(self) -> Option<String> {
        let octets = self.octets.trim_ascii_end();
        let is_usable = !self.is_too_long
            && octets.len() <= FIELD_VALUE_BYTES_MAX
            && octets.iter().all(|octet| (b' '..=b'~').contains(octet));
        is_usable.then(|| String::from_utf8_lossy(octets).into_owned())
    }
}

/// Whether a text is the name of a header field (RFC 5322 §3.6.8) that can be removed.
pub fn is_field_name(text: &str) -> bool {
    let is_ftext = |octet: u8| octet.is_ascii_graphic() && octet != b':';
    !text.is_empty() && text.len() <= FIELD_NAME_BYTES_MAX && text.bytes().all(is_ftext)
}

/// Up to and with the first line feed, and the rest.
fn split_line(piece: &[u8]) -> (&[u8], &[u8]) {
    piece.split_at(memchr::memchr(b'\n', piece).map_or(piece.len(), |at| at + 1))
}

/// Longest value that is taken from a field.
pub const FIELD_VALUE_BYTES_MAX: usize = 255;
/// Longest name of a field to remove.
const FIELD_NAME_BYTES_MAX: usize = 76;
/// White space between a name and its colon.
const SPACES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> FieldNames {
        ["X-Tenant", "X-Tenant-Id", "X-Class"].map(Box::from).into()
    }

    fn run(pieces: &[&[u8]]) -> (String, Vec<Found>) {
        let mut removal = FieldRemoval::new(names());
        let mut kept = Vec::new();
        for piece in pieces {
            removal.feed(piece, |piece| kept.extend_from_slice(piece));
            assert!(removal.withheld.len() <= FIELD_NAME_BYTES_MAX + SPACES_MAX + 1);
        }
        let found = removal.finish(|piece| kept.extend_from_slice(piece));
        (String::from_utf8(kept).expect("UTF-8"), found)
    }

    fn check(content: &str, expected: &str, found: [&str; 3]) {
        let content = content.as_bytes();
        let whole = run(&[content]);
        assert_eq!(whole.0, expected);
        let shown = whole.1.iter().map(|found| match found {
            Found::Nothing => "",
            Found::Value(value) => value,
            Found::Unusable => "?",
        });
        assert_eq!(shown.collect::<Vec<_>>(), found);
        for one in 0..=content.len() {
            for two in one..=content.len().min(one + 40) {
                let pieces = [&content[..one], &content[one..two], &content[two..]];
                assert_eq!(run(&pieces), whole, "cut at {one} and {two}");
            }
        }
    }

    #[test]
    fn named_fields_are_removed_however_the_content_is_cut() {
        check(
            "Subject: x\r\n y\r\nx-tenant: acme\r\nX-Tenants: no\r\nX-CLASS \t:\r\n  bulk\r\n\
             \t x \r\n\
             X-Ten\r\n X-Tenant: folded, not a field\r\n\r\nX-Tenant: body\r\n",
            "Subject: x\r\n y\r\nX-Tenants: no\r\n\
             X-Ten\r\n X-Tenant: folded, not a field\r\n\r\nX-Tenant: body\r\n",
            ["acme", "", "bulk  x"],
        );
        check("X-Tenant-Id:1\r\n\r\n", "\r\n", ["", "1", ""]);
        check("X-Tenant:", "", ["", "", ""]);
        check("X-Tenant", "X-Tenant", ["", "", ""]);
        check("X-Tenant\r\n: a\r\n", "X-Tenant\r\n: a\r\n", ["", "", ""]);
        check("X-Class: a", "", ["", "", "a"]);
        check("\r\nX-Class: a\r\n", "\r\nX-Class: a\r\n", ["", "", ""]);
        check("", "", ["", "", ""]);
    }

    #[test]
    fn what_comes_twice_or_cannot_be_shown_is_unusable_and_removed() {
        check("X-Class: a\r\nX-Class: a\r\nS: x\r\n", "S: x\r\n", ["", "", "?"]);
        check("X-Class: \u{fc}\r\n", "", ["", "", "?"]);
        check("X-Class: a\u{7}b\r\n", "", ["", "", "?"]);
        let fits = "x".repeat(FIELD_VALUE_BYTES_MAX);
        let padded = format!("X-Class: {fits} \r\n");
        assert_eq!(run(&[padded.as_bytes()]).1[2], Found::Value(fits.clone()));
        let long = format!("X-Class: {fits}x\r\nS: x\r\n");
        assert_eq!(
            run(&[long.as_bytes()]),
            ("S: x\r\n".into(), vec![Found::Nothing, Found::Nothing, Found::Unusable])
        );
        let endless = format!("X-Class: {}\r\nS: x\r\n", " x".repeat(100_000));
        assert_eq!(run(&[endless.as_bytes()]).0, "S: x\r\n");
    }
}
