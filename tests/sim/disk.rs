//! A disk that keeps what was synced and loses what it likes of the rest.

use std::io;
use std::ops::DerefMut;

use ringpost::fsck::Slots;
use ringpost::journal::recovery::SegmentSource;

use crate::rng::Rng;

/// What a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Default)]
pub struct Disk {
    slots: Vec<Slot>,
    next_id: u64,
    /// The next so many reads of a recovery succeed, then one fails.
    pub reads_until_error: Option<usize>,
}

struct Slot {
    /// What survives a power loss.
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
        self.slots.push(Slot { medium: vec![0; capacity], pending: Vec::new() });
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
        for pending in slot.pending.extract_if(.., |pending| pending.id <= point) {
            write(&mut slot.medium, pending.offset, &pending.bytes);
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
        for pending in slot.pending.drain(..) {
            write_some(&mut slot.medium, pending.offset, &pending.bytes, rng);
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
                write_some(&mut slot.medium, pending.offset, &pending.bytes, rng);
            }
        }
    }

    /// Puts other bytes on the medium.
    pub fn overwrite(&mut self, slot: usize, offset: usize, bytes: &[u8]) {
        write(&mut self.slots[slot].medium, offset, bytes);
    }

    /// Flips bits on the medium.
    pub fn rot(&mut self, slot: usize, offset: usize, mask: u8) {
        self.slots[slot].medium[offset] ^= mask;
    }

    /// What a read gives: the medium, and the cache over it.
    pub fn read_at(&self, slot: usize, start: usize, buffer: &mut [u8]) {
        let end = start + buffer.len();
        let slot = &self.slots[slot];
        buffer.copy_from_slice(&slot.medium[start..end]);
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
        self.slots.iter().map(|slot| slot.medium.len() as u64).collect()
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if let Some(left) = &mut self.reads_until_error {
            let Some(less) = left.checked_sub(1) else {
                self.reads_until_error = None;
                return Err(io::Error::other("the read was told to fail"));
            };
            *left = less;
        }
        self.read_at(slot, offset as usize, buffer);
        Ok(())
    }

    fn buffer(&self, bytes: usize) -> Box<dyn DerefMut<Target = [u8]>> {
        Box::new(Buffer(vec![0; bytes]))
    }
}

impl Slots for Disk {
    fn count(&self) -> usize {
        self.slot_count()
    }

    fn bytes(&self, slot: usize) -> u64 {
        self.slots.get(slot).map_or(0, |slot| slot.medium.len() as u64)
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(slot, offset as usize, buffer);
        Ok(())
    }
}

/// `Vec` dereferences to itself only by way of a type of ours.
struct Buffer(Vec<u8>);

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
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
                    bits = rng.next();
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
