//! What all who keep state in a journal do alike: how checkpoints and compaction share it with the
//! mail, and how much of it drafts may hold.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use super::{AppendError, Journal, Level};
use crate::runtime::sync::Notify;
use crate::runtime::{task, timer};

/// The checkpoints of whoever keeps state in a journal: one at a time, at a pace that spares what
/// else goes on until nobody waits for anything else.
#[derive(Default)]
pub struct Checkpointing {
    state: Cell<State>,
    is_hurried: Cell<bool>,
    ended: Notify,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    UnderWay,
    /// One was begun and found no room; none follows it.
    GivenUp,
}

impl Checkpointing {
    /// Does what `checkpoint` says, unless one is under way: it returns `None` where it was not
    /// even begun, and whether it was ended.
    pub async fn run(&self, checkpoint: impl Future<Output = Option<bool>>) {
        if self.state.get() != State::Idle {
            return;
        }
        self.state.set(State::UnderWay);
        let is_given_up = checkpoint.await == Some(false);
        self.state.set(if is_given_up { State::GivenUp } else { State::Idle });
        self.ended.notify_all();
    }

    /// The process is about to end: a checkpoint spares nobody from now on. Suspends until the one
    /// under way has ended.
    pub async fn hurry(&self) {
        self.is_hurried.set(true);
        while self.state.get() == State::UnderWay {
            self.ended.notified().await;
        }
    }

    /// Repeats a step of a checkpoint until there is room for it. A checkpoint that was begun is
    /// never given up, unless the process is about to end: that waits for no room.
    pub async fn step<T>(
        &self,
        journal: &Journal,
        mut step: impl FnMut() -> Result<T, AppendError>,
    ) -> Result<T, AppendError> {
        loop {
            match step() {
                Err(AppendError::Later) => journal.room().await,
                Err(AppendError::NoSpace) if !self.is_hurried.get() => {
                    timer::sleep(NO_SPACE_WAIT).await;
                }
                result => return result,
            }
        }
    }

    /// Between two payloads of a checkpoint.
    pub async fn pause(&self) {
        match self.is_hurried.get() {
            false => timer::sleep(PAUSE).await,
            true => task::yield_now().await,
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
