//! The MIME scanner: finds the parts of a message while its content streams by.
//!
//! Boundaries count at the start of a line only. As RFC 2046 §5.1.1 asks, a boundary line needs to
//! begin with the boundary; where several open boundaries fit, the longest is meant, and of equals
//! the innermost. An outer boundary ends all that is inside. Whatever the octets are, parts lie
//! within the part they stand in, and memory is bounded by `MIME_PARTS_MAX` and
//! `MIME_KEPT_BYTES_MAX`.

use memchr::{memchr, memchr_iter, memmem};

use super::field::{FieldName, Scope, without_line_end};
use super::media_type::MediaType;
use super::structure::{KeptField, Part, PartKind, Structure};
use crate::limits::{
    MIME_BOUNDARY_BYTES_MAX, MIME_DEPTH_MAX, MIME_FIELD_BYTES_MAX, MIME_KEPT_BYTES_MAX,
    MIME_PARTS_MAX,
};

/// The structure of content that is at hand as a whole.
pub fn scan(content: &[u8]) -> Structure {
    let mut scanner = Scanner::default();
    scanner.feed(content);
    scanner.finish()
}

/// A scan under way.
#[derive(Debug)]
pub struct Scanner {
    structure: Structure,
    /// The parts the next octet is in, outermost first.
    open: Vec<Open>,
    place: Place,
    at: At,
    /// Octets consumed.
    position: u64,
    /// Line ends consumed.
    line_count: u64,
    /// Where the current line begins.
    line_start: u64,
    /// Octets of the line end before the current line.
    newline_bytes: u64,
    last_is_cr: bool,
    /// The beginning of the current line, while it is not clear what the line is.
    head: Vec<u8>,
    /// The field under way is kept.
    is_keeping: bool,
    /// Open parts with a boundary.
    boundary_count: usize,
    /// `MIME_PARTS_MAX` was met: boundaries do not count any more.
    is_frozen: bool,
}

/// A part whose end has not been met.
#[derive(Debug)]
struct Open {
    part: usize,
    /// Line ends before its body.
    lines_before: u64,
    /// That of a multipart.
    boundary: Option<Box<[u8]>>,
    /// The closing boundary has been met: an epilogue follows.
    is_closed: bool,
    is_digest: bool,
}

/// What the current line belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header,
    /// The empty line behind a header section.
    HeaderEnd,
    Body,
    /// A boundary line with a part behind it.
    Separator,
    /// A boundary line with an epilogue behind it.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In the octets that `head` gathers.
    LineStart,
    /// Past what is looked at of the line.
    Line,
}

impl Default for Scanner {
    fn default() -> Self {
        let mut scanner = Self {
            structure: Structure::default(),
            open: Vec::new(),
            place: Place::Header,
            at: At::LineStart,
            position: 0,
            line_count: 0,
            line_start: 0,
            newline_bytes: 0,
            last_is_cr: false,
            head: Vec::new(),
            is_keeping: false,
            boundary_count: 0,
            is_frozen: false,
        };
        scanner.begin_part();
        scanner
    }
}

