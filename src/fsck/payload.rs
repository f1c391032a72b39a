//! The payloads of ENVELOPE and STATE, read as docs/QUEUE.md gives them. `Pure.`

use std::collections::BTreeMap;

use super::bytes::Bytes;

/// What an ENVELOPE says, as far as it can be checked against the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub accepted_ms: u64,
    pub content_bytes: u64,
    pub content_hash: u128,
    /// Places of the chunks, in order; none where the content stands beside the envelope.
    pub chunks: Vec<Place>,
    /// Lower-case domain of each recipient.
    pub domains: Vec<String>,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub slot: u16,
    pub block: u16,
    pub epoch_low: u32,
    pub in_frame: u32,
    pub record_bytes: u32,
}

impl Place {
    pub fn read(bytes: &mut Bytes<'_>) -> Option<Place> {
        Some(Place {
            slot: bytes.int(2)? as u16,
            block: bytes.int(2)? as u16,
            epoch_low: bytes.int(4)? as u32,
            in_frame: bytes.int(4)? as u32,
            record_bytes: bytes.int(4)? as u32,
        })
    }
}

impl Envelope {
    pub fn read(payload: &[u8]) -> Option<Envelope> {
        let mut bytes = Bytes(payload);
        let accepted_ms = bytes.int(8)?;
        bytes.take(8)?;
        let content_bytes = bytes.int(8)?;
        let content_hash = u128::from_le_bytes(bytes.take(16)?.try_into().ok()?);
        bytes.take(4)?;
        let chunk_count = bytes.int(4)? as usize;
        let (mut chunks, mut domains) = (Vec::new(), Vec::new());
        let mut has_reverse_path = false;
        while !bytes.0.is_empty() {
            let tag = bytes.int(1)?;
            let length = bytes.int(4)? as usize;
            let mut value = Bytes(bytes.take(length)?);
            match tag {
                1 => has_reverse_path = std::str::from_utf8(value.0).is_ok(),
                2 => {
                    value.take(1)?;
                    let length = value.int(2)? as usize;
                    let address = value.text(length)?;
                    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
                    domains.push(domain.to_ascii_lowercase());
                }
                10 => {
                    while !value.0.is_empty() {
                        chunks.push(Place::read(&mut value)?);
                    }
                }
                11 => {
                    (value.int(1)? <= TLS_TAG_MAX).then_some(())?;
                }
                _ => {}
            }
        }
        let whole = has_reverse_path && !domains.is_empty() && chunks.len() == chunk_count;
        whole.then_some(Envelope { accepted_ms, content_bytes, content_hash, chunks, domains })
    }

    /// Positions of the recipients of each task: tasks are numbered by the first appearance of
    /// their domain.
    pub fn tasks(&self) -> Vec<Vec<u16>> {
        let mut tasks: Vec<(&str, Vec<u16>)> = Vec::new();
        for (position, domain) in self.domains.iter().enumerate() {
            match tasks.iter_mut().find(|(name, _)| name == domain) {
                Some((_, recipients)) => recipients.push(position as u16),
                None => tasks.push((domain, vec![position as u16])),
            }
        }
        tasks.into_iter().map(|(_, recipients)| recipients).collect()
    }
}

/// Where the recipients of a task stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Recipients, and whether an attempt or an operator is still to decide about them.
    pub recipients: Vec<(u16, bool)>,
}

impl State {
    pub fn read(payload: &[u8]) -> Option<State> {
        let mut bytes = Bytes(payload);
        bytes.take(4 + 8 + 1)?;
        let mut recipients = Vec::new();
        for _ in 0..bytes.int(2)? {
            let state = bytes.int(1)?;
            if !(1..=5).contains(&state) {
                return None;
            }
            let (reply_bytes, count) = (bytes.int(1)? as usize, bytes.int(2)?);
            bytes.text(reply_bytes)?;
            for _ in 0..count {
                recipients.push((bytes.int(2)? as u16, state <= 2));
            }
        }
        recipients.sort_unstable();
        Some(State { recipients })
    }

