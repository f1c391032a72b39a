//! One life of the process: the shell around the core, and the writer that uses it as `queue` does.

use std::collections::{BTreeMap, VecDeque};

use ringpost_sim::journal::core::{Core, Effect, Start, WriteTag};
use ringpost_sim::journal::format::StoreId;
use ringpost_sim::journal::recovery::{Ground, Rot};
use ringpost_sim::journal::{
    Append, AppendError, Appended, Level, Location, Record, Ticket, flag, kind,
};
use ringpost_sim::limits::{FRAME_BYTES_MAX, FRAMES_IN_FLIGHT_MAX};
use ringpost_sim::runtime::aligned::AlignedBuffer;

use crate::truth::{
    Found, Frame, Message, NOISE_STARTS, PAYLOAD_BYTES_MAX, Payload, Retired, Truth, ensure,
};
use ringpost_sim::disk::Disk;
use ringpost_sim::rng::Rng;

pub const STORE: StoreId = StoreId([0xa5; 16]);

/// What is wrong with the shell. The journal itself has no such switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// A completed frame is reported together with the earlier one that is still under way (I2).
    ReportsTogether,
    /// A segment header is reported durable before it is written (I4).
    HeaderEarly,
    /// What a message pins is let go before its RETIRED is even appended (I6, I7).
    UnpinsEarly,
    /// A failed sync is taken for a good one (I8).
    IgnoresFailedSync,
    /// A completed write is reported without a sync.
    SkipsSync,
    /// The items of a checkpoint begin before the commits ahead of it are in the index (I7).
    ListsEarly,
    /// A checkpoint is ended with items missing (I7).
    ListsHalf,
    /// What is to be moved is let go before there is a copy (I6).
    MovesEarly,
    /// Some frame goes where the one before it stands (I10).
    WritesTwice,
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
    settlements: VecDeque<(Ticket, u64, Pins)>,
    /// Places that are let go once a frame is durable: of an earlier state, or of what was moved.
    replaced: VecDeque<(Ticket, Location, u64)>,
    listing: Option<Listing>,
    pub moved: u64,
    /// Messages of which everything, or what stands in a slot, was let go before its time.
    early: BTreeMap<u64, Option<u16>>,
}

/// What holds segments, and how many bytes of them.
type Pins = Vec<(Location, u64)>;

/// A checkpoint under way.
struct Listing {
    begin: Ticket,
    /// Messages up to this id have been listed.
    after_id: u64,
    items: usize,
    ended: bool,
}

