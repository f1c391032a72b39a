//! The log thread of a shard: an io_uring of its own for durable writes and for reads.
//!
//! A write is linked to a data sync; what is reported as done is durable. A write or sync that
//! fails, or is short, ends the process at once: the kernel may have marked the lost pages clean,
//! so nothing is retried and nothing later is acknowledged.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use io_uring::{IoUring, opcode, squeue, types};

use super::aligned::AlignedBuffer;
use super::inbox::InboxSender;
use super::segment_file::{self, Access, SegmentFile};
use super::thread;
use crate::event::notice;

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After a data sync that follows it.
    Fdatasync,
    /// After a write through to the medium.
    Dsync,
    /// At once: not durable.
    None,
}

/// One order to the log thread. Buffers come back with the completion.
pub enum Command {
    /// A segment, by the number that later commands name it by.
    AddFile {
        file_index: u16,
        file: SegmentFile,
    },
    Write {
        tag: u64,
        file_index: u16,
        offset: u64,
        buffer: AlignedBuffer,
        bytes: usize,
    },
    /// Offset and `bytes` are whole blocks. A read by way of the page cache may find there what
    /// was on disk before a write.
    Read {
        tag: u64,
        file_index: u16,
        access: Access,
        offset: u64,
        buffer: AlignedBuffer,
        bytes: usize,
    },
    /// Ends the thread once everything before has completed.
    Stop,
}

/// What became of an order.
pub enum Completion {
    /// Durable as asked for.
    Written {
        tag: u64,
        buffer: AlignedBuffer,
    },
    Read {
        tag: u64,
        buffer: AlignedBuffer,
        result: io::Result<()>,
    },
}

/// The way to the log thread. Belongs to its shard.
pub struct LogRing {
    shared: Arc<Shared>,
    /// Segments that may be read by way of the page cache, by their numbers.
    cached: RefCell<HashMap<u16, Arc<File>>>,
}

struct Shared {
    commands: ArrayQueue<Command>,
    /// The thread sleeps in its ring, or is about to.
    parked: AtomicBool,
    bell: OwnedFd,
}

impl LogRing {
    /// Starts the thread, on `core` if given. Completions go to `completions`, which must have
    /// room for `ORDERS_MAX`.
    pub fn start(
        name: &str,
        core: Option<usize>,
        durability: Durability,
        completions: InboxSender<Completion>,
    ) -> io::Result<LogRing> {
        // SAFETY: no memory is passed.
        let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if bell < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made here and has no other owner.
        let bell = unsafe { OwnedFd::from_raw_fd(bell) };
        let shared = Arc::new(Shared {
            commands: ArrayQueue::new(ORDERS_MAX),
            parked: AtomicBool::new(false),
            bell,
        });
        let ring = IoUring::new(RING_ENTRIES)?;
        let mut worker = Worker {
            shared: shared.clone(),
            ring,
            durability,
            completions,
            files: HashMap::new(),
            orders: HashMap::new(),
            next_order: 0,
            bell_value: Box::new(0),
            bell_armed: false,
            stopping: false,
        };
        thread::spawn(name, core, move || worker.run())?;
        Ok(LogRing { shared, cached: RefCell::default() })
    }

    /// Reads octets that are all in the page cache, without a word to the thread; false, whatever
    /// is in `buffer` then, where some are not. What is there may be what was on disk before a
    /// write. Never waits.
    pub fn read_from_cache(&self, file_index: u16, offset: u64, buffer: &mut [u8]) -> bool {
        let cached = self.cached.borrow();
        let file = cached.get(&file_index);
        file.is_some_and(|file| segment_file::read_from_cache(file, offset, buffer))
    }

    /// Hands an order over; gives it back when too many are under way. Never waits.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        if let Command::AddFile { file_index, file } = &command
            && let Some(cached) = &file.cached
        {
            self.cached.borrow_mut().insert(*file_index, cached.clone());
        }
        self.shared.commands.push(command)?;
        if self.shared.parked.swap(false, Ordering::SeqCst) {
            let one: u64 = 1;
            // SAFETY: eight bytes that live through the call. An eventfd write of one cannot fail
            // before 2^64 rings.
            unsafe { libc::write(self.shared.bell.as_raw_fd(), (&raw const one).cast(), 8) };
        }
        Ok(())
    }
}

/// An order whose completions are awaited.
struct Order {
    tag: u64,
    file_index: u16,
    buffer: AlignedBuffer,
    bytes: usize,
    is_write: bool,
    /// Completions still to come.
    outstanding: u8,
    result: io::Result<()>,
}

struct Worker {
    shared: Arc<Shared>,
    ring: IoUring,
    durability: Durability,
    completions: InboxSender<Completion>,
    files: HashMap<u16, SegmentFile>,
    orders: HashMap<u64, Order>,
    next_order: u64,
    /// Where the kernel writes the bell's count; its address must not change.
    bell_value: Box<u64>,
    bell_armed: bool,
    stopping: bool,
}

