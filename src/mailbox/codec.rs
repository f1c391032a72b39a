//! What happens to mailboxes, and the payloads of the records that say it (docs/MAILBOX.md).
//! `Pure.`
//!
//! All integers are little-endian. What is read here came from disk behind a checksum, and is
//! bounds-checked all the same.

use super::date::InternalDate;
use crate::journal::Location;
use crate::journal::kind;
use crate::journal::payload::{Reader, text};
use crate::limits::{
    ACCOUNT_NAME_BYTES_MAX, ACCOUNT_SECRET_BYTES_MAX, KEYWORD_BYTES_MAX, KEYWORDS_MAX,
    MAILBOX_NAME_BYTES_MAX,
};
use crate::proto::imap::flag::SystemFlags;
use crate::proto::imap::mailbox::SpecialUse;
use crate::proto::imap::set::NumberSet;
use crate::proto::imap::store::FlagChange;

pub use crate::journal::payload::Malformed;

/// Number of an account in its partition. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u64);

/// Number of a mailbox in its partition, whatever it is called. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxId(pub u64);

/// Number of a body in its partition. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyId(pub u64);

/// Which message of a queue for which recipient this was: a second delivery is known by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey(pub u128);

/// How much an account may hold; 0 for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    pub bytes: u64,
    pub messages: u32,
}

impl Quota {
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.messages.to_le_bytes());
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { bytes: reader.u64()?, messages: reader.u32()? })
    }
}

/// What moves the state of a partition. Each is one record; its number is that of what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// An account begins.
    AccountAdded {
        account: AccountId,
        name: Box<str>,
    },
    /// It ends with all its mailboxes. `at_s` is Unix time.
    AccountRemoved {
        account: AccountId,
        at_s: u32,
    },
    /// How much it may hold from now on.
    QuotaSet {
        account: AccountId,
        quota: Quota,
    },
    /// What a password of its is checked against from now on.
    SecretSet {
        account: AccountId,
        secret: Box<str>,
    },
    /// A name is subscribed to or no longer, whether a mailbox has it or not.
    Subscribed {
        account: AccountId,
        name: Box<str>,
        is_subscribed: bool,
    },
    MailboxCreated {
        mailbox: MailboxId,
        account: AccountId,
        name: Box<str>,
        uid_validity: u32,
        special_uses: SpecialUses,
    },
    MailboxRenamed {
        mailbox: MailboxId,
        name: Box<str>,
    },
    /// Its messages are expunged with it.
    MailboxDeleted {
        mailbox: MailboxId,
        at_s: u32,
    },
    SpecialUseSet {
        mailbox: MailboxId,
        special_uses: SpecialUses,
    },
    /// A body stands here: it begins, or compaction has moved it.
    BodyPlaced(Body),
    Appended {
        mailbox: MailboxId,
        message: Message,
        key: Option<DeliveryKey>,
    },
    FlagsChanged(FlagsChanged),
    Expunged {
        mailbox: MailboxId,
        modseq: u64,
        at_s: u32,
        uids: NumberSet,
    },
    /// Messages are in another mailbox as well, or instead.
    Copied {
        source: MailboxId,
        target: MailboxId,
        is_move: bool,
        copies: Vec<Copy>,
    },
    /// A keyword of a mailbox has this bit.
    KeywordAdded {
        mailbox: MailboxId,
        bit: u8,
        keyword: Box<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagsChanged {
    pub mailbox: MailboxId,
    pub modseq: u64,
    pub change: FlagChange,
    pub flags: SystemFlags,
    /// By the bits of the mailbox.
    pub keywords: u64,
    pub uids: NumberSet,
}

/// Attributes of RFC 6154 as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialUses(pub u8);

impl SpecialUses {
    pub fn has(self, special_use: SpecialUse) -> bool {
        self.0 & bit_of(special_use) != 0
    }

    pub fn with(self, special_use: SpecialUse) -> Self {
        Self(self.0 | bit_of(special_use))
    }
}

impl FromIterator<SpecialUse> for SpecialUses {
    fn from_iter<I: IntoIterator<Item = SpecialUse>>(uses: I) -> Self {
        uses.into_iter().fold(Self::default(), Self::with)
    }
}

fn bit_of(special_use: SpecialUse) -> u8 {
    match special_use {
        SpecialUse::All => 1,
        SpecialUse::Archive => 2,
        SpecialUse::Drafts => 4,
        SpecialUse::Flagged => 8,
        SpecialUse::Important => 16,
        SpecialUse::Junk => 32,
        SpecialUse::Sent => 64,
        SpecialUse::Trash => 128,
    }
}

/// A message as a mailbox has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// At least 1.
    pub uid: u32,
    /// Of the last change; at least 1.
    pub modseq: u64,
    pub date: InternalDate,
    /// When it came into this mailbox (RFC 8514), Unix seconds.
    pub saved_s: u32,
    pub flags: SystemFlags,
    /// By the bits of the mailbox.
    pub keywords: u64,
    pub body: BodyId,
}