/// A record to be appended: kind, id, number, payload.
type Plain = (u8, u64, u32, Vec<u8>);

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
        let slots_max = shape.slots_max.max(disk.slot_count());
        let mut core = Core::new(Start { store: STORE, shard: 0, ground, slots_max });
        for (place, bytes) in found.iter().flat_map(|(_, found)| found.pins()) {
            assert!(core.pin_recovered(place, bytes), "{place:?} is gone");
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
            replaced: VecDeque::new(),
            listing: None,
            moved: 0,
            early: BTreeMap::new(),
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
        let crowded = self.core.space().level >= Level::Refuse || self.live.len() > 40;
        match self.rng.below(100) {
            0..20 if !crowded => self.whole_message()?,
            20..30 if !crowded => self.draft()?,
            30..36 => self.state()?,
            36..46 => self.retire()?,
            0..30 => self.retire()?,
            46..50 => self.checkpoint()?,
            50..52 => self.compact()?,
            52..58 => self.core.submit(),
            58..62 => self.core.upkeep(self.now_ms),
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
            self.core.upkeep(self.now_ms);
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
        let space = self.core.space();
        self.disk_fails = false;
        self.disk_full = self.rng.percent(30);
        // A full disk takes back what the pool might have grown by.
        let growth = if self.disk_full { 0 } else { space.slots_max - space.slots };
        let had_room = space.slots_free + growth > 3;
        self.run(steps)?;
        self.draining = true;
        for (_, chunks) in std::mem::take(&mut self.drafts) {
            self.let_go(&chunks);
        }
        for step in 0..DRAIN_STEPS_MAX {
            if step == DRAIN_STEPS_MAX / 2 && !had_room {
                // Every start takes a segment: lives that end before they have freed anything use
                // the reserve up. Then the operator gives more room.
                self.disk_full = false;
                self.core.set_slots_max(self.disk.slot_count() + 4);
            }
            self.retire()?;
            self.checkpoint()?;
            self.compact()?;
            self.core.submit();
            self.make_slot();
            self.finish_orders()?;
            let waits = !self.commits.is_empty() || !self.settlements.is_empty();
            if self.live.is_empty() && !waits && self.listing.is_none() && self.core.is_settled() {
                let space = self.core.space();
                if space.level < Level::Refuse || space.slots_free + 3 >= space.slots {
                    return Ok(());
                }
            }
            self.core.upkeep(self.now_ms);
        }
        Err(format!("{} messages find no room: {:?}", self.live.len(), self.core.space()))
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

    fn append(&mut self, records: &[Plain], class: Append) -> Result<Option<Appended>, String> {
        let pieces: Vec<[&[u8]; 1]> =
            records.iter().map(|(.., payload)| [payload.as_slice()]).collect();
        let records: Vec<Record<'_>> = records
            .iter()
            .zip(&pieces)
            .map(|(&(kind, id, aux, _), payload)| Record { kind, flags: 0, id, aux, payload })
            .collect();
        let appended = self.core.append(&records, class, self.now_ms);
        self.appended(appended, &records)
    }

    /// Like `append`, to the segment of survivors.
    fn append_moved(&mut self, records: &[Plain]) -> Result<Option<Appended>, String> {
        let pieces: Vec<[&[u8]; 1]> =
            records.iter().map(|(.., payload)| [payload.as_slice()]).collect();
        let records = records.iter().zip(&pieces).map(|(&(kind, id, aux, _), payload)| Record {
            kind,
            flags: flag::MOVED,
            id,
            aux,
            payload,
        });
        let records: Vec<Record<'_>> = records.collect();
        let appended = self.core.append_moved(&records, self.now_ms);
        self.appended(appended, &records)
    }

    fn appended(
        &mut self,
        appended: Result<Appended, AppendError>,
        records: &[Record<'_>],
    ) -> Result<Option<Appended>, String> {
        let appended = match appended {
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

    fn pin(&mut self, found: &Found) {
        found.pins().for_each(|(place, bytes)| self.core.pin(place, bytes));
    }

    fn unpin(&mut self, found: &Found) {
        found.pins().for_each(|(place, bytes)| self.core.unpin(place, bytes));
    }

    fn let_go(&mut self, chunks: &[Location]) {
        chunks.iter().for_each(|chunk| self.core.unpin(*chunk, chunk.record_bytes.into()));
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
        let records = [
            (kind::ENVELOPE, id, 0, envelope.envelope(&[])),
            (kind::CONTENT, id, 0, content.whole()),
        ];
        if let Some(appended) = self.append(&records, Append::Message)? {
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
        let found = Found::new(appended.first, content, Vec::new());
        self.pin(&found);
        self.commits.push_back((appended.ticket, id, Found { chunks, ..found }));
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
            self.let_go(&chunks);
        } else if count > 0 && (count == 5 || self.rng.percent(35)) {
            let envelope = self.payload(1_500);
            self.message(id).envelope = Some(envelope);
            let records = [(kind::ENVELOPE, id, 0, envelope.envelope(&self.drafts[index].1))];
            if let Some(appended) = self.append(&records, Append::Message)? {
                let (_, chunks) = self.drafts.swap_remove(index);
                self.await_commit(id, appended, None, chunks);
            }
        } else {
            let chunk = self.payload(PAYLOAD_BYTES_MAX);
            let records = [(kind::CONTENT, id, count as u32, chunk.whole())];
            if let Some(appended) = self.append(&records, Append::Message)? {
                self.core.pin(appended.first, appended.first.record_bytes.into());
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
        if self.early.contains_key(&id) {
            return Ok(());
        }
        let state = self.payload(300);
        if let Some(appended) =
            self.append(&[(kind::STATE, id, 0, state.whole())], Append::Settle)?
        {
            self.message(id).states.push(state);
            self.states.push_back((appended.ticket, id));
            let found = &mut self.live[index].1;
            found.states += 1;
            let before = found.state.replace(appended.first);
            self.core.pin(appended.first, appended.first.record_bytes.into());
            if let Some(before) = before {
                self.replaced.push_back((appended.ticket, before, before.record_bytes.into()));
            }
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
        if self.shape.bug == Bug::UnpinsEarly && !self.early.contains_key(&id) {
            let found = self.live[index].1.clone();
            self.unpin(&found);
            self.early.insert(id, None);
            return Ok(());
        }
        let retired = self.payload(1);
        let mut notification = None;
        let appended = if !self.draining && self.rng.percent(15) {
            let new = self.new_message()?;
            let (envelope, content) = (self.payload(300), self.payload(3_000));
            let message = self.message(new);
            (message.envelope, message.content) = (Some(envelope), Some(content));
            let records = [
                (kind::ENVELOPE, new, 0, envelope.envelope(&[])),
                (kind::CONTENT, new, 0, content.whole()),
                (kind::RETIRED, id, 0, retired.whole()),
            ];
            let appended = self.append(&records, Append::Settle)?;
            notification = appended.map(|appended| (new, appended, content));
            appended
        } else {
            self.append(&[(kind::RETIRED, id, 0, retired.whole())], Append::Settle)?
        };
        let Some(appended) = appended else { return Ok(()) };
        if let Some((new, appended, content)) = notification {
            let content = Some(appended.first.following(8 + content.bytes));
            self.await_commit(new, appended, content, Vec::new());
        }
        let (_, found) = self.live.remove(index);
        self.message(id).retired = Retired::Appended(appended.ticket.0);
        let held: Pins = match self.early.remove(&id) {
            Some(None) => Vec::new(),
            Some(Some(slot)) => found.pins().filter(|(place, _)| place.slot != slot).collect(),
            None => found.pins().collect(),
        };
        self.settlements.push_back((appended.ticket, id, held));
        Ok(())
    }

    /// A checkpoint gets a step further, or begins when it is due and at times when it is not.
    fn checkpoint(&mut self) -> Checked {
        let Some(mut listing) = self.listing.take() else {
            let wanted = self.core.checkpoint_is_due() || (!self.draining && self.rng.percent(20));
            // An END that is not durable yet keeps the next one waiting.
            if wanted
                && !self.core.checkpoint_runs()
                && let Ok(begin) = self.core.begin_checkpoint(self.now_ms)
            {
                self.listing = Some(Listing { begin, after_id: 0, items: 0, ended: false });
                let at_once = if self.shape.bug == Bug::ListsEarly { 20 } else { 0 };
                for _ in 0..at_once {
                    self.checkpoint()?;
                }
            }
            return self.perform();
        };
        let known = self.commits.front().is_none_or(|(ticket, ..)| *ticket > listing.begin);
        let id_max = self.live.iter().map(|(id, _)| *id).max().unwrap_or(0);
        let half = self.shape.bug == Bug::ListsHalf && listing.items * 2 > self.live.len();
        if listing.after_id < id_max && !half {
            if known || self.shape.bug == Bug::ListsEarly {
                let count = self.rng.between(1, 12);
                let mut ids: Vec<(u64, &Found)> =
                    self.live.iter().map(|(id, found)| (*id, found)).collect();
                ids.retain(|(id, _)| *id > listing.after_id);
                ids.sort_unstable_by_key(|(id, _)| *id);
                ids.truncate(count);
                let mut payload = Vec::new();
                ids.iter().for_each(|(id, found)| found.put(*id, &mut payload));
                if self.core.append_items(&payload, self.now_ms).is_ok() {
                    listing.after_id = ids.last().map_or(id_max, |(id, _)| *id);
                    listing.items += ids.len();
                }
            }
        } else if known || self.shape.bug == Bug::ListsEarly {
            listing.ended = self.core.end_checkpoint(self.now_ms).is_ok();
        }
        if !listing.ended {
            self.listing = Some(listing);
        }
        self.perform()
    }

    /// Moves some of what is live away from a segment that is mostly dead.
    fn compact(&mut self) -> Checked {
        let Some(slot) = self.core.victim(self.now_ms) else { return Ok(()) };
        for _ in 0..self.rng.between(1, 6) {
            let mut live = self.live.iter();
            let movable =
                |(id, found): &(u64, Found)| found.is_in(slot) && !self.early.contains_key(id);
            let Some(index) = live.position(movable) else {
                // What is left belongs to drafts, or is on its way.
                self.core.spare(slot, self.now_ms + 5_000);
                return Ok(());
            };
            if !self.move_away(index, slot)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Moves one thing of a message. Returns false when there is no room for it now.
    fn move_away(&mut self, index: usize, slot: u16) -> Result<bool, String> {
        let (id, found) = self.live[index].clone();
        if self.shape.bug == Bug::MovesEarly {
            let here = found.pins().filter(|(place, _)| place.slot == slot);
            here.for_each(|(place, bytes)| self.core.unpin(place, bytes));
            self.early.insert(id, Some(slot));
            return Ok(true);
        }
        let message = &self.truth.messages[&id];
        let (envelope, content) = (message.envelope.ok_or("no envelope")?, message.content);
        let last_state = found.states.checked_sub(1).map(|last| message.states[last]);
        let mut to = found.clone();
        let appended = if found.state.is_some_and(|state| state.slot == slot) {
            let state = last_state.ok_or("no state")?;
            let appended = self.append_moved(&[(kind::STATE, id, 0, state.whole())])?;
            to.state = appended.map(|appended| appended.first);
            appended
        } else {
            // A chunk goes first, then the envelope that names its copy; or the envelope alone,
            // with the content beside it.
            let chunk = found.chunks.iter().position(|chunk| chunk.slot == slot);
            let mut room = true;
            if let Some(number) = chunk {
                let payload = message.chunks[number].whole();
                let appended = self.append_moved(&[(kind::CONTENT, id, number as u32, payload)])?;
                room = appended.is_some();
                if let Some(appended) = appended {
                    to.chunks[number] = appended.first;
                }
            }
            let mut records = vec![(kind::ENVELOPE, id, 0, envelope.envelope(&to.chunks))];
            records.extend(content.map(|content| (kind::CONTENT, id, 0, content.whole())));
            let appended = if room { self.append_moved(&records)? } else { None };
            if let Some(appended) = appended {
                to.envelope = appended.first;
                to.content = content.map(|content| appended.first.following(8 + content.bytes));
            }
            appended
        };
        let Some(appended) = appended else { return Ok(false) };
        self.moved += 1;
        for ((place, bytes), (now, _)) in found.pins().zip(to.pins()) {
            if place != now {
                self.core.pin(now, bytes);
                self.replaced.push_back((appended.ticket, place, bytes));
            }
        }
        self.live[index].1 = to;
        Ok(true)
    }

    fn read_back(&mut self) -> Checked {
        if self.live.is_empty() {
            return Ok(());
        }
        let (id, found) = &self.live[self.rng.below(self.live.len())];
        // What is on its way cannot be read yet.
        if found.pins().any(|(place, _)| self.core.awaited(place).is_some()) {
            return Ok(());
        }
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
        let mut offset = offset;
        if self.shape.bug == Bug::WritesTwice && self.rng.percent(3) && offset > 2 * 4096 {
            offset -= 4096;
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
        while let Some((_, id, held)) = self.settlements.pop_front_if(|it| it.0 <= durable) {
            self.message(id).retired = Retired::Durable;
            held.into_iter().for_each(|(place, bytes)| self.core.unpin(place, bytes));
        }
        while let Some((_, place, bytes)) = self.replaced.pop_front_if(|it| it.0 <= durable) {
            self.core.unpin(place, bytes);
        }
        Ok(())
    }
}

const DRAIN_STEPS_MAX: usize = 500;
