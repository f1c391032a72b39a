//! The payload of ITEMS: what a checkpoint says of a partition (docs/MAILBOX.md). `Pure.`
//!
//! Each item is absolute at its place in the log. A mailbox is told of by its header, then by its
//! messages a range of UIDs at a time; what happens to it in between is in records that replay
//! meets in their turn.

use std::ops::Bound::{Excluded, Unbounded};

use super::codec::{
    AccountId, Body, BodyId, DeliveryKey, MODSEQ_MAX, MailboxId, Malformed, Message, Quota,
    SpecialUses, name,
};
use super::date::InternalDate;
use super::index::{Entry, Mailbox, Vanished};
use super::partition::{Deleted, Kept, Partition};
use crate::journal::payload::{Reader, text};
use crate::limits::{
    ACCOUNT_NAME_BYTES_MAX, ACCOUNT_SECRET_BYTES_MAX, KEYWORDS_MAX, MAILBOX_NAME_BYTES_MAX,
    SUBSCRIPTIONS_MAX, VANISHED_RANGES_MAX,
};
use crate::proto::imap::flag::SystemFlags;

/// How far a checkpoint has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    Start,
    /// Keys from this one on, counted since the first.
    Keys(u64),
    /// Accounts behind this one.
    Accounts(AccountId),
    /// Mailboxes behind this one.
    Mailboxes(MailboxId),
    /// Messages of a mailbox from this UID on.
    Messages(MailboxId, u32),
    /// Expunged messages behind this one.
    Expunged(MailboxId, u32),
    /// Deleted mailboxes behind this one.
    Deleted(MailboxId),
}

impl Partition {
    /// The next payload, and where to go on; `None` when all is told.
    pub fn next_items(&self, from: Cursor) -> (Vec<u8>, Option<Cursor>) {
        self.items_of(from, ITEMS_BYTES)
    }

    /// A payload with one item.
    #[cfg(test)]
    pub(super) fn next_item(&self, from: Cursor) -> (Vec<u8>, Option<Cursor>) {
        self.items_of(from, FRONT_BYTES + 1)
    }

    fn items_of(&self, from: Cursor, bytes_min: usize) -> (Vec<u8>, Option<Cursor>) {
        let mut items = Items { payload: vec![0; FRONT_BYTES], count: 0 };
        let mut next = Some(from);
        while let Some(cursor) = next.filter(|_| items.payload.len() < bytes_min) {
            next = self.add_item(cursor, &mut items, bytes_min / 2);
        }
        items.payload[4..8].copy_from_slice(&items.count.to_le_bytes());
        (items.payload, next)
    }

    fn add_item(&self, cursor: Cursor, items: &mut Items, bytes_min: usize) -> Option<Cursor> {
        match cursor {
            Cursor::Start => {
                items.add(tag::COUNTERS, |out| {
                    out.extend_from_slice(&self.modseq.to_le_bytes());
                    out.extend_from_slice(&self.uid_validity.to_le_bytes());
                });
                Some(Cursor::Keys(0))
            }
            Cursor::Keys(number) => {
                let (keys, next) = self.keys.from(number, KEYS_AT_ONCE);
                items.add(tag::KEYS, |out| {
                    keys.for_each(|key| out.extend_from_slice(&key.0.to_le_bytes()));
                });
                Some(next.map_or(Cursor::Accounts(AccountId(0)), Cursor::Keys))
            }
            Cursor::Accounts(after) => {
                let mut behind = self.accounts.range((Excluded(after), Unbounded));
                let Some((id, account)) = behind.next() else {
                    return Some(Cursor::Mailboxes(MailboxId(0)));
                };
                items.add(tag::ACCOUNT, |out| {
                    out.extend_from_slice(&id.0.to_le_bytes());
                    write_text(&account.name, out);
                    account.quota.write(out);
                    write_text(account.secret.as_deref().unwrap_or_default(), out);
                    out.extend_from_slice(&(account.subscriptions.len() as u16).to_le_bytes());
                    account.subscriptions.iter().for_each(|name| write_text(name, out));
                });
                Some(Cursor::Accounts(*id))
            }
            Cursor::Mailboxes(after) => {
                let mut behind = self.mailboxes.range((Excluded(after), Unbounded));
                let Some((id, mailbox)) = behind.next() else {
                    return Some(Cursor::Expunged(MailboxId(0), 0));
                };
                items.add(tag::MAILBOX, |out| write_mailbox(mailbox, out));
                Some(Cursor::Messages(*id, 1))
            }
            Cursor::Messages(id, from) => match self.mailboxes.get(&id) {
                Some(mailbox) => Some(self.add_messages(mailbox, from, items, bytes_min)),
                // It went between two payloads.
                None => Some(Cursor::Mailboxes(id)),
            },
            Cursor::Expunged(mailbox, uid) => {
                let next = self.add_expunged((mailbox, uid), items, bytes_min);
                Some(next.unwrap_or(Cursor::Deleted(MailboxId(0))))
            }
            Cursor::Deleted(after) => {
                let mut behind = self.deleted.range((Excluded(after), Unbounded));
                let (id, deleted) = behind.next()?;
                items.add(tag::DELETED, |out| {
                    out.extend_from_slice(&id.0.to_le_bytes());
                    out.extend_from_slice(&deleted.account.0.to_le_bytes());
                    out.extend_from_slice(&deleted.at_s.to_le_bytes());
                    out.push(deleted.special_uses.0);
                    write_text(&deleted.name, out);
                });
                Some(Cursor::Deleted(*id))
            }
        }
    }

