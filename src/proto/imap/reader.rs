//! What a client sends, cut into commands (RFC 9051 §2.2).
//!
//! The driver feeds octets to `next` and acts on what it returns. Literals are gathered into the
//! command they belong to, after a continuation where the client waits for one; the messages of
//! APPEND pass through in pieces instead, once the driver has agreed. A command that cannot be used
//! is answered with BAD here, after all that belongs to it has been passed over. So commands may be
//! pipelined in any number and cut anywhere, and what is kept is bounded.

use super::append::{Append, MessageForm, NewMessage, at_message, message};
use super::command::{Command, Tag, parse, tag};
use super::cursor::{Cursor, Fault, Literal, Waits};
use super::mailbox::NameForm;
use crate::limits::{IMAP_COMMAND_BYTES_EARLY_MAX, IMAP_COMMAND_BYTES_MAX};

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// All input is consumed.
    NeedInput,
    /// The driver answers it, and says before the next call if lines of another kind follow:
    /// `expect_response` in AUTHENTICATE, `expect_done` in IDLE.
    Command { tag: Tag, command: Command },
    /// An APPEND has come to its first message. Waits for `accept_message` or `refuse_append`.
    Append(Append),
    /// The same APPEND goes on with another message (RFC 3502). Waits likewise.
    AppendNext(NewMessage),
    /// A piece of the message that was accepted.
    Content(&'i [u8]),
    /// The APPEND is whole: the driver answers it.
    AppendEnd,
    /// A line after `expect_response`, base64 as it came; `*` gives up.
    Response(Vec<u8>),
    /// DONE after `expect_done`.
    Done,
    /// BAD has been written. An APPEND, AUTHENTICATE or IDLE that was under way is over.
    Refused,
}

/// The octets of one client.
#[derive(Debug)]
pub struct Reader {
    phase: Phase,
    expected: Expected,
    /// The command as far as it has come; of one that is refused, its last octets.
    kept: Vec<u8>,
    /// Where the current line begins in `kept`: behind the last literal.
    line_start: usize,
    command_bytes_max: usize,
    names: NameForm,
    /// That of the command which is under way beyond its first line.
    tag: Option<Tag>,
    refusal: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Line,
    /// A literal that is gathered.
    Literal {
        remaining: u64,
    },
    /// A message of APPEND awaits the driver's word.
    Awaiting(Literal),
    /// A message that is handed on.
    Content {
        remaining: u64,
    },
    /// A literal of a command that is refused.
    Skip {
        remaining: u64,
    },
}

/// What the current line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Command,
    /// Behind a message of APPEND.
    AppendRest(MessageForm),
    Response,
    Done,
}

/// What will be answered when all of a command has been passed over.
#[derive(Debug)]
enum Refusal {
    Bad(Option<Tag>, Fault),
    /// The driver has answered.
    Answered,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            phase: Phase::Line,
            expected: Expected::Command,
            kept: Vec::new(),
            line_start: 0,
            command_bytes_max: IMAP_COMMAND_BYTES_EARLY_MAX,
            names: NameForm::default(),
            tag: None,
            refusal: None,
        }
    }
}

impl Reader {
    /// Commands may be long from now on.
    pub fn on_authenticated(&mut self) {
        self.command_bytes_max = IMAP_COMMAND_BYTES_MAX;
    }

    /// Names of mailboxes are written in UTF-8 from now on.
    pub fn on_utf8(&mut self) {
        self.names = NameForm::Utf8;
    }

    /// Whether nothing of a command is under way.
    pub fn is_between_commands(&self) -> bool {
        self.phase == Phase::Line && self.expected == Expected::Command && self.kept.is_empty()
    }

