//! From the records of a journal back to a partition.

use super::codec::Operation;
use super::partition::Partition;
use crate::journal::{Location, Recovery, Replay, Replayed, kind};
use crate::limits::FRAME_BYTES_MAX;

/// What replay has gathered so far. Give every record of the journal to `visit`, in order.
#[derive(Default)]
pub struct Recovered {
    pub(super) partition: Partition,
    malformed: Vec<Location>,
}

impl Replay for Recovered {
    fn visit(&mut self, record: Replayed<'_>) {
        let location = record.location;
        if record.kind == kind::ITEMS {
            let applied = self.partition.apply_items(record.payload);
            self.malformed.extend(applied.err().map(|_| location));
            return;
        }
        match Operation::read(record.kind, record.id, record.payload, location) {
            Ok(Some(operation)) => {
                self.partition.apply(&operation);
            }
            // Content, which a body names.
            Ok(None) => {}
            Err(_) => self.malformed.push(location),
        }
    }

    fn restart(&mut self) {
        *self = Recovered::default();
    }
}

impl Recovered {
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Records that could not be understood, or not whole: the operator is told.
    pub fn malformed(&self) -> &[Location] {
        &self.malformed
    }

    /// The state to go on from, after `recovery`. UIDs and mod-sequences in acknowledged frames
    /// that cannot be read are passed over, so that none comes again for another message.
    pub(super) fn end(mut self, recovery: &Recovery) -> Partition {
        self.partition.end_replay();
        let missing = recovery.rot.iter().map(|rot| rot.last_seq - rot.first_seq + 1);
        let missing = missing.sum::<u64>().saturating_mul(MESSAGES_PER_FRAME);
        if missing > 0 {
            self.partition.pass_over(missing);
        }
        self.partition
    }
}

/// UIDs that the records of one frame may give out.
const MESSAGES_PER_FRAME: u64 = (FRAME_BYTES_MAX / super::codec::Message::BYTES) as u64;
