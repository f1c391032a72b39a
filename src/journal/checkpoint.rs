//! Checkpoints: what their records say, and which of them count. `Pure.`
//!
//! A checkpoint is BEGIN, any number of ITEMS and END, among other records. It is complete when END
//! counts and agrees with what stands between: a missing frame is noticed.

use xxhash_rust::xxh3::Xxh3;

use super::format::CheckpointName;

/// Payload of BEGIN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// Epoch of the open segment of survivors and the block at which its next frame goes; 0 and 0
    /// where none is open.
    pub survivors_epoch: u64,
    pub survivors_block: u32,
    /// Slots that are kept for ever, because they hold damaged data.
    pub quarantined: Vec<u16>,
}

impl Begin {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + 2 * self.quarantined.len());
        bytes.extend_from_slice(&self.survivors_epoch.to_le_bytes());
        bytes.extend_from_slice(&self.survivors_block.to_le_bytes());
        bytes.extend_from_slice(&(self.quarantined.len() as u32).to_le_bytes());
        for slot in &self.quarantined {
            bytes.extend_from_slice(&slot.to_le_bytes());
        }
        bytes
    }

    /// `None` for anything but a whole payload.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (fixed, slots) = bytes.split_at_checked(16)?;
        let count = u32::from_le_bytes(fixed[12..16].try_into().ok()?) as usize;
        if slots.len() != count.checked_mul(2)? {
            return None;
        }
        Some(Self {
            survivors_epoch: u64::from_le_bytes(fixed[..8].try_into().ok()?),
            survivors_block: u32::from_le_bytes(fixed[8..12].try_into().ok()?),
            quarantined: slots
                .chunks_exact(2)
                .map(|slot| u16::from_le_bytes([slot[0], slot[1]]))
                .collect(),
        })
    }
}

/// What stands between a BEGIN and its END, as the writer and the reader count it.
pub struct Tally {
    pub begin_seq: u64,
    items: u64,
    hash: Xxh3,
}

impl Tally {
    pub fn new(begin_seq: u64) -> Self {
        Self { begin_seq, items: 0, hash: Xxh3::new() }
    }

    /// Takes in the payload of one ITEMS.
    pub fn add(&mut self, payload: &[u8]) {
        self.items += 1;
        self.hash.update(&(payload.len() as u64).to_le_bytes());
        self.hash.update(payload);
    }

    /// How many ITEMS there were.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// The payload of END.
    pub fn end(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.begin_seq.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.items.to_le_bytes());
        bytes[16..].copy_from_slice(&self.hash.digest128().to_le_bytes());
        bytes
    }
}

/// The checkpoints of a journal that runs.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// The two that headers name, the better first.
    pub names: [Option<CheckpointName>; 2],
    /// How many of these are known to be complete.
    pub complete: usize,
    pub running: Option<Running>,
    /// Log since the last BEGIN, the checkpoint itself included.
    pub behind_bytes: u64,
    /// What the last complete one took, in bytes of ITEMS.
    pub last_bytes: u64,
    /// A durable header names all of `names`.
    pub named: bool,
    /// How many have been completed in this run.
    pub complete_count: u64,
}

pub(super) struct Running {
    pub name: CheckpointName,
    pub tally: Tally,
    pub bytes: u64,
    /// Seq of the frame with END.
    pub end_seq: Option<u64>,
}

impl Checkpoints {
    /// Where the older of the two begins, 0 unless both are complete.
    pub fn floor_seq(&self) -> u64 {
        match self.names {
            [Some(_), Some(older)] if self.complete == 2 => older.begin_seq,
            _ => 0,
        }
    }

    /// Takes a running checkpoint for complete when its END is durable.
    pub fn on_durable(&mut self, durable_seq: u64) {
        let ended = self.running.as_ref().and_then(|running| running.end_seq);
        if ended.is_some_and(|end_seq| end_seq <= durable_seq)
            && let Some(running) = self.running.take()
        {
            self.names = [Some(running.name), self.names[0]];
            self.complete = (self.complete + 1).min(2);
            self.last_bytes = running.bytes;
            self.named = false;
            self.complete_count += 1;
        }
    }
}
