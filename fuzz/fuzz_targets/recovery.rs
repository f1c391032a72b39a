//! A segment of which any part was changed: recovery ends, and hands out only what was written.
#![no_main]

use std::io;
use std::ops::DerefMut;

use libfuzzer_sys::fuzz_target;
use ringpost::journal::core::{Append, Core, Effect, Start};
use ringpost::journal::format::{Record, StoreId, kind};
use ringpost::journal::recovery::{Ground, Replay, Replayed, SegmentSource, recover};

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
const SLOTS: usize = 6;

/// A journal with a few frames; record n carries n.
fn written() -> Memory {
    let mut memory = Memory { slots: vec![vec![0; SLOT_BYTES]; SLOTS] };
    let ground = Ground::blank(&[SLOT_BYTES as u64; SLOTS]);
    let mut core = Core::new(Start { store: STORE, shard: 0, ground, slots_max: SLOTS });
    for number in 0..8u64 {
        let payload = number.to_le_bytes();
        let pieces = [payload.as_slice()];
        let record =
            Record { kind: kind::ENVELOPE, flags: 0, id: number + 1, aux: 0, payload: &pieces };
        if number == 6 {
            // The first time, the segment for it is opened.
            while core.append_moved(&[record], 1).is_err() {
                perform(&mut core, &mut memory);
            }
        } else {
            core.append(&[record], Append::Settle, 1).expect("room");
        }
        core.submit();
        perform(&mut core, &mut memory);
        if number == 3 || number == 4 {
            core.begin_checkpoint(1).expect("room");
            core.append_items(ITEMS, 1).expect("room");
            core.end_checkpoint(1).expect("room");
            core.submit();
            perform(&mut core, &mut memory);
            core.name_checkpoints();
            perform(&mut core, &mut memory);
        }
    }
    memory
}

fn perform(core: &mut Core, memory: &mut Memory) {
    loop {
        let effects = core.take_effects();
        if effects.is_empty() {
            return;
        }
        for effect in effects {
            if let Effect::Write { tag, slot, offset, buffer, bytes } = effect {
                let at = offset as usize;
                memory.slots[usize::from(slot)][at..at + bytes].copy_from_slice(&buffer[..bytes]);
                core.on_durable(tag, buffer);
            }
        }
    }
}

/// The numbers of the records that were handed out.
#[derive(Default)]
struct Seen(Vec<u64>);

impl Replay for Seen {
    fn visit(&mut self, record: Replayed<'_>) {
        if record.kind == kind::ITEMS {
            assert_eq!(record.payload, ITEMS);
            return;
        }
        let number = u64::from_le_bytes(record.payload.try_into().expect("eight octets"));
        assert_eq!(record.id, number + 1);
        self.0.push(number);
    }

    fn restart(&mut self) {
        self.0.clear();
    }
}

const ITEMS: &[u8] = b"some";

fuzz_target!(|input: &[u8]| {
    let mut memory = written();
    for change in input.chunks_exact(4).take(64) {
        // Where the frames are, and sometimes elsewhere.
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        let slot = usize::from(change[2]) % SLOTS;
        memory.slots[slot][at] ^= change[3];
    }
    let mut seen = Seen::default();
    recover(&STORE, &mut memory, &mut seen).expect("memory can be read");
    assert!(seen.0.is_sorted());
});