impl Scanner {
    /// Looks at the next piece of content.
    pub fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let taken = match (self.at, self.place) {
                (At::LineStart, _) => self.take_line_start(piece),
                (At::Line, Place::Body) => self.take_body(piece),
                (At::Line, _) => self.take_rest_of_line(piece),
            };
            piece = &piece[taken..];
        }
    }

    /// The structure, once all content has passed.
    pub fn finish(mut self) -> Structure {
        if !self.head.is_empty() {
            self.decide();
        }
        if self.place == Place::Separator {
            self.begin_part();
        }
        self.close_inside(0, self.position, 0);
        self.structure
    }

    /// Gathers the beginning of a line until it is clear what the line is.
    fn take_line_start(&mut self, piece: &[u8]) -> usize {
        let may_be_boundary =
            self.watches_boundaries() && (piece[0] == b'-' || self.head.len() >= 2);
        if self.place == Place::Body && !may_be_boundary {
            self.head.clear();
            self.at = At::Line;
            return 0;
        }
        let window = &piece[..piece.len().min(HEAD_BYTES_MAX - self.head.len())];
        let end = memchr(b'\n', window).map(|newline| newline + 1);
        let taken = end.unwrap_or(window.len());
        self.head.extend_from_slice(&window[..taken]);
        self.position += taken as u64;
        if end.is_some() || self.head.len() == HEAD_BYTES_MAX {
            self.decide();
        }
        taken
    }

    /// Passes over, or keeps, what is left of a line.
    fn take_rest_of_line(&mut self, piece: &[u8]) -> usize {
        let end = memchr(b'\n', piece).map(|newline| newline + 1);
        let taken = &piece[..end.unwrap_or(piece.len())];
        if self.is_keeping {
            self.keep(taken);
        }
        self.consume(taken, end.is_some());
        taken.len()
    }

    /// Passes over body up to a line that may be a boundary.
    fn take_body(&mut self, piece: &[u8]) -> usize {
        if !self.watches_boundaries() {
            self.line_count += memchr_iter(b'\n', piece).count() as u64;
            self.position += piece.len() as u64;
            return piece.len();
        }
        let newline = memmem::find(piece, b"\n--").or_else(|| match piece {
            [.., b'\n'] => Some(piece.len() - 1),
            [.., b'\n', b'-'] => Some(piece.len() - 2),
            _ => None,
        });
        let taken = &piece[..newline.map_or(piece.len(), |newline| newline + 1)];
        let whole_lines = &piece[..newline.unwrap_or(piece.len())];
        self.line_count += memchr_iter(b'\n', whole_lines).count() as u64;
        self.consume(taken, newline.is_some());
        taken.len()
    }

    /// Moves past octets; with their line end, when they have one, the line is over.
    fn consume(&mut self, octets: &[u8], ends_line: bool) {
        self.position += octets.len() as u64;
        if ends_line {
            let is_crlf = match octets {
                [.., before, _] => *before == b'\r',
                _ => self.last_is_cr,
            };
            self.on_line_end(is_crlf);
        } else {
            self.last_is_cr = octets.last() == Some(&b'\r');
        }
    }

    fn on_line_end(&mut self, is_crlf: bool) {
        self.line_count += 1;
        self.line_start = self.position;
        self.newline_bytes = 1 + u64::from(is_crlf);
        self.last_is_cr = false;
        self.at = At::LineStart;
        match self.place {
            Place::Header | Place::Body => {}
            Place::HeaderEnd => self.on_header_end(),
            Place::Separator => self.begin_part(),
            Place::Close => self.place = Place::Body,
        }
    }

    /// Judges a line by its beginning.
    fn decide(&mut self) {
        let mut head = std::mem::take(&mut self.head);
        self.at = At::Line;
        match self.find_boundary(&head) {
            Some((level, place)) => {
                self.close_inside(level + 1, self.line_start, self.newline_bytes);
                self.open[level].is_closed = place == Place::Close;
                self.place = place;
            }
            None if self.place == Place::Header => self.on_header_line(&head),
            None => {}
        }
        match head.as_slice() {
            [before @ .., b'\n'] => self.on_line_end(before.ends_with(b"\r")),
            head => self.last_is_cr = head.ends_with(b"\r"),
        }
        head.clear();
        self.head = head;
    }

    fn watches_boundaries(&self) -> bool {
        self.boundary_count > 0 && !self.is_frozen
    }

    /// The level in `open` that a line is a boundary of, and what it is to it.
    fn find_boundary(&mut self, head: &[u8]) -> Option<(usize, Place)> {
        let candidate = head.strip_prefix(b"--").filter(|_| self.watches_boundaries())?;
        let mut best: Option<(usize, usize, bool)> = None;
        for (level, open) in self.open.iter().enumerate().rev() {
            let Some(boundary) = open.boundary.as_deref() else { continue };
            let is_better = best.is_none_or(|(_, length, is_closed)| {
                boundary.len() > length || (boundary.len() == length && is_closed)
            });
            if is_better && candidate.starts_with(boundary) {
                best = Some((level, boundary.len(), open.is_closed));
            }
        }
        // In an epilogue its own boundary is text.
        let (level, length, _) = best.filter(|(_, _, is_closed)| !is_closed)?;
        if candidate[length..].starts_with(b"--") {
            return Some((level, Place::Close));
        }
        if self.structure.parts.len() >= MIME_PARTS_MAX {
            self.is_frozen = true;
            self.structure.is_truncated = true;
            return None;
        }
        Some((level, Place::Separator))
    }

    fn on_header_line(&mut self, head: &[u8]) {
        match head {
            b"\r\n" | b"\n" => {
                self.end_field();
                self.place = Place::HeaderEnd;
            }
            [b' ' | b'\t', ..] if self.is_keeping => self.keep(head),
            [b' ' | b'\t', ..] => {}
            _ => {
                self.end_field();
                self.begin_field(head);
            }
        }
    }

    fn begin_field(&mut self, head: &[u8]) {
        let Some(colon) = memchr(b':', head) else { return };
        let Some(name) = FieldName::from_octets(head[..colon].trim_ascii_end()) else { return };
        let index = self.current().part;
        let scope = match index {
            0 => Scope::Root,
            _ if self.structure.is_message(index) => Scope::Message,
            _ => Scope::Part,
        };
        if name.scope() > scope {
            return;
        }
        if self.structure.text.len() == MIME_KEPT_BYTES_MAX {
            // Fields without a body would be without a bound.
            self.structure.is_truncated = true;
        } else {
            let start = self.structure.text.len();
            let body = start + colon + 1..start;
            self.structure.fields.push(KeptField { name, whole: start..start, body });
            self.is_keeping = true;
            self.keep(head);
        }
    }

    fn keep(&mut self, octets: &[u8]) {
        let Structure { fields, text, .. } = &mut self.structure;
        let start = fields.last().expect("a field is being kept").whole.start;
        let room = (MIME_FIELD_BYTES_MAX - (text.len() - start))
            .min(MIME_KEPT_BYTES_MAX - text.len())
            .min(octets.len());
        text.extend_from_slice(&octets[..room]);
        self.structure.is_truncated |= room < octets.len();
    }

    fn end_field(&mut self) {
        if !std::mem::take(&mut self.is_keeping) {
            return;
        }
        let index = self.current().part;
        let Structure { fields, text, parts, .. } = &mut self.structure;
        parts[index].fields.end = fields.len();
        let field = fields.last_mut().expect("a field was kept");
        field.whole.end = text.len();
        // Where there was no room for the name, there is none for the body.
        let start = field.body.start.min(text.len());
        field.body = start..start + without_line_end(&text[start..]).len();
    }

    /// Begins a part at the current position, inside the innermost open one.
    fn begin_part(&mut self) {
        let field_count = self.structure.fields.len();
        let outer = self.open.last();
        self.structure.parts.push(Part {
            kind: PartKind::Leaf,
            parent: outer.map(|outer| outer.part),
            header_offset: self.position,
            header_bytes: 0,
            body_offset: self.position,
            body_bytes: 0,
            body_lines: 0,
            subtree_end: 0,
            is_in_digest: outer.is_some_and(|outer| outer.is_digest),
            fields: field_count..field_count,
        });
        self.open.push(Open {
            part: self.structure.parts.len() - 1,
            lines_before: 0,
            boundary: None,
            is_closed: false,
            is_digest: false,
        });
        self.place = Place::Header;
    }

    /// The header section is whole: what kind of part follows?
    fn on_header_end(&mut self) {
        let (position, line_count) = (self.position, self.line_count);
        let may_hold_parts = self.open.len() < MIME_DEPTH_MAX;
        let has_room = may_hold_parts && self.structure.parts.len() < MIME_PARTS_MAX;
        let index = self.current().part;
        let media_type = self.structure.media_type(index);
        let open = self.open.last_mut().expect("the outermost part is open to the end");
        let part = &mut self.structure.parts[index];
        part.header_bytes = position - part.header_offset;
        part.body_offset = position;
        open.lines_before = line_count;
        self.place = Place::Body;

        let is_message = media_type.as_ref().map_or(part.is_in_digest, MediaType::is_message);
        let boundary = media_type.as_ref().and_then(boundary);
        let is_opaque = (boundary.is_some() && !may_hold_parts) || (is_message && !has_room);
        self.structure.is_truncated |= is_opaque;
        if let Some(boundary) = boundary.filter(|_| may_hold_parts) {
            part.kind = PartKind::Multipart;
            open.is_digest = media_type.is_some_and(|it| it.is("multipart", "digest"));
            open.boundary = Some(boundary);
            self.boundary_count += 1;
        } else if is_message && has_room {
            part.kind = PartKind::Message;
            self.begin_part();
        }
    }

    /// Ends all open parts from `level` on: at `end`, before the line end of `newline_bytes` there.
    fn close_inside(&mut self, level: usize, end: u64, newline_bytes: u64) {
        let mut inner_end = 0;
        while self.open.len() > level {
            if self.place == Place::Header {
                self.end_field();
            }
            let open = self.open.pop().expect("longer than `level`");
            let part_count = self.structure.parts.len();
            let part = &mut self.structure.parts[open.part];
            part.subtree_end = part_count;
            let before_newline = end.saturating_sub(newline_bytes);
            if self.place == Place::Header {
                // The header section has no end: there is no body.
                let header_end = before_newline.max(part.header_offset);
                part.header_bytes = header_end - part.header_offset;
                part.body_offset = header_end;
                self.place = Place::Body;
            } else {
                let body_end = before_newline.max(part.body_offset).max(inner_end);
                part.body_bytes = body_end - part.body_offset;
                let leaves_newline = newline_bytes > 0 && body_end < end;
                part.body_lines = self.line_count - open.lines_before - u64::from(leaves_newline);
            }
            inner_end = part.end();
            self.boundary_count -= usize::from(open.boundary.is_some());
        }
    }

    fn current(&self) -> &Open {
        self.open.last().expect("the outermost part is open to the end")
    }
}

/// The boundary of a multipart that has a usable one; without, its parts cannot be told apart.
fn boundary(media_type: &MediaType) -> Option<Box<[u8]>> {
    if !media_type.is_kind("multipart") {
        return None;
    }
    let boundary = media_type.parameter("boundary")?.trim_ascii_end();
    let is_usable = !boundary.is_empty() && boundary.len() <= MIME_BOUNDARY_BYTES_MAX;
    is_usable.then(|| boundary.into())
}

/// What is looked at of a line: a boundary with its dashes, and a line end.
const HEAD_BYTES_MAX: usize = MIME_BOUNDARY_BYTES_MAX + 6;

#[cfg(test)]
mod tests;
