//! Numbers in few bytes, for the entries of the index. `Pure.`

use crate::journal::Location;
use crate::limits::FRAME_BYTES_MAX;

/// The place of a record in the journal, or none. 14 bytes.
///
/// Slot, block, the epoch's low half; then where the record stands in its frame, in eighths, and
/// its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place([u16; 7]);

/// Unix milliseconds, up to the year 10889. 6 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Millis([u16; 3]);

const LENGTH_BITS: u32 = 24;
const _: () = assert!(FRAME_BYTES_MAX < 1 << LENGTH_BITS && FRAME_BYTES_MAX / 8 < 1 << 24);

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        assert!(location.in_frame.is_multiple_of(8) && location.record_bytes > 0);
        assert!(location.in_frame < 8 << 24 && location.record_bytes < 1 << LENGTH_BITS);
        let at = u64::from(location.in_frame / 8) << LENGTH_BITS | u64::from(location.record_bytes);
        let epoch = location.epoch_low;
        Place([
            location.slot,
            location.block,
            (epoch >> 16) as u16,
            epoch as u16,
            (at >> 32) as u16,
            (at >> 16) as u16,
            at as u16,
        ])
    }
}

impl Place {
    pub fn get(self) -> Option<Location> {
        let Place([slot, block, epoch_high, epoch_low, at @ ..]) = self;
        let at = at.iter().fold(0, |at, part| at << 16 | u64::from(*part));
        let record_bytes = (at & ((1 << LENGTH_BITS) - 1)) as u32;
        (record_bytes > 0).then_some(Location {
            slot,
            block,
            epoch_low: u32::from(epoch_high) << 16 | u32::from(epoch_low),
            in_frame: (at >> LENGTH_BITS) as u32 * 8,
            record_bytes,
        })
    }
}

impl From<u64> for Millis {
    fn from(millis: u64) -> Self {
        let millis = millis.min((1 << 48) - 1);
        Millis([(millis >> 32) as u16, (millis >> 16) as u16, millis as u16])
    }
}

impl Millis {
    pub fn get(self) -> u64 {
        self.0.iter().fold(0, |millis, part| millis << 16 | u64::from(*part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_times_come_back_as_they_went_in() {
        for location in [
            Location { slot: 0, block: 1, epoch_low: 1, in_frame: 64, record_bytes: 24 },
            Location {
                slot: u16::MAX,
                block: u16::MAX,
                epoch_low: u32::MAX,
                in_frame: FRAME_BYTES_MAX as u32 - 8,
                record_bytes: FRAME_BYTES_MAX as u32,
            },
        ] {
            assert_eq!(Place::from(location).get(), Some(location));
        }
        assert_eq!(Place::default().get(), None);
        for millis in [0, 1, 1_700_000_000_123, (1 << 48) - 1] {
            assert_eq!(Millis::from(millis).get(), millis);
        }
    }
}
