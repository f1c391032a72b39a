//! What commands are made of: atoms, strings, numbers, lists (RFC 9051 §9).

use std::borrow::Cow;

use super::flag::{Flags, SystemFlags};
use super::mailbox::{MailboxName, NameForm, decode_name};
use super::set::SequenceSet;
use super::string::is_atom_octet;

/// Why a command is no command, in words for its tagged BAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub &'static str);

pub(super) type Parsed<T> = Result<T, Fault>;

/// Reads a command from the front. Literals stand in it as they came over the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'c> {
    rest: &'c [u8],
    names: NameForm,
}

impl<'c> Cursor<'c> {
    pub fn new(text: &'c [u8]) -> Self {
        Self::with_names(text, NameForm::default())
    }

    /// Reads a command in which names are written so.
    pub fn with_names(text: &'c [u8], names: NameForm) -> Self {
        Self { rest: text, names }
    }

    pub fn rest(&self) -> &'c [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Takes `octet` if it is next.
    pub fn eat(&mut self, octet: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == octet => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Takes `text` if it is next, in any case.
    pub fn eat_text(&mut self, text: &str) -> bool {
        match self.rest.split_at_checked(text.len()) {
            Some((head, rest)) if head.eq_ignore_ascii_case(text.as_bytes()) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// One space; more are forgiven.
    pub fn space(&mut self) -> Parsed<()> {
        if !self.eat(b' ') {
            let is_over = self.is_empty();
            return Err(Fault(if is_over { "Missing argument" } else { "Expected a space" }));
        }
        while self.eat(b' ') {}
        Ok(())
    }

    /// A space if something follows; whether something does.
    pub fn more(&mut self) -> Parsed<bool> {
        if self.is_empty() {
            return Ok(false);
        }
        self.space()?;
        // A space at the very end is forgiven.
        Ok(!self.is_empty())
    }

    /// Nothing may follow but forgiven spaces.
    pub fn end(&mut self) -> Parsed<()> {
        while self.eat(b' ') {}
        if self.is_empty() { Ok(()) } else { Err(Fault("Unexpected text at the end")) }
    }

    pub fn expect(&mut self, octet: u8, fault: &'static str) -> Parsed<()> {
        if self.eat(octet) { Ok(()) } else { Err(Fault(fault)) }
    }

    pub fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'c [u8] {
        let end = self.rest.iter().position(|octet| !belongs(*octet)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    pub fn atom(&mut self) -> Parsed<&'c str> {
        self.non_empty(is_atom_octet, "Expected an atom")
    }

    /// An atom that may hold `]` too.
    pub fn astring_atom(&mut self) -> Parsed<&'c str> {
        self.non_empty(is_astring_octet, "Expected an atom or string")
    }

    /// A run of letters, digits, `-`, `.`, `_` and `=`: the names of options, keys and items.
    pub fn name(&mut self) -> Parsed<&'c str> {
        let belongs = |octet: u8| octet.is_ascii_alphanumeric() || b"-._=".contains(&octet);
        self.non_empty(belongs, "Expected a name")
    }

    fn non_empty(&mut self, belongs: impl Fn(u8) -> bool, fault: &'static str) -> Parsed<&'c str> {
        let text = self.take_while(belongs);
        let text = std::str::from_utf8(text).map_err(|_| Fault(fault))?;
        if text.is_empty() { Err(Fault(fault)) } else { Ok(text) }
    }

    /// 1..=4294967295.
    pub fn nz_number(&mut self) -> Parsed<u32> {
        self.number()?.try_into().ok().filter(|number| *number > 0).ok_or(BAD_NUMBER)
    }

    /// 0..=2^63-1, as sizes and mod-sequences are.
    pub fn number(&mut self) -> Parsed<u64> {
        let digits = self.non_empty(|octet| octet.is_ascii_digit(), BAD_NUMBER.0)?;
        digits.parse().ok().filter(|number| *number <= i64::MAX as u64).ok_or(BAD_NUMBER)
    }

    /// A quoted string or literal.
    pub fn string(&mut self) -> Parsed<Cow<'c, [u8]>> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{' | b'~') => self.literal().map(Cow::Borrowed),
            _ => Err(Fault("Expected a string")),
        }
    }

    /// A string, or `None` for NIL.
    pub fn nstring(&mut self) -> Parsed<Option<Cow<'c, [u8]>>> {
        if self.eat_text("NIL") { Ok(None) } else { self.string().map(Some) }
    }

    /// A string or an atom.
    pub fn astring(&mut self) -> Parsed<Cow<'c, [u8]>> {
        match self.peek() {
            Some(b'"' | b'{' | b'~') => self.string(),
            _ => self.astring_atom().map(|atom| Cow::Borrowed(atom.as_bytes())),
        }
    }

    fn quoted(&mut self) -> Parsed<Cow<'c, [u8]>> {
        let start = &self.rest[1..];
        let plain = start.iter().position(|octet| matches!(octet, b'"' | b'\\'));
        let plain = plain.ok_or(OPEN_QUOTE)?;
        if start[plain] == b'"' {
            self.rest = &start[plain + 1..];
            return checked_text(&start[..plain]).map(Cow::Borrowed);
        }
        let mut text = start[..plain].to_vec();
        self.rest = &start[plain..];
        loop {
            let (first, rest) = self.rest.split_first().ok_or(OPEN_QUOTE)?;
            self.rest = rest;
            match first {
                b'"' => break,
                b'\\' => {
                    let (escaped, rest) = self.rest.split_first().ok_or(OPEN_QUOTE)?;
                    self.rest = rest;
                    text.push(*escaped);
                }
                octet => text.push(*octet),
            }
        }
        checked_text(&text)?;
        Ok(Cow::Owned(text))
    }

    fn literal(&mut self) -> Parsed<&'c [u8]> {
        let literal = self.announcement()?;
        let bytes = usize::try_from(literal.bytes).map_err(|_| BAD_LITERAL)?;
        let rest = self.rest.strip_prefix(b"\r").unwrap_or(self.rest);
        let rest = rest.strip_prefix(b"\n").ok_or(BAD_LITERAL)?;
        let (octets, rest) = rest.split_at_checked(bytes).ok_or(BAD_LITERAL)?;
        if literal.encoding == LiteralEncoding::Text && memchr::memchr(0, octets).is_some() {
            return Err(Fault("NUL in a literal"));
        }
        self.rest = rest;
        Ok(octets)
    }

    /// `{5}`, `{5+}`, `~{5}`, without the line end behind it.
    pub fn announcement(&mut self) -> Parsed<Literal> {
        let encoding = if self.eat(b'~') { LiteralEncoding::Binary } else { LiteralEncoding::Text };
        self.expect(b'{', "Expected a literal")?;
        let bytes = self.number()?;
        let waits = if self.eat(b'+') { Waits::No } else { Waits::ForContinuation };
        self.expect(b'}', BAD_LITERAL.0)?;
        Ok(Literal { bytes, waits, encoding })
    }

    pub fn mailbox(&mut self) -> Parsed<MailboxName> {
        let name = self.astring()?;
        MailboxName::parse_as(&name, self.names).ok_or(Fault("Bad mailbox name"))
    }

    /// A name or a pattern of names as people read it.
    pub fn decode_name(&self, text: &[u8]) -> Parsed<String> {
        decode_name(text, self.names).ok_or(Fault("Bad mailbox name"))
    }

    /// Items between parentheses, separated by spaces; `()` gives none.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.expect(b'(', "Expected a list in parentheses")?;
        let mut items = Vec::new();
        while self.eat(b' ') {}
        while !self.eat(b')') {
            if !items.is_empty() {
                self.space()?;
                if self.eat(b')') {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub fn sequence_set(&mut self) -> Parsed<SequenceSet> {
        let belongs = |octet: u8| octet.is_ascii_digit() || b":,*".contains(&octet);
        SequenceSet::parse(self.take_while(belongs)).ok_or(Fault("Bad sequence set"))
    }

    /// Flags between parentheses. `\Recent` cannot be set and is passed over.
    pub fn flag_list(&mut self) -> Parsed<Flags> {
        let mut flags = Flags::default();
        self.list(|cursor| cursor.flag(&mut flags))?;
        Ok(flags)
    }

    pub fn flag(&mut self, flags: &mut Flags) -> Parsed<()> {
        if self.peek() != Some(b'\\') {
            flags.add_keyword(self.atom()?);
            return Ok(());
        }
        let name = self.take_while(|octet| octet == b'\\' || is_atom_octet(octet));
        match SystemFlags::from_name(name) {
            Some(flag) => flags.system = flags.system.with(flag),
            None if name.eq_ignore_ascii_case(b"\\Recent") => {}
            None => return Err(Fault("Unknown system flag")),
        }
        Ok(())
    }
}

/// The announcement of a literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Literal {
    pub bytes: u64,
    pub waits: Waits,
    pub encoding: LiteralEncoding,
}

/// Whether the client waits before it sends a literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    ForContinuation,
    /// RFC 7888.
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteralEncoding {
    Text,
    /// `literal8`: NUL may occur.
    Binary,
}

fn is_astring_octet(octet: u8) -> bool {
    is_atom_octet(octet) || octet == b']'
}

/// No CR, LF or NUL, and nothing that is not UTF-8.
fn checked_text(text: &[u8]) -> Parsed<&[u8]> {
    let is_clean = !text.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0));
    if is_clean && std::str::from_utf8(text).is_ok() {
        Ok(text)
    } else {
        Err(Fault("Bad octet in a quoted string"))
    }
}

const BAD_NUMBER: Fault = Fault("Bad number");
const BAD_LITERAL: Fault = Fault("Bad literal");
const OPEN_QUOTE: Fault = Fault("Missing closing quote");
