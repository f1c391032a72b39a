//! FETCH over stored messages (RFC 9051 §6.4.5 and §7.5.2, RFC 3516, RFC 7162, RFC 8474, RFC 8514,
//! RFC 8970).
//!
//! What the index knows is told without a look at anything else, what a summary knows without a
//! look at content. Content goes as it is read, a piece at a time.

use std::cell::RefCell;
use std::io::{self, Write};

use super::binary::Encoded;
use super::octets::{MessageWriter, Trouble, part_of, slice_of};
use super::selected::{RECENT, Selected};
use super::sink::{OUT_BYTES, Sink};
use super::view::Known;
use crate::limits::{CHUNK_BYTES_MAX, IMAP_FIELDS_BYTES_MAX};
use crate::mailbox::codec::{BodyId, MailboxId};
use crate::mailbox::{
    Content, ContentError, Entry, KeptSummary, Mailbox, Partition, Store, Stored,
};
use crate::proto::imap::command::Numbering;
use crate::proto::imap::date::write_date_time;
use crate::proto::imap::fetch::{
    Fetch, FetchItem, Partial, Section, SectionText, SetsSeen, Which, write_part,
};
use crate::proto::imap::flag::{Flags, SystemFlags, write_flags};
use crate::proto::imap::response::{Code, Condition, PlainCode};
use crate::proto::imap::section::write_header_fields;
use crate::proto::imap::set::NumberSet;
use crate::proto::imap::store::FlagChange;
use crate::proto::imap::string::{NIL, write_string};
use crate::proto::imap::structure::{Extension, write_body};
use crate::proto::mime::date::DateTime;
use crate::proto::mime::field::FieldName;
use crate::proto::mime::stored::{stored_body_bytes, stored_fields};
use crate::proto::mime::structure::{PartText, Structure};
use crate::runtime::task;

/// What a session knows that a command does not say.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Not so after EXAMINE.
    pub may_set_seen: bool,
    /// Wherever FLAGS are told because they changed, MODSEQ is told too (RFC 7162 §3.2).
    pub tells_modseq: bool,
}

/// One FETCH.
pub struct Fetcher {
    store: Store,
    mailbox: MailboxId,
    items: Vec<FetchItem>,
    changed_since: Option<u64>,
    options: Options,
    needs_summary: bool,
    needs_content: bool,
}

/// What became of a FETCH, beside what was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Where `\Seen` was set; these messages were told of, unless they cannot be read.
    pub seen: Stored,
    /// Messages whose octets cannot be had: nothing was written of them.
    pub unreadable: u32,
    /// Messages that are gone for good.
    pub gone: u32,
    /// Messages in an encoding that BINARY does not know: nothing was written of them.
    pub unknown_encoding: u32,
}

/// The connection is good for nothing any more.
#[derive(Debug)]
pub enum FetchError {
    Client(io::Error),
    /// A literal cannot be ended: what was announced is no longer on disk. Close the connection
    /// without another word.
    CutShort(ContentError),
}

/// A message that is fetched.
struct Message {
    sequence: u32,
    entry: Entry,
    body: BodyId,
    /// A time is known at which it came into the mailbox.
    is_saved: bool,
    is_recent: bool,
}

/// Messages as the index has them.
struct Found {
    messages: Vec<Message>,
    /// How many are gone for good.
    gone: u32,
    /// Names by their bits.
    keywords: Vec<Box<str>>,
    /// Where the next ones begin, if there are more.
    next_uid: Option<u32>,
}

/// What is read of a message before anything is written of it.
#[derive(Default)]
struct Prepared {
    summary: Option<Result<KeptSummary, ContentError>>,
    content: Option<Content>,
}

impl Fetched {
    /// What the tagged response says.
    pub fn condition(&self) -> (Condition, Option<Code<'static>>, &'static str) {
        let (condition, code, text) = if self.unreadable > 0 {
            (Condition::No, PlainCode::Corruption, "Some messages cannot be read")
        } else if self.unknown_encoding > 0 {
            (Condition::No, PlainCode::UnknownCte, "Some parts are encoded in unknown ways")
        } else if self.gone > 0 {
            (Condition::Ok, PlainCode::ExpungeIssued, "Some messages are gone")
        } else {
            return (Condition::Ok, None, "Done");
        };
        (condition, Some(Code::Plain(code)), text)
    }
}

