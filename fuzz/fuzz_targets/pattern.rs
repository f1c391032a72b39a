//! Patterns of LIST: the same as the plainest way to compare finds. A line is a name, those behind
//! it are a reference and a pattern.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::access::imap::pattern::Pattern;
use ringpost::limits::MAILBOX_NAME_BYTES_MAX;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (name, reference, pattern) = (line(), line(), line());
    let compiled = Pattern::new(reference, pattern);
    compiled.ends_in_level();
    let tokens = [reference, pattern].concat().into_bytes();
    let octets = tokens.iter().filter(|token| !b"*%".contains(token)).count();
    let is_too_long = octets > MAILBOX_NAME_BYTES_MAX;
    assert_eq!(compiled.matches(name), !is_too_long && matches(&tokens, name.as_bytes()));
});

/// Where in the name the tokens so far may end, token by token.
fn matches(tokens: &[u8], name: &[u8]) -> bool {
    let is_inbox = name.starts_with(b"INBOX") && matches!(name.get(5), None | Some(b'/'));
    let mut ends = vec![false; name.len() + 1];
    ends[0] = true;
    for token in tokens {
        let mut next = vec![false; name.len() + 1];
        match token {
            b'*' | b'%' => {
                let mut is_within = false;
                for at in 0..=name.len() {
                    let is_level_over = at > 0 && *token == b'%' && name[at - 1] == b'/';
                    is_within = ends[at] || (is_within && !is_level_over);
                    next[at] = is_within;
                }
            }
            token => {
                for (at, octet) in name.iter().enumerate() {
                    let is_same = match is_inbox && at < 5 {
                        true => octet.eq_ignore_ascii_case(token),
                        false => octet == token,
                    };
                    next[at + 1] = ends[at] && is_same;
                }
            }
        }
        ends = next;
    }
    ends[name.len()]
}
