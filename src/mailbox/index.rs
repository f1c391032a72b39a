//! The messages of one mailbox, and what is known of all of them without a look at any. `Pure.`

use std::collections::VecDeque;
use std::ops::Range;

use super::bodies::BodyHandle;
use super::codec::{AccountId, FlagsChanged, MailboxId, SpecialUses};
use super::date::InternalDate;
use crate::limits::VANISHED_RANGES_MAX;
use crate::proto::imap::flag::SystemFlags;
use crate::proto::imap::set::NumberSet;
use crate::proto::imap::store::FlagChange;

/// A mailbox: its header, and its messages by UID.
#[derive(Clone, Debug)]
pub struct Mailbox {
    pub id: MailboxId,
    pub account: AccountId,
    pub name: Box<str>,
    pub uid_validity: u32,
    /// Above every UID ever given out.
    pub uid_next: u32,
    /// Of the last change to a message.
    pub highest_modseq: u64,
    pub special_uses: SpecialUses,
    /// By their bits; an empty one was never given out.
    pub keywords: Vec<Box<str>>,
    pub vanished: Vanished,
    messages: Messages,
    /// Messages without `\Seen`, and octets of all.
    unseen: u32,
    bytes: u64,
    /// Position of the first message without `\Seen`.
    first_unseen: Option<u32>,
}

/// What SELECT and STATUS tell, whatever the number of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub exists: u32,
    pub unseen: u32,
    /// Sequence number of the first message without `\Seen`.
    pub first_unseen: Option<u32>,
    pub uid_next: u32,
    pub uid_validity: u32,
    pub highest_modseq: u64,
    /// Octets of all messages.
    pub bytes: u64,
}

/// A message as the index keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub uid: u32,
    pub modseq: u64,
    pub date: InternalDate,
    pub saved_s: u32,
    pub flags: SystemFlags,
    pub keywords: u64,
    pub body: BodyHandle,
    /// Octets of the message.
    pub bytes: u32,
}

/// One column for each thing, in the order of UIDs. 38 bytes a message.
#[derive(Clone, Debug, Default)]
struct Messages {
    uids: Vec<u32>,
    modseqs: Vec<u64>,
    dates: Vec<u32>,
    zones: Vec<i8>,
    saved: Vec<u32>,
    flags: Vec<u8>,
    keywords: Vec<u64>,
    bodies: Vec<BodyHandle>,
    bytes: Vec<u32>,
}

impl Mailbox {
    pub fn new(id: MailboxId, account: AccountId, name: Box<str>, uid_validity: u32) -> Self {
        Self {
            id,
            account,
            name,
            uid_validity,
            uid_next: 1,
            highest_modseq: 0,
            special_uses: SpecialUses::default(),
            keywords: Vec::new(),
            vanished: Vanished::default(),
            messages: Messages::default(),
            unseen: 0,
            bytes: 0,
            first_unseen: None,
        }
    }

    pub fn status(&self) -> Status {
        Status {
            exists: self.messages.uids.len() as u32,
            unseen: self.unseen,
            first_unseen: self.first_unseen.map(|position| position + 1),
            uid_next: self.uid_next,
            uid_validity: self.uid_validity,
            highest_modseq: self.highest_modseq,
            bytes: self.bytes,
        }
    }

    /// UIDs in ascending order: the position of each is its sequence number less one.
    pub fn uids(&self) -> &[u32] {
        &self.messages.uids
    }

    /// The message at a position, which is below the number of messages.
    pub fn entry(&self, position: usize) -> Entry {
        self.messages.entry(position)
    }

    /// Messages with `\\Deleted`. Goes over the flags of all, some ten thousand a microsecond.
    pub fn deleted(&self) -> u32 {
        let is_deleted = |flags: &&u8| SystemFlags(**flags).has(SystemFlags::DELETED);
        self.messages.flags.iter().filter(is_deleted).count() as u32
    }

    /// The message with this UID.
    pub fn find(&self, uid: u32) -> Option<Entry> {
        let position = self.messages.uids.binary_search(&uid).ok()?;
        Some(self.messages.entry(position))
    }

    /// Messages with UIDs of a range, ascending.
    pub fn entries(&self, uids: Range<u32>) -> impl Iterator<Item = Entry> {
        self.messages.positions(uids).map(|position| self.messages.entry(position))
    }