/// Where the octets of a message stand, of which several mailboxes may have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub id: BodyId,
    /// Of its BODY record.
    pub place: Location,
    /// Octets of the message as it is fetched.
    pub bytes: u32,
    /// Where the content stands, unless it is in that record.
    pub chunks: Vec<Location>,
}

/// One message of a copy, with all that the target needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub source_uid: u32,
    /// As the target has it.
    pub message: Message,
    pub body: Body,
}

/// The octets of a message, as its BODY record has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyPayload<'a> {
    /// Header fields of this delivery, then the content unless that stands in chunks.
    pub octets: &'a [u8],
    /// Octets of the whole message.
    pub bytes: u32,
    pub chunks: Vec<Location>,
}

impl BodyPayload<'_> {
    /// Appends what stands in front of the octets.
    pub fn write_front(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&self.bytes.to_le_bytes());
        write_places(&self.chunks, out);
    }
}

/// Reads the payload of a BODY.
pub fn read_body(payload: &[u8]) -> Result<BodyPayload<'_>, Malformed> {
    let mut reader = Reader::new(payload);
    version(&mut reader)?;
    reader.take(3)?;
    let bytes = reader.u32()?;
    let chunks = read_places(&mut reader)?;
    let octets = reader.rest();
    let is_whole = chunks.is_empty() && octets.len() == bytes as usize;
    let is_front = !chunks.is_empty() && octets.len() <= bytes as usize;
    if is_whole || is_front { Ok(BodyPayload { octets, bytes, chunks }) } else { Err(Malformed) }
}

impl Operation {
    /// Type of the record, and its number: that of the account, the mailbox or the body.
    pub fn kind_and_id(&self) -> (u8, u64) {
        match self {
            Operation::AccountAdded { account, .. }
            | Operation::AccountRemoved { account, .. }
            | Operation::QuotaSet { account, .. }
            | Operation::SecretSet { account, .. }
            | Operation::Subscribed { account, .. } => (kind::ACCOUNT, account.0),
            Operation::MailboxCreated { mailbox, .. }
            | Operation::MailboxRenamed { mailbox, .. }
            | Operation::MailboxDeleted { mailbox, .. }
            | Operation::SpecialUseSet { mailbox, .. } => (kind::MAILBOX, mailbox.0),
            Operation::BodyPlaced(body) => (kind::BODY, body.id.0),
            Operation::Appended { mailbox, .. } => (kind::APPEND, mailbox.0),
            Operation::FlagsChanged(changed) => (kind::FLAGS, changed.mailbox.0),
            Operation::Expunged { mailbox, .. } => (kind::EXPUNGE, mailbox.0),
            Operation::Copied { target, .. } => (kind::COPY, target.0),
            Operation::KeywordAdded { mailbox, .. } => (kind::KEYWORD, mailbox.0),
        }
    }

