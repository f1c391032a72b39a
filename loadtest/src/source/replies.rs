//! Reads replies as cheaply as they can be read: the codes of complete replies, in order.
//! Pure, but for `receive`.

use std::collections::VecDeque;
use std::io;

use ringpost::runtime::stream::Stream;

/// Codes of replies that came and were not asked for yet.
#[derive(Default)]
pub struct Replies {
    codes: VecDeque<u16>,
    /// A line whose end has not come.
    partial: Vec<u8>,
    /// First refusal of the session, as the server said it.
    pub refusal: Option<String>,
    /// Lines of multi-line replies, kept while the capabilities of EHLO are read.
    pub kept_lines: Option<Vec<String>>,
}

/// Takes what a server sends next, within the stream's deadline; an error where it has closed, or
/// does not speak `protocol`.
pub async fn receive(stream: &mut Stream, replies: &mut Replies, protocol: &str) -> io::Result<()> {
    let understood = stream
        .read_scratch(|bytes| match bytes {
            [] => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            bytes => Ok(replies.take(bytes)),
        })
        .await??;
    match understood {
        true => Ok(()),
        false => Err(io::Error::other(format!("the server does not speak {protocol}"))),
    }
}

impl Replies {
    pub fn next_code(&mut self) -> Option<u16> {
        self.codes.pop_front()
    }

    /// Takes what the server sent; false when it is no SMTP.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let understood = if self.partial.is_empty() {
                self.take_line(&rest[..end])
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(&rest[..end]);
                self.take_line(&line)
            };
            if !understood {
                return false;
            }
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        self.partial.len() <= REPLY_LINE_BYTES_MAX
    }

    fn take_line(&mut self, line: &[u8]) -> bool {
        let Some(code) = line.first_chunk::<3>().and_then(code) else {
            return false;
        };
        let last = line.get(3) != Some(&b'-');
        if last {
            self.codes.push_back(code);
        }
        if code >= 400 && self.refusal.is_none() {
            self.refusal = Some(String::from_utf8_lossy(line).trim_end().to_owned());
        }
        if let Some(lines) = &mut self.kept_lines {
            lines.push(String::from_utf8_lossy(line.get(4..).unwrap_or(b"")).trim().to_uppercase());
        }
        true
    }
}

fn code(digits: &[u8; 3]) -> Option<u16> {
    let valid = matches!(digits[0], b'2'..=b'5') && digits.iter().all(u8::is_ascii_digit);
    let value = |digit: u8| u16::from(digit - b'0');
    valid.then(|| value(digits[0]) * 100 + value(digits[1]) * 10 + value(digits[2]))
}

const REPLY_LINE_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_same_however_the_octets_are_cut() {
        let wire = b"250-one\r\n250 two\r\n354 go\r\n452 4.3.1 full\r\n221\r\n";
        for cut in 0..wire.len() {
            let mut replies = Replies::default();
            assert!(replies.take(&wire[..cut]));
            assert!(replies.take(&wire[cut..]));
            let codes: Vec<u16> = std::iter::from_fn(|| replies.next_code()).collect();
            assert_eq!(codes, [250, 354, 452, 221], "cut at {cut}");
            assert_eq!(replies.refusal.as_deref(), Some("452 4.3.1 full"));
        }
    }

    #[test]
    fn what_is_no_reply_is_said_so() {
        for wire in [&b"HTTP/1.1 200 OK\r\n"[..], b"99 x\r\n", b"\r\n", &[b'2'; 5000]] {
            assert!(!Replies::default().take(wire));
        }
    }
}
