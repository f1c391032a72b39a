//! Sets of message numbers: as a command names them, and as they are once `*` has a value.

use std::io::Write;

/// A sequence set of a command (RFC 9051 §9, `sequence-set`): sequence numbers or UIDs, with `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceSet {
    /// Both ends of each range as they were written; `STAR` for `*`.
    ranges: Vec<(u32, u32)>,
}

/// No message has this number: stands for `*`.
const STAR: u32 = 0;

impl SequenceSet {
    /// The set a text like `1,3:5,7:*` stands for, or `None` when it is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut ranges = Vec::new();
        for range in text.split(|octet| *octet == b',') {
            let ends = match memchr::memchr(b':', range) {
                Some(colon) => (parse_end(&range[..colon])?, parse_end(&range[colon + 1..])?),
                None => (parse_end(range)?, parse_end(range)?),
            };
            ranges.push(ends);
        }
        Some(Self { ranges })
    }

    /// A set of one message.
    pub fn of(number: u32) -> Self {
        assert!(number != STAR);
        Self { ranges: vec![(number, number)] }
    }

    /// The numbers meant when `last` is the highest in use, 0 for none.
    ///
    /// `9:*` means the last message even when that is 7, as the ends of a range have no order.
    /// Without messages a range that ends in `*` means nothing.
    pub fn resolve(&self, last: u32) -> NumberSet {
        let ends =
            self.ranges.iter().filter(|(first, end)| last > 0 || (*first != STAR && *end != STAR));
        ends.map(|(first, end)| {
            let value = |end: u32| if end == STAR { last } else { end };
            (value(*first).min(value(*end)), value(*first).max(value(*end)))
        })
        .collect()
    }

    /// Whether `*` occurs.
    pub fn has_star(&self) -> bool {
        self.ranges.iter().any(|(first, end)| *first == STAR || *end == STAR)
    }

    /// The highest number that is written out, 0 when there is only `*`.
    pub fn number_max(&self) -> u32 {
        self.ranges.iter().map(|(first, end)| *first.max(end)).max().unwrap_or(0)
    }
}

fn parse_end(text: &[u8]) -> Option<u32> {
    if text == b"*" {
        return Some(STAR);
    }
    let is_number = matches!(text, [b'1'..=b'9', rest @ ..]
        if rest.len() < 10 && rest.iter().all(u8::is_ascii_digit));
    if !is_number {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Numbers as ascending ranges with gaps between them; both ends count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberSet {
    ranges: Vec<(u32, u32)>,
}

impl NumberSet {
    /// The ranges in ascending order, both ends included.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    /// The numbers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.ranges.iter().flat_map(|(first, end)| *first..=*end)
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(first, end)| u64::from(end - first) + 1).sum()
    }

    pub fn first(&self) -> Option<u32> {
        self.ranges.first().map(|(first, _)| *first)
    }

    pub fn last(&self) -> Option<u32> {
        self.ranges.last().map(|(_, end)| *end)
    }

    /// In the logarithm of the number of ranges.
    pub fn contains(&self, number: u32) -> bool {
        let index = self.ranges.partition_point(|(_, end)| *end < number);
        self.ranges.get(index).is_some_and(|(first, _)| *first <= number)
    }

    /// Adds one number; fastest behind the last one.
    pub fn insert(&mut self, number: u32) {
        self.insert_range(number, number);
    }

    /// Adds `first..=end`, joining what then touches.
    pub fn insert_range(&mut self, first: u32, end: u32) {
        assert!(first <= end);
        match self.ranges.last_mut() {
            None => self.ranges.push((first, end)),
            Some((_, last)) if first > last.saturating_add(1) => self.ranges.push((first, end)),
            Some((start, last)) if first >= *start => *last = end.max(*last),
            Some(_) => {
                let from = self.ranges.partition_point(|(_, end)| end.saturating_add(1) < first);
                let to = self.ranges.partition_point(|(start, _)| *start <= end.saturating_add(1));
                let joined = self.ranges[from..to].iter().fold((first, end), |joined, range| {
                    (joined.0.min(range.0), joined.1.max(range.1))
                });
                self.ranges.splice(from..to, [joined]);
            }
        }
    }

    /// All numbers of either set.
    pub fn union(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&other.ranges).copied().collect()
    }

    /// The numbers of both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let (mut ours, mut theirs) =
            (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        while let (Some((our_first, our_end)), Some((their_first, their_end))) =
            (ours.peek(), theirs.peek())
        {
            let (first, end) = (*our_first.max(their_first), *our_end.min(their_end));
            if first <= end {
                ranges.push((first, end));
            }
            if our_end <= their_end {
                ours.next();
            } else {
                theirs.next();
            }
        }
        Self { ranges }
    }

    /// The numbers of this set that are not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        for (first, end) in &self.ranges {
            let mut start = Some(*first);
            let from = other.ranges.partition_point(|(_, their_end)| their_end < first);
            for (their_first, their_end) in &other.ranges[from..] {
                let Some(begin) = start.filter(|_| their_first <= end) else { break };
                if begin < *their_first {
                    ranges.push((begin, their_first - 1));
                }
                start = their_end.checked_add(1).filter(|next| next <= end);
            }
            ranges.extend(start.map(|start| (start, *end)));
        }
        Self { ranges }
    }

    /// Appends the shortest text: `1:3,5`. An empty set has none.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (index, (first, end)) in self.ranges.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            // Writing into memory does not fail.
            let _ =
                if first == end { write!(out, "{first}") } else { write!(out, "{first}:{end}") };
        }
    }
}