    pub fn is_open(&self) -> bool {
        self.recipients.iter().any(|(_, open)| *open)
    }
}

/// What a checkpoint says of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub id: u64,
    pub envelope: Place,
    pub chunks: Vec<Place>,
    /// Open tasks by number, and the last STATE of each.
    pub tasks: BTreeMap<u16, Option<Place>>,
}

/// The messages that an ITEMS lists.
pub(super) fn read_items(payload: &[u8]) -> Option<Vec<Item>> {
    let mut bytes = Bytes(payload);
    let (texts, streams) = (bytes.int(2)?, bytes.int(2)?);
    let (places, messages) = (bytes.int(2)?, bytes.int(2)?);
    for _ in 0..texts {
        let length = bytes.int(2)? as usize;
        bytes.text(length)?;
    }
    for _ in 0..streams {
        for _ in 0..3 {
            (bytes.int(2)? < texts).then_some(())?;
        }
        // The class, and above it the TLS that the message asks for.
        (bytes.int(2)? >> 1 <= TLS_TAG_MAX).then_some(())?;
    }
    for _ in 0..places {
        bytes.take(8)?;
        Place::read(&mut bytes)?;
    }
    let mut items = Vec::new();
    for _ in 0..messages {
        let id = bytes.int(8)?;
        bytes.take(4)?;
        (bytes.int(2)? < streams).then_some(())?;
        let envelope = Place::read(&mut bytes)?;
        bytes.take(4)?;
        let mut chunks = Vec::new();
        for _ in 0..bytes.int(4)? {
            chunks.push(Place::read(&mut bytes)?);
        }
        let mut tasks = BTreeMap::new();
        for _ in 0..bytes.int(2)? {
            let number = bytes.int(2)? as u16;
            (bytes.int(2)? < texts).then_some(())?;
            bytes.take(1)?;
            let flags = bytes.int(1)?;
            if flags & HAS_DUE != 0 {
                bytes.take(10)?;
            }
            let has_state = flags & HAS_STATE != 0;
            let state = if has_state { Some(Place::read(&mut bytes)?) } else { None };
            if flags & HAS_CHANGE != 0 {
                // The next hop and the class that an operator wants.
                bytes.take(3)?;
            }
            tasks.insert(number, state);
        }
        items.push(Item { id, envelope, chunks, tasks });
    }
    bytes.0.is_empty().then_some(items)
}

/// 1 required, 2 required where offered, 3 optional.
const TLS_TAG_MAX: u64 = 3;
const HAS_DUE: u64 = 8;
const HAS_STATE: u64 = 16;
const HAS_CHANGE: u64 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_an_operator_changed_is_read_with_the_task_behind_it() {
        let mut payload = Vec::new();
        // One text, one stream, no kept place, one message.
        for count in [1_u16, 1, 0, 1] {
            payload.extend_from_slice(&count.to_le_bytes());
        }
        payload.extend_from_slice(b"\x01\0d");
        payload.extend_from_slice(&[0; 8]);
        payload.extend_from_slice(&7_u64.to_le_bytes());
        payload.extend_from_slice(&[0; 4 + 2 + 16 + 4 + 4]);
        payload.extend_from_slice(&2_u16.to_le_bytes());
        let task = |number: u8, flags: u8| [number, 0, 0, 0, 1, flags];
        payload.extend_from_slice(&task(0, HAS_CHANGE as u8));
        payload.extend_from_slice(&[1, 0, 2]);
        payload.extend_from_slice(&task(1, 0));
        let items = read_items(&payload).expect("whole");
        assert_eq!(items[0].id, 7);
        assert_eq!(items[0].tasks.keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert!((0..payload.len()).all(|end| read_items(&payload[..end]).is_none()));
    }
}
