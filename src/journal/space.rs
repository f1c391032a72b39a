//! The slots of a journal: which are free, what holds the others, which one is next. `Pure.`
//!
//! A slot comes free when nothing in it is pinned and every frame in it stands before the older of
//! the two checkpoints that a durable header names (I7).

use super::core::Location;
use crate::limits::SPARE_SLOTS_MIN;

/// How much room is left, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Normal,
    /// Under a fifth of the pool is free.
    Slow,
    /// Under a tenth: no new mail.
    Refuse,
}

#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub slots: usize,
    pub slots_free: usize,
    pub slots_max: usize,
    pub level: Level,
}

/// Who takes a slot, and so how many it must leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taker {
    Message,
    /// Outcomes: they leave what compaction and two checkpoints need to free something.
    Outcome,
    Compaction,
    Checkpoint,
}

/// A slot as a journal finds it at its start.
#[derive(Clone, Copy, Debug)]
pub struct StartSlot {
    /// In bytes.
    pub capacity: u64,
    /// Of its last life, 0 for none.
    pub epoch: u64,
    /// Whether something in it may count.
    pub counts: bool,
    /// No frame in it has a higher seq.
    pub last_seq: u64,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    /// Nothing in it counts. `epoch` is that of its last life, 0 for none.
    Free {
        epoch: u64,
    },
    Used(Used),
}

#[derive(Clone, Copy, Debug)]
struct Used {
    epoch: u64,
    /// Things in it that are still needed, and their bytes.
    live: u32,
    live_bytes: u64,
    /// No frame in it has a higher seq; 0: no frame counts.
    last_seq: u64,
    is_open: bool,
    /// It holds damaged data, and is kept for ever.
    is_quarantined: bool,
    /// Compaction leaves it alone until then.
    spared_until_ms: u64,
}

impl Used {
    fn new(epoch: u64, last_seq: u64) -> Self {
        Self {
            epoch,
            live: 0,
            live_bytes: 0,
            last_seq,
            is_open: false,
            is_quarantined: false,
            spared_until_ms: 0,
        }
    }

    /// Whether it comes free once the older named checkpoint begins at `floor_seq`.
    fn is_dead(&self, floor_seq: u64) -> bool {
        let holds_nothing = self.live == 0 && !self.is_open && !self.is_quarantined;
        holds_nothing && (self.last_seq == 0 || self.last_seq < floor_seq)
    }
}

pub(super) struct Slots {
    slots: Vec<Slot>,
    free_count: usize,
    capacities: Vec<u64>,
    pub slots_max: usize,
    pub in_making: usize,
    /// Where the older of the two checkpoints that a durable header names begins; 0 for none.
    floor_seq: u64,
    /// What one more checkpoint may take beyond the rest of a segment, in slots.
    pub checkpoint_slots: usize,
}

