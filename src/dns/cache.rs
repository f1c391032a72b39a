//! Answers kept as long as they hold, and somewhat longer for the day the upstreams are gone. Pure.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::lookup::Outcome;
use crate::proto::dns::{Answer, Kind, LookupError, Name, Record};

/// A name and the type of the records wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    pub name: Name,
    pub kind: Kind,
}

/// An answer or its absence, and how long that may be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub result: Result<Rc<Answer>, LookupError>,
    /// How long the result holds from now on.
    pub ttl: Duration,
    /// Past its time, and given because the upstreams do not answer (RFC 8767).
    pub stale: bool,
}

/// Bounds of a cache and of the times in it.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub entries_max: usize,
    pub bytes_max: usize,
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    /// How long an answer is kept after its time.
    pub stale_max: Duration,
}

/// The cache of one resolver. What was not asked for since the hand passed goes first (CLOCK).
pub struct Cache {
    bounds: Bounds,
    indexes: HashMap<Question, usize>,
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
}

struct Slot {
    question: Question,
    result: Result<Rc<Answer>, LookupError>,
    fresh_until_ms: u64,
    stale_until_ms: u64,
    /// Past its time; `fresh_until_ms` is when the upstreams are asked again.
    stale: bool,
    asked_for: bool,
    bytes: usize,
}

impl Cache {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, indexes: HashMap::new(), slots: Vec::new(), hand: 0, bytes: 0 }
    }

    /// What is known and still holds.
    pub fn find(&mut self, question: &Question, now_ms: u64) -> Option<Found> {
        let slot = &mut self.slots[*self.indexes.get(question)?];
        if slot.fresh_until_ms <= now_ms {
            return None;
        }
        slot.asked_for = true;
        Some(slot.found(now_ms))
    }

    /// Keeps how a question ended, and returns what to answer: the same, or after a failure the
    /// answer that was known before, where it is not too old.
    pub fn put(&mut self, question: &Question, outcome: Outcome, now_ms: u64) -> Found {
        let Bounds { ttl_min, ttl_max, .. } = self.bounds;
        let seconds = Duration::from_secs(outcome.ttl.into());
        let (ttl, stale_max) = match &outcome.result {
            Ok(_) => (seconds.clamp(ttl_min, ttl_max), self.bounds.stale_max),
            // A denial without a time of its own is for this asker alone (RFC 2308 §5).
            Err(error) if error.is_denial() && outcome.ttl == 0 => (Duration::ZERO, Duration::ZERO),
            Err(error) if error.is_denial() => {
                let denial_max = ttl_max.min(DENIAL_TTL_MAX);
                (seconds.clamp(ttl_min.min(denial_max), denial_max), Duration::ZERO)
            }
            Err(LookupError::Busy) => (Duration::ZERO, Duration::ZERO),
            Err(_) => {
                if let Some(found) = self.put_off(question, now_ms) {
                    return found;
                }
                (FAILURE_TTL, Duration::ZERO)
            }
        };
        self.remove(question);
        let fresh_until_ms = now_ms + ttl.as_millis() as u64;
        let mut slot = Slot {
            question: question.clone(),
            result: outcome.result.map(Rc::new),
            fresh_until_ms,
            stale_until_ms: fresh_until_ms + stale_max.as_millis() as u64,
            stale: false,
            asked_for: false,
            bytes: 0,
        };
        slot.bytes = slot.bytes();
        let found = slot.found(now_ms);
        if slot.stale_until_ms > now_ms {
            self.insert(slot, now_ms);
        }
        found
    }

    pub fn entry_count(&self) -> usize {
        self.slots.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The answer from before, and no new question for a while (RFC 8767 §5).
    fn put_off(&mut self, question: &Question, now_ms: u64) -> Option<Found> {
        let slot = &mut self.slots[*self.indexes.get(question)?];
        if slot.result.is_err() || slot.stale_until_ms <= now_ms {
            return None;
        }
        slot.stale = true;
        let again_ms = now_ms + STALE_TTL.as_millis() as u64;
        slot.fresh_until_ms = again_ms.min(slot.stale_until_ms);
        Some(slot.found(now_ms))
    }

    fn insert(&mut self, slot: Slot, now_ms: u64) {
        if slot.bytes > self.bounds.bytes_max || self.bounds.entries_max == 0 {
            return;
        }
        while self.slots.len() >= self.bounds.entries_max
            || self.bytes + slot.bytes > self.bounds.bytes_max
        {
            self.evict(now_ms);
        }
        self.bytes += slot.bytes;
        self.indexes.insert(slot.question.clone(), self.slots.len());
        self.slots.push(slot);
    }

    /// Removes the first slot from the hand on that nobody asked for since it passed, or whose
    /// time is over.
    fn evict(&mut self, now_ms: u64) {
        loop {
            self.hand %= self.slots.len();
            let slot = &mut self.slots[self.hand];
            if slot.stale_until_ms > now_ms && std::mem::take(&mut slot.asked_for) {
                self.hand += 1;
                continue;
            }
            self.remove_at(self.hand);
            return;
        }
    }

    fn remove(&mut self, question: &Question) {
        if let Some(index) = self.indexes.get(question) {
            self.remove_at(*index);
        }
    }

    /// The last slot takes the place.
    fn remove_at(&mut self, index: usize) {
        let slot = self.slots.swap_remove(index);
        self.bytes -= slot.bytes;
        self.indexes.remove(&slot.question);
        if let Some(moved) = self.slots.get(index) {
            let place = self.indexes.get_mut(&moved.question);
            *place.expect("every slot has its index") = index;
        }
    }
}