impl Fetcher {
    pub fn new(store: &Store, mailbox: MailboxId, command: &Fetch, options: Options) -> Self {
        let mut items = command.items.clone();
        if command.numbering == Numbering::Uid && !items.contains(&FetchItem::Uid) {
            items.insert(0, FetchItem::Uid);
        }
        if command.changed_since.is_some() && !items.contains(&FetchItem::ModSeq) {
            items.push(FetchItem::ModSeq);
        }
        Self {
            store: store.clone(),
            mailbox,
            needs_summary: items.iter().any(needs_summary),
            needs_content: items.iter().any(needs_content),
            items,
            changed_since: command.changed_since,
            options,
        }
    }

    /// Appends a FETCH response for each message of a set that the client knows; the last ones may
    /// not be sent yet. A message that is expunged and the client does not know it is there as long
    /// as it is kept. `\Seen` is set, durably, before anything is told.
    pub async fn run(
        &self,
        selected: &RefCell<Selected>,
        uids: &NumberSet,
        sink: &mut impl Sink,
    ) -> Result<Fetched, FetchError> {
        let mut fetched = Fetched::default();
        if self.options.may_set_seen && self.items.iter().any(sets_seen) {
            fetched.seen = self.set_seen(selected, uids).await;
        }
        let mut next = Some(0);
        while let Some(uid_from) = next {
            let Some(found) = self.find(selected, uids, uid_from).await else { break };
            let Found { messages, gone, keywords, next_uid } = found;
            next = next_uid;
            fetched.gone += gone;
            let mut left = &messages[..];
            while !left.is_empty() {
                let (group, rest) = left.split_at(self.group_len(left));
                let prepared = self.prepare(group, left.len()).await;
                for (message, prepared) in group.iter().zip(prepared) {
                    self.write_one(message, &prepared, &keywords, &mut fetched, sink).await?;
                }
                left = rest;
                if !left.is_empty() {
                    task::yield_now().await;
                }
            }
            if next.is_some() {
                task::yield_now().await;
            }
        }
        Ok(fetched)
    }

    /// Sets `\Seen` where it is not; returns where it was set.
    async fn set_seen(&self, selected: &RefCell<Selected>, uids: &NumberSet) -> Stored {
        let mut unseen = NumberSet::default();
        let mut next = Some(0);
        while let Some(uid_from) = next {
            let Some(found) = self.find(selected, uids, uid_from).await else { break };
            let messages = found.messages.iter();
            let messages = messages.filter(|it| !it.entry.flags.has(SystemFlags::SEEN));
            messages.for_each(|it| unseen.insert(it.entry.uid));
            next = found.next_uid;
            task::yield_now().await;
        }
        if unseen.is_empty() {
            return Stored::default();
        }
        let flags = Flags { system: SystemFlags::SEEN, keywords: Vec::new() };
        let author = selected.borrow().watch.author();
        let (author, change) = (Some(&author), (FlagChange::Add, &flags));
        let stored = self.store.store_flags_as(author, self.mailbox, &unseen, change, None).await;
        // What cannot be marked can still be read.
        stored.unwrap_or_default()
    }

