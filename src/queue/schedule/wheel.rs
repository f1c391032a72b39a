//! Tasks that wait for their time: a hierarchical timing wheel. `Pure.`
//!
//! Four levels of lists. A list of the first holds what is due in one tick, a list of a higher one
//! what is due in as many ticks as the whole level below it spans. When time reaches a list of a
//! higher level, what stands there moves down. To enter, to leave and to come due thus costs the
//! same however many wait.

use super::list::{Chain, List};

/// Entries that can wait.
pub trait Waiting: Chain {
    /// Unix milliseconds.
    fn due_ms(&self, slot: u32) -> u64;
    /// The list of the wheel it stands in, for the wheel's own use.
    fn list(&mut self, slot: u32) -> &mut u16;
}

pub struct Wheel {
    lists: Box<[List]>,
    /// Entries by level.
    counts: [usize; LEVELS],
    /// All earlier ticks are over.
    tick: u64,
}

/// What one step of the wheel brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This entry is due, and has left the wheel.
    Due(u32),
    /// Time or an entry has moved on.
    Moved,
    /// Nothing more is due.
    Idle,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { lists: vec![List::default(); LISTS].into(), counts: [0; LEVELS], tick: 0 }
    }
}

impl Wheel {
    /// Begins at `now_ms`, before the first entry: what happened earlier is over.
    pub fn begin(&mut self, now_ms: u64) {
        assert_eq!(self.counts, [0; LEVELS]);
        self.tick = now_ms / TICK_MS;
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lists)
    }

    pub fn insert(&mut self, entries: &mut impl Waiting, slot: u32) {
        let list = self.list_for(tick_of(entries.due_ms(slot)));
        *entries.list(slot) = list as u16;
        self.lists[list].push_back(entries, slot);
        self.counts[level_of(list)] += 1;
    }

    /// Takes out an entry that waits.
    pub fn remove(&mut self, entries: &mut impl Waiting, slot: u32) {
        let list = usize::from(*entries.list(slot));
        self.lists[list].remove(entries, slot);
        self.counts[level_of(list)] -= 1;
    }

    /// Goes a step towards `now_ms`; come again until nothing more is due. Entries of one tick come
    /// in no particular order. When the clock was set back, nothing comes before its time.
    pub fn step(&mut self, entries: &mut impl Waiting, now_ms: u64) -> Step {
        let now_tick = now_ms / TICK_MS;
        // An entry placed for a later time is met early, never late, and placed again then.
        self.tick = self.tick.min(now_tick);
        // From the top, so that what moves down is met below.
        for level in (0..LEVELS).rev() {
            let list = FIRST_LIST[level] + digit(self.tick, level);
            let Some(slot) = self.lists[list].first() else { continue };
            self.remove(entries, slot);
            if tick_of(entries.due_ms(slot)) <= self.tick {
                return Step::Due(slot);
            }
            self.insert(entries, slot);
            return Step::Moved;
        }
        if self.tick == now_tick {
            return Step::Idle;
        }
        // Where whole levels are empty, time goes on in strides.
        let empty = self.counts.iter().take_while(|count| **count == 0).count();
        self.tick = match empty {
            LEVELS => now_tick,
            level => (((self.tick >> SHIFT[level]) + 1) << SHIFT[level]).min(now_tick),
        };
        Step::Moved
    }

    /// The list for what is due at `due`: that of the lowest level on which it can be told from
    /// now.
    fn list_for(&self, due: u64) -> usize {
        let due = due.max(self.tick);
        for level in 0..LEVELS - 1 {
            if due >> SHIFT[level + 1] == self.tick >> SHIFT[level + 1] {
                return FIRST_LIST[level] + digit(due, level);
            }
        }
        // What is beyond the reach waits at its end, and is placed again there.
        let top = LEVELS - 1;
        let reach = (self.tick >> SHIFT[top]) + (1 << BITS[top]) - 1;
        FIRST_LIST[top] + digit(due.min(reach << SHIFT[top]), top)
    }
}

/// The first tick at which `due_ms` is over: nothing comes early.
fn tick_of(due_ms: u64) -> u64 {
    due_ms.div_ceil(TICK_MS)
}

fn digit(tick: u64, level: usize) -> usize {
    (tick >> SHIFT[level]) as usize & ((1 << BITS[level]) - 1)
}