    /// Takes what it can from the front of `input`; returns how much, and what happened.
    ///
    /// Call again with the rest until `NeedInput`, which consumes all.
    pub fn next<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> (usize, Event<'i>) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let usable = |remaining: u64| {
                &rest[..rest.len().min(usize::try_from(remaining).unwrap_or(usize::MAX))]
            };
            if rest.is_empty() && !self.is_at_end_of_literal() {
                return (at, Event::NeedInput);
            }
            let (taken, event) = match self.phase {
                Phase::Line => self.take_line(rest, out),
                Phase::Literal { remaining } => {
                    let octets = usable(remaining);
                    self.kept.extend_from_slice(octets);
                    self.line_start = self.kept.len();
                    let remaining = remaining - octets.len() as u64;
                    self.after_literal(remaining, Phase::Literal { remaining });
                    (octets.len(), None)
                }
                Phase::Skip { remaining } => {
                    let octets = usable(remaining);
                    let remaining = remaining - octets.len() as u64;
                    self.after_literal(remaining, Phase::Skip { remaining });
                    (octets.len(), None)
                }
                Phase::Content { remaining } => {
                    let octets = usable(remaining);
                    let remaining = remaining - octets.len() as u64;
                    self.after_literal(remaining, Phase::Content { remaining });
                    (octets.len(), (!octets.is_empty()).then_some(Event::Content(octets)))
                }
                Phase::Awaiting(_) => panic!("a message waits for its answer"),
            };
            at += taken;
            if let Some(event) = event {
                return (at, event);
            }
        }
    }

    /// The driver takes the message that was announced: its octets follow.
    pub fn accept_message(&mut self, out: &mut Vec<u8>) {
        let Phase::Awaiting(literal) = self.phase else {
            panic!("no message waits for an answer");
        };
        if literal.waits == Waits::ForContinuation {
            out.extend_from_slice(CONTINUE);
        }
        self.phase = Phase::Content { remaining: literal.bytes };
    }

    /// The driver has answered the APPEND with NO: what is still to come of it is passed over.
    pub fn refuse_append(&mut self) {
        match self.phase {
            // The client sends nothing more of it.
            Phase::Awaiting(Literal { waits: Waits::ForContinuation, .. }) => self.reset(),
            Phase::Awaiting(Literal { bytes: remaining, .. }) | Phase::Content { remaining } => {
                self.refusal = Some(Refusal::Answered);
                self.phase = Phase::Skip { remaining };
            }
            // All its messages have come.
            Phase::Line if matches!(self.expected, Expected::AppendRest(_)) => {
                self.refusal = Some(Refusal::Answered);
            }
            _ => panic!("no APPEND is under way"),
        }
    }

    /// The next line answers a challenge of this AUTHENTICATE.
    pub fn expect_response(&mut self, tag: Tag) {
        self.expect(Expected::Response, tag);
    }

    /// The next line ends this IDLE.
    pub fn expect_done(&mut self, tag: Tag) {
        self.expect(Expected::Done, tag);
    }

    fn expect(&mut self, expected: Expected, tag: Tag) {
        assert!(self.is_between_commands());
        self.expected = expected;
        self.tag = Some(tag);
    }

    fn is_at_end_of_literal(&self) -> bool {
        matches!(
            self.phase,
            Phase::Literal { remaining: 0 }
                | Phase::Skip { remaining: 0 }
                | Phase::Content { remaining: 0 }
        )
    }

    fn after_literal(&mut self, remaining: u64, phase: Phase) {
        self.phase = if remaining == 0 { Phase::Line } else { phase };
    }

    fn take_line<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> (usize, Option<Event<'i>>) {
        let end = memchr::memchr(b'\n', input).map(|newline| newline + 1);
        let taken = &input[..end.unwrap_or(input.len())];
        if end.is_none() {
            self.keep(taken);
            return (taken.len(), None);
        }
        if self.kept.is_empty() && self.refusal.is_none() && taken.len() <= self.command_bytes_max {
            // The usual case: a whole command in one piece.
            return (taken.len(), self.on_line(taken, out));
        }
        self.keep(taken);
        let text = std::mem::take(&mut self.kept);
        (taken.len(), self.on_line(&text, out))
    }

    /// Adds to the command under way, unless it becomes too long.
    fn keep(&mut self, octets: &[u8]) {
        if self.refusal.is_none() && self.kept.len() + octets.len() > self.command_bytes_max {
            let known = || {
                let mut head = self.kept.clone();
                head.extend_from_slice(octets);
                tag(&mut Cursor::new(&head)).ok()
            };
            let tag = self.tag.clone().or_else(known);
            self.refusal = Some(Refusal::Bad(tag, TOO_LONG));
        }
        if self.refusal.is_none() {
            self.kept.extend_from_slice(octets);
            return;
        }
        // Enough to see whether the line ends in a literal.
        let tail = &octets[octets.len().saturating_sub(TAIL_BYTES)..];
        self.kept.extend_from_slice(tail);
        self.kept.drain(..self.kept.len().saturating_sub(TAIL_BYTES));
        self.kept.shrink_to(2 * TAIL_BYTES);
        self.line_start = 0;
    }

    /// A line is whole; `text` is the command up to it, with its line end.
    fn on_line<'i>(&mut self, text: &[u8], out: &mut Vec<u8>) -> Option<Event<'i>> {
        let line_start = std::mem::take(&mut self.line_start);
        let whole = without_line_end(text);
        let line = &whole[line_start.min(whole.len())..];
        let literal = match self.expected {
            Expected::Command | Expected::AppendRest(_) => announcement_at_end(line),
            Expected::Response | Expected::Done => None,
        };
        match literal {
            Some(literal) => self.on_literal(text, literal, out),
            None => self.on_end(whole, out),
        }
    }

    fn on_literal<'i>(
        &mut self,
        text: &[u8],
        literal: Literal,
        out: &mut Vec<u8>,
    ) -> Option<Event<'i>> {
        if self.refusal.is_some() {
            return self.pass_over(literal, out);
        }
        let whole = without_line_end(text);
        match self.expected {
            Expected::AppendRest(form) => match next_message(whole, form) {
                Ok((message, literal)) => {
                    self.expected = Expected::AppendRest(message.form);
                    self.phase = Phase::Awaiting(literal);
                    Some(Event::AppendNext(message))
                }
                Err(fault) => {
                    self.refusal = Some(Refusal::Bad(self.tag.take(), fault));
                    self.pass_over(literal, out)
                }
            },
            _ => match at_message(whole, self.names) {
                Some(Ok((append, literal))) => {
                    self.expected = Expected::AppendRest(append.message.form);
                    self.tag = Some(append.tag.clone());
                    self.phase = Phase::Awaiting(literal);
                    Some(Event::Append(append))
                }
                Some(Err((tag, fault))) => {
                    self.refusal = Some(Refusal::Bad(Some(tag), fault));
                    self.pass_over(literal, out)
                }
                None => self.gather(text, literal, out),
            },
        }
    }

    /// A literal that is an argument of its command.
    fn gather<'i>(
        &mut self,
        text: &[u8],
        literal: Literal,
        out: &mut Vec<u8>,
    ) -> Option<Event<'i>> {
        let room = self.command_bytes_max.saturating_sub(text.len());
        if literal.bytes > room as u64 {
            let tag = tag(&mut Cursor::new(text)).ok();
            self.refusal = Some(Refusal::Bad(tag, TOO_LONG));
            return self.pass_over(literal, out);
        }
        if literal.waits == Waits::ForContinuation {
            out.extend_from_slice(CONTINUE);
        }
        self.kept = text.to_vec();
        self.line_start = text.len();
        self.phase = Phase::Literal { remaining: literal.bytes };
        None
    }

    /// Goes past a literal of a command that is refused.
    fn pass_over<'i>(&mut self, literal: Literal, out: &mut Vec<u8>) -> Option<Event<'i>> {
        match literal.waits {
            Waits::ForContinuation => self.finish_refusal(out),
            Waits::No => {
                self.kept = Vec::new();
                self.phase = Phase::Skip { remaining: literal.bytes };
                None
            }
        }
    }

    /// A line ends what it belongs to.
    fn on_end<'i>(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<Event<'i>> {
        if self.refusal.is_some() {
            return self.finish_refusal(out);
        }
        let expected = self.expected;
        let tag = self.tag.clone();
        self.reset();
        let fault = match expected {
            // Stray empty lines hurt nobody.
            Expected::Command if line.is_empty() => return None,
            Expected::Command => match parse(line, self.names) {
                Ok((tag, command)) => return Some(Event::Command { tag, command }),
                Err((tag, fault)) => return Some(refuse(tag.as_ref(), fault, out)),
            },
            Expected::Response => return Some(Event::Response(line.to_vec())),
            Expected::Done if line.eq_ignore_ascii_case(b"DONE") => return Some(Event::Done),
            Expected::Done => Fault("Expected DONE"),
            Expected::AppendRest(form) => {
                let end: &[u8] = if form == MessageForm::Utf8 { b")" } else { b"" };
                if line.trim_ascii_end() == end {
                    return Some(Event::AppendEnd);
                }
                Fault("Unexpected text behind a message")
            }
        };
        Some(refuse(tag.as_ref(), fault, out))
    }

    fn finish_refusal<'i>(&mut self, out: &mut Vec<u8>) -> Option<Event<'i>> {
        let refusal = self.refusal.take();
        self.reset();
        match refusal? {
            Refusal::Bad(tag, fault) => Some(refuse(tag.as_ref(), fault, out)),
            Refusal::Answered => None,
        }
    }

    fn reset(&mut self) {
        self.phase = Phase::Line;
        self.expected = Expected::Command;
        self.kept = Vec::new();
        self.line_start = 0;
        self.tag = None;
    }
}