impl Slots {
    pub fn new(start: &[StartSlot], slots_max: usize, floor_seq: u64) -> Self {
        let slots = start.iter().map(|slot| {
            if slot.counts {
                Slot::Used(Used::new(slot.epoch, slot.last_seq))
            } else {
                Slot::Free { epoch: slot.epoch }
            }
        });
        Self {
            slots: slots.collect(),
            free_count: start.iter().filter(|slot| !slot.counts).count(),
            capacities: start.iter().map(|slot| slot.capacity).collect(),
            slots_max,
            in_making: 0,
            floor_seq,
            checkpoint_slots: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn add(&mut self, capacity: u64) {
        self.slots.push(Slot::Free { epoch: 0 });
        self.free_count += 1;
        self.capacities.push(capacity);
    }

    pub fn capacity(&self, slot: u16) -> u64 {
        self.capacities[usize::from(slot)]
    }

    pub fn capacity_max(&self) -> u64 {
        self.capacities.iter().copied().max().unwrap_or(0)
    }

    pub fn pin(&mut self, location: Location, bytes: u64) {
        let used = self.used_mut(location);
        used.live += 1;
        used.live_bytes += bytes;
    }

    pub fn unpin(&mut self, location: Location, bytes: u64) {
        let used = self.used_mut(location);
        assert!(used.live > 0 && used.live_bytes >= bytes);
        used.live -= 1;
        used.live_bytes -= bytes;
        self.free_if_dead(usize::from(location.slot));
    }

    fn used_mut(&mut self, location: Location) -> &mut Used {
        let slot = &mut self.slots[usize::from(location.slot)];
        let Slot::Used(used) = slot else { panic!("{location:?} is in a free slot") };
        assert_eq!(used.epoch as u32, location.epoch_low, "another life of the slot");
        used
    }

    /// Whether a slot has no header that could be read.
    pub fn is_blank(&self, slot: u16) -> bool {
        matches!(self.slots.get(usize::from(slot)), Some(Slot::Free { epoch: 0 }))
    }

    /// Takes a slot whose header cannot be read for used: something live stands there. Returns its
    /// epoch, or `None` where no such slot is.
    pub fn adopt(&mut self, location: Location, last_seq: u64) -> Option<u64> {
        let slot = self.slots.get_mut(usize::from(location.slot))?;
        if !matches!(slot, Slot::Free { epoch: 0 }) {
            return None;
        }
        let epoch = u64::from(location.epoch_low);
        *slot = Slot::Used(Used::new(epoch, last_seq));
        self.free_count -= 1;
        Some(epoch)
    }

    /// Keeps a slot for ever.
    pub fn quarantine(&mut self, slot: u16) {
        let slot = &mut self.slots[usize::from(slot)];
        if let Slot::Free { epoch } = *slot {
            *slot = Slot::Used(Used::new(epoch, 0));
            self.free_count -= 1;
        }
        if let Slot::Used(used) = slot {
            used.is_quarantined = true;
        }
    }

    pub fn quarantined(&self) -> Vec<u16> {
        let slots = self.used().filter(|(_, used)| used.is_quarantined);
        slots.map(|(slot, _)| slot).collect()
    }

    pub fn is_used(&self, location: Location) -> bool {
        let slot = self.slots.get(usize::from(location.slot));
        matches!(slot, Some(Slot::Used(used)) if used.epoch as u32 == location.epoch_low)
    }

    /// Opens a free slot for frames of `epoch`.
    pub fn open(&mut self, slot: u16, epoch: u64) {
        let used = Used { is_open: true, ..Used::new(epoch, 0) };
        self.slots[usize::from(slot)] = Slot::Used(used);
        self.free_count -= 1;
    }

    /// A frame went to an open slot.
    pub fn set_last_seq(&mut self, slot: u16, seq: u64) {
        if let Slot::Used(used) = &mut self.slots[usize::from(slot)] {
            used.last_seq = seq;
        }
    }

    /// No more frames go there.
    pub fn close(&mut self, slot: u16) {
        if let Slot::Used(used) = &mut self.slots[usize::from(slot)] {
            used.is_open = false;
        }
        self.free_if_dead(usize::from(slot));
    }

    /// A durable header names two checkpoints, the older of which begins at `floor_seq`.
    pub fn set_floor(&mut self, floor_seq: u64) {
        self.floor_seq = self.floor_seq.max(floor_seq);
        self.free_dead();
    }

    /// Frees everything that holds nothing.
    pub fn free_dead(&mut self) {
        (0..self.slots.len()).for_each(|slot| self.free_if_dead(slot));
    }

    fn free_if_dead(&mut self, slot: usize) {
        if let Slot::Used(used) = self.slots[slot]
            && used.is_dead(self.floor_seq)
        {
            self.slots[slot] = Slot::Free { epoch: used.epoch };
            self.free_count += 1;
        }
    }

    fn used(&self) -> impl Iterator<Item = (u16, &Used)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match slot {
            Slot::Used(used) => Some((index as u16, used)),
            Slot::Free { .. } => None,
        })
    }

    /// How many slots come free when the floor rises to `floor_seq`.
    pub fn dead_below(&self, floor_seq: u64) -> usize {
        self.used().filter(|(_, used)| used.is_dead(floor_seq)).count()
    }

    pub fn oldest_epoch(&self) -> Option<u64> {
        self.used().map(|(_, used)| used.epoch).min()
    }

    /// Room for a checkpoint, in bytes, beyond what is left of the open segment.
    pub fn free_bytes(&self) -> u64 {
        let free = self.slots.iter().zip(&self.capacities);
        let free = free.filter(|(slot, _)| matches!(slot, Slot::Free { .. }));
        free.map(|(_, capacity)| *capacity).sum()
    }

