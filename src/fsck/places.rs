//! Records read back from where others say that they stand. `Pure.`

use std::collections::HashMap;
use std::io;

use super::Slots;
use super::bytes::read_record;
use super::frames::Frames;
use super::payload::Place;

pub(super) struct Places<'s> {
    slots: &'s mut dyn Slots,
    /// Low half of the epoch of each live segment, by slot.
    epochs: HashMap<u16, u32>,
}

/// The record at a place.
pub(super) struct There {
    pub id: u64,
    pub number: u32,
    pub payload: Vec<u8>,
}

impl<'s> Places<'s> {
    pub fn new(found: &Frames, slots: &'s mut dyn Slots) -> Self {
        let segments = found.segments.iter();
        let epochs = segments.map(|(epoch, (slot, _))| (*slot as u16, *epoch as u32)).collect();
        Places { slots, epochs }
    }

    /// The whole record of this type at a place; `None` where there is none.
    pub fn read(&mut self, place: Place, kind: u8) -> io::Result<Option<There>> {
        let offset = u64::from(place.block) * 4096 + u64::from(place.in_frame);
        let is_there = self.epochs.get(&place.slot) == Some(&place.epoch_low)
            && offset + u64::from(place.record_bytes) <= self.slots.bytes(place.slot.into());
        if !is_there {
            return Ok(None);
        }
        let mut bytes = vec![0; place.record_bytes as usize];
        self.slots.read(place.slot.into(), offset, &mut bytes)?;
        // Of the epoch a record's checksum knows the low half only.
        let record = read_record(u64::from(place.epoch_low), &bytes);
        let record = record.filter(|record| record.kind == kind);
        Ok(record.map(|record| There {
            id: record.id,
            number: record.number,
            payload: record.payload.to_vec(),
        }))
    }
}
