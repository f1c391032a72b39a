//! Which messages of a mailbox a client knows, and under which sequence numbers. `Pure.`
//!
//! The view is kept as its difference to the mailbox: up to which UID the client was told, and
//! which messages are gone without its knowledge. So a client that knows all costs nothing,
//! whatever the number of messages, and a number is found by a binary search.

use crate::mailbox::{Entry, Mailbox};
use crate::proto::imap::command::Numbering;
use crate::proto::imap::set::{NumberSet, SequenceSet};

/// What a client knows of a mailbox. Belongs to that mailbox: all calls are about the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Above the UIDs of all messages that the client was told of.
    uid_end: u32,
    gone: Gone,
}

/// A message that the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its sequence number.
    pub number: u32,
    pub uid: u32,
    /// `None` when it is gone and the client was not told.
    pub entry: Option<Entry>,
}

/// A sequence number that no message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchNumber;

impl View {
    /// All that is there.
    pub fn of(mailbox: &Mailbox) -> View {
        View { uid_end: mailbox.uid_next, gone: Gone::default() }
    }

    /// Above the UIDs of all messages that the client was told of.
    pub fn uid_end(&self) -> u32 {
        self.uid_end
    }

    /// How many messages the client knows: EXISTS, as it was told last.
    pub fn exists(&self, mailbox: &Mailbox) -> u32 {
        self.positions_below(mailbox, self.uid_end) + self.gone.count()
    }

    /// Whether some messages are gone of which the client was not told.
    pub fn has_gone(&self) -> bool {
        !self.gone.ranges.is_empty()
    }

    /// UIDs of messages that are gone without the client's knowledge.
    pub fn gone(&self) -> NumberSet {
        self.gone.ranges.iter().map(|range| (range.first, range.end)).collect()
    }

    /// Messages have left the mailbox.
    pub fn on_vanished(&mut self, uids: &NumberSet) {
        if let Some(known) = self.uid_end.checked_sub(1).filter(|last| *last > 0) {
            let known: NumberSet = [(1, known)].into_iter().collect();
            self.gone.add(&uids.intersection(&known));
        }
    }

    /// Tells of messages that are gone, from the lowest on and `count_max` at the most: each comes
    /// with the sequence number it has after those before it were told.
    pub fn tell_gone(&mut self, mailbox: &Mailbox, count_max: u32, mut tell: impl FnMut(u32, u32)) {
        for uid in self.gone.first(count_max) {
            tell(self.positions_below(mailbox, uid) + 1, uid);
        }
        self.gone.remove_first(count_max);
    }

    /// Tells of messages that are gone by UID: the first `range_count` ranges at the most.
    pub fn take_gone(&mut self, range_count: usize) -> NumberSet {
        let left = self.gone.ranges.split_off(range_count.min(self.gone.ranges.len()));
        let taken = self.gone();
        self.gone = Gone::of(left.iter().map(|range| (range.first, range.end)));
        taken
    }

    /// Tells of messages that have come; whether there are any.
    pub fn tell_new(&mut self, mailbox: &Mailbox) -> bool {
        let has_new = mailbox.uids().last().is_some_and(|last| *last >= self.uid_end);
        self.uid_end = self.uid_end.max(mailbox.uid_next);
        has_new
    }

    /// The sequence number of a message; `None` when the client does not know it.
    pub fn number(&self, mailbox: &Mailbox, uid: u32) -> Option<u32> {
        let is_known = uid < self.uid_end
            && (self.gone.has(uid) || mailbox.uids().binary_search(&uid).is_ok());
        is_known.then(|| self.count_below(mailbox, uid) + 1)
    }

    /// The UID of a sequence number.
    pub fn uid(&self, mailbox: &Mailbox, number: u32) -> Option<u32> {
        let index = number.checked_sub(1)?;
        if number > self.exists(mailbox) {
            return None;
        }
        // The last range of what is gone that does not begin behind it.
        let begins_behind =
            |range: &GoneRange| self.positions_below(mailbox, range.first) + range.before <= index;
        let behind = self.gone.ranges.partition_point(begins_behind);
        let Some(range) = behind.checked_sub(1).map(|at| &self.gone.ranges[at]) else {
            return mailbox.uids().get(index as usize).copied();
        };
        let into = index - range.before - self.positions_below(mailbox, range.first);
        let count = range.end - range.first + 1;
        if into < count {
            return Some(range.first + into);
        }
        mailbox.uids().get((index - range.before - count) as usize).copied()
    }