    /// The next messages of a set, from `uid_from` on; `None` for a mailbox that is gone.
    async fn find(
        &self,
        selected: &RefCell<Selected>,
        uids: &NumberSet,
        uid_from: u32,
    ) -> Option<Found> {
        let changed_since = self.changed_since.unwrap_or(0);
        let tells_flags = self.items.contains(&FetchItem::Flags);
        let read = |partition: &Partition, mailbox: &Mailbox| {
            let keywords = mailbox.keywords.clone();
            let mut found = Found { messages: Vec::new(), gone: 0, keywords, next_uid: None };
            let mut selected = selected.borrow_mut();
            selected.sync();
            for (count, known) in selected.view.walk(mailbox, uids, uid_from).enumerate() {
                if count == MESSAGES_AT_ONCE {
                    found.next_uid = Some(known.uid);
                    break;
                }
                if known.entry.is_none() && tells_flags && !mailbox.keywords.is_empty() {
                    // Of what was expunged keywords are not kept, and a client would take it that
                    // they were removed.
                    found.gone += 1;
                    continue;
                }
                let is_recent = selected.recent.contains(known.uid);
                match Message::find(partition, mailbox, &known, is_recent) {
                    Some(message) if message.entry.modseq > changed_since => {
                        found.messages.push(message);
                    }
                    Some(_) => {}
                    None => found.gone += 1,
                }
            }
            found
        };
        self.store.read_with_bodies(self.mailbox, read).await
    }

    /// How many of the next messages are read at the same time.
    fn group_len(&self, messages: &[Message]) -> usize {
        if !self.needs_summary && !self.needs_content {
            return messages.len();
        }
        let mut bytes = 0;
        let fits = |message: &&Message| {
            bytes += message.entry.bytes as usize;
            bytes <= PREPARED_BYTES_MAX || !self.needs_content
        };
        messages.iter().take(PREPARED_MAX).take_while(fits).count().max(1)
    }

    async fn prepare(&self, group: &[Message], left: usize) -> Vec<Prepared> {
        if !self.needs_summary && !self.needs_content {
            return group.iter().map(|_| Prepared::default()).collect();
        }
        let futures = group.iter().map(|message| async move {
            let mut prepared = Prepared::default();
            let Entry { uid, bytes, .. } = message.entry;
            if self.needs_summary {
                let summary = self.store.summary(self.mailbox, uid, message.body, left);
                prepared.summary = Some(summary.await);
            }
            if self.needs_content && bytes as usize <= CHUNK_BYTES_MAX {
                prepared.content = self.store.content(self.mailbox, uid).await;
                if let Some(content) = &prepared.content {
                    // Read ahead; whoever needs it meets the error again.
                    let _ = content.piece(0).await;
                }
            }
            prepared
        });
        task::join_all(futures).await
    }

    async fn write_one(
        &self,
        message: &Message,
        prepared: &Prepared,
        keywords: &[Box<str>],
        fetched: &mut Fetched,
        sink: &mut impl Sink,
    ) -> Result<(), FetchError> {
        let tells_flags = fetched.seen.changed.contains(message.entry.uid);
        let mut writer = MessageWriter::new(sink);
        let written = self.write(message, prepared, keywords, tells_flags, &mut writer).await;
        let count = match written {
            Ok(()) => None,
            Err(Trouble::Client(error)) => return Err(FetchError::Client(error)),
            Err(Trouble::UnknownEncoding) => {
                // An encoding is known, or not, before anything is sent of its part.
                writer.take_back();
                Some(&mut fetched.unknown_encoding)
            }
            Err(Trouble::Content(error)) => {
                if !writer.take_back() {
                    return Err(FetchError::CutShort(error));
                }
                Some(&mut fetched.unreadable)
            }
        };
        if let Some(count) = count {
            *count += 1;
        }
        if sink.out().len() >= OUT_BYTES {
            sink.send(&[]).await.map_err(FetchError::Client)?;
        }
        Ok(())
    }

    async fn write<S: Sink>(
        &self,
        message: &Message,
        prepared: &Prepared,
        keywords: &[Box<str>],
        tells_flags: bool,
        writer: &mut MessageWriter<'_, S>,
    ) -> Result<(), Trouble> {
        // Writing into memory does not fail.
        let _ = write!(writer.out(), "* {} FETCH ", message.sequence);
        let has = |item: &FetchItem| self.items.contains(item);
        let flags = (tells_flags && !has(&FetchItem::Flags)).then_some(&FetchItem::Flags);
        let tells_modseq = tells_flags && self.options.tells_modseq;
        let modseq = (tells_modseq && !has(&FetchItem::ModSeq)).then_some(&FetchItem::ModSeq);
        let mut source =
            Source { fetcher: self, message, prepared, structure: None, content: None };
        for (index, item) in self.items.iter().chain(flags).chain(modseq).enumerate() {
            writer.out().push(if index == 0 { b'(' } else { b' ' });
            if !write_indexed(&self.store, message, keywords, item, writer.out()) {
                source.write(item, writer).await?;
            }
        }
        writer.out().extend_from_slice(b")\r\n");
        Ok(())
    }
}

