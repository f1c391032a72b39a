//! SMTP replies (RFC 5321 §4.2).

use std::borrow::Cow;
use std::fmt;

use super::status::EnhancedStatusCode;

/// A reply: code, enhanced status code where the code has one, text.
///
/// A line feed in the text separates the lines of a multi-line reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub status: Option<EnhancedStatusCode>,
    pub text: Cow<'static, str>,
    /// The server we sent to gave it; else it is made here.
    pub is_remote: bool,
}

impl Reply {
    pub const fn new(code: u16, status: EnhancedStatusCode, text: &'static str) -> Self {
        assert!(code >= 200 && code <= 599);
        Self { code, status: Some(status), text: Cow::Borrowed(text), is_remote: false }
    }

    /// A reply without an enhanced status code: the greeting, EHLO, 354 (RFC 2034 §4).
    pub const fn bare(code: u16, text: &'static str) -> Self {
        assert!(code >= 200 && code <= 599);
        Self { code, status: None, text: Cow::Borrowed(text), is_remote: false }
    }

    pub fn with_text(code: u16, status: EnhancedStatusCode, text: String) -> Self {
        assert!((200..=599).contains(&code));
        Self { code, status: Some(status), text: Cow::Owned(text), is_remote: false }
    }

    /// A reply as a server gave it.
    pub fn remote(code: u16, status: Option<EnhancedStatusCode>, text: String) -> Self {
        assert!((200..=599).contains(&code));
        Self { code, status, text: Cow::Owned(text), is_remote: true }
    }

    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// Of the replies for those that an alias stands for, the one that its sender has to act on:
    /// what is to be tried again goes before what Failed, and that before what is done.
    pub fn is_worse_than(&self, other: &Reply) -> bool {
        let badness = |reply: &Reply| match reply {
            reply if reply.is_transient() => 2,
            reply if reply.is_permanent() => 1,
            _ => 0,
        };
        badness(self) > badness(other)
    }

    /// Appends the reply as it goes over the wire, CRLF included.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { b'-' } else { b' ' };
            out.extend_from_slice(&code_digits(self.code));
            out.push(separator);
            if let Some(status) = self.status {
                status.write(out);
                out.push(b' ');
            }
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    /// One line for logs and DSNs: `550 5.1.1 no such mailbox`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        for line in self.text.split('\n') {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

fn code_digits(code: u16) -> [u8; 3] {
    let digit = |value: u16| b'0' + (value % 10) as u8;
    [digit(code / 100), digit(code / 10), digit(code)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::status;

    #[test]
    fn a_reply_of_two_lines_repeats_code_and_status() {
        let mut out = Vec::new();
        Reply::new(250, status::OK, "one\ntwo").write(&mut out);
        assert_eq!(out, b"250-2.0.0 one\r\n250 2.0.0 two\r\n");
    }
}
