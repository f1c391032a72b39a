//! Replies as they come from a server we do not trust (RFC 5321 §4.2).

use crate::mail::{EnhancedStatusCode, Reply};

/// What was found at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many octets are dealt with; the reply is not whole yet.
    Partial(usize),
    /// A whole reply, and the octets up to its end. A line feed separates the lines of its text.
    Reply(usize, Reply),
    /// No reply, or none that a sane server would send.
    Garbage,
}

/// Gathers the lines of one reply after the other.
#[derive(Debug, Default)]
pub struct ReplyReader {
    code: u16,
    status: Option<EnhancedStatusCode>,
    text: String,
    line_count: usize,
}

impl ReplyReader {
    /// Looks for the rest of the reply at the front of `input`.
    pub fn next(&mut self, input: &[u8]) -> Taken {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                return if rest.len() > LINE_BYTES_MAX {
                    Taken::Garbage
                } else {
                    Taken::Partial(at)
                };
            };
            at += end + 1;
            if end > LINE_BYTES_MAX || self.line_count == LINES_MAX {
                return Taken::Garbage;
            }
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            let Some((code, is_last, text)) = split_line(line) else {
                return Taken::Garbage;
            };
            if self.line_count > 0 && code != self.code {
                return Taken::Garbage;
            }
            self.take_line(code, text);
            if is_last {
                self.line_count = 0;
                let text = std::mem::take(&mut self.text);
                return Taken::Reply(at, Reply::remote(code, self.status.take(), text));
            }
        }
    }

    fn take_line(&mut self, code: u16, text: &[u8]) {
        let (status, text) = match EnhancedStatusCode::parse_prefix(text) {
            Some((status, taken)) if u16::from(status.class) == code / 100 => {
                (Some(status), text[taken..].trim_ascii_start())
            }
            _ => (None, text),
        };
        if self.line_count == 0 {
            self.code = code;
            self.status = status;
        } else if self.text.len() < TEXT_BYTES_MAX {
            self.text.push('\n');
        }
        self.line_count += 1;
        let room = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        let text = &text[..text.len().min(room)];
        // Only what can be shown: the text goes into logs and reports.
        let shown = String::from_utf8_lossy(text);
        self.text.extend(shown.chars().map(|c| if c.is_control() { '?' } else { c }));
    }
}

/// Code, whether it is the last line, and the text.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !(b'2'..=b'5').contains(&digits[0]) || !digits[1..].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

/// RFC 5321 §4.5.3.1.5 says 512; servers exceed it.
const LINE_BYTES_MAX: usize = 2048;
const LINES_MAX: usize = 128;
/// What is kept of a reply's text; EHLO needs about a kilobyte.
const TEXT_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::status;

    /// All replies in `input`, cut in two at `cut`.
    fn read(input: &[u8], cut: usize) -> Vec<Taken> {
        let mut reader = ReplyReader::default();
        let mut taken_all = Vec::new();
        let mut kept = Vec::new();
        for piece in [&input[..cut], &input[cut..]] {
            kept.extend_from_slice(piece);
            loop {
                match reader.next(&kept) {
                    Taken::Partial(taken) => {
                        kept.drain(..taken);
                        break;
                    }
                    Taken::Reply(taken, reply) => {
                        kept.drain(..taken);
                        taken_all.push(Taken::Reply(0, reply));
                    }
                    Taken::Garbage => {
                        taken_all.push(Taken::Garbage);
                        return taken_all;
                    }
                }
            }
        }
        taken_all
    }

    #[test]
    fn replies_are_the_same_wherever_they_are_cut() {
        let input = b"220 mx\r\n250-2.1.5 one\r\n250 2.1.5 two\r\n354\r\n550 5.1.1 no\x07\xff\n";
        let expected = vec![
            Taken::Reply(0, Reply::remote(220, None, "mx".into())),
            Taken::Reply(0, Reply::remote(250, Some(status::OK_RECIPIENT), "one\ntwo".into())),
            Taken::Reply(0, Reply::remote(354, None, String::new())),
            Taken::Reply(0, Reply::remote(550, Some(status::BAD_MAILBOX), "no?\u{fffd}".into())),
        ];
        for cut in 0..=input.len() {
            assert_eq!(read(input, cut), expected, "cut at {cut}");
        }
    }

    #[test]
    fn nonsense_and_endless_replies_are_told_apart_from_replies() {
        let long = [b"250 ".as_slice(), &[b'x'; LINE_BYTES_MAX + 1]].concat();
        let many = b"250-x\r\n".repeat(LINES_MAX + 1);
        let cases: [&[u8]; 7] = [
            b"hello\r\n",
            b"25\r\n",
            b"150 x\r\n",
            b"250x\r\n",
            b"250-a\r\n251 b\r\n",
            &long,
            &many,
        ];
        for input in cases {
            assert_eq!(read(input, 0), vec![Taken::Garbage], "{:?}", &input[..6.min(input.len())]);
        }
    }
}
