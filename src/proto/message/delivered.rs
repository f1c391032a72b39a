//! The fields that final delivery puts in front of a message.

use crate::proto::xtext;

/// What is said of a delivery.
pub struct Delivered<'a> {
    /// Mailbox text, empty for the null reverse-path.
    pub reverse_path: &'a str,
    /// Mailbox text, with whatever detail it has.
    pub recipient: &'a str,
    /// ORCPT (RFC 3461 §4.2): told where it names another mailbox than `recipient`.
    pub original_recipient: Option<&'a str>,
}

impl Delivered<'_> {
    /// Appends Return-Path (RFC 5321 §4.4), Delivered-To and X-Original-To, each ending in CRLF.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut field = |parts: [&str; 4]| parts.iter().for_each(|it| out.extend(it.as_bytes()));
        field(["Return-Path: <", self.reverse_path, ">", "\r\n"]);
        field(["Delivered-To: ", self.recipient, "", "\r\n"]);
        let original = self.original_recipient.and_then(xtext::mailbox_of);
        if let Some(original) = original.filter(|it| !it.eq_ignore_ascii_case(self.recipient)) {
            field(["X-Original-To: ", &original, "", "\r\n"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_name_both_paths_and_who_was_meant_at_first() {
        let check = |reverse_path, original_recipient, expected: &str| {
            let mut out = Vec::new();
            let recipient = "a+x@b.test";
            Delivered { reverse_path, recipient, original_recipient }.write(&mut out);
            assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
        };
        let plain = "Return-Path: <s@t.test>\r\nDelivered-To: a+x@b.test\r\n";
        check("s@t.test", None, plain);
        check("s@t.test", Some("rfc822;A+2Bx@b.test"), plain);
        check("s@t.test", Some("x400;/c=de"), plain);
        check("", None, "Return-Path: <>\r\nDelivered-To: a+x@b.test\r\n");
        let all = [plain, "X-Original-To: all@b.test\r\n"].concat();
        check("s@t.test", Some("rfc822;all@b.test"), &all);
        let all = [plain, "X-Original-To: g\u{fc}@b.test\r\n"].concat();
        check("s@t.test", Some("utf-8;g\\x{FC}@b.test"), &all);
    }
}
