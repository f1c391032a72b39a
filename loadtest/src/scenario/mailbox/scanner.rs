//! Reads what an IMAP server says as cheaply as it can be read: what is counted, and how it ended.
//!
//! Pure.

/// What came of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// FETCH responses.
    pub fetched: u64,
    /// The last EXISTS.
    pub exists: Option<u64>,
    /// Numbers of SEARCH responses.
    pub found: u64,
    /// Octets of literals.
    pub literal_octets: u64,
    /// Invitations to go on.
    pub continued: u64,
    /// The text of the tagged response, once it came.
    pub ended: Option<Result<(), String>>,
    /// Where literals are kept: each.
    pub literals: Option<Vec<Vec<u8>>>,
}

/// Takes octets in pieces of any size.
#[derive(Default)]
pub struct Scanner {
    /// A line whose end has not come.
    line: Vec<u8>,
    /// Octets of a literal that have not come.
    literal_left: u64,
    /// Inside of a response, behind a literal.
    is_within: bool,
    failed: bool,
}

impl Scanner {
    /// False when it is no IMAP. `tag` is that of the command under way.
    pub fn take(&mut self, bytes: &[u8], tag: &[u8], answer: &mut Answer) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() && !self.failed {
            if self.literal_left > 0 {
                let count =
                    rest.len().min(usize::try_from(self.literal_left).unwrap_or(usize::MAX));
                let (literal, behind) = rest.split_at(count);
                if let Some(last) = answer.literals.as_mut().and_then(|all| all.last_mut()) {
                    last.extend_from_slice(literal);
                }
                self.literal_left -= count as u64;
                rest = behind;
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.line.extend_from_slice(rest);
                self.failed = self.line.len() > LINE_BYTES_MAX;
                break;
            };
            let (line, behind) = rest.split_at(end + 1);
            if self.line.is_empty() {
                self.take_line(line, tag, answer);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.take_line(&whole, tag, answer);
                whole.clear();
                self.line = whole;
            }
            rest = behind;
        }
        !self.failed
    }

    fn take_line(&mut self, line: &[u8], tag: &[u8], answer: &mut Answer) {
        let Some(line) = line.strip_suffix(b"\r\n") else {
            self.failed = true;
            return;
        };
        if !self.is_within {
            self.begin(line, tag, answer);
        }
        self.is_within = false;
        if let Some(bytes) = literal_bytes(line) {
            self.literal_left = bytes;
            self.is_within = true;
            answer.literal_octets += bytes;
            if let Some(literals) = &mut answer.literals {
                literals.push(Vec::new());
            }
        }
    }

    fn begin(&mut self, line: &[u8], tag: &[u8], answer: &mut Answer) {
        if let Some(rest) = line.strip_prefix(b"* ") {
            let digits = rest.iter().take_while(|octet| octet.is_ascii_digit()).count();
            let (number, word) = rest.split_at(digits);
            if word.starts_with(b" FETCH ") {
                answer.fetched += 1;
            } else if word == b" EXISTS" {
                answer.exists = number_of(number);
            } else if let Some(numbers) = word.strip_prefix(b"SEARCH") {
                answer.found += memchr::memchr_iter(b' ', numbers).count() as u64;
            } else if word.starts_with(b"BYE") {
                answer.ended = Some(Err(String::from_utf8_lossy(line).into_owned()));
            }
        } else if line.starts_with(b"+") {
            answer.continued += 1;
        } else if let Some(rest) = line.strip_prefix(tag).filter(|_| !tag.is_empty()) {
            answer.ended = Some(match rest.starts_with(b" OK") {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(line).into_owned()),
            });
        } else {
            self.failed = true;
        }
    }
}

/// The octets of the literal that a line announces at its end.
fn literal_bytes(line: &[u8]) -> Option<u64> {
    let inside = line.strip_suffix(b"}")?;
    let start = memchr::memrchr(b'{', inside)?;
    number_of(&inside[start + 1..])
}

fn number_of(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// All that a SEARCH response of a million messages needs.
const LINE_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_the_same_however_the_octets_are_cut() {
        let wire =
            b"* 3 EXISTS\r\n* OK [UIDNEXT 4] x\r\n* 1 FETCH (BODY[] {9}\r\na1 OK\r\nx UID 7)\
            \r\n* 2 FETCH (FLAGS (\\Seen))\r\n* SEARCH 1 20 300\r\n* SEARCH\r\n+ go\r\n\
            * 9 EXPUNGE\r\na1 OK done {3}x\r\n";
        let expected = Answer {
            fetched: 2,
            exists: Some(3),
            found: 3,
            literal_octets: 9,
            continued: 1,
            ended: Some(Ok(())),
            literals: Some(vec![b"a1 OK\r\nx ".to_vec()]),
        };
        for cut in 0..wire.len() {
            let mut answer = Answer { literals: Some(Vec::new()), ..Answer::default() };
            let mut scanner = Scanner::default();
            assert!(scanner.take(&wire[..cut], b"a1", &mut answer));
            assert!(scanner.take(&wire[cut..], b"a1", &mut answer));
            assert_eq!(answer, expected, "{cut}");
        }
    }

    #[test]
    fn refusals_and_farewells_end_a_command_and_what_is_no_imap_is_seen() {
        let check = |wire: &[u8], expected: Option<Result<(), String>>, understood: bool| {
            let mut answer = Answer::default();
            assert_eq!(Scanner::default().take(wire, b"a1", &mut answer), understood);
            assert_eq!(answer.ended, expected);
        };
        check(b"a1 NO full\r\n", Some(Err("a1 NO full".to_owned())), true);
        check(b"a1 BAD what\r\n", Some(Err("a1 BAD what".to_owned())), true);
        check(b"* BYE gone\r\n", Some(Err("* BYE gone".to_owned())), true);
        check(b"220 mx ESMTP\r\n", None, false);
        check(b"* OK\n", None, false);
    }
}
