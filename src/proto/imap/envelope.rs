//! ENVELOPE (RFC 9051 §7.5.2): the common fields of a message in a fixed order.

use super::string::{NIL, write_nstring, write_separator, write_string};
use crate::proto::mime::address::{Entry, for_each_entry};
use crate::proto::mime::field::{FieldName, unfold};
use crate::proto::mime::structure::Structure;

/// Appends the ENVELOPE of the message at `index`.
///
/// Several fields of one name are shown as one list of addresses, so that no reader sees other
/// senders than another; of the fields without addresses the first counts.
pub fn write_envelope(structure: &Structure, index: usize, out: &mut Vec<u8>) {
    let text = |name, out: &mut Vec<u8>| {
        write_nstring(structure.field(index, name).map(unfold).as_deref(), out);
    };
    out.push(b'(');
    text(FieldName::Date, out);
    out.push(b' ');
    text(FieldName::Subject, out);
    out.push(b' ');
    let from_start = out.len();
    write_addresses(structure, index, FieldName::From, out);
    let from = from_start..out.len();
    for name in [FieldName::Sender, FieldName::ReplyTo] {
        out.push(b' ');
        if !write_addresses(structure, index, name, out) {
            // Absent or empty, it is what From is.
            out.truncate(out.len() - NIL.len());
            out.extend_from_within(from.clone());
        }
    }
    for name in [FieldName::To, FieldName::Cc, FieldName::Bcc] {
        out.push(b' ');
        write_addresses(structure, index, name, out);
    }
    out.push(b' ');
    text(FieldName::InReplyTo, out);
    out.push(b' ');
    text(FieldName::MessageId, out);
    out.push(b')');
}

/// Appends a list of addresses, or NIL when there are none; whether there were any.
fn write_addresses(
    structure: &Structure,
    index: usize,
    name: FieldName,
    out: &mut Vec<u8>,
) -> bool {
    let mut is_empty = true;
    for body in structure.fields(index, name) {
        for_each_entry(body, |entry| {
            if is_empty {
                out.push(b'(');
            }
            is_empty = false;
            write_address(&entry, out);
        });
    }
    out.extend_from_slice(if is_empty { NIL } else { b")" });
    !is_empty
}

fn write_address(entry: &Entry, out: &mut Vec<u8>) {
    let [name, route, local_part, domain] = match entry {
        Entry::Mailbox { name, route, local_part, domain } => {
            // NIL as a domain means a group; an address without one has an empty one.
            let domain = domain.as_deref().unwrap_or_default();
            [name.as_deref(), route.as_deref(), Some(local_part.as_slice()), Some(domain)]
        }
        Entry::GroupStart { name } => [None, None, Some(name.as_slice()), None],
        Entry::GroupEnd => [None; 4],
    };
    for (position, member) in [name, route, local_part, domain].into_iter().enumerate() {
        write_separator(position == 0, out);
        match member {
            Some(octets) => write_string(octets, out),
            None => out.extend_from_slice(NIL),
        }
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mime::scan::scan;

    fn check(header: &str, expected: &str) {
        let mut out = Vec::new();
        write_envelope(&scan(header.as_bytes()), 0, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected, "{header:?}");
    }

    #[test]
    fn all_fields_in_their_places() {
        check(
            "Message-ID: <m@i>\r\nIn-Reply-To: <r@i>\r\nDate: Sat, 01 Feb 2007 01:02:03 +0200\r\n\
             Subject: a\r\n \"b\"\r\nFrom: F R <f@f>\r\nTo: T <t@t>\r\nCc: c@c\r\nBcc: b@b\r\n\
             Sender: s@s\r\nReply-To: r@r\r\n\r\n",
            "(\"Sat, 01 Feb 2007 01:02:03 +0200\" \"a \\\"b\\\"\" ((\"F R\" NIL \"f\" \"f\")) \
             ((NIL NIL \"s\" \"s\")) ((NIL NIL \"r\" \"r\")) ((\"T\" NIL \"t\" \"t\")) \
             ((NIL NIL \"c\" \"c\")) ((NIL NIL \"b\" \"b\")) \"<r@i>\" \"<m@i>\")",
        );
    }

    #[test]
    fn sender_and_reply_to_fall_back_on_from() {
        check(
            "From: <@route:u@d>\r\nSender: \r\nSubject:\r\n\r\n",
            "(NIL \"\" ((NIL \"@route\" \"u\" \"d\")) ((NIL \"@route\" \"u\" \"d\")) \
             ((NIL \"@route\" \"u\" \"d\")) NIL NIL NIL NIL NIL)",
        );
        check("\r\n", "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)");
    }

    #[test]
    fn groups_and_repeated_fields_make_one_list() {
        check(
            "To: g: a@b;, root\r\nTo: \"q\\\"\" <c@d>\r\n\r\n",
            "(NIL NIL NIL NIL NIL ((NIL NIL \"g\" NIL)(NIL NIL \"a\" \"b\")(NIL NIL NIL NIL)\
             (NIL NIL \"root\" \"\")(\"q\\\"\" NIL \"c\" \"d\")) NIL NIL NIL NIL)",
        );
    }

    #[test]
    fn octets_beyond_ascii_go_as_literals() {
        check(
            "Subject: gr\u{fc}n\r\nFrom: \u{fc} <a@b>\r\n\r\n",
            "(NIL {5}\r\ngr\u{fc}n (({2}\r\n\u{fc} NIL \"a\" \"b\")) \
             (({2}\r\n\u{fc} NIL \"a\" \"b\")) (({2}\r\n\u{fc} NIL \"a\" \"b\")) \
             NIL NIL NIL NIL NIL)",
        );
    }
}
