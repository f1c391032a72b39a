//! The base subject of a message (RFC 5256 §2.1): its subject without what replying and forwarding
//! put before and behind it.

use crate::proto::mime::encoded_word::decode_field;

/// A subject as it is sorted and threaded by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseSubject {
    /// With single spaces, in its own case.
    pub text: String,
    /// It says that it is of a reply or a forwarded message.
    pub is_reply: bool,
}

/// The base subject of the body of a Subject field.
pub fn base_subject(body: &[u8]) -> BaseSubject {
    let mut decoded = Vec::new();
    decode_field(body, &mut decoded);
    let decoded = String::from_utf8_lossy(&decoded);
    let words: Vec<&str> =
        decoded.split([' ', '\t', '\r', '\n']).filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    let mut rest = text.as_str();
    let mut is_reply = false;
    loop {
        rest = rest.trim_matches(' ');
        if let Some(before) = strip_suffix(rest, "(fwd)") {
            (rest, is_reply) = (before, true);
        } else if let Some(behind) = without_leader(rest) {
            (rest, is_reply) = (behind, true);
        } else if let Some(behind) = without_blobs(rest) {
            rest = behind;
        } else if let Some(inside) =
            strip_prefix(rest, "[fwd:").and_then(|rest| rest.strip_suffix(']'))
        {
            (rest, is_reply) = (inside, true);
        } else {
            return BaseSubject { text: rest.to_owned(), is_reply };
        }
    }
}

/// Behind `[blob] [blob] Re [blob]:`.
fn without_leader(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(behind) = without_blob(rest) {
        rest = behind;
    }
    let names = ["re", "fwd", "fw"].iter();
    let behind = names.filter_map(|name| strip_prefix(rest, name)).next()?;
    let behind = behind.trim_start_matches(' ');
    without_blob(behind).unwrap_or(behind).strip_prefix(':')
}

/// Behind all blobs at the front; one that is all there is stays. Where no leader follows them,
/// none follows the last of them either: taken one by one, each would be looked behind anew.
fn without_blobs(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(behind) = without_blob(rest).filter(|behind| !behind.is_empty()) {
        rest = behind;
    }
    (rest.len() < text.len()).then_some(rest)
}

/// Behind `[blob]` and the spaces that follow.
fn without_blob(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('[')?;
    let end = inside.find(['[', ']'])?;
    let behind = inside[end..].strip_prefix(']')?;
    Some(behind.trim_start_matches(' '))
}

fn strip_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (front, rest) = text.split_at_checked(prefix.len())?;
    front.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn strip_suffix<'t>(text: &'t str, suffix: &str) -> Option<&'t str> {
    let (rest, end) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(subject: &str, text: &str, is_reply: bool) {
        let expected = BaseSubject { text: text.into(), is_reply };
        assert_eq!(base_subject(subject.as_bytes()), expected, "{subject:?}");
    }

    #[test]
    fn what_was_put_around_a_subject_goes() {
        check("Hello", "Hello", false);
        check(" a\t b\r\n  c ", "a b c", false);
        check("Re: Hello", "Hello", true);
        check("RE [2] : fw: FWD:Hello (fwd) (FWD)", "Hello", true);
        check("[list] Re: [list] Hello", "Hello", true);
        check("[a] [b] Hello", "Hello", false);
        check("[Fwd: Re: Hello]", "Hello", true);
        check("[fwd: [list] hello (fwd)]", "hello", true);
        check("[only]", "[only]", false);
        check("Re: [only]", "[only]", true);
        check("Reply: x", "Reply: x", false);
        check("Re", "Re", false);
        check("=?utf-8?q?Re:_gr=C3=BCn?=", "grün", true);
        check("[open Re: x", "[open Re: x", false);
        check("", "", false);
        check("Re:", "", true);
        check("ſ(fwd)", "ſ", true);
        check("[a][b] [c]", "[c]", false);
        check("[a][fwd: [b] x]", "x", true);
    }

    #[test]
    fn a_long_subject_takes_no_longer_than_it_is() {
        let blobs = "[a]".repeat(1 << 19);
        check(&format!("{blobs}x"), "x", false);
        check(&blobs, "[a]", false);
        check(&format!("{blobs}re: {blobs}x(fwd)"), "x", true);
        check(&"re:".repeat(1 << 19), "", true);
        check(&"[fwd:".repeat(1 << 10), &"[fwd:".repeat(1 << 10), false);
        check(&format!("x{}", "(fwd)".repeat(1 << 18)), "x", true);
    }
}
