//! A journal over the simulated disk, and who makes segments on that.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use super::core::{Core, Start};
use super::log;
use super::space::Space;
use crate::runtime::executor;
use crate::runtime::inbox::inbox;
use crate::runtime::log_ring::{Device, File, LogRing, ORDERS_MAX};

/// A segment that is ready.
pub(super) struct Made {
    pub file_index: u16,
    pub file: File,
    pub capacity: u64,
}

/// How much of the disk a journal may have.
pub struct Allotment {
    pub segment_bytes: usize,
    pub slots_max: Cell<usize>,
    /// The file system is full: no segment is made.
    pub is_full: Cell<bool>,
}

/// Makes segments, each in its time.
pub(super) struct Maker {
    device: Rc<Device>,
    allotment: Rc<Allotment>,
    asked: Cell<usize>,
}

/// Starts the tasks of a journal from what recovery found.
pub(super) fn start(device: Rc<Device>, allotment: Rc<Allotment>, start: Start) -> log::Journal {
    let (completion_sender, completions) = inbox(ORDERS_MAX);
    let ring = LogRing::start(device.clone(), completion_sender);
    let maker = Maker { device, allotment, asked: Cell::new(0) };
    log::Journal::start(Core::new(start), ring, completions, maker)
}

impl Maker {
    pub fn ask(&self) {
        self.asked.set(self.asked.get() + 1);
    }

    pub fn poll_made(&self) -> Option<Result<Made, Option<io::Error>>> {
        if self.asked.get() == 0 || executor::percent(50) {
            return None;
        }
        self.asked.set(self.asked.get() - 1);
        if self.allotment.is_full.get() {
            return Some(Err(None));
        }
        let mut disk = self.device.disk.borrow_mut();
        disk.add_slot(self.allotment.segment_bytes);
        let file_index = (disk.slot_count() - 1) as u16;
        Some(Ok(Made { file_index, file: (), capacity: self.allotment.segment_bytes as u64 }))
    }

    pub fn slots_max_now(&self, space: Space) -> Option<usize> {
        let slots_max = self.allotment.slots_max.get().max(space.slots);
        Some(slots_max).filter(|slots_max| *slots_max != space.slots_max)
    }
}
