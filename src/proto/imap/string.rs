//! Strings as a server sends them (RFC 9051 §4.3).

use std::io::Write;

/// Appends a string: quoted where that can carry it, else a literal.
///
/// NUL cannot be sent in either and becomes `?`.
pub fn write_string(octets: &[u8], out: &mut Vec<u8>) {
    if octets.iter().all(|octet| (0x01..=0x7f).contains(octet) && !matches!(octet, b'\r' | b'\n')) {
        write_quoted(octets, out);
    } else {
        write_literal(octets, out);
    }
}

/// Appends a string, or NIL for none.
pub fn write_nstring(octets: Option<&[u8]>, out: &mut Vec<u8>) {
    match octets {
        Some(octets) => write_string(octets, out),
        None => out.extend_from_slice(NIL),
    }
}

/// Appends a mailbox name or the like: an atom where it is one, else a string.
pub fn write_astring(octets: &[u8], out: &mut Vec<u8>) {
    let is_nil = octets.eq_ignore_ascii_case(NIL);
    if !octets.is_empty() && !is_nil && octets.iter().all(|octet| is_atom_octet(*octet)) {
        out.extend_from_slice(octets);
    } else {
        write_string(octets, out);
    }
}

/// What stands between two items of a list, and before the first one: `(` or a space.
pub(super) fn write_separator(is_first: bool, out: &mut Vec<u8>) {
    out.push(if is_first { b'(' } else { b' ' });
}

/// Whether an atom may hold this octet: not `(){ %*"\]`, controls and 8-bit ones.
pub fn is_atom_octet(octet: u8) -> bool {
    octet.is_ascii_graphic() && !b"(){%*\"\\]".contains(&octet)
}

fn write_quoted(octets: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut start = 0;
    for special in memchr::memchr2_iter(b'"', b'\\', octets) {
        out.extend_from_slice(&octets[start..special]);
        out.push(b'\\');
        start = special;
    }
    out.extend_from_slice(&octets[start..]);
    out.push(b'"');
}

fn write_literal(octets: &[u8], out: &mut Vec<u8>) {
    // Writing into memory does not fail.
    let _ = write!(out, "{{{}}}\r\n", octets.len());
    out.extend(octets.iter().map(|octet| if *octet == 0 { b'?' } else { *octet }));
}

/// The absence of a string or list.
pub const NIL: &[u8] = b"NIL";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_where_they_can_be() {
        let check = |octets: &[u8], expected: &[u8]| {
            let mut out = Vec::new();
            write_string(octets, &mut out);
            assert_eq!(out, expected);
        };
        check(b"", b"\"\"");
        check(b"a \"b\" \\", b"\"a \\\"b\\\" \\\\\"");
        check("ü".as_bytes(), b"{2}\r\n\xc3\xbc");
        check(b"a\r\nb", b"{4}\r\na\r\nb");
        check(b"a\0b", b"{3}\r\na?b");
    }

    #[test]
    fn names_are_atoms_where_they_can_be() {
        let check = |octets: &[u8], expected: &[u8]| {
            let mut out = Vec::new();
            write_astring(octets, &mut out);
            assert_eq!(out, expected);
        };
        check(b"INBOX", b"INBOX");
        check(b"a/&AOQ-", b"a/&AOQ-");
        check(b"", b"\"\"");
        check(b"nil", b"\"nil\"");
        check(b"a b", b"\"a b\"");
        check(b"50%", b"\"50%\"");
    }
}
