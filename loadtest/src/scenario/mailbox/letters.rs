//! What stands in the mailboxes: letters of a few kinds, and how many of them a search must find.
//!
//! Pure.

use ringpost::proto::sasl::base64;

use crate::message::{IdBlock, Template};

/// The letters of a run; message `index` of a mailbox is letter `index % COUNT`.
pub struct Letters {
    templates: Vec<Template>,
}

impl Letters {
    /// Letters of about this many octets, but at least what their fields need.
    pub fn new(bytes: usize) -> Self {
        let make = |number| Template::new(letter(number, bytes), ID_BLOCK, REVERSE_PATH);
        Self { templates: (0..COUNT).map(make).collect() }
    }

    pub fn of(&self, index: u64) -> &Template {
        &self.templates[(index % COUNT) as usize]
    }
}

/// Of the first `count` messages of a mailbox those that a word is in.
pub fn count_with(count: u64, word: Word) -> u64 {
    (0..count).filter(|index| word.is_in(index % COUNT)).count() as u64
}

/// What searches look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// In the subject.
    Invoice,
    /// In the name of who it is from.
    Person7,
    /// In the text, which is base64.
    Zanzibar,
    /// In the text as it stands.
    Quarterly,
}

impl Word {
    pub fn text(self) -> &'static str {
        match self {
            Self::Invoice => "INVOICE",
            Self::Person7 => "person7",
            Self::Zanzibar => "Zanzibar",
            Self::Quarterly => "quarterly",
        }
    }

    fn is_in(self, number: u64) -> bool {
        match self {
            Self::Invoice => number.is_multiple_of(8),
            Self::Person7 => number % PERSONS == 7,
            Self::Zanzibar => number % 16 == 3,
            Self::Quarterly => number % 8 == 2,
        }
    }
}

/// By its number: every fourth has an alternative in HTML, every fourth an attachment and its text
/// in base64, the others are plain.
fn letter(number: u64, bytes: usize) -> Vec<u8> {
    let person = number % PERSONS;
    let subject = match number {
        _ if Word::Invoice.is_in(number) => format!("Invoice 2026-{number} for your order"),
        // "Grüße aus Köln" as RFC 2047 has it.
        _ if number % 5 == 1 => "=?utf-8?Q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln?=".to_owned(),
        _ => format!("Re: notes on part {number}"),
    };
    let head = format!(
        "From: \"Example, person{person}\" <person{person}@source.test>\r\n\
         To: Reader <reader@mailbox.test>\r\n\
         Cc: other{person}@source.test\r\n\
         Subject: {subject}\r\n\
         Date: Mon, {:02} Nov 2026 10:{:02}:00 +0100\r\n\
         In-Reply-To: <{person}@source.test>\r\n\
         MIME-Version: 1.0\r\n",
        1 + number % 28,
        number % 60,
    );
    let room = bytes.saturating_sub(head.len() + ID_BLOCK_BYTES);
    let body = match number % 4 {
        1 => alternative(number, room),
        3 => with_attachment(number, room),
        _ => {
            let head = "Content-Type: text/plain; charset=us-ascii\r\n\r\n";
            format!("{head}{}", text(number, room.saturating_sub(head.len())))
        }
    };
    (head + &body).into_bytes()
}

fn alternative(number: u64, room: usize) -> String {
    let parts = |text: &str, html: &str| {
        format!(
            "Content-Type: multipart/alternative; boundary=\"=_alt\"\r\n\r\n\
             --=_alt\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n\
             --=_alt\r\nContent-Type: text/html; charset=utf-8\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\n\
             <html><body class=3D\"k\"><p>{html}</p></body></html>\r\n--=_alt--\r\n"
        )
    };
    let half = room.saturating_sub(parts("", "").len()) / 2;
    // Other words, the same to look for.
    parts(&text(number, half), &text(number + COUNT, half))
}

