//! APPEND (RFC 9051 §6.3.12, RFC 3502, RFC 6855): all of it but the messages themselves.

use super::command::{Tag, tag};
use super::cursor::{Cursor, Fault, Literal, LiteralEncoding, Parsed};
use super::date::date_time;
use super::flag::Flags;
use super::mailbox::{MailboxName, NameForm};
use crate::proto::mime::date::DateTime;

/// APPEND up to its first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub tag: Tag,
    pub mailbox: MailboxName,
    pub message: NewMessage,
}

/// What is known of a message before its octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    pub flags: Flags,
    /// `None`: the time of the command.
    pub internal_date: Option<DateTime>,
    pub bytes: u64,
    pub form: MessageForm,
}

/// How a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageForm {
    Text,
    /// `~{n}`: NUL may occur (RFC 3516).
    Binary,
    /// `UTF8 (~{n})`: header fields may be UTF-8 (RFC 6855 §4).
    Utf8,
}

/// Whether a command is an APPEND that has come as far as a message, when its text so far ends in
/// the announcement of a literal.
///
/// `None`: it is another command, or the literal is the name of the mailbox.
pub(super) fn at_message(
    text: &[u8],
    names: NameForm,
) -> Option<Result<(Append, Literal), (Tag, Fault)>> {
    let mut cursor = Cursor::with_names(text, names);
    let tag = tag(&mut cursor).ok()?;
    if !cursor.eat_text("APPEND") || cursor.space().is_err() {
        return None;
    }
    let name_is_literal = matches!(cursor.peek(), Some(b'{' | b'~'))
        && cursor.clone().announcement().is_ok_and(|_| !cursor.rest().contains(&b'\n'));
    if name_is_literal {
        return None;
    }
    let mut read = || {
        let mailbox = cursor.mailbox()?;
        let (message, literal) = message(&mut cursor)?;
        Ok((mailbox, message, literal))
    };
    Some(match read() {
        Ok((mailbox, message, literal)) => Ok((Append { tag, mailbox, message }, literal)),
        Err(fault) => Err((tag, fault)),
    })
}

/// ` (\Seen) "date" {n}` up to the octets of the message.
pub(super) fn message(cursor: &mut Cursor) -> Parsed<(NewMessage, Literal)> {
    cursor.space()?;
    let mut flags = Flags::default();
    if cursor.peek() == Some(b'(') {
        flags = cursor.flag_list()?;
        cursor.space()?;
    }
    let mut internal_date = None;
    if cursor.peek() == Some(b'"') {
        internal_date = Some(date_time(cursor)?);
        cursor.space()?;
    }
    let is_utf8 = cursor.eat_text("UTF8 (");
    let literal = cursor.announcement()?;
    if !cursor.is_empty() {
        return Err(Fault("Expected a message"));
    }
    let form = match (is_utf8, literal.encoding) {
        (false, LiteralEncoding::Text) => MessageForm::Text,
        (false, LiteralEncoding::Binary) => MessageForm::Binary,
        (true, LiteralEncoding::Binary) => MessageForm::Utf8,
        (true, LiteralEncoding::Text) => return Err(Fault("UTF8 needs a binary literal")),
    };
    Ok((NewMessage { flags, internal_date, bytes: literal.bytes, form }, literal))
}