    /// Messages of a set that are there, ascending.
    pub fn entries_of(&self, uids: &NumberSet) -> impl Iterator<Item = Entry> {
        let ranges = uids.ranges().iter();
        let positions = ranges.flat_map(|(first, end)| {
            // No message has the highest number.
            self.messages.positions(*first..end.saturating_add(1))
        });
        positions.map(|position| self.messages.entry(position))
    }

    /// Messages changed after `modseq`, ascending.
    pub fn changed_since(&self, modseq: u64) -> impl Iterator<Item = Entry> {
        let modseqs = self.messages.modseqs.iter().enumerate();
        let changed = modseqs.filter(move |(_, changed)| **changed > modseq);
        changed.map(|(position, _)| self.messages.entry(position))
    }

    /// UIDs that were expunged after `modseq`; too many rather than too few (RFC 7162 §3.2.10.1).
    pub fn vanished_since(&self, modseq: u64) -> NumberSet {
        if modseq >= self.vanished.floor_modseq {
            return self.vanished.since(modseq);
        }
        let mut gone = NumberSet::default();
        let mut next = 1;
        for uid in self.uids().iter().chain([&self.uid_next]) {
            if next < *uid {
                gone.insert_range(next, *uid - 1);
            }
            next = *uid + 1;
        }
        gone
    }

    /// The bit of a keyword, in any case.
    pub fn keyword_bit(&self, keyword: &str) -> Option<u8> {
        let found = self.keywords.iter().position(|known| known.eq_ignore_ascii_case(keyword));
        found.map(|bit| bit as u8)
    }