impl Message {
    /// A message of the mailbox, or one that was expunged and is kept.
    fn find(
        partition: &Partition,
        mailbox: &Mailbox,
        known: &Known,
        is_recent: bool,
    ) -> Option<Self> {
        let bodies = partition.bodies();
        let Known { number, uid, .. } = *known;
        if let Some(entry) = known.entry {
            let body = bodies.id(entry.body);
            return Some(Self { sequence: number, entry, body, is_saved: true, is_recent });
        }
        let kept = partition.expunged(mailbox.id, uid)?;
        let entry = Entry {
            uid,
            modseq: mailbox.highest_modseq,
            date: kept.date,
            saved_s: 0,
            flags: kept.flags,
            keywords: 0,
            body: kept.body,
            bytes: bodies.bytes(kept.body),
        };
        let body = bodies.id(kept.body);
        Some(Self { sequence: number, entry, body, is_saved: false, is_recent })
    }
}

/// Appends an item that the index knows; false for others.
fn write_indexed(
    store: &Store,
    message: &Message,
    keywords: &[Box<str>],
    item: &FetchItem,
    out: &mut Vec<u8>,
) -> bool {
    let entry = &message.entry;
    // Writing into memory does not fail.
    let _ = match item {
        FetchItem::Uid => write!(out, "UID {}", entry.uid),
        FetchItem::Flags => {
            out.extend_from_slice(b"FLAGS ");
            let keywords = keywords.iter().enumerate();
            let keywords = keywords.filter(|(bit, _)| entry.keywords >> bit & 1 == 1);
            let recent = message.is_recent.then_some(RECENT);
            let names = recent.into_iter().chain(keywords.map(|(_, name)| &**name));
            write_flags(entry.flags, names, out);
            Ok(())
        }
        FetchItem::InternalDate => {
            out.extend_from_slice(b"INTERNALDATE ");
            write_date_time(entry.date.into(), out);
            Ok(())
        }
        FetchItem::Rfc822Size => write!(out, "RFC822.SIZE {}", entry.bytes),
        FetchItem::ModSeq => write!(out, "MODSEQ ({})", entry.modseq),
        FetchItem::SaveDate if message.is_saved => {
            out.extend_from_slice(b"SAVEDATE ");
            write_date_time(utc(entry.saved_s), out);
            Ok(())
        }
        FetchItem::SaveDate => write!(out, "SAVEDATE NIL"),
        FetchItem::EmailId => write!(out, "EMAILID ({})", email_id(store, message.body)),
        // No threads are kept (RFC 8474 §5.2 allows it).
        FetchItem::ThreadId => write!(out, "THREADID NIL"),
        _ => return false,
    };
    true
}

/// An EMAILID as it is told and asked for.
pub(super) fn email_id(store: &Store, body: BodyId) -> String {
    format!("M{:032x}", store.email_id(body))
}

fn utc(unix_seconds: u32) -> DateTime {
    DateTime { unix_seconds: unix_seconds.into(), zone_minutes: 0 }
}

/// What is known of a message, as far as an item has asked for it.
struct Source<'m> {
    fetcher: &'m Fetcher,
    message: &'m Message,
    prepared: &'m Prepared,
    structure: Option<Structure>,
    content: Option<Content>,
}

