//! Looking at a header section while it passes.

/// Counts Received fields in content that comes in pieces of any size.
#[derive(Clone, Debug)]
pub struct ReceivedCounter {
    state: State,
    count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of a line, `matched` octets of the field name seen.
    Name { matched: usize },
    /// In the rest of a line.
    Line,
    /// Past the header section.
    Body,
}

impl Default for ReceivedCounter {
    fn default() -> Self {
        Self { state: State::Name { matched: 0 }, count: 0 }
    }
}

impl ReceivedCounter {
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Looks at the next piece of CRLF-canonical content.
    pub fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            match self.state {
                State::Body => return,
                State::Line => match memchr::memchr(b'\n', piece) {
                    Some(end) => {
                        piece = &piece[end + 1..];
                        self.state = State::Name { matched: 0 };
                    }
                    None => return,
                },
                State::Name { matched } => {
                    let octet = piece[0];
                    if matched == 0 && octet == b'\r' {
                        // An empty line ends the header section.
                        self.state = State::Body;
                    } else if octet.eq_ignore_ascii_case(&NAME[matched]) {
                        piece = &piece[1..];
                        if matched + 1 == NAME.len() {
                            self.count += 1;
                            self.state = State::Line;
                        } else {
                            self.state = State::Name { matched: matched + 1 };
                        }
                    } else {
                        self.state = State::Line;
                    }
                }
            }
        }
    }
}

const NAME: &[u8] = b"received:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_fields_count_in_the_header_section_only() {
        let content = b"Received: one\r\n by x\r\nX-Received: no\r\nRECEIVED:two\r\n\
            Subject: Received: no\r\nRece\r\n\r\nReceived: body\r\n";
        for cut in 0..content.len() {
            let mut counter = ReceivedCounter::default();
            counter.feed(&content[..cut]);
            counter.feed(&content[cut..]);
            assert_eq!(counter.count(), 2, "cut at {cut}");
        }
    }
}