    /// Appends the payload. A BODY is written by `BodyPayload`, with its octets.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Operation::AccountAdded { name, .. } => {
                out.extend_from_slice(&[VERSION, account::ADDED]);
                out.extend_from_slice(name.as_bytes());
            }
            Operation::AccountRemoved { at_s, .. } => {
                out.extend_from_slice(&[VERSION, account::REMOVED]);
                out.extend_from_slice(&at_s.to_le_bytes());
            }
            Operation::QuotaSet { quota, .. } => {
                out.extend_from_slice(&[VERSION, account::QUOTA]);
                quota.write(out);
            }
            Operation::SecretSet { secret, .. } => {
                out.extend_from_slice(&[VERSION, account::SECRET]);
                out.extend_from_slice(secret.as_bytes());
            }
            Operation::Subscribed { name, is_subscribed, .. } => {
                let action =
                    if *is_subscribed { account::SUBSCRIBED } else { account::UNSUBSCRIBED };
                out.extend_from_slice(&[VERSION, action]);
                out.extend_from_slice(name.as_bytes());
            }
            Operation::MailboxCreated { account, name, uid_validity, special_uses, .. } => {
                out.extend_from_slice(&[VERSION, mailbox::CREATED, special_uses.0, 0]);
                out.extend_from_slice(&account.0.to_le_bytes());
                out.extend_from_slice(&uid_validity.to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Operation::MailboxRenamed { name, .. } => {
                out.extend_from_slice(&[VERSION, mailbox::RENAMED]);
                out.extend_from_slice(name.as_bytes());
            }
            Operation::MailboxDeleted { at_s, .. } => {
                out.extend_from_slice(&[VERSION, mailbox::DELETED]);
                out.extend_from_slice(&at_s.to_le_bytes());
            }
            Operation::SpecialUseSet { special_uses, .. } => {
                out.extend_from_slice(&[VERSION, mailbox::SPECIAL_USE, special_uses.0]);
            }
            Operation::BodyPlaced(_) => unreachable!("a BODY is written with its octets"),
            Operation::Appended { message, key, .. } => {
                out.extend_from_slice(&[VERSION, u8::from(key.is_some())]);
                message.write(out);
                if let Some(key) = key {
                    out.extend_from_slice(&key.0.to_le_bytes());
                }
            }
            Operation::FlagsChanged(changed) => {
                let change = match changed.change {
                    FlagChange::Replace => 0,
                    FlagChange::Add => 1,
                    FlagChange::Remove => 2,
                };
                out.extend_from_slice(&[VERSION, change, changed.flags.0, 0]);
                out.extend_from_slice(&changed.modseq.to_le_bytes());
                out.extend_from_slice(&changed.keywords.to_le_bytes());
                write_set(&changed.uids, out);
            }
            Operation::Expunged { modseq, at_s, uids, .. } => {
                out.extend_from_slice(&[VERSION, 0, 0, 0]);
                out.extend_from_slice(&at_s.to_le_bytes());
                out.extend_from_slice(&modseq.to_le_bytes());
                write_set(uids, out);
            }
            Operation::Copied { source, is_move, copies, .. } => {
                out.extend_from_slice(&[VERSION, u8::from(*is_move), 0, 0]);
                out.extend_from_slice(&(copies.len() as u32).to_le_bytes());
                out.extend_from_slice(&source.0.to_le_bytes());
                for copy in copies {
                    out.extend_from_slice(&copy.source_uid.to_le_bytes());
                    copy.message.write(out);
                    copy.body.write_without_id(out);
                }
            }
            Operation::KeywordAdded { bit, keyword, .. } => {
                out.extend_from_slice(&[VERSION, *bit]);
                out.extend_from_slice(keyword.as_bytes());
            }
        }
    }

    /// Reads the record of type `kind` and number `id` that stands at `place`; `None` for one that
    /// is none of ours.
    pub fn read(
        kind: u8,
        id: u64,
        payload: &[u8],
        place: Location,
    ) -> Result<Option<Operation>, Malformed> {
        if !KINDS.contains(&kind) {
            return Ok(None);
        }
        if id == 0 {
            return Err(Malformed);
        }
        let mut reader = Reader::new(payload);
        let mailbox = MailboxId(id);
        let operation = match kind {
            kind::BODY => {
                let BodyPayload { bytes, chunks, .. } = read_body(payload)?;
                return Ok(Some(Operation::BodyPlaced(Body {
                    id: BodyId(id),
                    place,
                    bytes,
                    chunks,
                })));
            }
            kind::ACCOUNT => read_account(AccountId(id), &mut reader)?,
            kind::MAILBOX => read_mailbox(mailbox, &mut reader)?,
            kind::APPEND => {
                version(&mut reader)?;
                let has_key = boolean(reader.u8()?)?;
                let message = Message::read(&mut reader)?;
                let key = if has_key { Some(DeliveryKey(reader.u128()?)) } else { None };
                Operation::Appended { mailbox, message, key }
            }
            kind::FLAGS => {
                version(&mut reader)?;
                let change = match reader.u8()? {
                    0 => FlagChange::Replace,
                    1 => FlagChange::Add,
                    2 => FlagChange::Remove,
                    _ => return Err(Malformed),
                };
                let flags = SystemFlags(reader.u8()?);
                reader.u8()?;
                Operation::FlagsChanged(FlagsChanged {
                    mailbox,
                    modseq: modseq(&mut reader)?,
                    change,
                    flags,
                    keywords: reader.u64()?,
                    uids: read_set(&mut reader)?,
                })
            }
            kind::EXPUNGE => {
                version(&mut reader)?;
                reader.take(3)?;
                let at_s = reader.u32()?;
                let modseq = modseq(&mut reader)?;
                Operation::Expunged { mailbox, modseq, at_s, uids: read_set(&mut reader)? }
            }
            kind::COPY => read_copies(mailbox, &mut reader)?,
            kind::KEYWORD => {
                version(&mut reader)?;
                let bit = reader.u8()?;
                let keyword = name(reader.take(reader.rest().len())?, KEYWORD_BYTES_MAX)?;
                if usize::from(bit) >= KEYWORDS_MAX {
                    return Err(Malformed);
                }
                Operation::KeywordAdded { mailbox, bit, keyword }
            }
            _ => return Ok(None),
        };
        if reader.is_empty() { Ok(Some(operation)) } else { Err(Malformed) }
    }
}