    /// The UIDs that a set of a command means, as ranges of which every message that the client
    /// knows is meant. UIDs need not be there; a sequence number must (RFC 9051 §9, `seq-number`).
    pub fn resolve(
        &self,
        mailbox: &Mailbox,
        numbering: Numbering,
        set: &SequenceSet,
    ) -> Result<NumberSet, NoSuchNumber> {
        let exists = self.exists(mailbox);
        if numbering == Numbering::Uid {
            return Ok(self.resolve_known(mailbox, numbering, set));
        }
        // `6:*` means the last message where that is 5, as everywhere.
        if exists == 0 || set.number_max() > exists && !set.has_star() {
            return Err(NoSuchNumber);
        }
        Ok(self.resolve_known(mailbox, numbering, set))
    }

    /// UIDs of sequence numbers, as ranges of which every message that the client knows is meant.
    fn uids_of(&self, mailbox: &Mailbox, numbers: &NumberSet) -> Option<NumberSet> {
        let mut uids = NumberSet::default();
        for (first, end) in numbers.ranges() {
            uids.insert_range(self.uid(mailbox, *first)?, self.uid(mailbox, *end)?);
        }
        Some(uids)
    }

    /// The part of a set of UIDs that the client can know of.
    fn known(&self, uids: &NumberSet) -> NumberSet {
        match self.uid_end {
            0 | 1 => NumberSet::default(),
            end => uids.intersection(&[(1, end - 1)].into_iter().collect()),
        }
    }

    /// The messages that a search means by a set: as `resolve`, but numbers that nobody has mean
    /// nothing.
    pub fn resolve_known(
        &self,
        mailbox: &Mailbox,
        numbering: Numbering,
        set: &SequenceSet,
    ) -> NumberSet {
        let exists = self.exists(mailbox);
        if numbering == Numbering::Uid {
            return self.known(&set.resolve(self.uid(mailbox, exists).unwrap_or(0)));
        }
        let numbers = match exists {
            0 => NumberSet::default(),
            last => set.resolve(last).intersection(&[(1, last)].into_iter().collect()),
        };
        self.uids_of(mailbox, &numbers).expect("all are in use")
    }

    /// How many messages of a set the client knows.
    pub fn count_of(&self, mailbox: &Mailbox, uids: &NumberSet) -> u32 {
        let known = self.known(uids);
        let below = |uid| self.count_below(mailbox, uid);
        known.ranges().iter().map(|(first, end)| below(end + 1) - below(*first)).sum()
    }

    /// Sequence numbers of messages; those that the client does not know have none.
    pub fn numbers_of(&self, mailbox: &Mailbox, uids: &NumberSet) -> NumberSet {
        let mut numbers = NumberSet::default();
        for known in self.walk(mailbox, uids, 0) {
            numbers.insert(known.number);
        }
        numbers
    }

    /// The messages of a set that the client knows, ascending from `uid_from` on.
    pub fn walk<'w>(
        &'w self,
        mailbox: &'w Mailbox,
        uids: &'w NumberSet,
        uid_from: u32,
    ) -> Walk<'w> {
        let range = uids.ranges().partition_point(|(_, end)| *end < uid_from);
        let mut walk =
            Walk { view: self, mailbox, ranges: &uids.ranges()[range..], position: 0, gone: None };
        if let Some((first, _)) = walk.ranges.first() {
            walk.seek((*first).max(uid_from));
        }
        walk
    }

    fn count_below(&self, mailbox: &Mailbox, uid: u32) -> u32 {
        self.positions_below(mailbox, uid) + self.gone.count_below(uid)
    }

    fn positions_below(&self, mailbox: &Mailbox, uid: u32) -> u32 {
        let uids = mailbox.uids();
        // Most clients know of all.
        if uids.last().is_none_or(|last| *last < uid) {
            return uids.len() as u32;
        }
        uids.partition_point(|known| *known < uid) as u32
    }
}

