//! The selected mailbox, and what the client was told of it.

use std::io::Write;

use super::sink::OUT_BYTES;
use super::view::View;
use crate::mailbox::codec::MailboxId;
use crate::mailbox::{Entry, Mailbox, Watch};
use crate::proto::imap::flag::write_flags;
use crate::proto::imap::response::{Code, Condition, write_untagged};
use crate::proto::imap::select::Access;
use crate::proto::imap::set::NumberSet;

/// A mailbox as one client has it open.
pub struct Selected {
    pub id: MailboxId,
    pub access: Access,
    pub view: View,
    pub watch: Watch,
    /// Messages with flags that the client was not told of, as ranges of UIDs.
    flagged: NumberSet,
    /// Keywords that the client was told of.
    keyword_count: usize,
    /// HIGHESTMODSEQ when the client knew all.
    pub told_modseq: u64,
    /// Messages that came to this session first (RFC 3501 §2.3.2).
    pub recent: NumberSet,
    /// `$`: what a search has found last that was to be kept (RFC 5182).
    pub saved: NumberSet,
}

/// Extensions that the client has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enabled {
    pub condstore: bool,
    /// With `condstore`.
    pub qresync: bool,
    pub utf8: bool,
    /// RFC 9051: SEARCH answers with ESEARCH, SELECT with LIST, and nothing is recent.
    pub rev2: bool,
}

/// Whether messages that are gone may be told of: not while a command that names messages by their
/// sequence numbers is answered (RFC 9051 §7.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expunges {
    Told,
    Later,
}

/// What FETCH responses of their own accord say of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlagItems {
    pub flags: bool,
    pub uid: bool,
    pub modseq: bool,
}

impl Selected {
    /// A mailbox of which the client is being told all there is. `watch` began at the same moment.
    pub fn new(mailbox: &Mailbox, access: Access, watch: Watch, enabled: Enabled) -> Selected {
        let mut selected = Selected {
            id: mailbox.id,
            access,
            view: View::of(mailbox),
            watch,
            flagged: NumberSet::default(),
            keyword_count: mailbox.keywords.len(),
            told_modseq: mailbox.highest_modseq,
            recent: NumberSet::default(),
            saved: NumberSet::default(),
        };
        selected.take_recent(mailbox, 1, enabled);
        selected
    }

    /// Messages from `uid_from` on are told of: some may be so for the first time.
    fn take_recent(&mut self, mailbox: &Mailbox, uid_from: u32, enabled: Enabled) {
        if enabled.rev2 {
            return;
        }
        let is_claimed = self.access == Access::ReadWrite;
        let recent_from = self.watch.recent_from(mailbox.uid_next, is_claimed).max(uid_from);
        if recent_from < mailbox.uid_next {
            self.recent.insert_range(recent_from, mailbox.uid_next - 1);
        }
    }

    /// Appends EXISTS, and RECENT where the client knows that.
    pub fn write_exists(&self, mailbox: &Mailbox, enabled: Enabled, out: &mut Vec<u8>) {
        let exists = self.view.exists(mailbox);
        write(out, format_args!("* {exists} EXISTS\r\n"));
        if !enabled.rev2 {
            let recent = self.view.count_of(mailbox, &self.recent);
            write(out, format_args!("* {recent} RECENT\r\n"));
        }
    }

    /// Takes note of what has happened. Whoever looks at the mailbox does it first, at the same
    /// moment: else numbers mean other messages.
    pub fn sync(&mut self) {
        let changes = self.watch.take();
        if !changes.vanished.is_empty() {
            self.view.on_vanished(&changes.vanished);
        }
        if !changes.flagged.is_empty() {
            self.flagged = self.flagged.union(&changes.flagged);
        }
    }

    /// Appends what the client has not been told; returns whether there is more.
    pub fn write_updates(
        &mut self,
        mailbox: &Mailbox,
        expunges: Expunges,
        enabled: Enabled,
        out: &mut Vec<u8>,
    ) -> bool {
        self.write_keywords(mailbox, out);
        if expunges == Expunges::Told && self.view.has_gone() {
            if enabled.qresync {
                self.write_vanished(out);
            } else {
                self.view.tell_gone(mailbox, EXPUNGES_AT_ONCE, |number, _| {
                    write(out, format_args!("* {number} EXPUNGE\r\n"));
                });
            }
            if self.view.has_gone() {
                return true;
            }
        }
        let known_end = self.view.uid_end();
        if self.view.tell_new(mailbox) {
            self.take_recent(mailbox, known_end, enabled);
            self.write_exists(mailbox, enabled, out);
        }
        if !self.flagged.is_empty() {
            let flagged = std::mem::take(&mut self.flagged);
            let items = enabled.flag_items(false);
            let next = self.write_flags_of(mailbox, (&flagged, 0), items, |_| true, out);
            if let Some(next) = next {
                self.flagged = flagged.intersection(&[(next, u32::MAX)].into_iter().collect());
                return true;
            }
        }
        if !self.view.has_gone() {
            self.told_modseq = mailbox.highest_modseq;
        }
        false
    }

