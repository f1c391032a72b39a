//! A segment of which any part was changed: recovery ends, and hands out only what was written.
#![no_main]

use std::io;
use std::ops::DerefMut;

use libfuzzer_sys::fuzz_target;
use ringpost::journal::core::{Append, Core, Effect, Start, StartSlot};
use ringpost::journal::format::{Record, StoreId, kind};
use ringpost::journal::recovery::{SegmentSource, recover};

struct Memory {
    slots: Vec<Vec<u8>>,
}

impl SegmentSource for Memory {
    fn capacities(&self) -> Vec<u64> {
        self.slots.iter().map(|slot| slot.len() as u64).collect()
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.slots[slot][start..start + buffer.len()]);
        Ok(())
    }

    fn buffer(&self, bytes: usize) -> Box<dyn DerefMut<Target = [u8]>> {
        Box::new(vec![0; bytes])
    }
}

const STORE: StoreId = StoreId([7; 16]);
const SLOT_BYTES: usize = 3 << 20;

/// A journal with a few frames; record n carries n.
fn written() -> Memory {
    let mut memory = Memory { slots: vec![vec![0; SLOT_BYTES]; 2] };
    let slot = StartSlot { capacity: SLOT_BYTES as u64, epoch: 0, counts: false };
    let mut core = Core::new(Start {
        store: STORE,
        shard: 0,
        slots: vec![slot; 2],
        last_seq: 0,
        next_seq: 1,
        next_epoch: 1,
        next_message_id: 1,
        slots_max: 2,
    });
    for number in 0..8u64 {
        let payload = number.to_le_bytes();
        let pieces = [payload.as_slice()];
        let record =
            Record { kind: kind::ENVELOPE, flags: 0, id: number + 1, aux: 0, payload: &pieces };
        core.append(&[record], Append::Settle, 1).expect("room");
        core.submit();
        loop {
            let effects = core.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                if let Effect::Write { tag, slot, offset, buffer, bytes } = effect {
                    let at = offset as usize;
                    memory.slots[usize::from(slot)][at..at + bytes]
                        .copy_from_slice(&buffer[..bytes]);
                    core.on_durable(tag, buffer);
                }
            }
        }
    }
    memory
}

fuzz_target!(|input: &[u8]| {
    let mut memory = written();
    for change in input.chunks_exact(4).take(64) {
        // Where the frames are, and sometimes elsewhere.
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        let slot = usize::from(change[2] & 1);
        memory.slots[slot][at] ^= change[3];
    }
    let mut seen = Vec::new();
    let result = recover(&STORE, &mut memory, &mut |record| {
        let number = u64::from_le_bytes(record.payload.try_into().expect("eight octets"));
        assert_eq!(record.id, number + 1);
        seen.push(number);
    });
    result.expect("memory can be read");
    assert!(seen.is_sorted());
});
