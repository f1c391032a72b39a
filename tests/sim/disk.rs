//! A disk that keeps what was synced and loses what it likes of the rest.

use std::cell::RefCell;
use std::io;
use std::ops::DerefMut;

use crate::fsck::Slots;
use crate::journal::recovery::SegmentSource;

use crate::rng::Rng;

thread_local! {
    /// Memory of earlier recoveries, for the next one.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Default)]
pub struct Disk {
    slots: Vec<Slot>,
    next_id: u64,
    /// The next so many reads of a recovery succeed, then one fails.
    pub reads_until_error: Option<usize>,
    /// It is reported as one that brought zeros, which is planted.
    pub hides_read_errors: bool,
}

struct Slot {
    capacity: usize,
    /// What survives a power loss, up to where it was ever written to. Behind that it is blank.
    medium: Vec<u8>,
    /// Completed writes that no sync has followed yet, oldest first.
    pending: Vec<Pending>,
}

struct Pending {
    id: u64,
    offset: usize,
    bytes: Vec<u8>,
}

impl Disk {
    pub fn add_slot(&mut self, capacity: usize) {
        self.slots.push(Slot { capacity, medium: Vec::new(), pending: Vec::new() });
    }

    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// A write has completed: it stands in the cache.
    pub fn complete(&mut self, slot: usize, offset: usize, bytes: &[u8]) {
        self.next_id += 1;
        let pending = Pending { id: self.next_id, offset, bytes: bytes.to_vec() };
        self.slots[slot].pending.push(pending);
    }

    /// What a sync that starts now will make durable.
    pub fn sync_point(&self) -> u64 {
        self.next_id
    }

    /// A sync has completed that started at `point`.
    pub fn sync(&mut self, slot: usize, point: u64) {
        let slot = &mut self.slots[slot];
        let synced = slot.pending.extract_if(.., |pending| pending.id <= point);
        for pending in synced.collect::<Vec<_>>() {
            slot.write(pending.offset, &pending.bytes);
        }
    }

    pub fn sync_all(&mut self, slot: usize) {
        self.sync(slot, self.next_id);
    }

    pub fn is_synced(&self) -> bool {
        self.slots.iter().all(|slot| slot.pending.is_empty())
    }

    /// A sync has failed: the cache of the slot is marked clean, whatever became of it.
    pub fn fail_sync(&mut self, slot: usize, rng: &mut Rng) {
        let slot = &mut self.slots[slot];
        for pending in std::mem::take(&mut slot.pending) {
            slot.write_some(&pending, rng);
        }
    }

    /// A write that nobody saw complete gets as far as it gets, into the cache.
    pub fn abandon(&mut self, slot: usize, offset: usize, bytes: &[u8], rng: &mut Rng) {
        let mut outcome = vec![0; bytes.len()];
        self.read_at(slot, offset, &mut outcome);
        write_some(&mut outcome, 0, bytes, rng);
        self.complete(slot, offset, &outcome);
    }

    /// Each pending write is lost, whole or torn, in any order.
    pub fn lose_power(&mut self, rng: &mut Rng) {
        for slot in &mut self.slots {
            while !slot.pending.is_empty() {
                let pending = slot.pending.swap_remove(rng.below(slot.pending.len()));
                slot.write_some(&pending, rng);
            }
        }
    }

    /// Puts other bytes on the medium.
    pub fn overwrite(&mut self, slot: usize, offset: usize, bytes: &[u8]) {
        self.slots[slot].write(offset, bytes);
    }

    /// Flips bits on the medium.
    pub fn rot(&mut self, slot: usize, offset: usize, mask: u8) {
        self.slots[slot].medium(offset + 1)[offset] ^= mask;
    }

    /// What a read gives: the medium, and the cache over it.
    pub fn read_at(&self, slot: usize, start: usize, buffer: &mut [u8]) {
        let end = start + buffer.len();
        let slot = &self.slots[slot];
        assert!(end <= slot.capacity);
        let (from, to) = (start.min(slot.medium.len()), end.min(slot.medium.len()));
        let (written, blank) = buffer.split_at_mut(to - from);
        written.copy_from_slice(&slot.medium[from..to]);
        blank.fill(0);
        for pending in &slot.pending {
            let from = pending.offset.max(start);
            let to = (pending.offset + pending.bytes.len()).min(end);
            if from < to {
                let bytes = &pending.bytes[from - pending.offset..to - pending.offset];
                buffer[from - start..to - start].copy_from_slice(bytes);
            }
        }
    }
}

impl SegmentSource for Disk {
    fn capacities(&self) -> Vec<u64> {
        self.slots.iter().map(|slot| slot.capacity as u64).collect()
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if let Some(left) = &mut self.reads_until_error {
            let Some(less) = left.checked_sub(1) else {
                self.reads_until_error = None;
                if self.hides_read_errors {
                    buffer.fill(0);
                    return Ok(());
                }
                return Err(io::Error::other("the read was told to fail"));
            };
            *left = less;
        }
        self.read_at(slot, offset as usize, buffer);
        Ok(())
    }

    fn buffer(&self, bytes: usize) -> Box<dyn DerefMut<Target = [u8]>> {
        let mut memory = SPARE.with(|spare| spare.borrow_mut().pop().unwrap_or_default());
        if memory.len() < bytes {
            memory.resize(bytes, 0);
        }
        Box::new(Buffer { memory, bytes })
    }
}

impl Slots for Disk {
    fn count(&self) -> usize {
        self.slot_count()
    }

    fn bytes(&self, slot: usize) -> u64 {
        self.slots.get(slot).map_or(0, |slot| slot.capacity as u64)
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(slot, offset as usize, buffer);
        Ok(())
    }
}

/// Memory that a recovery reads into. It goes back when it is dropped: to clear some megabytes for
/// each would cost more than the recovery itself.
struct Buffer {
    memory: Vec<u8>,
    bytes: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        SPARE.with(|spare| spare.borrow_mut().push(std::mem::take(&mut self.memory)));
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.bytes]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.bytes]
    }
}

impl Slot {
    /// The medium up to `end`.
    fn medium(&mut self, end: usize) -> &mut [u8] {
        assert!(end <= self.capacity);
        self.medium.resize(self.medium.len().max(end), 0);
        &mut self.medium
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        write(self.medium(offset + bytes.len()), offset, bytes);
    }

    fn write_some(&mut self, pending: &Pending, rng: &mut Rng) {
        let medium = self.medium(pending.offset + pending.bytes.len());
        write_some(medium, pending.offset, &pending.bytes, rng);
    }
}

fn write(medium: &mut [u8], offset: usize, bytes: &[u8]) {
    medium[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Nothing, everything, or any of the sectors.
fn write_some(medium: &mut [u8], offset: usize, bytes: &[u8], rng: &mut Rng) {
    match rng.below(4) {
        0 => {}
        1 => write(medium, offset, bytes),
        kind => {
            // Few sectors missing, or any: damage to one sector alone is the hard case.
            let all_but_one = kind == 2;
            let one = rng.below(bytes.len() / SECTOR_BYTES);
            let mut bits = 0;
            for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if index % 64 == 0 {
                    bits = rng.next_u64();
                }
                let written =
                    if all_but_one { index != one } else { bits >> (index % 64) & 1 == 1 };
                if written {
                    write(medium, offset + index * SECTOR_BYTES, sector);
                }
            }
        }
    }
}