    /// The slot to use next. The one with the newest header stays until a newer header is durable:
    /// it alone names the next epoch, seq and message id for certain.
    pub fn next_free(&self) -> Option<u16> {
        let epochs = self.slots.iter().map(|slot| match slot {
            Slot::Free { epoch } | Slot::Used(Used { epoch, .. }) => *epoch,
        });
        let newest = epochs.max().filter(|epoch| *epoch > 0);
        let candidates = self.slots.iter().enumerate().filter_map(|(index, slot)| match slot {
            Slot::Free { epoch } if Some(*epoch) != newest => Some((*epoch, index)),
            _ => None,
        });
        candidates.min().map(|(_, index)| index as u16)
    }

    /// Slots that must be left when `taker` has taken one.
    fn reserve(&self, taker: Taker) -> usize {
        let reserve = match taker {
            Taker::Message => 4,
            Taker::Outcome => 3,
            Taker::Compaction => 2,
            // The last one goes to a header that frees another.
            Taker::Checkpoint => return 1,
        };
        reserve + 2 * self.checkpoint_slots
    }

    /// Whether `taker` may take a slot of those that are there: one that is to be made may yet be
    /// refused. `freed` come free by it.
    pub fn allows(&self, taker: Taker, freed: usize) -> bool {
        self.free_count > 0 && self.free_count + freed > self.reserve(taker)
    }

    /// Slots that are or could come to be free.
    fn could_be_free(&self) -> usize {
        self.free_count + self.slots_max.saturating_sub(self.slots.len())
    }

    /// Octets of all segments, and of what in them is still needed.
    pub fn pool_bytes(&self) -> (u64, u64) {
        let live = self.slots.iter().map(|slot| match slot {
            Slot::Used(used) => used.live_bytes,
            Slot::Free { .. } => 0,
        });
        (self.capacities.iter().sum(), live.sum())
    }

    pub fn space(&self) -> Space {
        let slots_max = self.slots_max.max(self.slots.len());
        let free = self.could_be_free();
        let reserve = self.reserve(Taker::Message);
        let level = if free * 10 < slots_max || free <= reserve {
            Level::Refuse
        } else if free * 5 < slots_max || free <= reserve + SLOW_SLOTS {
            Level::Slow
        } else {
            Level::Normal
        };
        Space { slots: self.slots.len(), slots_free: self.free_count, slots_max, level }
    }

    /// Whether a checkpoint is worth it for the slots that it frees: room is short, or mail waits
    /// until the pool has grown.
    pub fn is_short(&self) -> bool {
        self.space().level >= Level::Slow || self.free_count <= self.reserve(Taker::Message)
    }

    /// Slots to be made now.
    pub fn wanted(&self) -> usize {
        let spare = SPARE_SLOTS_MIN + 2 * self.checkpoint_slots;
        let missing = spare.saturating_sub(self.free_count + self.in_making);
        missing.min(self.slots_max.saturating_sub(self.slots.len() + self.in_making))
    }

    /// The closed segment with the least that is live, if moving that away gains space: the less
    /// room there is, the fuller it may be. What is not durable up to `durable_seq` stays.
    pub fn victim(&self, durable_seq: u64, now_ms: u64) -> Option<u16> {
        let space = self.space();
        let full_percent_max = match space.level {
            Level::Normal if self.could_be_free() * 2 >= space.slots_max => return None,
            Level::Normal => 25,
            Level::Slow => 50,
            Level::Refuse => 75,
        };
        let candidates = self.used().filter(|(slot, used)| {
            used.live > 0
                && !used.is_open
                && !used.is_quarantined
                && used.last_seq <= durable_seq
                && used.spared_until_ms <= now_ms
                && used.live_bytes * 100 <= self.capacity(*slot) * full_percent_max
        });
        let least = candidates.min_by_key(|(_, used)| (used.live_bytes, used.epoch));
        least.map(|(slot, _)| slot)
    }

    /// Leaves a segment alone until `until_ms`: what is live there could not be moved.
    pub fn spare(&mut self, slot: u16, until_ms: u64) {
        if let Slot::Used(used) = &mut self.slots[usize::from(slot)] {
            used.spared_until_ms = until_ms;
        }
    }

    /// Things that live in a slot.
    pub fn live_count(&self, slot: u16) -> u32 {
        match &self.slots[usize::from(slot)] {
            Slot::Used(used) => used.live,
            Slot::Free { .. } => 0,
        }
    }
}

/// With so few slots left for mail, intake slows down whatever the size of the pool.
const SLOW_SLOTS: usize = 2;