fn read_account(account: AccountId, reader: &mut Reader<'_>) -> Result<Operation, Malformed> {
    version(reader)?;
    Ok(match reader.u8()? {
        account::ADDED => {
            let name = name(rest(reader)?, ACCOUNT_NAME_BYTES_MAX)?;
            Operation::AccountAdded { account, name }
        }
        account::REMOVED => Operation::AccountRemoved { account, at_s: reader.u32()? },
        account::QUOTA => Operation::QuotaSet { account, quota: Quota::read(reader)? },
        account::SECRET => {
            let secret = name(rest(reader)?, ACCOUNT_SECRET_BYTES_MAX)?;
            Operation::SecretSet { account, secret }
        }
        action @ (account::SUBSCRIBED | account::UNSUBSCRIBED) => {
            let name = name(rest(reader)?, MAILBOX_NAME_BYTES_MAX)?;
            let is_subscribed = action == account::SUBSCRIBED;
            Operation::Subscribed { account, name, is_subscribed }
        }
        _ => return Err(Malformed),
    })
}

fn read_mailbox(mailbox: MailboxId, reader: &mut Reader<'_>) -> Result<Operation, Malformed> {
    version(reader)?;
    Ok(match reader.u8()? {
        mailbox::CREATED => {
            let special_uses = SpecialUses(reader.u8()?);
            reader.u8()?;
            let account = AccountId(reader.u64()?);
            let uid_validity = reader.u32()?;
            let name = name(rest(reader)?, MAILBOX_NAME_BYTES_MAX)?;
            if uid_validity == 0 || account.0 == 0 {
                return Err(Malformed);
            }
            Operation::MailboxCreated { mailbox, account, name, uid_validity, special_uses }
        }
        mailbox::RENAMED => {
            let name = name(rest(reader)?, MAILBOX_NAME_BYTES_MAX)?;
            Operation::MailboxRenamed { mailbox, name }
        }
        mailbox::DELETED => Operation::MailboxDeleted { mailbox, at_s: reader.u32()? },
        mailbox::SPECIAL_USE => {
            Operation::SpecialUseSet { mailbox, special_uses: SpecialUses(reader.u8()?) }
        }
        _ => return Err(Malformed),
    })
}

fn read_copies(target: MailboxId, reader: &mut Reader<'_>) -> Result<Operation, Malformed> {
    version(reader)?;
    let is_move = boolean(reader.u8()?)?;
    reader.take(2)?;
    let count = reader.u32()?;
    let source = MailboxId(reader.u64()?);
    let mut copies: Vec<Copy> = Vec::new();
    for _ in 0..count {
        let source_uid = reader.u32()?;
        let message = Message::read(reader)?;
        let body = Body::read_without_id(message.body, reader)?;
        // In the order of the target's UIDs.
        let is_behind = copies.last().is_none_or(|last| last.message.uid < message.uid);
        if source_uid == 0 || !is_behind {
            return Err(Malformed);
        }
        copies.push(Copy { source_uid, message, body });
    }
    Ok(Operation::Copied { source, target, is_move, copies })
}

impl Message {
    /// What `write` appends.
    pub const BYTES: usize = 33 + InternalDate::BYTES;

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.uid.to_le_bytes());
        out.extend_from_slice(&self.modseq.to_le_bytes());
        self.date.write(out);
        out.extend_from_slice(&self.saved_s.to_le_bytes());
        out.push(self.flags.0);
        out.extend_from_slice(&self.keywords.to_le_bytes());
        out.extend_from_slice(&self.body.0.to_le_bytes());
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let message = Self {
            uid: reader.u32()?,
            modseq: modseq(reader)?,
            date: InternalDate::read(reader.array()?),
            saved_s: reader.u32()?,
            flags: SystemFlags(reader.u8()?),
            keywords: reader.u64()?,
            body: BodyId(reader.u64()?),
        };
        let is_sound = (1..u32::MAX).contains(&message.uid) && message.body.0 != 0;
        if is_sound { Ok(message) } else { Err(Malformed) }
    }
}

