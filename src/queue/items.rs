//! The payload of ITEMS: what a checkpoint says of some messages. `Pure.`
//!
//! Domains and streams stand once, in front; each message names them by their numbers. All
//! integers are little-endian (docs/QUEUE.md).

use std::borrow::Cow;
use std::collections::HashMap;
use std::ptr;

use super::codec::{Change, Malformed};
use super::outline::{COST_MAX, Outline, Standing, TaskOutline};
use crate::config::parse_next_hop;
use crate::journal::Location;
use crate::journal::payload::Reader;
use crate::limits::{FRAME_BYTES_MAX, RECIPIENTS_MAX};
use crate::mail::{Class, Stream, TlsTag};

/// Gathers messages into one payload.
pub(super) struct Items<'a> {
    texts: Vec<u8>,
    text_numbers: HashMap<Box<str>, u16>,
    streams: Vec<u8>,
    stream_numbers: HashMap<[u16; 4], u16>,
    /// Numbers by where a text or stream stands: messages share them, so most were met before, and
    /// an address is compared faster than a text is hashed.
    texts_met: [Option<(&'a str, u16)>; MET],
    streams_met: [Option<(&'a Stream, &'a str, u16)>; MET],
    places: Vec<u8>,
    place_count: u16,
    messages: Vec<u8>,
    message_count: u16,
}

impl<'a> Items<'a> {
    pub fn new() -> Self {
        Self {
            texts: Vec::new(),
            text_numbers: HashMap::new(),
            streams: Vec::new(),
            stream_numbers: HashMap::new(),
            texts_met: [None; MET],
            streams_met: [None; MET],
            places: Vec::new(),
            place_count: 0,
            messages: Vec::with_capacity(ITEMS_BYTES),
            message_count: 0,
        }
    }

    /// Whether one more message should go to the next payload.
    pub fn is_full(&self) -> bool {
        self.messages.len() + self.texts.len() >= ITEMS_BYTES || self.message_count == u16::MAX
    }

    /// A record that makes no sense and is kept.
    pub fn add_place(&mut self, id: u64, place: Location) {
        self.places.extend_from_slice(&id.to_le_bytes());
        self.places.extend_from_slice(&place.to_bytes());
        self.place_count += 1;
    }

    pub fn add(&mut self, outline: &Outline<'a>) {
        let stream = self.stream(outline);
        let out = &mut self.messages;
        out.extend_from_slice(&outline.id.to_le_bytes());
        out.extend_from_slice(&((outline.since_ms / 1000) as u32).to_le_bytes());
        out.extend_from_slice(&stream.to_le_bytes());
        out.extend_from_slice(&outline.envelope.to_bytes());
        out.extend_from_slice(&outline.content_bytes.to_le_bytes());
        out.extend_from_slice(&(outline.chunks.len() as u32).to_le_bytes());
        outline.chunks.iter().for_each(|chunk| out.extend_from_slice(&chunk.to_bytes()));
        out.extend_from_slice(&(outline.tasks.len() as u16).to_le_bytes());
        for task in &outline.tasks {
            self.add_task(task, outline.asks_for_delays);
        }
        self.message_count += 1;
    }

    fn add_task(&mut self, task: &TaskOutline<'a>, asks_for_delays: bool) {
        let domain = match task.domain {
            Cow::Borrowed(domain) => self.shared_text(domain),
            Cow::Owned(ref domain) => self.text(domain),
        };
        let next_hop = task.change.next_hop.as_ref().map(|it| it.to_string()).unwrap_or_default();
        let next_hop = if next_hop.is_empty() { 0 } else { 1 + self.text(&next_hop) };
        let standing = &task.standing;
        let waits = standing.due_ms != 0 || standing.attempts != 0;
        let flags = [
            (standing.is_held, HELD),
            (standing.possible_duplicate, POSSIBLE_DUPLICATE),
            (standing.is_partial, PARTIAL),
            (waits, WAITS),
            (standing.record.is_some(), RECORD),
            (task.change != Change::default(), CHANGED),
            (standing.delay_notified, DELAY_NOTIFIED),
            (asks_for_delays, ASKS_FOR_DELAYS),
        ];
        let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
        let out = &mut self.messages;
        out.extend_from_slice(&task.number.to_le_bytes());
        out.extend_from_slice(&domain.to_le_bytes());
        out.extend_from_slice(&[task.cost, flags]);
        if waits {
            out.extend_from_slice(&standing.due_ms.to_le_bytes());
            out.extend_from_slice(&(standing.attempts.min(u16::MAX.into()) as u16).to_le_bytes());
        }
        if let Some(record) = standing.record {
            out.extend_from_slice(&record.to_bytes());
        }
        if task.change != Change::default() {
            out.extend_from_slice(&next_hop.to_le_bytes());
            out.push(match task.change.class {
                None => 0,
                Some(Class::Transactional) => 1,
                Some(Class::Bulk) => 2,
            });
        }
    }

    /// The number of a message's stream and the domain of its reverse-path.
    fn stream(&mut self, outline: &Outline<'a>) -> u16 {
        let (&Cow::Borrowed(stream), &Cow::Borrowed(sender)) = (&outline.stream, &outline.sender)
        else {
            return self.stream_number(&outline.stream, &outline.sender);
        };
        let slot = met_slot(ptr::from_ref(stream).addr());
        if let Some((met, of, number)) = self.streams_met[slot]
            && ptr::eq(met, stream)
            && ptr::eq(of, sender)
        {
            return number;
        }
        let number = self.stream_number(stream, sender);
        self.streams_met[slot] = Some((stream, sender, number));
        number
    }

    fn stream_number(&mut self, stream: &Stream, sender: &str) -> u16 {
        let parts = [
            self.text(&stream.tenant),
            self.text(&stream.campaign),
            self.text(sender),
            u16::from(stream.class == Class::Transactional) | u16::from(stream.tls.number()) << 1,
        ];
        let next = self.stream_numbers.len() as u16;
        *self.stream_numbers.entry(parts).or_insert_with(|| {
            parts.iter().for_each(|part| self.streams.extend_from_slice(&part.to_le_bytes()));
            next
        })
    }

    /// The number of a text that others may share.
    fn shared_text(&mut self, text: &'a str) -> u16 {
        let slot = met_slot(text.as_ptr().addr());
        if let Some((met, number)) = self.texts_met[slot]
            && ptr::eq(met, text)
        {
            return number;
        }
        let number = self.text(text);
        self.texts_met[slot] = Some((text, number));
        number
    }

    /// The number of a text.
    fn text(&mut self, text: &str) -> u16 {
        if let Some(number) = self.text_numbers.get(text) {
            return *number;
        }
        let number = self.text_numbers.len() as u16;
        self.texts.extend_from_slice(&(text.len() as u16).to_le_bytes());
        self.texts.extend_from_slice(text.as_bytes());
        self.text_numbers.insert(text.into(), number);
        number
    }

    pub fn into_payload(self) -> Vec<u8> {
        let tables = [&self.texts, &self.streams, &self.places, &self.messages];
        let mut payload = Vec::with_capacity(8 + tables.iter().map(|it| it.len()).sum::<usize>());
        let text_count = self.text_numbers.len() as u16;
        let stream_count = self.stream_numbers.len() as u16;
        for count in [text_count, stream_count, self.place_count, self.message_count] {
            payload.extend_from_slice(&count.to_le_bytes());
        }
        tables.iter().for_each(|table| payload.extend_from_slice(table));
        payload
    }
}

/// Where a text or stream at an address is looked for: allocations begin at multiples of 16.
fn met_slot(address: usize) -> usize {
    (address >> 4) % MET
}

/// What a payload holds.
pub(super) struct Read<'a> {
    texts: Vec<&'a str>,
    /// Each with the domain of its reverse-path.
    streams: Vec<(Stream, &'a str)>,
    /// Records that make no sense and are kept, by the message they are of.
    pub places: Vec<(u64, Location)>,
    message_count: u16,
    messages: Reader<'a>,
}

impl<'a> Read<'a> {
    /// Reads the tables in front. The messages are looked at when they are asked for.
    pub fn new(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let (text_count, stream_count) = (reader.u16()?, reader.u16()?);
        let (place_count, message_count) = (reader.u16()?, reader.u16()?);
        let mut texts = Vec::new();
        for _ in 0..text_count {
            let bytes = usize::from(reader.u16()?);
            texts.push(std::str::from_utf8(reader.take(bytes)?).map_err(|_| Malformed)?);
        }
        let mut streams = Vec::new();
        for _ in 0..stream_count {
            let mut text = || -> Result<&'a str, Malformed> {
                texts.get(usize::from(reader.u16()?)).copied().ok_or(Malformed)
            };
            let (tenant, campaign, sender) = (text()?, text()?, text()?);
            let word = reader.u16()?;
            let class = if word & 1 == 1 { Class::Transactional } else { Class::Bulk };
            let tls = u8::try_from(word >> 1).ok().and_then(TlsTag::of_number).ok_or(Malformed)?;
            let stream = Stream { tenant: tenant.into(), campaign: campaign.into(), class, tls };
            streams.push((stream, sender));
        }
        let mut places = Vec::new();
        for _ in 0..place_count {
            places.push((reader.u64()?, Location::from_bytes(reader.array()?)));
        }
        Ok(Self { texts, streams, places, message_count, messages: reader })
    }

    /// Gives each message to `visit`.
    pub fn visit(mut self, mut visit: impl FnMut(Outline<'_>)) -> Result<(), Malformed> {
        for _ in 0..self.message_count {
            let id = self.messages.u64()?;
            let since_s = self.messages.u32()?;
            let stream = usize::from(self.messages.u16()?);
            let envelope = Location::from_bytes(self.messages.array()?);
            let content_bytes = self.messages.u32()?;
            let mut chunks = Vec::new();
            for _ in 0..self.messages.u32()? {
                chunks.push(Location::from_bytes(self.messages.array()?));
            }
            let task_count = usize::from(self.messages.u16()?);
            let mut tasks = Vec::with_capacity(task_count.min(RECIPIENTS_MAX));
            let mut asks_for_delays = false;
            for _ in 0..task_count {
                let (task, flags) = self.task()?;
                asks_for_delays |= flags & ASKS_FOR_DELAYS != 0;
                tasks.push(task);
            }
            let (stream, sender) = self.streams.get(stream).ok_or(Malformed)?;
            let is_sound = !tasks.is_empty()
                && tasks.len() <= RECIPIENTS_MAX
                && tasks.is_sorted_by(|one, other| one.number < other.number)
                && content_bytes as usize <= FRAME_BYTES_MAX
                && is_place(&envelope)
                && chunks.iter().all(is_place);
            if !is_sound {
                return Err(Malformed);
            }
            visit(Outline {
                id,
                envelope,
                content_bytes,
                chunks,
                since_ms: u64::from(since_s) * 1000,
                asks_for_delays,
                stream: Cow::Borrowed(stream),
                sender: Cow::Borrowed(sender),
                tasks,
            });
        }
        if self.messages.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// A task, and its flags.
    fn task(&mut self) -> Result<(TaskOutline<'a>, u8), Malformed> {
        let reader = &mut self.messages;
        let number = reader.u16()?;
        let domain = self.texts.get(usize::from(reader.u16()?)).ok_or(Malformed)?;
        let (cost, flags) = (reader.u8()?, reader.u8()?);
        let (mut due_ms, mut attempts, mut record) = (0, 0, None);
        if flags & WAITS != 0 {
            (due_ms, attempts) = (reader.u64()?, reader.u16()?.into());
        }
        if flags & RECORD != 0 {
            record = Some(Location::from_bytes(reader.array()?));
        }
        let mut change = Change::default();
        if flags & CHANGED != 0 {
            if let Some(number) = reader.u16()?.checked_sub(1) {
                let text = self.texts.get(usize::from(number)).ok_or(Malformed)?;
                change.next_hop = Some(parse_next_hop(text).ok_or(Malformed)?);
            }
            change.class = match reader.u8()? {
                0 => None,
                1 => Some(Class::Transactional),
                2 => Some(Class::Bulk),
                _ => return Err(Malformed),
            };
            // Unsaid where there is none.
            if change == Change::default() {
                return Err(Malformed);
            }
        }
        if !(1..=COST_MAX).contains(&cost) || !record.iter().all(is_place) {
            return Err(Malformed);
        }
        let standing = Standing {
            due_ms,
            attempts,
            is_held: flags & HELD != 0,
            possible_duplicate: flags & POSSIBLE_DUPLICATE != 0,
            delay_notified: flags & DELAY_NOTIFIED != 0,
            is_partial: flags & PARTIAL != 0,
            record,
        };
        Ok((TaskOutline { number, domain: Cow::Borrowed(domain), cost, standing, change }, flags))
    }
}

/// Whether a record may stand there.
fn is_place(place: &Location) -> bool {
    let frame = FRAME_BYTES_MAX as u32;
    place.in_frame.is_multiple_of(8)
        && place.in_frame < frame
        && (1..=frame).contains(&place.record_bytes)
}

/// Writes what `payload` says anew; `None` where it makes no sense. What is written reads the same.
pub fn rewrite(payload: &[u8]) -> Option<Vec<u8>> {
    let read = Read::new(payload).ok()?;
    let places = read.places.clone();
    // They outlive `read`, whose streams they name.
    let mut outlines = Vec::new();
    read.visit(|outline| outlines.push(outline.into_owned())).ok()?;
    let mut items = Items::new();
    places.iter().for_each(|(id, place)| items.add_place(*id, *place));
    outlines.iter().for_each(|outline| items.add(outline));
    Some(items.into_payload())
}

const HELD: u8 = 1;
const POSSIBLE_DUPLICATE: u8 = 2;
const PARTIAL: u8 = 4;
/// Attempts and due time follow.
const WAITS: u8 = 8;
/// The place of the last STATE follows.
const RECORD: u8 = 16;
/// What an operator made different follows.
const CHANGED: u8 = 32;
const DELAY_NOTIFIED: u8 = 64;
/// Of the message, with each of its tasks.
const ASKS_FOR_DELAYS: u8 = 128;
/// Texts and streams that are found by their addresses.
const MET: usize = 64;
/// A payload is full from here on.
const ITEMS_BYTES: usize = 60 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn place(slot: u16) -> Location {
        Location { slot, block: 7, epoch_low: 9, in_frame: 64, record_bytes: 300 }
    }

    fn task(number: u16, domain: &'static str, standing: Standing) -> TaskOutline<'static> {
        let change = match number {
            4 => Change { next_hop: parse_next_hop("lmtp://[::1]:24"), class: Some(Class::Bulk) },
            _ => Change::default(),
        };
        TaskOutline { number, domain: domain.into(), cost: 1 + number as u8, standing, change }
    }

    fn outlines() -> Vec<Outline<'static>> {
        let stream = |tenant: &str, class| Stream {
            tenant: tenant.into(),
            campaign: "spring".into(),
            class,
            tls: TlsTag::Optional,
        };
        let fresh = Outline {
            id: 5,
            envelope: place(1),
            content_bytes: 1_234,
            chunks: Vec::new(),
            since_ms: 1_700_000_000_000,
            asks_for_delays: false,
            stream: Cow::Owned(stream("acme", Class::Bulk)),
            sender: "a.test".into(),
            tasks: vec![task(0, "x.test", Standing::default())],
        };
        let standing = Standing {
            due_ms: 1_700_000_900_123,
            attempts: 3,
            is_held: false,
            possible_duplicate: true,
            delay_notified: true,
            is_partial: true,
            record: Some(place(3)),
        };
        let tried = Outline {
            id: 6,
            chunks: vec![place(1), place(2)],
            content_bytes: 0,
            asks_for_delays: true,
            stream: Cow::Owned(stream("", Class::Transactional)),
            tasks: vec![
                task(1, "x.test", standing),
                task(4, "", Standing { is_held: true, ..Standing::default() }),
            ],
            ..fresh.clone()
        };
        vec![fresh, tried]
    }

    fn payload() -> Vec<u8> {
        let mut items = Items::new();
        items.add_place(3, place(8));
        outlines().iter().for_each(|outline| items.add(outline));
        items.into_payload()
    }

    #[test]
    fn items_read_back_and_no_prefix_of_them_passes_for_whole() {
        let payload = payload();
        let read = Read::new(&payload).expect("tables");
        assert_eq!(read.places, [(3, place(8))]);
        let mut expected = outlines().into_iter();
        let visited = read.visit(|outline| assert_eq!(Some(outline), expected.next()));
        assert_eq!((visited, expected.next()), (Ok(()), None));
        for end in 0..payload.len() {
            assert_eq!(rewrite(&payload[..end]), None, "cut at {end}");
        }
        assert_eq!(rewrite(&payload), Some(payload));
    }

    #[test]
    fn a_message_like_others_costs_fifty_bytes() {
        let mut items = Items::new();
        let mut count = 0;
        while !items.is_full() {
            items.add(&Outline { id: count, ..outlines()[0].clone() });
            count += 1;
        }
        let each = items.into_payload().len() as u64 / count;
        assert!(each <= 50, "{each} bytes");
    }
}
