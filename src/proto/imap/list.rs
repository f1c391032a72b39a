//! LIST, LSUB and STATUS (RFC 9051 §6.3.9, RFC 5258, RFC 5819, RFC 6154, RFC 8440).

use super::cursor::{Cursor, Fault, Parsed};
use super::mailbox::MailboxName;

/// LIST with all its options; a plain LIST has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    pub selection: ListSelection,
    pub reference: String,
    /// One or more; with `*` and `%`.
    pub patterns: Vec<String>,
    pub returns: ListReturn,
    /// Written in the extended form: responses may be extended too.
    pub is_extended: bool,
}

/// Which mailboxes LIST selects (RFC 5258 §3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListSelection {
    pub subscribed: bool,
    pub remote: bool,
    pub recursive_match: bool,
    pub special_use: bool,
}

/// What LIST says of each mailbox (RFC 5258 §3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListReturn {
    pub subscribed: bool,
    pub children: bool,
    pub special_use: bool,
    /// RFC 5819; empty when it is not asked for.
    pub status: Vec<StatusItem>,
}

/// What STATUS tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusItem {
    Messages,
    Recent,
    UidNext,
    UidValidity,
    Unseen,
    Deleted,
    Size,
    HighestModSeq,
    AppendLimit,
    MailboxId,
}

impl StatusItem {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "MESSAGES",
            Self::Recent => "RECENT",
            Self::UidNext => "UIDNEXT",
            Self::UidValidity => "UIDVALIDITY",
            Self::Unseen => "UNSEEN",
            Self::Deleted => "DELETED",
            Self::Size => "SIZE",
            Self::HighestModSeq => "HIGHESTMODSEQ",
            Self::AppendLimit => "APPENDLIMIT",
            Self::MailboxId => "MAILBOXID",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        ALL.into_iter().find(|item| name.eq_ignore_ascii_case(item.as_str()))
    }
}

const ALL: [StatusItem; 10] = [
    StatusItem::Messages,
    StatusItem::Recent,
    StatusItem::UidNext,
    StatusItem::UidValidity,
    StatusItem::Unseen,
    StatusItem::Deleted,
    StatusItem::Size,
    StatusItem::HighestModSeq,
    StatusItem::AppendLimit,
    StatusItem::MailboxId,
];

/// The arguments of LIST.
pub(super) fn list(cursor: &mut Cursor) -> Parsed<List> {
    let mut list = List::default();
    if cursor.peek() == Some(b'(') {
        list.is_extended = true;
        cursor.list(|cursor| list.selection.read_option(cursor))?;
        cursor.space()?;
        let ListSelection { subscribed, special_use, recursive_match, .. } = list.selection;
        if recursive_match && !subscribed && !special_use {
            return Err(Fault("RECURSIVEMATCH needs another selection option"));
        }
    }
    list.reference = name(cursor)?;
    cursor.space()?;
    if cursor.peek() == Some(b'(') {
        list.is_extended = true;
        list.patterns = cursor.list(pattern)?;
        if list.patterns.is_empty() {
            return Err(Fault("Missing mailbox pattern"));
        }
    } else {
        list.patterns.push(pattern(cursor)?);
    }
    if cursor.more()? {
        list.is_extended = true;
        if !cursor.eat_text("RETURN") {
            return Err(Fault("Expected RETURN"));
        }
        cursor.space()?;
        cursor.list(|cursor| list.returns.read_option(cursor))?;
    }
    Ok(list)
}

/// The arguments of LSUB.
pub(super) fn lsub(cursor: &mut Cursor) -> Parsed<(String, String)> {
    let reference = name(cursor)?;
    cursor.space()?;
    Ok((reference, pattern(cursor)?))
}

/// The arguments of STATUS.
pub(super) fn status(cursor: &mut Cursor) -> Parsed<(MailboxName, Vec<StatusItem>)> {
    let mailbox = cursor.mailbox()?;
    cursor.space()?;
    Ok((mailbox, status_items(cursor)?))
}

fn status_items(cursor: &mut Cursor) -> Parsed<Vec<StatusItem>> {
    let items = cursor
        .list(|cursor| StatusItem::from_name(cursor.name()?).ok_or(Fault("Unknown STATUS item")))?;
    if items.is_empty() { Err(Fault("Missing STATUS item")) } else { Ok(items) }
}

impl ListSelection {
    fn read_option(&mut self, cursor: &mut Cursor) -> Parsed<()> {
        let option = match cursor.name()?.to_ascii_uppercase().as_str() {
            "SUBSCRIBED" => &mut self.subscribed,
            "REMOTE" => &mut self.remote,
            "RECURSIVEMATCH" => &mut self.recursive_match,
            "SPECIAL-USE" => &mut self.special_use,
            _ => return Err(Fault("Unknown LIST selection option")),
        };
        *option = true;
        Ok(())
    }
}

impl ListReturn {
    fn read_option(&mut self, cursor: &mut Cursor) -> Parsed<()> {
        match cursor.name()?.to_ascii_uppercase().as_str() {
            "SUBSCRIBED" => self.subscribed = true,
            "CHILDREN" => self.children = true,
            "SPECIAL-USE" => self.special_use = true,
            "STATUS" => {
                cursor.space()?;
                self.status = status_items(cursor)?;
            }
            _ => return Err(Fault("Unknown LIST return option")),
        }
        Ok(())
    }
}

fn name(cursor: &mut Cursor) -> Parsed<String> {
    let text = cursor.astring()?;
    cursor.decode_name(&text)
}

/// A name in which `*` and `%` may stand without quotes.
fn pattern(cursor: &mut Cursor) -> Parsed<String> {
    let text = match cursor.peek() {
        Some(b'"' | b'{' | b'~') => return name(cursor),
        _ => cursor.take_while(|octet| {
            octet.is_ascii_graphic() && !b"(){\"\\".contains(&octet) || octet >= 0x80
        }),
    };
    if text.is_empty() {
        return Err(Fault("Missing mailbox pattern"));
    }
    cursor.decode_name(text)
}