    /// The names of keywords, by their bits.
    pub fn keyword_names(&self, bits: u64) -> Vec<Box<str>> {
        let keywords = self.keywords.iter().enumerate();
        keywords.filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| name.clone()).collect()
    }

    /// Gives a name to every keyword that a message has and that has none.
    pub fn name_keywords(&mut self) {
        let used = self.messages.keywords.iter().fold(0, |used, keywords| used | keywords);
        for bit in (0..64).filter(|bit| used >> bit & 1 == 1) {
            if self.keywords.len() <= bit {
                self.keywords.resize(bit + 1, "".into());
            }
            if self.keywords[bit].is_empty() {
                self.keywords[bit] = format!("recovered-{bit}").into();
            }
        }
    }

    /// Puts a message in its place; one that is there with its UID is returned.
    pub fn put(&mut self, entry: Entry) -> Option<Entry> {
        let before = self.remove_where(&[(entry.uid, entry.uid)]).pop();
        let position = self.messages.uids.partition_point(|uid| *uid < entry.uid);
        self.messages.insert(position, &entry);
        self.bytes += u64::from(entry.bytes);
        let is_unseen = !entry.flags.has(SystemFlags::SEEN);
        self.unseen += u32::from(is_unseen);
        match self.first_unseen {
            Some(first) if (first as usize) < position => {}
            // It stood at this position, or behind.
            Some(first) if !is_unseen => self.first_unseen = Some(first + 1),
            _ if is_unseen => self.first_unseen = Some(position as u32),
            _ => {}
        }
        self.uid_next = self.uid_next.max(entry.uid + 1);
        self.highest_modseq = self.highest_modseq.max(entry.modseq);
        before
    }

    /// Puts messages of ascending UIDs of a range, both ends of which belong to it, in the place of
    /// those that are there, and returns these. In one pass, and where they are as many as before
    /// nothing behind them moves: replay meets all messages of a checkpoint, with those that came
    /// while it was made behind them, or with itself, where it began with an earlier one.
    pub fn put_range(&mut self, (first, end): (u32, u32), entries: &[Entry]) -> Vec<Entry> {
        assert!(entries.is_sorted_by(|one, next| one.uid < next.uid));
        assert!(entries.first().is_none_or(|it| it.uid >= first));
        assert!(entries.last().is_none_or(|it| it.uid <= end));
        let there = self.messages.positions(first..end.saturating_add(1));
        let replaced: Vec<Entry> = there.clone().map(|at| self.messages.entry(at)).collect();
        replaced.iter().for_each(|entry| self.uncount(entry));
        self.messages.replace(there.clone(), entries);
        let is_unseen = |entry: &Entry| !entry.flags.has(SystemFlags::SEEN);
        self.unseen += entries.iter().filter(|entry| is_unseen(entry)).count() as u32;
        self.bytes += entries.iter().map(|entry| u64::from(entry.bytes)).sum::<u64>();
        let among = entries.iter().position(is_unseen).map(|at| (there.start + at) as u32);
        self.first_unseen = match self.first_unseen.map(|first| first as usize) {
            Some(first) if first < there.start => Some(first as u32),
            Some(first) if first >= there.end => {
                among.or(Some((first - there.len() + entries.len()) as u32))
            }
            // It was one of those that were replaced.
            Some(_) => among.or_else(|| self.messages.first_unseen()),
            None => among,
        };
        if let Some(last) = entries.last() {
            self.uid_next = self.uid_next.max(last.uid + 1);
        }
        let modseq = entries.iter().map(|entry| entry.modseq).max();
        self.highest_modseq = self.highest_modseq.max(modseq.unwrap_or(0));
        replaced
    }

    /// Changes flags of messages that are there and returns whether some changed. Those that stay
    /// as they were keep their mod-sequence.
    pub fn change_flags(&mut self, changed: &FlagsChanged) -> bool {
        let (mut any, mut any_seen) = (false, false);
        for (first, end) in changed.uids.ranges() {
            for position in self.messages.positions(*first..end.saturating_add(1)) {
                let flags = &mut self.messages.flags[position];
                let keywords = &mut self.messages.keywords[position];
                let before = (*flags, *keywords);
                (*flags, *keywords) = changed.result(SystemFlags(*flags), *keywords);
                if before == (*flags, *keywords) {
                    continue;
                }
                let is_seen = |flags: u8| SystemFlags(flags).has(SystemFlags::SEEN);
                let unseen = self.unseen + u32::from(is_seen(before.0));
                self.unseen = unseen - u32::from(is_seen(*flags));
                (any, any_seen) = (true, any_seen || is_seen(before.0) != is_seen(*flags));
                self.messages.modseqs[position] = changed.modseq;
            }
        }
        if any_seen {
            self.first_unseen = self.messages.first_unseen();
        }
        self.highest_modseq = self.highest_modseq.max(changed.modseq);
        any
    }

    /// Takes messages out and returns them, ascending. All of `uids` have vanished with `modseq`:
    /// replay may have to be told of some of them later.
    pub fn expunge(&mut self, uids: &NumberSet, modseq: u64) -> Vec<Entry> {
        let removed = self.remove_where(uids.ranges());
        uids.ranges().iter().for_each(|(first, end)| self.vanished.add(modseq, *first, *end));
        self.highest_modseq = self.highest_modseq.max(modseq);
        removed
    }

    /// In one pass, however many they are.
    fn remove_where(&mut self, ranges: &[(u32, u32)]) -> Vec<Entry> {
        let mut positions: Vec<Range<usize>> = Vec::new();
        let mut removed = Vec::new();
        for (first, end) in ranges {
            let range = self.messages.positions(*first..end.saturating_add(1));
            if range.is_empty() {
                continue;
            }
            removed.extend(range.clone().map(|position| self.messages.entry(position)));
            match positions.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => positions.push(range),
            }
        }
        if removed.is_empty() {
            return removed;
        }
        removed.iter().for_each(|entry| self.uncount(entry));
        self.messages.remove(&positions);
        self.first_unseen = self.messages.first_unseen();
        removed
    }

    /// A message goes.
    fn uncount(&mut self, entry: &Entry) {
        self.bytes -= u64::from(entry.bytes);
        self.unseen -= u32::from(!entry.flags.has(SystemFlags::SEEN));
    }

    /// The messages of a header that a checkpoint says anew.
    pub fn take_messages(&mut self, known: &mut Mailbox) {
        self.messages = std::mem::take(&mut known.messages);
        (self.unseen, self.bytes) = (known.unseen, known.bytes);
        self.first_unseen = known.first_unseen;
        self.uid_next = self.uid_next.max(known.uid_next);
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        let messages = &self.messages;
        let by_four = [&messages.uids, &messages.dates, &messages.saved, &messages.bytes];
        let by_four = by_four.iter().map(|column| column.capacity()).sum::<usize>();
        let by_eight = messages.modseqs.capacity() + messages.keywords.capacity();
        4 * (by_four + messages.bodies.capacity())
            + 8 * by_eight
            + messages.flags.capacity()
            + messages.zones.capacity()
            + self.vanished.ranges.capacity() * size_of::<(u64, u32, u32)>()
            + size_of::<Self>()
    }
}