impl Source<'_> {
    async fn write<S: Sink>(
        &mut self,
        item: &FetchItem,
        writer: &mut MessageWriter<'_, S>,
    ) -> Result<(), Trouble> {
        match item {
            FetchItem::Envelope => {
                let envelope = self.summary()?.get().envelope;
                writer.out().extend_from_slice(b"ENVELOPE ");
                writer.out().extend_from_slice(envelope);
            }
            FetchItem::Body => {
                writer.out().extend_from_slice(b"BODY ");
                write_body(self.structure()?, Extension::Without, writer.out());
            }
            FetchItem::BodyStructure => {
                writer.out().extend_from_slice(b"BODYSTRUCTURE ");
                write_body(self.structure()?, Extension::With, writer.out());
            }
            FetchItem::Preview(_) => {
                // It is always at hand.
                writer.out().extend_from_slice(b"PREVIEW ");
                write_string(self.summary()?.get().preview, writer.out());
            }
            FetchItem::Section { section, partial, .. } => {
                writer.out().extend_from_slice(b"BODY[");
                section.write(writer.out());
                writer.out().push(b']');
                write_origin(*partial, writer.out());
                self.write_section(section, *partial, writer).await?;
            }
            FetchItem::Rfc822 => self.write_root(b"RFC822 ", PartText::Whole, writer).await?,
            FetchItem::Rfc822Header => {
                self.write_root(b"RFC822.HEADER ", PartText::Header, writer).await?;
            }
            FetchItem::Rfc822Text => {
                self.write_root(b"RFC822.TEXT ", PartText::Text, writer).await?;
            }
            FetchItem::Binary { part, partial, .. } => {
                writer.out().extend_from_slice(b"BINARY[");
                write_part(part, writer.out());
                writer.out().push(b']');
                write_origin(*partial, writer.out());
                match Encoded::find(self.structure()?, part)? {
                    Some(encoded) => encoded.write(self.content().await?, *partial, writer).await?,
                    None => writer.out().extend_from_slice(NIL),
                }
            }
            FetchItem::BinarySize { part } => {
                writer.out().extend_from_slice(b"BINARY.SIZE[");
                write_part(part, writer.out());
                let bytes = match Encoded::find(self.structure()?, part)? {
                    Some(encoded) => encoded.size(self.content().await?).await?,
                    None => 0,
                };
                // Writing into memory does not fail.
                let _ = write!(writer.out(), "] {bytes}");
            }
            _ => unreachable!("the index knows it"),
        }
        Ok(())
    }

    async fn write_root<S: Sink>(
        &mut self,
        name: &[u8],
        text: PartText,
        writer: &mut MessageWriter<'_, S>,
    ) -> Result<(), Trouble> {
        writer.out().extend_from_slice(name);
        let octets = match text {
            PartText::Whole => 0..self.message.entry.bytes.into(),
            _ => self.structure()?.section(&[], text).expect("every message has it"),
        };
        writer.write_content(self.content().await?, octets).await
    }

    async fn write_section<S: Sink>(
        &mut self,
        section: &Section,
        partial: Option<Partial>,
        writer: &mut MessageWriter<'_, S>,
    ) -> Result<(), Trouble> {
        if *section == WHOLE {
            let octets = part_of(0..self.message.entry.bytes.into(), partial);
            return writer.write_content(self.content().await?, octets).await;
        }
        if let Some(fields) = self.summarized_fields(section)? {
            writer.write_literal(slice_of(&fields, partial));
            return Ok(());
        }
        let Some(octets) = section.locate(self.structure()?) else {
            writer.out().extend_from_slice(NIL);
            return Ok(());
        };
        let SectionText::HeaderFields { names, which } = &section.text else {
            let octets = part_of(octets, partial);
            return writer.write_content(self.content().await?, octets).await;
        };
        // A header section is bounded where it comes in by SMTP; elsewhere, fields far behind are
        // not found by their names.
        let end = octets.end.min(octets.start + IMAP_FIELDS_BYTES_MAX as u64);
        let content = self.content().await?;
        let mut header = Vec::with_capacity((end - octets.start) as usize);
        let mut at = octets.start;
        while at < end {
            let piece = content.piece(at as u32).await?.ok_or(ContentError::Malformed)?;
            let count = piece.len().min((end - at) as usize);
            header.extend_from_slice(&piece[..count]);
            at += count as u64;
        }
        let mut fields = Vec::new();
        write_header_fields(&header, names, *which, &mut fields);
        writer.write_literal(slice_of(&fields, partial));
        Ok(())
    }

    /// HEADER.FIELDS of the message, if a summary has all of these fields.
    fn summarized_fields(&mut self, section: &Section) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(names) = summarized_names(section) else { return Ok(None) };
        let summary = self.summary()?.get();
        // Without a body it is not known whether there is an empty line.
        if summary.is_truncated() || stored_body_bytes(summary.structure) == 0 {
            return Ok(None);
        }
        let mut fields = Vec::new();
        for field in stored_fields(summary.structure).filter(|it| names.contains(&it.name)) {
            fields.extend_from_slice(field.whole);
        }
        fields.extend_from_slice(b"\r\n");
        Ok(Some(fields))
    }

    fn summary(&self) -> Result<&KeptSummary, Trouble> {
        match self.prepared.summary.as_ref().expect("prepared where an item needs it") {
            Ok(summary) => Ok(summary),
            Err(error) => Err(error.again().into()),
        }
    }

    fn structure(&mut self) -> Result<&Structure, Trouble> {
        if self.structure.is_none() {
            let structure = Structure::read(self.summary()?.get().structure);
            self.structure = Some(structure.ok_or(ContentError::Malformed)?);
        }
        Ok(self.structure.as_ref().expect("just made"))
    }

    async fn content(&mut self) -> Result<&Content, Trouble> {
        if let Some(content) = &self.prepared.content {
            return Ok(content);
        }
        if self.content.is_none() {
            let Fetcher { store, mailbox, .. } = self.fetcher;
            let content = store.content(*mailbox, self.message.entry.uid).await;
            self.content = Some(content.ok_or(ContentError::Lost)?);
        }
        Ok(self.content.as_ref().expect("just opened"))
    }
}