fn refuse<'i>(tag: Option<&Tag>, fault: Fault, out: &mut Vec<u8>) -> Event<'i> {
    for part in [tag.map_or("*", Tag::as_str), " BAD ", fault.0, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    Event::Refused
}

/// The next message of an APPEND, behind one of this form.
fn next_message(line: &[u8], form: MessageForm) -> Result<(NewMessage, Literal), Fault> {
    let mut cursor = Cursor::new(line);
    if form == MessageForm::Utf8 {
        cursor.expect(b')', "Expected )")?;
    }
    message(&mut cursor)
}

/// The literal that a line announces.
fn announcement_at_end(line: &[u8]) -> Option<Literal> {
    if !line.ends_with(b"}") {
        return None;
    }
    let start = memchr::memrchr(b'{', line)?;
    let is_binary = start > 0 && line[start - 1] == b'~';
    let mut cursor = Cursor::new(&line[start - usize::from(is_binary)..]);
    cursor.announcement().ok().filter(|_| cursor.is_empty())
}

fn without_line_end(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}

const CONTINUE: &[u8] = b"+ OK\r\n";
const TOO_LONG: Fault = Fault("Command too long");
/// Longer than any announcement with its line end.
const TAIL_BYTES: usize = 32;

#[cfg(test)]
mod tests;
