//! STORE (RFC 9051 §6.4.6, RFC 7162 §3.1.3).

use super::command::{Messages, Numbering, messages};
use super::cursor::{Cursor, Fault, Parsed};
use super::flag::Flags;

/// STORE or UID STORE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub numbering: Numbering,
    pub messages: Messages,
    /// Only messages not changed after this mod-sequence.
    pub unchanged_since: Option<u64>,
    pub change: FlagChange,
    /// `.SILENT`: the resulting flags need not be told.
    pub is_silent: bool,
    pub flags: Flags,
}

/// What happens to the flags of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagChange {
    Replace,
    Add,
    Remove,
}

/// The arguments of STORE.
pub(super) fn store(numbering: Numbering, cursor: &mut Cursor) -> Parsed<Store> {
    let messages = messages(cursor)?;
    cursor.space()?;
    let mut unchanged_since = None;
    if cursor.peek() == Some(b'(') {
        cursor.list(|cursor| {
            if !cursor.eat_text("UNCHANGEDSINCE") {
                return Err(Fault("Unknown STORE modifier"));
            }
            cursor.space()?;
            unchanged_since = Some(cursor.number()?);
            Ok(())
        })?;
        cursor.space()?;
    }
    let change = if cursor.eat(b'+') {
        FlagChange::Add
    } else if cursor.eat(b'-') {
        FlagChange::Remove
    } else {
        FlagChange::Replace
    };
    let item = cursor.name()?.to_ascii_uppercase();
    let is_silent = match item.as_str() {
        "FLAGS" => false,
        "FLAGS.SILENT" => true,
        _ => return Err(Fault("Unknown STORE item")),
    };
    cursor.space()?;
    let flags = flags(cursor)?;
    Ok(Store { numbering, messages, unchanged_since, change, is_silent, flags })
}

/// A list of flags, or flags with spaces between them.
fn flags(cursor: &mut Cursor) -> Parsed<Flags> {
    if cursor.peek() == Some(b'(') {
        return cursor.flag_list();
    }
    let mut flags = Flags::default();
    cursor.flag(&mut flags)?;
    while cursor.more()? {
        cursor.flag(&mut flags)?;
    }
    Ok(flags)
}