impl FlagsChanged {
    /// What a message has afterwards, as bits.
    pub fn result(&self, flags: SystemFlags, keywords: u64) -> (u8, u64) {
        match self.change {
            FlagChange::Replace => (self.flags.0, self.keywords),
            FlagChange::Add => (flags.0 | self.flags.0, keywords | self.keywords),
            FlagChange::Remove => (flags.0 & !self.flags.0, keywords & !self.keywords),
        }
    }
}

impl Messages {
    fn positions(&self, uids: Range<u32>) -> Range<usize> {
        let start = self.uids.partition_point(|uid| *uid < uids.start);
        let end = self.uids.partition_point(|uid| *uid < uids.end);
        start..end.max(start)
    }

    fn entry(&self, position: usize) -> Entry {
        Entry {
            uid: self.uids[position],
            modseq: self.modseqs[position],
            date: InternalDate { unix_s: self.dates[position], zone: self.zones[position] },
            saved_s: self.saved[position],
            flags: SystemFlags(self.flags[position]),
            keywords: self.keywords[position],
            body: self.bodies[position],
            bytes: self.bytes[position],
        }
    }

    fn insert(&mut self, position: usize, entry: &Entry) {
        self.uids.insert(position, entry.uid);
        self.modseqs.insert(position, entry.modseq);
        self.dates.insert(position, entry.date.unix_s);
        self.zones.insert(position, entry.date.zone);
        self.saved.insert(position, entry.saved_s);
        self.flags.insert(position, entry.flags.0);
        self.keywords.insert(position, entry.keywords);
        self.bodies.insert(position, entry.body);
        self.bytes.insert(position, entry.bytes);
    }

    fn replace(&mut self, positions: Range<usize>, entries: &[Entry]) {
        let at = || positions.clone();
        replace_in(&mut self.uids, at(), entries, |it| it.uid);
        replace_in(&mut self.modseqs, at(), entries, |it| it.modseq);
        replace_in(&mut self.dates, at(), entries, |it| it.date.unix_s);
        replace_in(&mut self.zones, at(), entries, |it| it.date.zone);
        replace_in(&mut self.saved, at(), entries, |it| it.saved_s);
        replace_in(&mut self.flags, at(), entries, |it| it.flags.0);
        replace_in(&mut self.keywords, at(), entries, |it| it.keywords);
        replace_in(&mut self.bodies, at(), entries, |it| it.body);
        replace_in(&mut self.bytes, at(), entries, |it| it.bytes);
    }

    fn remove(&mut self, positions: &[Range<usize>]) {
        remove_from(&mut self.uids, positions);
        remove_from(&mut self.modseqs, positions);
        remove_from(&mut self.dates, positions);
        remove_from(&mut self.zones, positions);
        remove_from(&mut self.saved, positions);
        remove_from(&mut self.flags, positions);
        remove_from(&mut self.keywords, positions);
        remove_from(&mut self.bodies, positions);
        remove_from(&mut self.bytes, positions);
    }

    /// Goes over the flags alone: some ten thousand messages a microsecond.
    fn first_unseen(&self) -> Option<u32> {
        let is_unseen = |flags: &u8| !SystemFlags(*flags).has(SystemFlags::SEEN);
        self.flags.iter().position(is_unseen).map(|position| position as u32)
    }
}

/// Puts what entries have in the place of what a column has at positions.
fn replace_in<T>(
    column: &mut Vec<T>,
    positions: Range<usize>,
    entries: &[Entry],
    value: impl Fn(&Entry) -> T,
) {
    column.splice(positions, entries.iter().map(value));
}

/// Takes ascending ranges that do not touch out of a column.
fn remove_from<T: std::marker::Copy>(column: &mut Vec<T>, positions: &[Range<usize>]) {
    let Some(first) = positions.first() else { return };
    let mut write = first.start;
    for (index, range) in positions.iter().enumerate() {
        let next = positions.get(index + 1).map_or(column.len(), |next| next.start);
        column.copy_within(range.end..next, write);
        write += next - range.end;
    }
    column.truncate(write);
}

/// UIDs that were expunged, by when: what QRESYNC asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vanished {
    /// What vanished up to this mod-sequence may be missing below.
    pub floor_modseq: u64,
    /// Mod-sequence and both ends; the mod-sequences ascend.
    ranges: VecDeque<(u64, u32, u32)>,
}