fn write_origin(partial: Option<Partial>, out: &mut Vec<u8>) {
    if let Some(partial) = partial {
        // Writing into memory does not fail.
        let _ = write!(out, "<{}>", partial.offset);
    }
    out.push(b' ');
}

/// The names of HEADER.FIELDS of the message itself, if summaries have all fields of these names.
fn summarized_names(section: &Section) -> Option<Vec<FieldName>> {
    let SectionText::HeaderFields { names, which: Which::These } = &section.text else {
        return None;
    };
    if !section.part.is_empty() {
        return None;
    }
    names.iter().map(|name| FieldName::from_octets(name)).collect()
}

fn needs_summary(item: &FetchItem) -> bool {
    match item {
        FetchItem::Envelope
        | FetchItem::Body
        | FetchItem::BodyStructure
        | FetchItem::Preview(_)
        | FetchItem::Rfc822Header
        | FetchItem::Rfc822Text
        | FetchItem::Binary { .. }
        | FetchItem::BinarySize { .. } => true,
        FetchItem::Section { section, .. } => *section != WHOLE,
        _ => false,
    }
}

/// Whether it is likely that content is looked at.
fn needs_content(item: &FetchItem) -> bool {
    match item {
        FetchItem::Rfc822
        | FetchItem::Rfc822Header
        | FetchItem::Rfc822Text
        | FetchItem::Binary { .. }
        | FetchItem::BinarySize { .. } => true,
        FetchItem::Section { section, .. } => summarized_names(section).is_none(),
        _ => false,
    }
}

/// RFC 9051 §6.4.5, RFC 3516 §4.2.
fn sets_seen(item: &FetchItem) -> bool {
    match item {
        FetchItem::Rfc822 | FetchItem::Rfc822Text => true,
        FetchItem::Section { seen, .. } | FetchItem::Binary { seen, .. } => *seen == SetsSeen::Yes,
        _ => false,
    }
}

/// `BODY[]`.
const WHOLE: Section = Section { part: Vec::new(), text: SectionText::Whole };
/// Messages looked up in the index before others get a turn.
const MESSAGES_AT_ONCE: usize = 1024;
/// Messages that are read at the same time, and their octets.
const PREPARED_MAX: usize = 16;
const PREPARED_BYTES_MAX: usize = 1024 * 1024;
