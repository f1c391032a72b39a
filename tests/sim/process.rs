//! One life of the process: the shell around the core, and the writer that uses it as `queue` does.

use std::collections::{BTreeMap, VecDeque};

use ringpost::journal::core::{Core, Effect, Start, WriteTag};
use ringpost::journal::format::StoreId;
use ringpost::journal::recovery::{Ground, Rot};
use ringpost::journal::{Append, AppendError, Appended, Level, Location, Record, Ticket, kind};
use ringpost::limits::{FRAME_BYTES_MAX, FRAMES_IN_FLIGHT_MAX};
use ringpost::runtime::aligned::AlignedBuffer;

use crate::disk::Disk;
use crate::rng::Rng;
use crate::truth::{
    Found, Frame, Message, NOISE_STARTS, PAYLOAD_BYTES_MAX, Payload, Retired, Truth, ensure,
};

pub const STORE: StoreId = StoreId([0xa5; 16]);

/// What is wrong with the shell. The journal itself has no such switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// A completed frame is reported together with the earlier one that is still under way (I2).
    ReportsTogether,
    /// A segment header is reported durable before it is written (I4).
    HeaderEarly,
    /// What a message pins is let go when its RETIRED is appended, not when it is durable (I6, I7).
    UnpinsEarly,
    /// A failed sync is taken for a good one (I8).
    IgnoresFailedSync,
    /// A completed write is reported without a sync.
    SkipsSync,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    PowerLoss,
    /// The process stops, the disk goes on: what was completed stays in its cache.
    Stop,
}

/// What holds for every life of one store.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub segment_bytes: usize,
    pub slots_max: usize,
    pub bug: Bug,
}

pub struct Process<'a> {
    pub core: Core,
    pub disk: &'a mut Disk,
    pub truth: &'a mut Truth,
    pub rng: &'a mut Rng,
    shape: Shape,
    now_ms: u64,
    slots_asked: usize,
    /// The file system is full: no slot is made.
    pub disk_full: bool,
    orders: Vec<Order>,
    /// The highest id in each frame.
    frame_ids: BTreeMap<u64, u64>,
    quarantined: Vec<usize>,
    draining: bool,
    disk_fails: bool,
    /// Acknowledged and not retired.
    live: Vec<(u64, Found)>,
    drafts: Vec<(u64, Vec<Location>)>,
    commits: VecDeque<(Ticket, u64, Found)>,
    states: VecDeque<(Ticket, u64)>,
    settlements: VecDeque<(Ticket, u64, Option<Found>)>,
}

struct Order {
    tag: WriteTag,
    slot: usize,
    offset: usize,
    buffer: AlignedBuffer,
    bytes: usize,
    /// The write has completed, and a sync runs since this point.
    syncing: Option<u64>,
    /// It was reported before its time.
    reported: bool,
}

/// What the disk does with a step of an order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    No,
    Error,
}

type Checked = Result<(), String>;

impl<'a> Process<'a> {
    pub fn new(
        shape: Shape,
        ground: Ground,
        found: Vec<(u64, Found)>,
        rot: &[Rot],
        disk: &'a mut Disk,
        truth: &'a mut Truth,
        rng: &'a mut Rng,
    ) -> Self {
        let mut core = Core::new(Start {
            store: STORE,
            shard: 0,
            slots: ground.slots,
            last_seq: ground.last_seq,
            next_seq: ground.next_seq,
            next_epoch: ground.next_epoch,
            next_message_id: ground.next_message_id,
            slots_max: shape.slots_max.max(disk.slot_count()),
        });
        rot.iter().for_each(|rot| core.quarantine(rot.slot));
        for (_, found) in &found {
            found.pins().for_each(|location| core.pin(location));
        }
        core.begin();
        Self {
            core,
            disk,
            truth,
            rng,
            shape,
            now_ms: 1_000_000,
            slots_asked: 0,
            disk_full: false,
            orders: Vec::new(),
            frame_ids: BTreeMap::new(),
            quarantined: rot.iter().map(|rot| rot.slot).collect(),
            draining: false,
            disk_fails: true,
            live: found,
            drafts: Vec::new(),
            commits: VecDeque::new(),
            states: VecDeque::new(),
            settlements: VecDeque::new(),
        }
    }