impl Slot {
    fn found(&self, now_ms: u64) -> Found {
        Found {
            result: self.result.clone(),
            ttl: Duration::from_millis(self.fresh_until_ms - now_ms),
            stale: self.stale,
        }
    }

    /// Memory it takes, with both copies of its question.
    fn bytes(&self) -> usize {
        let answer = self.result.as_ref().map_or(0, |answer| {
            let records = answer.records.iter();
            let canonical = answer.canonical.as_ref().map_or(0, |name| name.as_str().len());
            let records = records.map(|it| size_of::<Record>() + it.heap_bytes()).sum::<usize>();
            size_of::<Answer>() + canonical + records
        });
        let question = size_of::<Question>() + self.question.name.as_str().len();
        size_of::<Slot>() + size_of::<usize>() + 2 * question + answer
    }
}

/// Longest time for which a denial is believed (RFC 2308 §5).
const DENIAL_TTL_MAX: Duration = Duration::from_secs(3600);
/// How long a failure is remembered: longer than a moment, for the sake of the upstreams, and at
/// most five minutes (RFC 2308 §7.1, RFC 9520 §3.2).
const FAILURE_TTL: Duration = Duration::from_secs(5);
/// How long an answer past its time is given before the upstreams are asked again (RFC 8767 §4).
const STALE_TTL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        entries_max: 3,
        bytes_max: 1 << 20,
        ttl_min: Duration::from_secs(2),
        ttl_max: Duration::from_secs(7200),
        stale_max: Duration::from_secs(86_400),
    };

    fn question(name: &str) -> Question {
        Question { name: Name::parse(name).expect("a name"), kind: Kind::A }
    }

    fn answer(last: u8) -> Answer {
        let records = vec![Record::Address([192, 0, 2, last].into())];
        Answer { records, canonical: None, authenticated: false }
    }

    fn positive(last: u8, ttl: u32) -> Outcome {
        Outcome { result: Ok(answer(last)), ttl }
    }

    fn negative(error: LookupError, ttl: u32) -> Outcome {
        Outcome { result: Err(error), ttl }
    }

    #[test]
    fn times_are_kept_within_their_bounds() {
        let check = |outcome: Outcome, expected_s: u64| {
            let mut cache = Cache::new(BOUNDS);
            let question = question("a.test");
            let found = cache.put(&question, outcome, 1000);
            assert_eq!(found.ttl, Duration::from_secs(expected_s));
            let end_ms = 1000 + expected_s * 1000;
            if expected_s > 0 {
                let found = cache.find(&question, end_ms - 1).expect("known");
                assert_eq!((found.ttl, found.stale), (Duration::from_millis(1), false));
            }
            assert_eq!(cache.find(&question, end_ms), None);
        };
        check(positive(1, 300), 300);
        check(positive(1, 0), 2);
        check(positive(1, u32::MAX), 7200);
        check(negative(LookupError::NoDomain, 300), 300);
        check(negative(LookupError::NoData, 1), 2);
        check(negative(LookupError::NoData, 86_400), 3600);
        check(negative(LookupError::NoDomain, 0), 0);
        check(negative(LookupError::ServerFailure, 0), 5);
        check(negative(LookupError::NoAnswer, 0), 5);
        check(negative(LookupError::Busy, 0), 0);
    }

    #[test]
    fn an_answer_past_its_time_stands_in_for_a_failure_within_a_bound() {
        let mut cache = Cache::new(BOUNDS);
        let question = question("a.test");
        cache.put(&question, positive(1, 10), 0);
        assert_eq!(cache.find(&question, 10_000), None);
        let found = cache.put(&question, negative(LookupError::NoAnswer, 0), 10_000);
        assert_eq!((found.result, found.stale), (Ok(Rc::new(answer(1))), true));
        assert_eq!(found.ttl, Duration::from_secs(30));
        assert!(cache.find(&question, 39_999).expect("given").stale);
        assert_eq!(cache.find(&question, 40_000), None, "the upstreams are asked again");
        let end_ms = 10_000 + 86_400_000;
        let found = cache.put(&question, negative(LookupError::Malformed, 0), end_ms - 1);
        assert_eq!((found.ttl, found.stale), (Duration::from_millis(1), true));
        let found = cache.put(&question, negative(LookupError::ServerFailure, 0), end_ms);
        assert_eq!(found.result, Err(LookupError::ServerFailure));
        // A denial is an answer: it replaces what was known.
        cache.put(&question, positive(2, 10), end_ms);
        cache.put(&question, negative(LookupError::NoDomain, 10), end_ms + 10_000);
        let found = cache.put(&question, negative(LookupError::NoAnswer, 0), end_ms + 20_000);
        assert_eq!(found.result, Err(LookupError::NoAnswer));
        // And an answer ends what stood in.
        cache.put(&question, positive(3, 10), end_ms + 30_000);
        assert!(!cache.find(&question, end_ms + 30_000).expect("known").stale);
    }

    #[test]
    fn a_full_cache_gives_up_what_nobody_asks_for() {
        let mut cache = Cache::new(BOUNDS);
        for (index, name) in ["a.test", "b.test", "c.test"].into_iter().enumerate() {
            cache.put(&question(name), positive(index as u8, 300), 0);
        }
        assert!(cache.find(&question("a.test"), 0).is_some());
        cache.put(&question("d.test"), positive(4, 300), 0);
        assert_eq!(cache.entry_count(), 3);
        assert!(cache.find(&question("a.test"), 0).is_some(), "it was asked for");
        assert!(cache.find(&question("b.test"), 0).is_none());
        // An entry whose time is over goes first, asked for or not.
        let mut cache = Cache::new(BOUNDS);
        cache.put(&question("x.test"), negative(LookupError::NoData, 10), 0);
        cache.put(&question("b.test"), positive(1, 300), 0);
        cache.put(&question("c.test"), positive(1, 300), 0);
        assert!(cache.find(&question("x.test"), 0).is_some());
        cache.put(&question("d.test"), positive(4, 300), 10_000);
        for name in ["b.test", "c.test", "d.test"] {
            assert!(cache.find(&question(name), 10_000).is_some(), "{name}");
        }
    }

    #[test]
    fn memory_is_bounded_and_counted_back() {
        let bounds = Bounds { entries_max: 1000, bytes_max: 4000, ..BOUNDS };
        let mut cache = Cache::new(bounds);
        for index in 0..200 {
            let name = format!("{index}.test");
            let text = vec![b'x'; index * 5].into_boxed_slice();
            let answer = Answer { records: vec![Record::Txt(text)], ..answer(1) };
            cache.put(&question(&name), Outcome { result: Ok(answer), ttl: 300 }, 0);
            assert!(cache.bytes() <= 4000);
            assert_eq!(cache.bytes(), cache.slots.iter().map(Slot::bytes).sum::<usize>());
            assert_eq!(cache.indexes.len(), cache.slots.len());
        }
        assert!(cache.entry_count() > 2);
        let large = Answer { records: vec![Record::Txt([0; 5000].into())], ..answer(1) };
        let found = cache.put(&question("l.test"), Outcome { result: Ok(large), ttl: 300 }, 0);
        assert!(found.result.is_ok(), "what does not fit is answered all the same");
        assert_eq!(cache.find(&question("l.test"), 0), None);
        let mut none = Cache::new(Bounds { entries_max: 0, ..BOUNDS });
        none.put(&question("a.test"), positive(1, 300), 0);
        assert_eq!(none.entry_count(), 0);
    }
}