impl Worker {
    fn run(&mut self) {
        while !(self.stopping && self.orders.is_empty()) {
            while self.orders.len() < ORDERS_IN_RING_MAX
                && let Some(command) = self.shared.commands.pop()
            {
                self.accept(command);
            }
            self.arm_bell();
            self.shared.parked.store(true, Ordering::SeqCst);
            let wait = usize::from(self.shared.commands.is_empty() || self.is_ring_full());
            match self.ring.submit_and_wait(wait) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => fail_stop("the log ring", &error),
            }
            self.shared.parked.store(false, Ordering::SeqCst);
            self.reap();
        }
    }

    fn is_ring_full(&self) -> bool {
        self.orders.len() >= ORDERS_IN_RING_MAX
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::AddFile { file_index, file } => {
                self.files.insert(file_index, file);
            }
            Command::Write { tag, file_index, offset, buffer, bytes } => {
                assert!(bytes <= buffer.len());
                let fd = types::Fd(self.files[&file_index].file.as_raw_fd());
                let number = self.next_number();
                let flags = match self.durability {
                    Durability::Dsync => libc::RWF_DSYNC,
                    Durability::Fdatasync | Durability::None => 0,
                };
                let write = opcode::Write::new(fd, buffer.as_ptr(), bytes as u32)
                    .offset(offset)
                    .rw_flags(flags)
                    .build()
                    .user_data(number << 1);
                if self.durability == Durability::Fdatasync {
                    let sync = opcode::Fsync::new(fd)
                        .flags(types::FsyncFlags::DATASYNC)
                        .build()
                        .user_data(number << 1 | 1);
                    self.push(write.flags(squeue::Flags::IO_LINK));
                    self.push(sync);
                } else {
                    self.push(write);
                }
                let outstanding = if self.durability == Durability::Fdatasync { 2 } else { 1 };
                let is_write = true;
                let result = Ok(());
                let order = Order { tag, file_index, buffer, bytes, is_write, outstanding, result };
                self.orders.insert(number, order);
            }
            Command::Read { tag, file_index, access, offset, mut buffer, bytes } => {
                assert!(bytes <= buffer.len());
                let SegmentFile { file, cached } = &self.files[&file_index];
                let file = match access {
                    Access::Direct => file,
                    Access::Buffered => cached.as_deref().unwrap_or(file),
                };
                let fd = types::Fd(file.as_raw_fd());
                let number = self.next_number();
                let read = opcode::Read::new(fd, buffer.as_mut_ptr(), bytes as u32)
                    .offset(offset)
                    .build()
                    .user_data(number << 1);
                self.push(read);
                let is_write = false;
                let (outstanding, result) = (1, Ok(()));
                let order = Order { tag, file_index, buffer, bytes, is_write, outstanding, result };
                self.orders.insert(number, order);
            }
            Command::Stop => self.stopping = true,
        }
    }

    fn next_number(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    /// A read of the bell stands in the ring, so that an order wakes a thread that waits.
    fn arm_bell(&mut self) {
        if !self.bell_armed {
            let fd = types::Fd(self.shared.bell.as_raw_fd());
            let target = (&raw mut *self.bell_value).cast();
            self.push(opcode::Read::new(fd, target, 8).build().user_data(BELL));
            self.bell_armed = true;
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: what the entry points to lives until its completion: buffers in `orders`, the
        // bell's value in its box, files in `files`; and the thread ends only without orders.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            if let Err(error) = self.ring.submit() {
                fail_stop("the log ring", &error);
            }
        }
    }

    fn reap(&mut self) {
        let completed: Vec<(u64, i32)> =
            self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (user_data, result) in completed {
            if user_data == BELL {
                self.bell_armed = false;
                continue;
            }
            let number = user_data >> 1;
            let order = self.orders.get_mut(&number).expect("every order completes once");
            order.outstanding -= 1;
            if result < 0 {
                order.result = Err(io::Error::from_raw_os_error(-result));
            } else if user_data & 1 == 0 && result as usize != order.bytes {
                let message = format!("{result} of {} bytes", order.bytes);
                order.result = Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            if order.is_write
                && let Err(error) = &order.result
            {
                let what = if user_data & 1 == 0 { "write to" } else { "sync of" };
                fail_stop(
                    &format!("a {what} {}", path_of(&self.files[&order.file_index].file)),
                    error,
                );
            }
            if order.outstanding == 0 {
                let order = self.orders.remove(&number).expect("looked up above");
                let completion = if order.is_write {
                    Completion::Written { tag: order.tag, buffer: order.buffer }
                } else {
                    Completion::Read { tag: order.tag, buffer: order.buffer, result: order.result }
                };
                let sent = self.completions.try_send(completion);
                assert!(sent.is_ok(), "the inbox has room for every order");
            }
        }
    }
}

/// What the kernel calls a file; asked for only when the process ends with it.
fn path_of(file: &File) -> String {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    path.map_or_else(|_| "the journal".to_owned(), |path| path.display().to_string())
}

/// Ends the process without another word to anybody: whatever was not acknowledged stays so.
pub fn fail_stop(what: &str, error: &io::Error) -> ! {
    notice!(
        "ringpost: {what} failed: {error}; stopping, nothing acknowledged is lost. Check the disk, \
         then start again."
    );
    notice::finish();
    // SAFETY: ends the process; nothing of ours runs afterwards.
    unsafe { libc::_exit(EX_IOERR) }
}

/// Exit status for an input or output error (sysexits).
const EX_IOERR: libc::c_int = 74;
/// Orders on their way to the thread.
pub const ORDERS_MAX: usize = 256;
/// Orders in the ring; the rest waits in the queue.
const ORDERS_IN_RING_MAX: usize = 64;
/// Two entries an order, and the bell.
const RING_ENTRIES: u32 = 256;
/// User data of the bell; order numbers stay below.
const BELL: u64 = u64::MAX;