    /// Appends FLAGS where there are keywords that the client was not told of.
    pub fn write_keywords(&mut self, mailbox: &Mailbox, out: &mut Vec<u8>) {
        if mailbox.keywords.len() != self.keyword_count {
            self.write_flags(mailbox, out);
        }
    }

    /// Appends FLAGS and PERMANENTFLAGS (RFC 9051 §7.3.5 and §7.1).
    pub fn write_flags(&mut self, mailbox: &Mailbox, out: &mut Vec<u8>) {
        self.keyword_count = mailbox.keywords.len();
        let mut flags = String::from("(\\Answered \\Flagged \\Deleted \\Seen \\Draft");
        for keyword in &mailbox.keywords {
            flags.push(' ');
            flags.push_str(keyword);
        }
        write(out, format_args!("* FLAGS {flags})\r\n"));
        let (permanent, text) = match self.access {
            Access::ReadWrite => (flags + " \\*)", "Flags that stay"),
            Access::ReadOnly => ("()".to_owned(), "No flags can be changed"),
        };
        write_untagged(Condition::Ok, Some(&Code::PermanentFlags(&permanent)), text, out);
    }

    /// UIDs that are gone since a mod-sequence, but for those that the client knows and will be
    /// told of by themselves.
    pub fn vanished_earlier(&self, mailbox: &Mailbox, since: u64) -> NumberSet {
        mailbox.vanished_since(since).difference(&self.view.gone())
    }

    /// Appends VANISHED for a part of what is gone (RFC 7162 §3.2.10.2).
    fn write_vanished(&mut self, out: &mut Vec<u8>) {
        let gone = self.view.take_gone(RANGES_AT_ONCE);
        out.extend_from_slice(b"* VANISHED ");
        gone.write(out);
        out.extend_from_slice(b"\r\n");
    }

    /// Appends FETCH responses for messages of a set from `uid_from` on that are there and are
    /// `told`. Returns where to go on when that becomes much, or takes long.
    pub fn write_flags_of(
        &mut self,
        mailbox: &Mailbox,
        (uids, uid_from): (&NumberSet, u32),
        items: FlagItems,
        is_told: impl Fn(&Entry) -> bool,
        out: &mut Vec<u8>,
    ) -> Option<u32> {
        self.write_keywords(mailbox, out);
        for (count, known) in self.view.walk(mailbox, uids, uid_from).enumerate() {
            if out.len() >= OUT_BYTES || count >= MESSAGES_AT_ONCE {
                return Some(known.uid);
            }
            if let Some(entry) = known.entry.filter(&is_told) {
                let recent = self.recent.contains(entry.uid).then_some(RECENT);
                write_flag_response((known.number, recent), &entry, mailbox, items, out);
            }
        }
        None
    }
}

/// Appends a FETCH response about flags.
fn write_flag_response(
    (number, recent): (u32, Option<&str>),
    entry: &Entry,
    mailbox: &Mailbox,
    items: FlagItems,
    out: &mut Vec<u8>,
) {
    write(out, format_args!("* {number} FETCH ("));
    let start = out.len();
    if items.uid {
        write(out, format_args!("UID {} ", entry.uid));
    }
    if items.modseq {
        write(out, format_args!("MODSEQ ({}) ", entry.modseq));
    }
    if items.flags {
        out.extend_from_slice(b"FLAGS ");
        let keywords = mailbox.keywords.iter().enumerate();
        let keywords = keywords.filter(|(bit, _)| entry.keywords >> bit & 1 == 1);
        let names = recent.into_iter().chain(keywords.map(|(_, name)| &**name));
        write_flags(entry.flags, names, out);
        out.push(b' ');
    }
    // The last space; nothing at all would be no response.
    assert!(out.len() > start);
    out.pop();
    out.extend_from_slice(b")\r\n");
}

/// Appends text; writing into memory does not fail.
pub fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// Behind the system flags; nobody can store it.
pub const RECENT: &str = "\\Recent";
/// Messages that are looked at before others get a turn: about a millisecond.
const MESSAGES_AT_ONCE: usize = 16_384;
/// EXPUNGE responses before others get a turn.
const EXPUNGES_AT_ONCE: u32 = 4096;
/// Ranges of one VANISHED response.
pub const RANGES_AT_ONCE: usize = 4096;
