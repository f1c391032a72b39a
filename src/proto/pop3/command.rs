//! One command line, parsed (RFC 1939, RFC 2449, RFC 2595, RFC 5034, RFC 6856).

/// A command with its arguments, borrowed from the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'l> {
    User(&'l [u8]),
    /// All behind the space, as passwords may hold spaces.
    Pass(&'l [u8]),
    /// Mechanism and initial response; without a mechanism the list is asked for.
    Auth {
        mechanism: &'l str,
        initial_response: Option<&'l [u8]>,
    },
    AuthList,
    Stls,
    Utf8,
    Capa,
    Stat,
    List(Option<u32>),
    Uidl(Option<u32>),
    Retr(u32),
    Top {
        number: u32,
        lines: u64,
    },
    Dele(u32),
    Noop,
    Rset,
    Quit,
}

impl<'l> Command<'l> {
    /// The command of a line without its line end; the error is the text of `-ERR`.
    pub fn parse(line: &'l [u8]) -> Result<Self, &'static str> {
        let word_end = memchr::memchr(b' ', line).unwrap_or(line.len());
        let (word, rest) = line.split_at(word_end);
        let argument = rest.strip_prefix(b" ").unwrap_or(rest);
        let word = word.to_ascii_uppercase();
        match word.as_slice() {
            b"PASS" if rest.is_empty() => return Err("PASS needs a password"),
            b"PASS" => return Ok(Self::Pass(argument)),
            b"USER" if argument.trim_ascii().is_empty() => return Err("USER needs a name"),
            b"USER" => return Ok(Self::User(argument.trim_ascii())),
            _ => {}
        }
        let mut words = argument.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
        let command = match word.as_slice() {
            b"AUTH" => match words.next() {
                None => Self::AuthList,
                Some(mechanism) => Self::Auth {
                    mechanism: std::str::from_utf8(mechanism).map_err(|_| BAD_ARGUMENT)?,
                    initial_response: words.next(),
                },
            },
            b"STLS" => Self::Stls,
            b"UTF8" => Self::Utf8,
            b"CAPA" => Self::Capa,
            b"STAT" => Self::Stat,
            b"LIST" => Self::List(words.next().map(number).transpose()?),
            b"UIDL" => Self::Uidl(words.next().map(number).transpose()?),
            b"RETR" => Self::Retr(number(words.next().unwrap_or(b""))?),
            b"TOP" => Self::Top {
                number: number(words.next().unwrap_or(b""))?,
                lines: digits(words.next().unwrap_or(b"")).ok_or("Bad number of lines")?,
            },
            b"DELE" => Self::Dele(number(words.next().unwrap_or(b""))?),
            b"NOOP" => Self::Noop,
            b"RSET" => Self::Rset,
            b"QUIT" => Self::Quit,
            _ => return Err("Unknown command"),
        };
        if words.next().is_some() { Err("Too many arguments") } else { Ok(command) }
    }
}

/// The number of a message, 1 or more.
fn number(text: &[u8]) -> Result<u32, &'static str> {
    let number = digits(text).and_then(|number| u32::try_from(number).ok());
    number.filter(|number| *number > 0).ok_or("Bad message number")
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

const BAD_ARGUMENT: &str = "Bad argument";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let check = |line: &str, expected: Result<Command, &str>| {
            assert_eq!(Command::parse(line.as_bytes()), expected, "{line:?}");
        };
        check("user  a b ", Ok(Command::User(b"a b")));
        check("PASS  a b ", Ok(Command::Pass(b" a b ")));
        check("PASS ", Ok(Command::Pass(b"")));
        check("PASS", Err("PASS needs a password"));
        check("USER ", Err("USER needs a name"));
        check("AUTH", Ok(Command::AuthList));
        check("AUTH PLAIN", Ok(Command::Auth { mechanism: "PLAIN", initial_response: None }));
        check(
            "AUTH PLAIN =",
            Ok(Command::Auth { mechanism: "PLAIN", initial_response: Some(b"=") }),
        );
        check("list", Ok(Command::List(None)));
        check("LIST 3", Ok(Command::List(Some(3))));
        check("UIDL 0", Err("Bad message number"));
        check("RETR", Err("Bad message number"));
        check("RETR 4294967296", Err("Bad message number"));
        check("TOP 1 0", Ok(Command::Top { number: 1, lines: 0 }));
        check("TOP 1", Err("Bad number of lines"));
        check("TOP 1 -1", Err("Bad number of lines"));
        check("DELE 1 2", Err("Too many arguments"));
        check("STAT x", Err("Too many arguments"));
        check("APOP x y", Err("Unknown command"));
        check("", Err("Unknown command"));
    }
}