    fn add_messages(
        &self,
        mailbox: &Mailbox,
        from: u32,
        items: &mut Items,
        bytes_min: usize,
    ) -> Cursor {
        let mut entries = mailbox.entries(from..u32::MAX).peekable();
        let mut messages = Vec::new();
        let mut count: u32 = 0;
        while messages.len() < bytes_min
            && let Some(entry) = entries.next()
        {
            self.write_message(&entry, &mut messages);
            count += 1;
        }
        let next = entries.peek().map(|entry| entry.uid);
        let end = next.map_or(u32::MAX, |next| next - 1);
        items.add(tag::MESSAGES, |out| {
            out.extend_from_slice(&mailbox.id.0.to_le_bytes());
            out.extend_from_slice(&from.to_le_bytes());
            out.extend_from_slice(&end.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
            out.extend_from_slice(&messages);
        });
        next.map_or(Cursor::Mailboxes(mailbox.id), |next| Cursor::Messages(mailbox.id, next))
    }

    fn write_message(&self, entry: &Entry, out: &mut Vec<u8>) {
        let body = self.bodies.body(entry.body);
        let message = Message {
            uid: entry.uid,
            modseq: entry.modseq,
            date: entry.date,
            saved_s: entry.saved_s,
            flags: entry.flags,
            keywords: entry.keywords,
            body: body.id,
        };
        message.write(out);
        body.write_without_id(out);
    }

    fn add_expunged(
        &self,
        after: (MailboxId, u32),
        items: &mut Items,
        bytes_min: usize,
    ) -> Option<Cursor> {
        let mut kept = self.expunged.after(after);
        let mut next = None;
        items.add(tag::EXPUNGED, |out| {
            let start = out.len();
            while out.len() - start < bytes_min {
                let Some(((mailbox, uid), kept)) = kept.next() else {
                    next = None;
                    return;
                };
                let body = self.bodies.body(kept.body);
                out.extend_from_slice(&mailbox.0.to_le_bytes());
                out.extend_from_slice(&uid.to_le_bytes());
                out.extend_from_slice(&kept.at_s.to_le_bytes());
                kept.date.write(out);
                out.push(kept.flags.0);
                out.extend_from_slice(&body.id.0.to_le_bytes());
                body.write_without_id(out);
                next = Some(Cursor::Expunged(mailbox, uid));
            }
        });
        next
    }

    /// Takes in what a checkpoint says here. What is malformed ends it; what came before counts.
    pub fn apply_items(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(payload);
        if reader.u32()? != 0 {
            return Err(Malformed);
        }
        for _ in 0..reader.u32()? {
            let tag = reader.u8()?;
            let bytes = reader.u32()? as usize;
            let mut item = Reader::new(reader.take(bytes)?);
            match tag {
                tag::COUNTERS => {
                    self.modseq = self.modseq.max(modseq(&mut item)?);
                    self.uid_validity = self.uid_validity.max(item.u32()?);
                }
                tag::KEYS => {
                    while !item.is_empty() {
                        self.keys.add(DeliveryKey(item.u128()?));
                    }
                }
                tag::ACCOUNT => self.apply_account(&mut item)?,
                tag::MAILBOX => {
                    let mailbox = read_mailbox(&mut item)?;
                    self.uid_validity = self.uid_validity.max(mailbox.uid_validity);
                    self.modseq = self.modseq.max(mailbox.highest_modseq);
                    self.put_mailbox(mailbox);
                }
                tag::MESSAGES => self.apply_messages(&mut item)?,
                tag::EXPUNGED => self.apply_expunged(&mut item)?,
                tag::DELETED => {
                    let (id, account) = (MailboxId(number(&mut item)?), number(&mut item)?);
                    let (at_s, uses) = (item.u32()?, SpecialUses(item.u8()?));
                    let name = read_name(&mut item, MAILBOX_NAME_BYTES_MAX)?;
                    let account = AccountId(account);
                    self.put_deleted(id, Deleted { account, name, special_uses: uses, at_s });
                }
                _ => return Err(Malformed),
            }
            if !item.is_empty() {
                return Err(Malformed);
            }
        }
        if reader.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn apply_account(&mut self, item: &mut Reader<'_>) -> Result<(), Malformed> {
        let id = AccountId(number(item)?);
        let name = read_name(item, ACCOUNT_NAME_BYTES_MAX)?;
        let quota = Quota::read(item)?;
        let secret_bytes = usize::from(item.u16()?);
        let secret = text(item.take(secret_bytes)?)?;
        let count = usize::from(item.u16()?);
        if count > SUBSCRIPTIONS_MAX || secret.len() > ACCOUNT_SECRET_BYTES_MAX {
            return Err(Malformed);
        }
        let account = self.add_account(id, &name);
        account.quota = quota;
        account.secret = (!secret.is_empty()).then_some(secret);
        for _ in 0..count {
            let name = read_name(item, MAILBOX_NAME_BYTES_MAX)?;
            if let Some(account) = self.accounts.get_mut(&id) {
                account.subscriptions.insert(name);
            }
        }
        Ok(())
    }

    fn apply_messages(&mut self, item: &mut Reader<'_>) -> Result<(), Malformed> {
        let id = MailboxId(number(item)?);
        let (from, end) = (item.u32()?, item.u32()?);
        let mut messages: Vec<(Message, Body)> = Vec::new();
        for _ in 0..item.u32()? {
            let message = Message::read(item)?;
            let body = Body::read_without_id(message.body, item)?;
            let is_next = messages.last().is_none_or(|(last, _)| last.uid < message.uid);
            if !is_next || !(from..=end).contains(&message.uid) {
                return Err(Malformed);
            }
            messages.push((message, body));
        }
        self.put_range(id, (from, end), &messages);
        Ok(())
    }

    fn apply_expunged(&mut self, item: &mut Reader<'_>) -> Result<(), Malformed> {
        while !item.is_empty() {
            let mailbox = MailboxId(number(item)?);
            let (uid, at_s) = (item.u32()?, item.u32()?);
            let date = InternalDate::read(item.array()?);
            let flags = SystemFlags(item.u8()?);
            let body = Body::read_without_id(BodyId(number(item)?), item)?;
            if uid == 0 {
                return Err(Malformed);
            }
            let body = self.bodies.place(&body);
            if self.expunged.add(mailbox, uid, Kept { at_s, date, flags, body }) {
                self.bodies.add_use(body);
            }
        }
        Ok(())
    }
}

struct Items {
    payload: Vec<u8>,
    count: u32,
}

impl Items {
    fn add(&mut self, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.payload.push(tag);
        let at = self.payload.len();
        self.payload.extend_from_slice(&[0; 4]);
        write(&mut self.payload);
        let bytes = (self.payload.len() - at - 4) as u32;
        self.payload[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
        self.count += 1;
    }
}

fn write_mailbox(mailbox: &Mailbox, out: &mut Vec<u8>) {
    out.extend_from_slice(&mailbox.id.0.to_le_bytes());
    out.extend_from_slice(&mailbox.account.0.to_le_bytes());
    out.extend_from_slice(&mailbox.uid_validity.to_le_bytes());
    out.extend_from_slice(&mailbox.uid_next.to_le_bytes());
    out.extend_from_slice(&mailbox.highest_modseq.to_le_bytes());
    out.extend_from_slice(&[mailbox.special_uses.0, mailbox.keywords.len() as u8]);
    write_text(&mailbox.name, out);
    mailbox.keywords.iter().for_each(|keyword| write_text(keyword, out));
    out.extend_from_slice(&mailbox.vanished.floor_modseq.to_le_bytes());
    out.extend_from_slice(&(mailbox.vanished.ranges().len() as u32).to_le_bytes());
    for (modseq, first, end) in mailbox.vanished.ranges() {
        out.extend_from_slice(&modseq.to_le_bytes());
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&end.to_le_bytes());
    }
}

fn read_mailbox(item: &mut Reader<'_>) -> Result<Mailbox, Malformed> {
    let (id, account) = (MailboxId(number(item)?), AccountId(number(item)?));
    let (uid_validity, uid_next) = (item.u32()?, item.u32()?);
    let highest_modseq = modseq(item)?;
    let special_uses = SpecialUses(item.u8()?);
    let keyword_count = usize::from(item.u8()?);
    let name = read_name(item, MAILBOX_NAME_BYTES_MAX)?;
    if uid_validity == 0 || uid_next == 0 || keyword_count > KEYWORDS_MAX {
        return Err(Malformed);
    }
    let mut mailbox = Mailbox::new(id, account, name, uid_validity);
    (mailbox.uid_next, mailbox.highest_modseq) = (uid_next, highest_modseq);
    mailbox.special_uses = special_uses;
    for _ in 0..keyword_count {
        let bytes = usize::from(item.u16()?);
        mailbox.keywords.push(text(item.take(bytes)?)?);
    }
    let floor_modseq = item.u64()?;
    let range_count = item.u32()? as usize;
    if range_count > VANISHED_RANGES_MAX {
        return Err(Malformed);
    }
    let mut ranges: Vec<(u64, u32, u32)> = Vec::new();
    for _ in 0..range_count {
        let range = (item.u64()?, item.u32()?, item.u32()?);
        let is_behind = ranges.last().is_none_or(|last| last.0 <= range.0);
        if range.1 == 0 || range.1 > range.2 || !is_behind {
            return Err(Malformed);
        }
        ranges.push(range);
    }
    mailbox.vanished = Vanished::from_parts(floor_modseq, ranges);
    Ok(mailbox)
}

/// A number of the journal.
fn number(item: &mut Reader<'_>) -> Result<u64, Malformed> {
    let number = item.u64()?;
    if number == 0 { Err(Malformed) } else { Ok(number) }
}

/// 0 where none was given out.
fn modseq(item: &mut Reader<'_>) -> Result<u64, Malformed> {
    let modseq = item.u64()?;
    if modseq > MODSEQ_MAX { Err(Malformed) } else { Ok(modseq) }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn read_name(item: &mut Reader<'_>, bytes_max: usize) -> Result<Box<str>, Malformed> {
    let bytes = usize::from(item.u16()?);
    name(item.take(bytes)?, bytes_max)
}

/// What an item is of.
mod tag {
    pub const COUNTERS: u8 = 1;
    pub const KEYS: u8 = 2;
    pub const ACCOUNT: u8 = 3;
    pub const MAILBOX: u8 = 4;
    pub const MESSAGES: u8 = 5;
    pub const EXPUNGED: u8 = 6;
    pub const DELETED: u8 = 7;
}

/// A payload is closed when it is this long: one more item may make it longer.
const ITEMS_BYTES: usize = 60 * 1024;
/// Zeros and the count of items.
const FRONT_BYTES: usize = 8;
const KEYS_AT_ONCE: usize = 2048;