/// See `View::walk`.
pub struct Walk<'w> {
    view: &'w View,
    mailbox: &'w Mailbox,
    /// The first of them is under way.
    ranges: &'w [(u32, u32)],
    /// Of the next message that is there.
    position: usize,
    /// The next UID that is gone, and the index of its range.
    gone: Option<(u32, usize)>,
}

impl Walk<'_> {
    fn seek(&mut self, uid: u32) {
        self.position = self.view.positions_below(self.mailbox, uid) as usize;
        let gone = &self.view.gone.ranges;
        let index = gone.partition_point(|range| range.end < uid);
        self.gone = gone.get(index).map(|range| (range.first.max(uid), index));
    }

    /// The next UID that is gone, behind `uid` in the range with this index.
    fn next_gone(&self, uid: u32, index: usize) -> Option<(u32, usize)> {
        let ranges = &self.view.gone.ranges;
        if uid < ranges[index].end {
            return Some((uid + 1, index));
        }
        ranges.get(index + 1).map(|range| (range.first, index + 1))
    }
}

impl Iterator for Walk<'_> {
    type Item = Known;

    fn next(&mut self) -> Option<Known> {
        loop {
            let (_, end) = *self.ranges.first()?;
            let is_in = |uid: &u32| *uid <= end && *uid < self.view.uid_end;
            let there = self.mailbox.uids().get(self.position).copied().filter(is_in);
            let gone = self.gone.filter(|(uid, _)| is_in(uid));
            let ranges = &self.view.gone.ranges;
            let gone_before = match self.gone {
                Some((uid, index)) => ranges[index].before + (uid - ranges[index].first),
                None => self.view.gone.count(),
            };
            let number = self.position as u32 + gone_before + 1;
            match (there, gone) {
                (there, Some((uid, index))) if there.is_none_or(|there| uid < there) => {
                    self.gone = self.next_gone(uid, index);
                    return Some(Known { number, uid, entry: None });
                }
                (Some(uid), _) => {
                    let entry = Some(self.mailbox.entry(self.position));
                    self.position += 1;
                    return Some(Known { number, uid, entry });
                }
                _ => {
                    self.ranges = &self.ranges[1..];
                    if let Some((first, _)) = self.ranges.first() {
                        self.seek(*first);
                    }
                }
            }
        }
    }
}

/// UIDs as ascending ranges with gaps between them, each with the count of those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Gone {
    ranges: Vec<GoneRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GoneRange {
    first: u32,
    end: u32,
    /// UIDs in all ranges before this one.
    before: u32,
}

impl Gone {
    fn count(&self) -> u32 {
        self.ranges.last().map_or(0, |range| range.before + (range.end - range.first) + 1)
    }

    fn has(&self, uid: u32) -> bool {
        let at = self.ranges.partition_point(|range| range.end < uid);
        self.ranges.get(at).is_some_and(|range| range.first <= uid)
    }

    fn count_below(&self, uid: u32) -> u32 {
        let at = self.ranges.partition_point(|range| range.end < uid);
        match self.ranges.get(at) {
            Some(range) => range.before + uid.saturating_sub(range.first),
            None => self.count(),
        }
    }

    fn first(&self, count: u32) -> impl Iterator<Item = u32> {
        let uids = self.ranges.iter().flat_map(|range| range.first..=range.end);
        uids.take(count as usize)
    }

    fn remove_first(&mut self, count: u32) {
        let left = self.ranges.iter().filter_map(|range| {
            let first = range.first.saturating_add(count.saturating_sub(range.before));
            (first <= range.end).then_some((first, range.end))
        });
        *self = Gone::of(left);
    }

    fn add(&mut self, uids: &NumberSet) {
        if !uids.is_empty() {
            let known = self.ranges.iter().map(|range| (range.first, range.end));
            let all: NumberSet = known.chain(uids.ranges().iter().copied()).collect();
            *self = Gone::of(all.ranges().iter().copied());
        }
    }

    /// Of ascending ranges with gaps between them.
    fn of(ranges: impl Iterator<Item = (u32, u32)>) -> Gone {
        let mut count = 0;
        let ranges = ranges.map(|(first, end)| {
            let before = count;
            count += end - first + 1;
            GoneRange { first, end, before }
        });
        Gone { ranges: ranges.collect() }
    }
}

#[cfg(test)]
mod tests;
