//! The journal of a shard, tapped: what was appended is known to the judge as well, and what is
//! planted to go wrong between queue and journal goes wrong here.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use super::core::{Append, AppendError, Appended, Location, Start, Ticket};
use super::format::{Record, kind};
use super::log;
use super::open::{self, Allotment};
use crate::Bug;
use crate::runtime::executor;
use crate::runtime::log_ring::Device;

pub use super::open::Allotment as JournalAllotment;

/// A record about a message that was appended, with everything that replay would show of it.
#[derive(Clone, Debug)]
pub struct Logged {
    pub seq: u64,
    pub kind: u8,
    pub flags: u8,
    pub id: u64,
    pub aux: u32,
    pub payload: Vec<u8>,
    pub location: Location,
}

/// What a shard's journal was given, whatever became of its processes.
pub struct Tap {
    pub bug: Bug,
    /// Without content.
    log: RefCell<Log>,
    /// The frame that mail last went into.
    last_mail: Cell<Ticket>,
    /// Items that are appended too late.
    stale: RefCell<Option<Vec<u8>>>,
}

impl Tap {
    pub fn new(bug: Bug) -> Rc<Tap> {
        Rc::new(Tap {
            bug,
            log: RefCell::default(),
            last_mail: Cell::new(Ticket(0)),
            stale: RefCell::default(),
        })
    }

    /// Shows what was appended, in the order of frames.
    pub fn visit(&self, mut visit: impl FnMut(&Logged)) {
        self.log.borrow().0.iter().for_each(&mut visit);
    }

    /// Nothing above `last_seq` counts any more.
    pub fn cut(&self, last_seq: u64) {
        self.log.borrow_mut().0.retain(|logged| logged.seq <= last_seq);
        self.stale.take();
    }

    fn add(&self, records: &[Record<'_>], appended: &Appended) {
        let mut log = self.log.borrow_mut();
        let mut location = appended.first;
        for (number, record) in records.iter().enumerate() {
            if number > 0 {
                location = location.following(record.payload_bytes());
            }
            if ![kind::ENVELOPE, kind::STATE, kind::RETIRED].contains(&record.kind) {
                continue;
            }
            let Record { kind, flags, id, aux, .. } = *record;
            let (seq, payload) = (appended.ticket.0, record.payload.concat());
            log.add(Logged { seq, kind, flags, id, aux, payload, location });
        }
    }

    /// The place of items makes no difference.
    fn add_items(&self, payload: &[u8], ticket: Ticket) {
        let location = Location { slot: 0, block: 0, epoch_low: 0, in_frame: 0, record_bytes: 0 };
        let (kind, payload) = (kind::ITEMS, payload.to_vec());
        let logged = Logged { seq: ticket.0, kind, flags: 0, id: 0, aux: 0, payload, location };
        self.log.borrow_mut().add(logged);
    }
}

/// Records in the order of their frames.
#[derive(Default)]
struct Log(Vec<Logged>);

impl Log {
    fn add(&mut self, logged: Logged) {
        let place = self.0.partition_point(|it| it.seq <= logged.seq);
        self.0.insert(place, logged);
    }
}

/// The journal that the queue writes. Clones are the same journal.
#[derive(Clone)]
pub struct Journal {
    journal: log::Journal,
    tap: Rc<Tap>,
}

impl Deref for Journal {
    type Target = log::Journal;

    fn deref(&self) -> &log::Journal {
        &self.journal
    }
}

impl Journal {
    /// Starts from what recovery found.
    pub fn start(
        device: Rc<Device>,
        allotment: Rc<Allotment>,
        start: Start,
        tap: Rc<Tap>,
    ) -> Journal {
        Journal { journal: open::start(device, allotment, start), tap }
    }

    pub fn append(&self, records: &[Record<'_>], class: Append) -> Result<Appended, AppendError> {
        if self.tap.bug == Bug::SplitsFailed
            && let [dsn @ .., ended] = records
            && ended.kind == kind::RETIRED
            && !dsn.is_empty()
        {
            let alone = self.journal.append(&[*ended], class)?;
            self.tap.add(&[*ended], &alone);
            // What is moved goes in a frame of its own, if there is room for one.
            let appended = self.journal.append_moved(dsn);
            let appended = appended.or_else(|_| self.journal.append(dsn, class));
            match &appended {
                Ok(appended) => self.tap.add(dsn, appended),
                Err(_) => executor::stop(),
            }
            return appended;
        }
        let appended = self.journal.append(records, class)?;
        self.tap.add(records, &appended);
        if class == Append::Message {
            self.tap.last_mail.set(appended.ticket);
        }
        Ok(appended)
    }

    pub async fn append_when_possible(
        &self,
        records: &[Record<'_>],
        class: Append,
    ) -> Result<Appended, AppendError> {
        loop {
            match self.append(records, class) {
                Err(AppendError::Later) => self.room().await,
                result => return result,
            }
        }
    }

    pub fn append_moved(&self, records: &[Record<'_>]) -> Result<Appended, AppendError> {
        let appended = self.journal.append_moved(records)?;
        self.tap.add(records, &appended);
        Ok(appended)
    }

    pub fn checkpoint_is_due(&self) -> bool {
        // More often than they are worth their while.
        self.journal.checkpoint_is_due() || executor::percent(CHECKPOINT_PERCENT)
    }

    /// A clean stop ends with a checkpoint or not, by chance.
    pub fn log_bytes_behind_checkpoint(&self) -> u64 {
        if executor::percent(50) { u64::MAX } else { 0 }
    }

    pub fn append_items(&self, payload: &[u8]) -> Result<Ticket, AppendError> {
        if self.tap.bug == Bug::StaleItems {
            let mut stale = self.tap.stale.borrow_mut();
            let before = stale.replace(payload.to_vec());
            return self.append_these(&before.unwrap_or(vec![0; NO_ITEMS_BYTES]));
        }
        self.append_these(payload)
    }

    fn append_these(&self, items: &[u8]) -> Result<Ticket, AppendError> {
        let ticket = self.journal.append_items(items)?;
        self.tap.add_items(items, ticket);
        Ok(ticket)
    }

    pub fn end_checkpoint(&self) -> Result<Ticket, AppendError> {
        if let Some(stale) = self.tap.stale.take() {
            self.append_these(&stale)?;
        }
        self.journal.end_checkpoint()
    }

    pub async fn durable(&self, ticket: Ticket) {
        if self.tap.bug != Bug::ReportsEarly || self.tap.last_mail.get() != ticket {
            self.journal.durable(ticket).await;
        }
    }

    /// Whether the frame of `ticket` is durable.
    pub fn is_durable(&self, ticket: Ticket) -> bool {
        let mut durable = pin!(self.journal.durable(ticket));
        durable.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

/// Chance of a checkpoint each time it is asked whether one is due.
const CHECKPOINT_PERCENT: usize = 3;
/// ITEMS that say nothing: four counts of 0.
const NO_ITEMS_BYTES: usize = 8;
