//! What all who keep state in a journal do alike: how checkpoints and compaction share it with the
//! mail, and how much of it drafts may hold.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use super::{AppendError, Journal, Level};
use crate::runtime::{task, timer};

/// How much a checkpoint spares what else goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Beside the mail.
    Gentle,
    /// Nobody waits for anything else.
    Fast,
}

impl Pace {
    /// Repeats a step of a checkpoint until there is room for it. A checkpoint that was begun is
    /// never given up, unless the process is about to end: that waits for no room.
    pub async fn step<T>(
        self,
        journal: &Journal,
        mut step: impl FnMut() -> Result<T, AppendError>,
    ) -> Result<T, AppendError> {
        loop {
            match step() {
                Err(AppendError::Later) => journal.room().await,
                Err(AppendError::NoSpace) if self == Pace::Gentle => {
                    timer::sleep(NO_SPACE_WAIT).await;
                }
                result => return result,
            }
        }
    }

    /// Between two payloads of a checkpoint.
    pub async fn pause(self) {
        match self {
            Pace::Gentle => timer::sleep(PAUSE).await,
            Pace::Fast => task::yield_now().await,
        }
    }
}

/// Between two steps of compaction, the last of which moved so many octets. Spreads the work: the
/// less room there is, the less it spares the mail.
pub async fn pause_compaction(journal: &Journal, bytes: usize) {
    let bytes_per_ms = match journal.space().level {
        Level::Normal => BYTES_PER_MS,
        Level::Slow => 2 * BYTES_PER_MS,
        Level::Refuse => return,
    };
    timer::sleep(Duration::from_millis((bytes / bytes_per_ms) as u64)).await;
}

/// Chunks of open drafts, by the slot that they stand in.
#[derive(Default)]
pub struct DraftChunks {
    slots: RefCell<HashMap<u16, u32>>,
}

impl DraftChunks {
    /// A chunk of an open draft stands in the slot, or no longer does.
    pub fn count(&self, slot: u16, change: i32) {
        let mut slots = self.slots.borrow_mut();
        let count = slots.entry(slot).or_default();
        *count = count.saturating_add_signed(change);
        if *count == 0 {
            slots.remove(&slot);
        }
    }

    /// Whether open drafts hold all the segments they may: no compaction can free these.
    pub fn pin_too_much(&self, journal: &Journal) -> bool {
        let slots_max = journal.space().slots_max;
        self.slots.borrow().len() > (slots_max / DRAFT_SLOTS_PART).max(DRAFT_SLOTS_MIN)
    }
}

/// How often it is looked whether a checkpoint is due.
pub const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Log that a clean stop leaves to the next start at the most.
pub const AT_STOP_BYTES: u64 = 16 * 1024 * 1024;
const PAUSE: Duration = Duration::from_millis(1);
/// Pause before a step is tried again that found no room.
const NO_SPACE_WAIT: Duration = Duration::from_millis(100);
/// How much compaction copies while there is room enough: 32 MiB a second.
const BYTES_PER_MS: usize = 32 * 1024;
/// Open drafts may hold one in so many segments, and some in any case.
const DRAFT_SLOTS_PART: usize = 8;
const DRAFT_SLOTS_MIN: usize = 3;