    /// Goes on for `steps`, or until the disk fails a write or a sync: then it returns false.
    pub fn run(&mut self, steps: usize) -> Result<bool, String> {
        for _ in 0..steps {
            if !self.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One thing happens. Returns false when the process has stopped.
    fn step(&mut self) -> Result<bool, String> {
        self.now_ms += self.rng.below(300) as u64;
        let crowded = self.core.space().level >= Level::Slow || self.live.len() > 40;
        match self.rng.below(100) {
            0..20 if !crowded => self.whole_message()?,
            20..30 if !crowded => self.draft()?,
            30..36 => self.state()?,
            36..52 => self.retire()?,
            0..30 => self.retire()?,
            52..58 => self.core.submit(),
            58..62 => self.core.seal_if_idle(self.now_ms),
            62 => self.read_back()?,
            63 => {
                self.disk_full = self.rng.percent(40);
                self.core.set_slots_max(self.shape.slots_max.max(self.disk.slot_count()));
            }
            64..70 => self.make_slot(),
            _ => return self.advance(),
        }
        self.perform()?;
        Ok(true)
    }

    /// Sends off what it can, so that the end meets frames under way.
    pub fn hurry(&mut self) -> Checked {
        for _ in 0..4 {
            match self.rng.below(3) {
                0 => self.whole_message()?,
                1 => self.state()?,
                _ => self.retire()?,
            }
            self.core.submit();
            self.perform()?;
            // A frame waits for the header of its segment.
            while let Some(order) = self.orders.first()
                && matches!(order.tag, WriteTag::SegmentHeader { .. })
                && self.rng.percent(90)
            {
                self.advance_order(0, Fault::No)?;
                self.perform()?;
            }
        }
        Ok(())
    }

    /// Goes on for `steps` with a disk that fails nothing, until every frame is durable and
    /// covered by a later one.
    pub fn settle(&mut self, steps: usize) -> Checked {
        self.disk_fails = false;
        self.run(steps)?;
        for _ in 0..3 {
            self.core.submit();
            self.finish_orders()?;
            self.now_ms += 2_000;
            self.core.seal_if_idle(self.now_ms);
        }
        self.finish_orders()
    }

    fn finish_orders(&mut self) -> Checked {
        self.perform()?;
        while !self.orders.is_empty() {
            let index = self.rng.below(self.orders.len());
            self.advance_order(index, Fault::No)?;
            self.perform()?;
        }
        Ok(())
    }

    /// Goes on for `steps` with a disk that fails nothing, then settles everything and sees to it
    /// that the space comes back.
    pub fn drain(&mut self, steps: usize) -> Checked {
        let had_room = self.core.space().slots_free >= 2;
        self.disk_fails = false;
        self.disk_full = self.rng.percent(30);
        self.run(steps)?;
        self.draining = true;
        for (_, chunks) in std::mem::take(&mut self.drafts) {
            chunks.into_iter().for_each(|location| self.core.unpin(location));
        }
        for step in 0..DRAIN_STEPS_MAX {
            if step == DRAIN_STEPS_MAX / 2 && !had_room {
                // Every start takes a segment, and only the oldest come free: lives that settle
                // nothing use the reserve up. Then the operator gives more room.
                self.disk_full = false;
                self.core.set_slots_max(self.disk.slot_count() + 2);
            }
            self.retire()?;
            self.core.submit();
            self.make_slot();
            self.finish_orders()?;
            let waits = !self.commits.is_empty() || !self.settlements.is_empty();
            if self.live.is_empty() && !waits && self.core.is_settled() {
                let space = self.core.space();
                let back = space.slots_free + 1 >= space.slots;
                return ensure(back, || format!("space does not come back: {space:?}"));
            }
        }
        Err(format!("{} messages find no room to settle: {:?}", self.live.len(), self.core.space()))
    }

    /// Stops here: what was under way gets as far as it gets.
    pub fn end(self, end: End) {
        let Self { disk, rng, orders, slots_asked, shape, .. } = self;
        if slots_asked > 0 && rng.percent(30) {
            disk.add_slot(shape.segment_bytes);
        }
        for order in &orders {
            if order.syncing.is_none() {
                disk.abandon(order.slot, order.offset, &order.buffer[..order.bytes], rng);
            }
        }
        if end == End::PowerLoss {
            disk.lose_power(rng);
        }
    }

    fn payload(&mut self, bytes_max: usize) -> Payload {
        self.truth.next_mark += 1;
        let bytes = self.rng.below(bytes_max.min(PAYLOAD_BYTES_MAX));
        Payload { mark: self.truth.next_mark, at: self.rng.below(NOISE_STARTS), bytes }
    }

    fn content_bytes_max(&mut self) -> usize {
        match self.rng.below(4) {
            0 => 2_000,
            1 => 40_000,
            _ => PAYLOAD_BYTES_MAX,
        }
    }

    fn append(
        &mut self,
        records: &[(u8, u64, u32, Payload)],
        class: Append,
    ) -> Result<Option<Appended>, String> {
        let marks: Vec<[u8; 8]> =
            records.iter().map(|(.., payload)| payload.mark.to_le_bytes()).collect();
        let pieces: Vec<[&[u8]; 2]> = records
            .iter()
            .zip(&marks)
            .map(|((.., payload), mark)| [mark.as_slice(), payload.noise()])
            .collect();
        let records: Vec<Record<'_>> = records
            .iter()
            .zip(&pieces)
            .map(|(&(kind, id, aux, _), payload)| Record { kind, flags: 0, id, aux, payload })
            .collect();
        let appended = match self.core.append(&records, class, self.now_ms) {
            Ok(appended) => Some(appended),
            Err(AppendError::Later | AppendError::NoSpace) => None,
            Err(AppendError::TooLarge) => return Err("a record too large".to_owned()),
        };
        if let Some(appended) = appended {
            let id_max = self.frame_ids.entry(appended.ticket.0).or_default();
            *id_max = records.iter().map(|record| record.id).fold(*id_max, u64::max);
        }
        self.perform()?;
        Ok(appended)
    }

    fn new_message(&mut self) -> Result<u64, String> {
        let id = self.core.next_message_id();
        let before = self.truth.messages.insert(id, Message::new());
        // An id may come again only when nobody ever heard of it: no 250, no frame on disk.
        let unheard = before.is_none_or(|it| it.gone && !it.acknowledged);
        ensure(unheard, || format!("id {id} was used before"))?;
        Ok(id)
    }

    fn message(&mut self, id: u64) -> &mut Message {
        self.truth.messages.get_mut(&id).expect("entered with its id")
    }

    fn whole_message(&mut self) -> Checked {
        let id = self.new_message()?;
        let envelope = self.payload(1_500);
        let content_bytes_max = self.content_bytes_max();
        let content = self.payload(content_bytes_max);
        let message = self.message(id);
        (message.envelope, message.content) = (Some(envelope), Some(content));
        let records = [(kind::ENVELOPE, id, 0, envelope), (kind::CONTENT, id, 0, content)];
        if let Some(appended) = self.append(&records, Append::Message)? {
            self.core.pin(appended.first);
            let content = Some(appended.first.following(8 + content.bytes));
            self.await_commit(id, appended, content, Vec::new());
        }
        Ok(())
    }

    fn await_commit(
        &mut self,
        id: u64,
        appended: Appended,
        content: Option<Location>,
        chunks: Vec<Location>,
    ) {
        let found = Found { envelope: appended.first, content, chunks, states: 0 };
        self.commits.push_back((appended.ticket, id, found));
    }

    /// A long message comes in a chunk at a time, is committed, or is given up.
    fn draft(&mut self) -> Checked {
        if self.drafts.is_empty() || (self.drafts.len() < 3 && self.rng.percent(30)) {
            let id = self.new_message()?;
            self.drafts.push((id, Vec::new()));
        }
        let index = self.rng.below(self.drafts.len());
        let (id, count) = (self.drafts[index].0, self.drafts[index].1.len());
        if count > 0 && self.rng.percent(8) {
            let (_, chunks) = self.drafts.swap_remove(index);
            chunks.into_iter().for_each(|location| self.core.unpin(location));
        } else if count > 0 && (count == 5 || self.rng.percent(35)) {
            let envelope = self.payload(1_500);
            self.message(id).envelope = Some(envelope);
            let records = [(kind::ENVELOPE, id, 0, envelope)];
            if let Some(appended) = self.append(&records, Append::Message)? {
                self.core.pin(appended.first);
                let (_, chunks) = self.drafts.swap_remove(index);
                self.await_commit(id, appended, None, chunks);
            }
        } else {
            let chunk = self.payload(PAYLOAD_BYTES_MAX);
            let records = [(kind::CONTENT, id, count as u32, chunk)];
            if let Some(appended) = self.append(&records, Append::Message)? {
                self.core.pin(appended.first);
                self.message(id).chunks.push(chunk);
                self.drafts[index].1.push(appended.first);
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Checked {
        if self.live.is_empty() {
            return Ok(());
        }
        let index = self.rng.below(self.live.len());
        let id = self.live[index].0;
        let state = self.payload(300);
        if let Some(appended) = self.append(&[(kind::STATE, id, 0, state)], Append::Settle)? {
            self.message(id).states.push(state);
            self.states.push_back((appended.ticket, id));
        }
        Ok(())
    }

    /// A message is settled, at times with a notification in the same frame.
    fn retire(&mut self) -> Checked {
        if self.live.is_empty() {
            return Ok(());
        }
        let index = if self.rng.percent(60) { 0 } else { self.rng.below(self.live.len()) };
        let id = self.live[index].0;
        let retired = self.payload(1);
        let mut notification = None;
        let appended = if !self.draining && self.rng.percent(15) {
            let new = self.new_message()?;
            let (envelope, content) = (self.payload(300), self.payload(3_000));
            let message = self.message(new);
            (message.envelope, message.content) = (Some(envelope), Some(content));
            let records = [
                (kind::ENVELOPE, new, 0, envelope),
                (kind::CONTENT, new, 0, content),
                (kind::RETIRED, id, 0, retired),
            ];
            let appended = self.append(&records, Append::Settle)?;
            notification = appended.map(|appended| (new, appended, content));
            appended
        } else {
            self.append(&[(kind::RETIRED, id, 0, retired)], Append::Settle)?
        };
        let Some(appended) = appended else { return Ok(()) };
        if let Some((new, appended, content)) = notification {
            self.core.pin(appended.first);
            let content = Some(appended.first.following(8 + content.bytes));
            self.await_commit(new, appended, content, Vec::new());
        }
        let (_, found) = self.live.remove(index);
        self.message(id).retired = Retired::Appended;
        let held = if self.shape.bug == Bug::UnpinsEarly {
            found.pins().for_each(|location| self.core.unpin(location));
            None
        } else {
            Some(found)
        };
        self.settlements.push_back((appended.ticket, id, held));
        Ok(())
    }

    fn read_back(&mut self) -> Checked {
        if self.live.is_empty() {
            return Ok(());
        }
        let (id, found) = &self.live[self.rng.below(self.live.len())];
        found.reads_back(&self.truth.messages[id], self.disk)
    }

    fn make_slot(&mut self) {
        if self.slots_asked == 0 {
            return;
        }
        self.slots_asked -= 1;
        if self.disk_full {
            self.core.on_slot_refused();
        } else {
            self.disk.add_slot(self.shape.segment_bytes);
            self.core.on_slot_made(self.shape.segment_bytes as u64);
        }
    }

    fn perform(&mut self) -> Checked {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return Ok(());
            }
            for effect in effects {
                match effect {
                    Effect::MakeSlot => self.slots_asked += 1,
                    Effect::Write { tag, slot, offset, buffer, bytes } => {
                        self.order(tag, usize::from(slot), offset as usize, buffer, bytes)?;
                    }
                }
            }
        }
    }

    fn order(
        &mut self,
        tag: WriteTag,
        slot: usize,
        offset: usize,
        buffer: AlignedBuffer,
        bytes: usize,
    ) -> Checked {
        ensure(!self.quarantined.contains(&slot), || format!("slot {slot} is quarantined"))?;
        let mut reported = false;
        match tag {
            WriteTag::Frame { seq } => {
                let epoch = u64::from_le_bytes(buffer[8..16].try_into().expect("eight bytes"));
                let id_max = self.frame_ids.remove(&seq).unwrap_or(0);
                let frame = Frame { seq, slot, offset, epoch, id_max };
                let place = (epoch as u32, (offset / 4096) as u16);
                let before = self.truth.frames.insert(place, frame);
                ensure(before.is_none(), || format!("{place:?} is written twice"))?;
                ensure(seq > self.truth.acknowledged_seq, || format!("seq {seq} comes again"))?;
                ensure(bytes <= FRAME_BYTES_MAX, || format!("frame {seq} is too long"))?;
            }
            WriteTag::SegmentHeader { epoch } => {
                ensure(epoch > self.truth.durable_epoch, || format!("epoch {epoch} comes again"))?;
                if self.shape.bug == Bug::HeaderEarly {
                    reported = true;
                    self.core.on_durable(tag, AlignedBuffer::new(1));
                }
            }
        }
        self.orders.push(Order { tag, slot, offset, buffer, bytes, syncing: None, reported });
        let frames = self.orders.iter().filter(|it| matches!(it.tag, WriteTag::Frame { .. }));
        let frames = frames.filter(|it| !it.reported);
        ensure(frames.count() <= FRAMES_IN_FLIGHT_MAX, || "too many frames at once".to_owned())
    }

    /// Some order gets further. Returns false when the disk failed it and the process stopped.
    fn advance(&mut self) -> Result<bool, String> {
        if self.orders.is_empty() {
            return Ok(true);
        }
        let fails = self.rng.below(150) == 0 && self.disk_fails;
        let mut index = self.rng.below(self.orders.len());
        if self.orders[index].reported && self.rng.percent(90) {
            index = self.rng.below(self.orders.len());
        }
        let fault = if fails { Fault::Error } else { Fault::No };
        let goes_on = self.advance_order(index, fault)?;
        self.perform()?;
        Ok(goes_on)
    }

    fn advance_order(&mut self, index: usize, fault: Fault) -> Result<bool, String> {
        let order = &mut self.orders[index];
        let Some(point) = order.syncing else {
            if fault == Fault::Error {
                return Ok(false);
            }
            self.disk.complete(order.slot, order.offset, &order.buffer[..order.bytes]);
            order.syncing = Some(self.disk.sync_point());
            if self.shape.bug == Bug::SkipsSync {
                let order = self.orders.swap_remove(index);
                self.report(order)?;
            }
            return Ok(true);
        };
        if fault == Fault::Error {
            self.disk.fail_sync(order.slot, self.rng);
            if self.shape.bug != Bug::IgnoresFailedSync {
                return Ok(false);
            }
        } else {
            self.disk.sync(order.slot, point);
        }
        let order = self.orders.swap_remove(index);
        self.report(order)?;
        Ok(true)
    }

    /// Tells the core, and the writer what follows from it.
    fn report(&mut self, order: Order) -> Checked {
        match order.tag {
            WriteTag::SegmentHeader { epoch } => self.truth.durable_epoch = epoch,
            WriteTag::Frame { seq } if self.shape.bug == Bug::ReportsTogether => {
                for other in &mut self.orders {
                    if let WriteTag::Frame { seq: earlier } = other.tag
                        && earlier < seq
                        && !other.reported
                    {
                        other.reported = true;
                        self.core.on_durable(other.tag, AlignedBuffer::new(1));
                    }
                }
            }
            WriteTag::Frame { .. } => {}
        }
        if !order.reported {
            self.core.on_durable(order.tag, order.buffer);
        }
        let durable = Ticket(self.core.durable_seq());
        ensure(durable.0 >= self.truth.acknowledged_seq, || "the durable seq fell".to_owned())?;
        self.truth.acknowledged_seq = durable.0;
        while let Some((_, id, found)) = self.commits.pop_front_if(|it| it.0 <= durable) {
            self.message(id).acknowledged = true;
            self.live.push((id, found));
        }
        while let Some((_, id)) = self.states.pop_front_if(|it| it.0 <= durable) {
            self.message(id).states_acknowledged += 1;
        }
        while let Some((_, id, found)) = self.settlements.pop_front_if(|it| it.0 <= durable) {
            self.message(id).retired = Retired::Durable;
            for location in found.iter().flat_map(Found::pins) {
                self.core.unpin(location);
            }
        }
        Ok(())
    }
}

const DRAIN_STEPS_MAX: usize = 500;
