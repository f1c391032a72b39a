//! SELECT and EXAMINE with their parameters (RFC 9051 §6.3.2, RFC 7162).

use super::cursor::{Cursor, Fault, Parsed};
use super::mailbox::MailboxName;
use super::set::SequenceSet;

/// SELECT, or EXAMINE for reading only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    pub access: Access,
    pub mailbox: MailboxName,
    /// CONDSTORE was asked for.
    pub condstore: bool,
    pub qresync: Option<Qresync>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

/// What a client knows of a mailbox (RFC 7162 §3.2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qresync {
    pub uid_validity: u32,
    pub mod_sequence: u64,
    /// `None`: all there may be.
    pub known_uids: Option<SequenceSet>,
    /// Some sequence numbers with the UIDs they had, as many of the one as of the other.
    pub matches: Option<(SequenceSet, SequenceSet)>,
}

/// The arguments of either command.
pub(super) fn select(access: Access, cursor: &mut Cursor) -> Parsed<Select> {
    let mailbox = cursor.mailbox()?;
    let mut select = Select { access, mailbox, condstore: false, qresync: None };
    if cursor.more()? {
        cursor.list(|cursor| {
            match cursor.name()?.to_ascii_uppercase().as_str() {
                "CONDSTORE" => select.condstore = true,
                "QRESYNC" => {
                    cursor.space()?;
                    select.qresync = Some(qresync(cursor)?);
                }
                _ => return Err(Fault("Unknown SELECT parameter")),
            }
            Ok(())
        })?;
    }
    Ok(select)
}

fn qresync(cursor: &mut Cursor) -> Parsed<Qresync> {
    cursor.expect(b'(', "Expected (")?;
    let uid_validity = cursor.nz_number()?;
    cursor.space()?;
    let mod_sequence = cursor.number()?;
    let mut qresync = Qresync { uid_validity, mod_sequence, known_uids: None, matches: None };
    if cursor.peek() == Some(b' ') {
        cursor.space()?;
        if cursor.peek() != Some(b'(') {
            qresync.known_uids = Some(without_star(cursor)?);
        }
        if qresync.known_uids.is_none() || cursor.peek() == Some(b' ') {
            if qresync.known_uids.is_some() {
                cursor.space()?;
            }
            cursor.expect(b'(', "Expected (")?;
            let sequence = without_star(cursor)?;
            cursor.space()?;
            qresync.matches = Some((sequence, without_star(cursor)?));
            cursor.expect(b')', "Expected )")?;
        }
    }
    cursor.expect(b')', "Expected )")?;
    Ok(qresync)
}

fn without_star(cursor: &mut Cursor) -> Parsed<SequenceSet> {
    let set = cursor.sequence_set()?;
    if set.has_star() { Err(Fault("* has no meaning in QRESYNC")) } else { Ok(set) }
}