impl Vanished {
    /// From what a checkpoint says.
    pub fn from_parts(floor_modseq: u64, ranges: Vec<(u64, u32, u32)>) -> Self {
        Self { floor_modseq, ranges: ranges.into() }
    }

    pub fn ranges(&self) -> impl ExactSizeIterator<Item = (u64, u32, u32)> {
        self.ranges.iter().copied()
    }

    fn add(&mut self, modseq: u64, first: u32, end: u32) {
        let last = self.ranges.back().map_or(0, |(modseq, ..)| *modseq);
        // They ascend in every log that we wrote.
        let modseq = modseq.max(last);
        self.ranges.push_back((modseq, first, end));
        if self.ranges.len() > VANISHED_RANGES_MAX
            && let Some((modseq, ..)) = self.ranges.pop_front()
        {
            self.floor_modseq = modseq;
        }
    }

    fn since(&self, modseq: u64) -> NumberSet {
        let from = self.ranges.partition_point(|(vanished, ..)| *vanished <= modseq);
        self.ranges.range(from..).map(|(_, first, end)| (*first, *end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::bodies::Bodies;
    use super::super::codec::{Body, BodyId};
    use super::*;
    use crate::journal::Location;

    const PLACE: Location =
        Location { slot: 1, block: 1, epoch_low: 1, in_frame: 64, record_bytes: 9 };

    fn entry(bodies: &mut Bodies, uid: u32, flags: SystemFlags) -> Entry {
        let id = BodyId(u64::from(uid));
        let body = bodies.place(&Body { id, place: PLACE, bytes: 100, chunks: Vec::new() });
        let date = InternalDate { unix_s: uid, zone: 4 };
        let (modseq, keywords) = (u64::from(uid) + 7, u64::from(uid) << 3);
        Entry { uid, modseq, date, saved_s: uid + 1, flags, keywords, body, bytes: 100 + uid }
    }

    /// All ranges of a small mailbox, with all that a checkpoint may say of them: the same as
    /// taking each message out and putting it in anew.
    #[test]
    fn a_range_takes_the_place_of_what_was_there() {
        let bodies = &mut Bodies::default();
        let seen = |bits: u32, uid: u32| match bits >> uid & 1 {
            0 => SystemFlags(0),
            _ => SystemFlags::SEEN,
        };
        let mailbox = || Mailbox::new(MailboxId(1), AccountId(1), "x".into(), 1);
        let ends = (1..=5).flat_map(|first| (first..=6).map(move |end| (first, end)));
        let ends: Vec<(u32, u32)> = ends.chain([(3, u32::MAX), (1, u32::MAX)]).collect();
        // Bit n is of UID n.
        for (there, seen_there) in [(0, 0), (0b0111110, 0), (0b0111110, 0b110), (0b1010100, 0b100)]
        {
            for (range, of_range) in
                ends.iter().flat_map(|it| [0, 0b1111110, 0b100110].map(|of| (*it, of)))
            {
                for seen_then in [0, 0b1111110, 0b0000110] {
                    let uids = |bits: u32| (1..=6).filter(move |uid| bits >> uid & 1 == 1);
                    let (mut at_once, mut one_by_one) = (mailbox(), mailbox());
                    for uid in uids(there) {
                        at_once.put(entry(bodies, uid, seen(seen_there, uid)));
                        one_by_one.put(entry(bodies, uid, seen(seen_there, uid)));
                    }
                    let is_in = |uid: &u32| (range.0..=range.1).contains(uid);
                    let new = uids(of_range).filter(is_in);
                    let new = new.map(|uid| entry(bodies, uid, seen(seen_then, uid)));
                    let new: Vec<Entry> = new.collect();
                    let replaced = at_once.put_range(range, &new);
                    let gone = one_by_one.remove_where(&[range]);
                    new.iter().for_each(|entry| assert!(one_by_one.put(*entry).is_none()));
                    assert_eq!(replaced, gone);
                    assert_eq!(at_once.status(), one_by_one.status());
                    let all = |it: &Mailbox| it.entries(0..u32::MAX).collect::<Vec<Entry>>();
                    assert_eq!(all(&at_once), all(&one_by_one));
                }
            }
        }
    }
}