impl FromIterator<(u32, u32)> for NumberSet {
    /// From ranges in any order, first end not above the second; they may overlap.
    fn from_iter<I: IntoIterator<Item = (u32, u32)>>(ranges: I) -> Self {
        let mut ranges: Vec<(u32, u32)> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut set = Self::default();
        ranges.into_iter().for_each(|(first, end)| set.insert_range(first, end));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(set: &NumberSet) -> String {
        let mut out = Vec::new();
        set.write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn resolved(set: &str, last: u32) -> String {
        text(&SequenceSet::parse(set.as_bytes()).expect("a set").resolve(last))
    }

    #[test]
    fn sets_are_resolved_with_the_last_number() {
        assert_eq!(resolved("4:2,1,9", 20), "1:4,9");
        assert_eq!(resolved("*", 7), "7");
        assert_eq!(resolved("*:*", 7), "7");
        assert_eq!(resolved("9:*", 7), "7:9");
        assert_eq!(resolved("*:3,5", 7), "3:7");
        assert_eq!(resolved("1:*,3", 0), "3");
        assert_eq!(resolved("*", 0), "");
        assert_eq!(resolved("4294967295,1", 1), "1,4294967295");
        assert_eq!(resolved("1:4294967295", 1), "1:4294967295");
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bad in ["", ",", "1,", "0", "01", "1:", ":1", "1:2:3", "4294967296", "a", "1 2", "**"] {
            assert_eq!(SequenceSet::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    /// All operations against sets of single numbers.
    #[test]
    fn operations_agree_with_plain_sets() {
        use std::collections::BTreeSet;
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |below: u32| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % u64::from(below)) as u32
        };
        for _ in 0..2000 {
            let mut build = || {
                let mut set = NumberSet::default();
                let mut plain = BTreeSet::new();
                for _ in 0..next(8) {
                    let first = 1 + next(40);
                    let end = first + next(6);
                    set.insert_range(first, end);
                    plain.extend(first..=end);
                }
                (set, plain)
            };
            let ((a, plain_a), (b, plain_b)) = (build(), build());
            let same = |set: &NumberSet, plain: BTreeSet<u32>| {
                assert!(set.iter().eq(plain.iter().copied()), "{} {plain:?}", text(set));
                assert_eq!(set.count(), plain.len() as u64);
                let apart = set.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0);
                assert!(apart, "{}", text(set));
                assert!((0..60).all(|number| set.contains(number) == plain.contains(&number)));
                assert_eq!(set.first(), plain.first().copied());
                assert_eq!(set.last(), plain.last().copied());
            };
            same(&a, plain_a.clone());
            same(&a.union(&b), plain_a.union(&plain_b).copied().collect());
            same(&a.intersection(&b), plain_a.intersection(&plain_b).copied().collect());
            same(&a.difference(&b), plain_a.difference(&plain_b).copied().collect());
        }
    }

    #[test]
    fn the_ends_of_the_range_of_numbers_are_safe() {
        let mut set = NumberSet::default();
        set.insert(u32::MAX);
        set.insert_range(1, u32::MAX - 1);
        assert_eq!(text(&set), "1:4294967295");
        let mut holes = NumberSet::default();
        holes.insert(u32::MAX);
        assert_eq!(text(&set.difference(&holes)), "1:4294967294");
    }
}
