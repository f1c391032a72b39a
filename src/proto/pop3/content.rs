//! Content as RETR and TOP send it: lines that begin with a dot get another one (RFC 1939 §3).

use memchr::{memchr, memmem};

/// Whether some line of a message begins with a dot, as was seen when it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeadingDot {
    /// There is one, or nobody has looked.
    Possible,
    /// Content goes out as it is.
    Absent,
}

/// Whether a message goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    /// TOP has what it asked for: nothing more needs to be read.
    Enough,
}

/// Writes one message that comes in pieces of any size, its lines ending in CRLF.
#[derive(Clone, Debug)]
pub struct ContentWriter {
    leading_dot: LeadingDot,
    wanted: Wanted,
    at_line_start: bool,
    /// Nothing but a CR has come of the current line.
    line_is_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Everything,
    /// The header section with its empty line, then so many lines.
    Header {
        body_lines: u64,
    },
    Lines(u64),
}

impl ContentWriter {
    /// For the whole message.
    pub fn whole(leading_dot: LeadingDot) -> Self {
        Self::new(leading_dot, Wanted::Everything)
    }

    /// For the header section, its empty line, and so many lines of the body.
    pub fn top(leading_dot: LeadingDot, body_lines: u64) -> Self {
        Self::new(leading_dot, Wanted::Header { body_lines })
    }

    fn new(leading_dot: LeadingDot, wanted: Wanted) -> Self {
        Self { leading_dot, wanted, at_line_start: true, line_is_empty: true }
    }

    /// Appends of the next piece what is wanted.
    pub fn write(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Progress {
        let wanted = match self.wanted {
            Wanted::Everything => piece,
            _ => &piece[..self.wanted_bytes(piece)],
        };
        match self.leading_dot {
            LeadingDot::Absent => out.extend_from_slice(wanted),
            LeadingDot::Possible => self.write_stuffed(wanted, out),
        }
        if let Some(last) = wanted.last() {
            self.at_line_start = *last == b'\n';
        }
        if self.wanted == Wanted::Lines(0) { Progress::Enough } else { Progress::More }
    }

    /// Appends the end of the message, with the line end that content may lack.
    pub fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.at_line_start { b".\r\n" } else { b"\r\n.\r\n" });
    }

    /// The next piece itself, where all of it is wanted and goes out as it is: nothing needs to be
    /// copied. Otherwise nothing has happened: `write` it.
    pub fn pass<'p>(&mut self, piece: &'p [u8]) -> Option<&'p [u8]> {
        let needs_dots = self.leading_dot == LeadingDot::Possible
            && (self.at_line_start && piece.first() == Some(&b'.')
                || memmem::find(piece, b"\n.").is_some());
        if self.wanted != Wanted::Everything || needs_dots {
            return None;
        }
        if let Some(last) = piece.last() {
            self.at_line_start = *last == b'\n';
        }
        Some(piece)
    }

    fn write_stuffed(&self, mut piece: &[u8], out: &mut Vec<u8>) {
        if self.at_line_start && piece.first() == Some(&b'.') {
            out.push(b'.');
        }
        while let Some(newline) = memmem::find(piece, b"\n.") {
            let (line, rest) = piece.split_at(newline + 1);
            out.extend_from_slice(line);
            out.push(b'.');
            piece = rest;
        }
        out.extend_from_slice(piece);
    }

    /// How much of a piece is still wanted; counts its lines.
    fn wanted_bytes(&mut self, piece: &[u8]) -> usize {
        let mut at = 0;
        while self.wanted != Wanted::Lines(0) && at < piece.len() {
            let newline = memchr(b'\n', &piece[at..]);
            let end = newline.map_or(piece.len(), |newline| at + newline + 1);
            let text = &piece[at..end];
            let is_empty = self.line_is_empty && matches!(text, b"\r\n" | b"\n" | b"\r");
            at = end;
            if newline.is_none() {
                self.line_is_empty = is_empty;
                break;
            }
            self.line_is_empty = true;
            self.wanted = match self.wanted {
                Wanted::Header { body_lines } if is_empty => Wanted::Lines(body_lines),
                Wanted::Lines(lines) => Wanted::Lines(lines - 1),
                wanted => wanted,
            };
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent of content in two pieces, whatever the cut.
    fn sent(content: &[u8], writer: &ContentWriter) -> String {
        let at = |cut: usize| {
            let passed = passed(content, cut, writer);
            let (mut writer, mut out) = (writer.clone(), Vec::new());
            if writer.write(&content[..cut], &mut out) == Progress::More {
                writer.write(&content[cut..], &mut out);
            }
            writer.finish(&mut out);
            assert_eq!(passed, out, "cut at {cut}");
            String::from_utf8(out).expect("UTF-8")
        };
        let whole = at(content.len());
        for cut in 0..content.len() {
            assert_eq!(at(cut), whole, "cut at {cut}");
        }
        whole
    }

    /// The same with pieces that are not copied where they need not be.
    fn passed(content: &[u8], cut: usize, writer: &ContentWriter) -> Vec<u8> {
        let (mut writer, mut out) = (writer.clone(), Vec::new());
        for piece in [&content[..cut], &content[cut..]] {
            match writer.pass(piece) {
                Some(piece) => out.extend_from_slice(piece),
                None if writer.write(piece, &mut out) == Progress::Enough => break,
                None => {}
            }
        }
        writer.finish(&mut out);
        out
    }

    #[test]
    fn lines_that_begin_with_a_dot_get_another() {
        let content = b".a\r\n..\r\nb.\r\n.\r\n\r\n.c";
        let writer = ContentWriter::whole(LeadingDot::Possible);
        assert_eq!(sent(content, &writer), "..a\r\n...\r\nb.\r\n..\r\n\r\n..c\r\n.\r\n");
        assert_eq!(sent(b"", &writer), ".\r\n");
    }

    #[test]
    fn content_without_leading_dots_goes_as_it_is() {
        let writer = ContentWriter::whole(LeadingDot::Absent);
        assert_eq!(sent(b"a.\r\nb\r\n", &writer), "a.\r\nb\r\n.\r\n");
    }

    #[test]
    fn top_sends_the_header_section_and_some_lines() {
        let content = b"A: b\r\nC: d\r\n\r\n1\r\n.2\r\n\r\n4";
        let top = |lines| sent(content, &ContentWriter::top(LeadingDot::Possible, lines));
        assert_eq!(top(0), "A: b\r\nC: d\r\n\r\n.\r\n");
        assert_eq!(top(1), "A: b\r\nC: d\r\n\r\n1\r\n.\r\n");
        assert_eq!(top(2), "A: b\r\nC: d\r\n\r\n1\r\n..2\r\n.\r\n");
        assert_eq!(top(9), "A: b\r\nC: d\r\n\r\n1\r\n..2\r\n\r\n4\r\n.\r\n");
        let top = ContentWriter::top(LeadingDot::Absent, 3);
        assert_eq!(sent(b"\r\nx\r\n", &top), "\r\nx\r\n.\r\n");
        assert_eq!(sent(b"A: no end", &top), "A: no end\r\n.\r\n");
    }

    #[test]
    fn top_says_when_it_has_enough() {
        let mut writer = ContentWriter::top(LeadingDot::Absent, 1);
        let mut out = Vec::new();
        assert_eq!(writer.write(b"A: b\r\n\r\n", &mut out), Progress::More);
        assert_eq!(writer.write(b"1\r\n2\r\n", &mut out), Progress::Enough);
        assert_eq!(out, b"A: b\r\n\r\n1\r\n");
    }
}
