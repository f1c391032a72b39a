//! The log ring over the simulated disk: orders take their time, and end in any order. The page
//! cache has what it likes, and at times not what was written.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use super::aligned::AlignedBuffer;
use super::inbox::InboxSender;
use super::segment_file::Access;
use super::{executor, task, timer};
use crate::disk::Disk;

/// A file is named by its slot.
pub type File = ();

pub enum Command {
    AddFile {
        file_index: u16,
        file: File,
    },
    Write {
        tag: u64,
        file_index: u16,
        offset: u64,
        buffer: AlignedBuffer,
        bytes: usize,
    },
    Read {
        tag: u64,
        file_index: u16,
        access: Access,
        offset: u64,
        buffer: AlignedBuffer,
        bytes: usize,
    },
    Stop,
}

pub enum Completion {
    Written { tag: u64, buffer: AlignedBuffer },
    Read { tag: u64, buffer: AlignedBuffer, result: io::Result<()> },
}

/// A disk with what is on its way to it. Outlives the process.
#[derive(Default)]
pub struct Device {
    pub disk: RefCell<Disk>,
    orders: RefCell<Vec<Order>>,
    next_order: Cell<u64>,
    /// One write or sync in so many fails, and ends the process; 0 for none.
    pub failure_rarity: Cell<usize>,
    /// One read in so many fails; 0 for none.
    pub read_failure_rarity: Cell<usize>,
    /// Such a read is reported as one that brought zeros, which is planted.
    pub hides_read_errors: Cell<bool>,
}

/// A write that has not completed, or has not been synced.
struct Order {
    number: u64,
    slot: usize,
    offset: usize,
    buffer: AlignedBuffer,
    bytes: usize,
    /// It stands in the cache, and a sync runs that began at this point.
    syncing: Option<u64>,
}

pub struct LogRing {
    device: Rc<Device>,
    completions: InboxSender<Completion>,
}

impl LogRing {
    pub fn start(device: Rc<Device>, completions: InboxSender<Completion>) -> LogRing {
        LogRing { device, completions }
    }

    /// Octets that stand in the page cache; false where they do not.
    pub fn read_from_cache(&self, file_index: u16, offset: u64, buffer: &mut [u8]) -> bool {
        let is_there = executor::percent(50);
        if is_there {
            self.device.read(Access::Buffered, file_index, offset, buffer);
        }
        is_there
    }

    /// Refuses at times, as a full ring does.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        if executor::percent(2) {
            return Err(command);
        }
        let (device, completions) = (self.device.clone(), self.completions.clone());
        match command {
            Command::Write { tag, file_index, offset, buffer, bytes } => {
                let number = device.next_order.get();
                device.next_order.set(number + 1);
                let (slot, offset) = (usize::from(file_index), offset as usize);
                let order = Order { number, slot, offset, buffer, bytes, syncing: None };
                device.orders.borrow_mut().push(order);
                task::spawn(device.write(number, tag, completions));
            }
            Command::Read { tag, file_index, access, offset, mut buffer, bytes } => {
                task::spawn(async move {
                    pause().await;
                    device.read(access, file_index, offset, &mut buffer[..bytes]);
                    let mut result = Ok(());
                    if fails_one_in(device.read_failure_rarity.get()) {
                        buffer[..bytes].fill(0);
                        if !device.hides_read_errors.get() {
                            result = Err(io::Error::other("the read was told to fail"));
                        }
                    }
                    report(&completions, Completion::Read { tag, buffer, result });
                });
            }
            Command::AddFile { .. } | Command::Stop => {}
        }
        Ok(())
    }
}

impl Device {
    /// The page cache may have what was there before a write, of some blocks.
    fn read(&self, access: Access, slot: u16, offset: u64, buffer: &mut [u8]) {
        self.disk.borrow().read_at(usize::from(slot), offset as usize, buffer);
        if access == Access::Buffered && executor::percent(10) {
            let start = executor::below(buffer.len());
            buffer[start..].fill(0);
        }
    }

    async fn write(self: Rc<Self>, number: u64, tag: u64, completions: InboxSender<Completion>) {
        pause().await;
        if self.fails() {
            return executor::stop();
        }
        {
            let (mut orders, mut disk) = (self.orders.borrow_mut(), self.disk.borrow_mut());
            let order = orders.iter_mut().find(|it| it.number == number);
            let order = order.expect("an order stays until it is done");
            disk.complete(order.slot, order.offset, &order.buffer[..order.bytes]);
            order.syncing = Some(disk.sync_point());
        }
        pause().await;
        let order = {
            let mut orders = self.orders.borrow_mut();
            let index = orders.iter().position(|it| it.number == number);
            orders.swap_remove(index.expect("an order stays until it is done"))
        };
        let mut disk = self.disk.borrow_mut();
        if self.fails() {
            executor::with_rng(|rng| disk.fail_sync(order.slot, rng));
            return executor::stop();
        }
        disk.sync(order.slot, order.syncing.expect("completed above"));
        report(&completions, Completion::Written { tag, buffer: order.buffer });
    }

    fn fails(&self) -> bool {
        fails_one_in(self.failure_rarity.get())
    }

    /// The process has ended: what was under way gets as far as it gets, into the cache.
    pub fn abandon(&self) {
        let mut disk = self.disk.borrow_mut();
        for order in self.orders.take() {
            if order.syncing.is_none() {
                let bytes = &order.buffer[..order.bytes];
                executor::with_rng(|rng| disk.abandon(order.slot, order.offset, bytes, rng));
            }
        }
    }

    /// What was not synced is lost, or not.
    pub fn lose_power(&self) {
        executor::with_rng(|rng| self.disk.borrow_mut().lose_power(rng));
    }
}

fn fails_one_in(rarity: usize) -> bool {
    rarity > 0 && executor::below(rarity) == 0
}

fn report(completions: &InboxSender<Completion>, completion: Completion) {
    assert!(completions.try_send(completion).is_ok(), "the inbox has room for every order");
}

/// How long the disk takes: mostly a moment, at times much longer.
async fn pause() {
    let us_max = if executor::percent(5) { 40_000 } else { 1_500 };
    timer::sleep_until_us(executor::now_us() + 20 + executor::below(us_max) as u64).await;
}

/// Orders under way at once.
pub const ORDERS_MAX: usize = 4096;
