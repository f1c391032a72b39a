//! Looking at a header section while it passes.

/// Counts Received fields, and notes `TLS-Required: No` (RFC 8689 §3), Date and Message-ID, in
/// content that comes in pieces of any size.
#[derive(Clone, Debug)]
pub struct HeaderWatch {
    state: State,
    received_count: u32,
    /// TLS-Required fields that have ended, and whether the last of them said No.
    tls_required: (u32, bool),
    has_date: bool,
    has_message_id: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of a line.
    Start,
    /// `matched` octets of the name of a field seen.
    Name { field: &'static Field, matched: usize },
    /// In the rest of a line.
    Line,
    /// In the value of TLS-Required.
    Value(Value),
    /// At the start of the line behind it, which may be more of it.
    ValueLineEnd(Value),
    /// Past the header section.
    Body,
}

#[derive(Debug, PartialEq, Eq)]
struct Field {
    /// In lower case, with the colon.
    name: &'static [u8],
    means: Meaning,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Received,
    TlsRequired,
    Date,
    MessageId,
}

/// How far the value of TLS-Required is the word No.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Nothing,
    N,
    No,
    /// It is something else.
    Other,
}

impl Default for HeaderWatch {
    fn default() -> Self {
        Self {
            state: State::Start,
            received_count: 0,
            tls_required: (0, false),
            has_date: false,
            has_message_id: false,
        }
    }
}

impl HeaderWatch {
    pub fn received_count(&self) -> u32 {
        self.received_count
    }

    /// Whether the header section says when the message was written.
    pub fn has_date(&self) -> bool {
        self.has_date
    }

    pub fn has_message_id(&self) -> bool {
        self.has_message_id
    }

    /// Whether the message says that it may go without TLS. Not if it says so twice, which it must
    /// not.
    pub fn says_tls_optional(&self) -> bool {
        let mut ended = self.clone();
        if let State::Value(value) | State::ValueLineEnd(value) = self.state {
            ended.end_value(value);
        }
        ended.tls_required == (1, true)
    }

    /// Looks at the next piece of CRLF-canonical content.
    pub fn feed(&mut self, mut piece: &[u8]) {
        while let Some(octet) = piece.first().copied() {
            match self.state {
                State::Body => return,
                State::Line => match memchr::memchr(b'\n', piece) {
                    Some(end) => {
                        piece = &piece[end + 1..];
                        self.state = State::Start;
                    }
                    None => return,
                },
                // An empty line ends the header section.
                State::Start if octet == b'\r' => self.state = State::Body,
                State::Start => {
                    let begins = |field: &&Field| field.name[0] == octet.to_ascii_lowercase();
                    self.state = match FIELDS.iter().find(begins) {
                        Some(field) => State::Name { field, matched: 0 },
                        None => State::Line,
                    };
                }
                State::Name { field, matched }
                    if octet.to_ascii_lowercase() == field.name[matched] =>
                {
                    piece = &piece[1..];
                    self.state = match (matched + 1 == field.name.len(), field.means) {
                        (false, _) => State::Name { field, matched: matched + 1 },
                        (true, Meaning::Received) => {
                            self.received_count += 1;
                            State::Line
                        }
                        (true, Meaning::TlsRequired) => State::Value(Value::Nothing),
                        (true, Meaning::Date) => {
                            self.has_date = true;
                            State::Line
                        }
                        (true, Meaning::MessageId) => {
                            self.has_message_id = true;
                            State::Line
                        }
                    };
                }
                State::Name { .. } => self.state = State::Line,
                State::Value(value) => {
                    piece = &piece[1..];
                    self.state = match octet {
                        b'\n' => State::ValueLineEnd(value),
                        octet => State::Value(value.with(octet)),
                    };
                }
                State::ValueLineEnd(value) if matches!(octet, b' ' | b'\t') => {
                    self.state = State::Value(value);
                }
                State::ValueLineEnd(value) => {
                    self.end_value(value);
                    self.state = State::Start;
                }
            }
        }
    }

    fn end_value(&mut self, value: Value) {
        let (count, _) = self.tls_required;
        self.tls_required = (count.saturating_add(1), value == Value::No);
    }
}

impl Value {
    fn with(self, octet: u8) -> Value {
        match (self, octet.to_ascii_lowercase()) {
            (Value::Nothing | Value::No, b' ' | b'\t' | b'\r') => self,
            (Value::Nothing, b'n') => Value::N,
            (Value::N, b'o') => Value::No,
            _ => Value::Other,
        }
    }
}

const FIELDS: &[Field] = &[
    Field { name: b"received:", means: Meaning::Received },
    Field { name: b"tls-required:", means: Meaning::TlsRequired },
    Field { name: b"date:", means: Meaning::Date },
    Field { name: b"message-id:", means: Meaning::MessageId },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &[u8], received_count: u32, tls_optional: bool) {
        for cut in 0..=content.len() {
            let mut watch = HeaderWatch::default();
            watch.feed(&content[..cut]);
            watch.feed(&content[cut..]);
            assert_eq!(watch.received_count(), received_count, "cut at {cut}");
            let shown = String::from_utf8_lossy(content);
            assert_eq!(watch.says_tls_optional(), tls_optional, "cut at {cut}: {shown}");
        }
    }

    #[test]
    fn received_fields_count_in_the_header_section_only() {
        let content = b"Received: one\r\n by x\r\nX-Received: no\r\nRECEIVED:two\r\n\
            Subject: Received: no\r\nRece\r\n\r\nReceived: body\r\n";
        check(content, 2, false);
    }

    #[test]
    fn date_and_message_id_are_noted() {
        for (content, expected) in [
            ("Date: x\r\n\r\n", (true, false)),
            ("MIME-Version: 1.0\r\nMESSAGE-ID:<a@b>\r\n\r\n", (false, true)),
            ("X: y\r\n date: x\r\nDates: x\r\nMessage-I: x\r\n\r\nDate: x\r\n", (false, false)),
        ] {
            for cut in 0..=content.len() {
                let mut watch = HeaderWatch::default();
                watch.feed(&content.as_bytes()[..cut]);
                watch.feed(&content.as_bytes()[cut..]);
                assert_eq!((watch.has_date(), watch.has_message_id()), expected, "cut at {cut}");
            }
        }
    }

    #[test]
    fn tls_is_optional_where_one_field_says_no() {
        check(b"TLS-Required: No\r\n\r\n", 0, true);
        check(b"Received: x\r\ntls-required:\r\n \tnO \r\nSubject: x\r\n\r\nbody\r\n", 1, true);
        check(b"TLS-Required:no", 0, true);
        for other in ["", "N", "Yes", "Now", "No No", "N o", "No (comment)"] {
            check(format!("TLS-Required: {other}\r\n\r\n").as_bytes(), 0, false);
        }
        check(b"TLS-Required: No\r\nTLS-Required: No\r\n\r\n", 0, false);
        check(b"TLS-Required: No\r\n also\r\n\r\n", 0, false);
        check(b"X: y\r\n TLS-Required: No\r\n\r\nTLS-Required: No\r\n", 0, false);
        check(b"TLS-Requirements: No\r\n\r\n", 0, false);
    }
}