fn with_attachment(number: u64, room: usize) -> String {
    let parts = |text: &str, attachment: &str| {
        format!(
            "Content-Type: multipart/mixed; boundary=\"=_mix\"\r\n\r\n\
             --=_mix\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{text}\
             --=_mix\r\nContent-Type: application/octet-stream; name=\"a{number}.bin\"\r\n\
             Content-Disposition: attachment; filename=\"a{number}.bin\"\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{attachment}--=_mix--\r\n"
        )
    };
    let half = room.saturating_sub(parts("", "").len()) / 2;
    let octets: Vec<u8> = (0..in_base64(half)).map(|at| (at as u64 * 7 + number) as u8).collect();
    parts(&encoded(text(number, in_base64(half)).as_bytes()), &encoded(&octets))
}

/// Octets of which base64 in lines makes so many.
fn in_base64(bytes: usize) -> usize {
    bytes / 78 * 57
}

fn encoded(octets: &[u8]) -> String {
    let mut out = String::new();
    for line in octets.chunks(57) {
        base64::encode(line, &mut out);
        out.push_str("\r\n");
    }
    out
}

/// Words in lines, about so many octets; the words to look for stand in its middle.
fn text(number: u64, bytes: usize) -> String {
    let wanted: Vec<&str> = [Word::Zanzibar, Word::Quarterly]
        .iter()
        .filter(|word| word.is_in(number))
        .map(|word| word.text())
        .collect();
    let mut wanted = (!wanted.is_empty()).then(|| wanted.join(" "));
    let (mut out, mut state) = (String::with_capacity(bytes + 32), number + 1);
    let mut line_start = 0;
    while out.len() + 24 < bytes {
        if out.len() >= bytes / 2
            && let Some(words) = wanted.take()
        {
            out.push_str(&words);
        } else {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            out.push_str(WORDS[(state >> 33) as usize % WORDS.len()]);
        }
        if out.len() - line_start > 64 {
            out.push_str("\r\n");
            line_start = out.len();
        } else {
            out.push(' ');
        }
    }
    if let Some(words) = wanted {
        out.push_str(&words);
    }
    out.push_str("\r\n");
    out
}

/// Kinds of letters: a mailbox begins again with the first after so many.
pub const COUNT: u64 = 64;
const PERSONS: u64 = 16;
const ID_BLOCK: IdBlock = IdBlock::LoadAndMessageId;
/// What the fields take that identify a message.
const ID_BLOCK_BYTES: usize = 89;
const REVERSE_PATH: &str = "sender@source.test";
const WORDS: [&str; 14] = [
    "meeting", "about", "the", "harbour", "and", "some", "letters", "of", "last", "week", "please",
    "answer", "before", "noon",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RunId;

    #[test]
    fn a_letter_has_about_the_size_it_was_asked_for() {
        for number in 0..COUNT {
            let mut block = Vec::new();
            ID_BLOCK.write(RunId(1), 1, &mut block);
            assert_eq!(block.len(), ID_BLOCK_BYTES);
            let bytes = block.len() + letter(number, 4096).len();
            assert!((3_800..=4_100).contains(&bytes), "{number}: {bytes}");
            assert!(letter(number, 1).ends_with(b"\r\n"));
        }
    }

    #[test]
    fn words_are_where_they_are_counted_and_nowhere_else() {
        for number in 0..COUNT {
            let letter = String::from_utf8(letter(number, 4096)).expect("ASCII");
            let decoded = letter.split("\r\n\r\n").nth(2).map(|part| {
                let lines = part.lines().take_while(|line| !line.starts_with("--"));
                let octets = base64::decode(lines.collect::<String>().as_bytes());
                String::from_utf8(octets.unwrap_or_default()).unwrap_or_default()
            });
            let all = (letter + &decoded.unwrap_or_default()).to_lowercase();
            for word in [Word::Invoice, Word::Person7, Word::Zanzibar, Word::Quarterly] {
                let is_there = all.contains(&word.text().to_lowercase());
                assert_eq!(is_there, word.is_in(number), "{number} {word:?}");
            }
        }
        assert_eq!(count_with(64, Word::Zanzibar), 4);
        assert_eq!(count_with(65, Word::Invoice), 9);
    }

    #[test]
    fn lines_end_in_crlf() {
        for number in 0..COUNT {
            let letter = letter(number, 4096);
            assert!(memchr::memchr_iter(b'\n', &letter).all(|at| letter[at - 1] == b'\r'));
        }
    }
}