impl Body {
    /// What `write_without_id` appends.
    pub fn written_bytes(&self) -> usize {
        Location::BYTES + 8 + self.chunks.len() * Location::BYTES
    }

    /// Appends all but the number, which stands in the message beside it.
    pub fn write_without_id(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.place.to_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        write_places(&self.chunks, out);
    }

    pub fn read_without_id(id: BodyId, reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let place = Location::from_bytes(reader.array()?);
        let bytes = reader.u32()?;
        Ok(Self { id, place, bytes, chunks: read_places(reader)? })
    }
}

/// Appends a count and that many places.
fn write_places(places: &[Location], out: &mut Vec<u8>) {
    out.extend_from_slice(&(places.len() as u32).to_le_bytes());
    places.iter().for_each(|place| out.extend_from_slice(&place.to_bytes()));
}

fn read_places(reader: &mut Reader<'_>) -> Result<Vec<Location>, Malformed> {
    let count = reader.u32()? as usize;
    let bytes = reader.take(count.checked_mul(Location::BYTES).ok_or(Malformed)?)?;
    Ok(bytes.as_chunks().0.iter().map(|place| Location::from_bytes(*place)).collect())
}

/// Appends a count and both ends of that many ranges.
fn write_set(set: &NumberSet, out: &mut Vec<u8>) {
    out.extend_from_slice(&(set.ranges().len() as u32).to_le_bytes());
    for (first, end) in set.ranges() {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&end.to_le_bytes());
    }
}

/// Octets of one range as it is written.
pub const RANGE_BYTES: usize = 8;

fn read_set(reader: &mut Reader<'_>) -> Result<NumberSet, Malformed> {
    let count = reader.u32()? as usize;
    let mut ranges = Reader::new(reader.take(count.checked_mul(RANGE_BYTES).ok_or(Malformed)?)?);
    let mut set = NumberSet::default();
    while !ranges.is_empty() {
        let (first, end) = (ranges.u32()?, ranges.u32()?);
        // As `write_set` has it: ascending, with gaps between.
        let is_behind = set.last().is_none_or(|last| last.saturating_add(1) < first);
        if first == 0 || first > end || !is_behind {
            return Err(Malformed);
        }
        set.insert_range(first, end);
    }
    Ok(set)
}

fn version(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    if reader.u8()? == VERSION { Ok(()) } else { Err(Malformed) }
}

fn modseq(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let modseq = reader.u64()?;
    if (1..=MODSEQ_MAX).contains(&modseq) { Ok(modseq) } else { Err(Malformed) }
}

fn boolean(value: u8) -> Result<bool, Malformed> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

fn rest<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    reader.take(reader.rest().len())
}

/// A name that is there and not too long.
pub(super) fn name(octets: &[u8], bytes_max: usize) -> Result<Box<str>, Malformed> {
    if octets.is_empty() || octets.len() > bytes_max {
        return Err(Malformed);
    }
    text(octets)
}

/// What follows the version in an ACCOUNT.
mod account {
    pub const ADDED: u8 = 1;
    pub const REMOVED: u8 = 2;
    pub const SUBSCRIBED: u8 = 3;
    pub const UNSUBSCRIBED: u8 = 4;
    pub const QUOTA: u8 = 5;
    pub const SECRET: u8 = 6;
}

/// What follows the version in a MAILBOX.
mod mailbox {
    pub const CREATED: u8 = 1;
    pub const RENAMED: u8 = 2;
    pub const DELETED: u8 = 3;
    pub const SPECIAL_USE: u8 = 4;
}

/// The records that are ours.
const KINDS: [u8; 8] = [
    kind::ACCOUNT,
    kind::MAILBOX,
    kind::BODY,
    kind::APPEND,
    kind::FLAGS,
    kind::EXPUNGE,
    kind::COPY,
    kind::KEYWORD,
];
/// Of every payload.
const VERSION: u8 = 1;
/// Mod-sequences have 63 bits (RFC 7162 §7).
pub(super) const MODSEQ_MAX: u64 = i64::MAX as u64;

#[cfg(test)]
mod tests;