fn level_of(list: usize) -> usize {
    FIRST_LIST.iter().rposition(|first| list >= *first).expect("the first list is 0")
}

/// Resolution. What waits comes up to this much late.
const TICK_MS: u64 = 64;
const LEVELS: usize = 4;
/// A level has two to the power of this many lists. Reaches: 16 s, 17 minutes, 19 hours, 50 days.
const BITS: [u32; LEVELS] = [8, 6, 6, 6];
const SHIFT: [u32; LEVELS] = [0, 8, 14, 20];
const FIRST_LIST: [usize; LEVELS] = [0, 256, 320, 384];
const LISTS: usize = 448;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::list::Links;
    use super::*;

    #[derive(Clone, Copy, Default)]
    struct Entry {
        links: Links,
        list: u16,
        due_ms: u64,
    }

    impl Chain for Vec<Entry> {
        fn links(&mut self, slot: u32) -> &mut Links {
            &mut self[slot as usize].links
        }
    }

    impl Waiting for Vec<Entry> {
        fn due_ms(&self, slot: u32) -> u64 {
            self[slot as usize].due_ms
        }

        fn list(&mut self, slot: u32) -> &mut u16 {
            &mut self[slot as usize].list
        }
    }

    /// Everything due, in the order in which it comes.
    fn due(wheel: &mut Wheel, entries: &mut Vec<Entry>, now_ms: u64) -> Vec<u32> {
        let mut due = Vec::new();
        loop {
            match wheel.step(entries, now_ms) {
                Step::Due(slot) => due.push(slot),
                Step::Moved => {}
                Step::Idle => return due,
            }
        }
    }

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// Enters, removes and lets time pass at random, and compares with a sorted set.
    fn check(seed: u64) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut entries = vec![Entry::default(); 300];
        let mut wheel = Wheel::default();
        let mut model: BTreeSet<(u64, u32)> = BTreeSet::new();
        let mut now_ms = 1_700_000_000_000 + random(&mut state) % 100_000_000;
        for step in 0..3_000 {
            let slot = (random(&mut state) % entries.len() as u64) as u32;
            let standing = (entries[slot as usize].due_ms, slot);
            match random(&mut state) % 8 {
                0..=3 if !model.contains(&standing) => {
                    // From the past to beyond the reach, all magnitudes alike.
                    let wait = random(&mut state) % (1 << (random(&mut state) % 34));
                    let due_ms = now_ms + wait - wait.min(now_ms) / 64;
                    entries[slot as usize].due_ms = due_ms;
                    wheel.insert(&mut entries, slot);
                    model.insert((due_ms, slot));
                }
                4 if model.contains(&standing) => {
                    wheel.remove(&mut entries, slot);
                    model.remove(&standing);
                }
                5..=7 => {
                    let far = 1 << (random(&mut state) % 33);
                    now_ms += random(&mut state) % far;
                    if random(&mut state).is_multiple_of(64) {
                        now_ms -= random(&mut state) % (1 << 30);
                    }
                    let mut expected = Vec::new();
                    while let Some((due_ms, slot)) = model.first().copied()
                        && due_ms.div_ceil(TICK_MS) <= now_ms / TICK_MS
                    {
                        model.pop_first();
                        expected.push(slot);
                    }
                    let mut due = due(&mut wheel, &mut entries, now_ms);
                    due.sort_unstable();
                    expected.sort_unstable();
                    assert_eq!(due, expected, "seed {seed}, step {step}");
                }
                _ => {}
            }
            assert_eq!(wheel.counts.iter().sum::<usize>(), model.len(), "seed {seed}");
        }
    }

    #[test]
    fn what_waits_comes_when_its_time_is_over_and_not_before() {
        for seed in 1..100 {
            check(seed);
        }
    }

    #[test]
    fn ticks_come_in_order() {
        let mut entries = vec![Entry::default(); 64];
        let mut wheel = Wheel::default();
        due(&mut wheel, &mut entries, 1_000_000);
        for slot in 0..64 {
            entries[slot as usize].due_ms = 1_000_000 + u64::from(slot * 37 % 64) * 100_000;
            wheel.insert(&mut entries, slot);
        }
        let order = due(&mut wheel, &mut entries, 1 << 40);
        let due_ms = order.iter().map(|slot| entries[*slot as usize].due_ms);
        assert!(due_ms.is_sorted() && order.len() == 64);
    }
}
