//! The payloads of the records about mailboxes, read as docs/MAILBOX.md gives them. `Pure.`

use super::bytes::{Bytes, kind};
use super::payload::Place;

/// What a record says of an account, a mailbox or a body, as far as it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told<'a> {
    AccountAdded(&'a str),
    AccountRemoved,
    Created {
        account: u64,
        uid_validity: u32,
        name: &'a str,
    },
    Renamed(&'a str),
    Deleted,
    /// What makes no difference to messages.
    Other,
    Body(Body),
    Appended(Message),
    Flags(Flags),
    Expunged {
        modseq: u64,
        uids: Vec<(u32, u32)>,
    },
    Copied {
        source: u64,
        is_move: bool,
        copies: Vec<Copy>,
    },
    Keyword {
        bit: usize,
        keyword: &'a str,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    pub modseq: u64,
    /// 0 replace, 1 add, 2 remove.
    pub change: u64,
    pub flags: u8,
    pub keywords: u64,
    pub uids: Vec<(u32, u32)>,
}

impl Flags {
    /// What a message has afterwards.
    pub fn result(&self, message: &Message) -> (u8, u64) {
        match self.change {
            0 => (self.flags, self.keywords),
            1 => (message.flags | self.flags, message.keywords | self.keywords),
            _ => (message.flags & !self.flags, message.keywords & !self.keywords),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub uid: u32,
    pub modseq: u64,
    pub flags: u8,
    pub keywords: u64,
    pub body: u64,
}

/// Where the octets of a message stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// Of the BODY; not told by that itself.
    pub place: Option<Place>,
    pub bytes: u32,
    pub chunks: Vec<Place>,
    /// Octets in the BODY itself; told by that alone.
    pub beside_bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub source_uid: u32,
    pub message: Message,
    pub body: Body,
}

/// What a checkpoint says at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Counters {
        modseq: u64,
        uid_validity: u32,
    },
    Account {
        id: u64,
        name: &'a str,
    },
    Mailbox {
        id: u64,
        header: Header<'a>,
    },
    Messages {
        mailbox: u64,
        first: u32,
        end: u32,
        messages: Vec<(Message, Body)>,
    },
    /// Delivery keys, and what is kept of expunged messages and deleted mailboxes for a while.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header<'a> {
    pub account: u64,
    pub uid_validity: u32,
    pub uid_next: u32,
    pub highest_modseq: u64,
    pub name: &'a str,
    pub keywords: Vec<&'a str>,
}

/// Whether records of this type are about mailboxes.
pub(super) fn is_of_mail(record: u8) -> bool {
    (kind::ACCOUNT..=kind::KEYWORD).contains(&record)
}

/// The payload of a record for which `is_of_mail` holds.
pub(super) fn read(record: u8, payload: &[u8]) -> Option<Told<'_>> {
    let mut bytes = Bytes(payload);
    if bytes.int(1)? != VERSION {
        return None;
    }
    let told = match record {
        kind::ACCOUNT => match bytes.int(1)? {
            1 => Told::AccountAdded(name(&mut bytes)?),
            2 => {
                bytes.take(4)?;
                Told::AccountRemoved
            }
            3 | 4 | 6 => {
                name(&mut bytes)?;
                Told::Other
            }
            5 => {
                bytes.take(12)?;
                Told::Other
            }
            _ => return None,
        },
        kind::MAILBOX => match bytes.int(1)? {
            1 => {
                bytes.take(2)?;
                let (account, uid_validity) = (bytes.int(8)?, bytes.int(4)? as u32);
                (uid_validity != 0).then_some(())?;
                Told::Created { account, uid_validity, name: name(&mut bytes)? }
            }
            2 => Told::Renamed(name(&mut bytes)?),
            3 => {
                bytes.take(4)?;
                Told::Deleted
            }
            4 => {
                bytes.take(1)?;
                Told::Other
            }
            _ => return None,
        },
        kind::BODY => {
            bytes.take(3)?;
            let (total, chunks) = (bytes.int(4)? as u32, places(&mut bytes)?);
            let beside_bytes = bytes.take(bytes.0.len())?.len();
            Told::Body(Body { place: None, bytes: total, chunks, beside_bytes })
        }
        kind::APPEND => {
            let has_key = bytes.int(1)?;
            let message = Message::read(&mut bytes)?;
            bytes.take(16 * usize::try_from(has_key).ok().filter(|has| *has <= 1)?)?;
            Told::Appended(message)
        }
        kind::FLAGS => {
            let change = bytes.int(1).filter(|change| *change <= 2)?;
            let flags = bytes.int(1)? as u8;
            bytes.take(1)?;
            let (modseq, keywords) = (bytes.int(8)?, bytes.int(8)?);
            Told::Flags(Flags { modseq, change, flags, keywords, uids: ranges(&mut bytes)? })
        }
        kind::EXPUNGE => {
            bytes.take(3 + 4)?;
            Told::Expunged { modseq: bytes.int(8)?, uids: ranges(&mut bytes)? }
        }
        kind::COPY => {
            let is_move = bytes.int(1)? != 0;
            bytes.take(2)?;
            let (count, source) = (bytes.int(4)?, bytes.int(8)?);
            let mut copies = Vec::new();
            for _ in 0..count {
                let source_uid = bytes.int(4)? as u32;
                let (message, body) = (Message::read(&mut bytes)?, Body::read(&mut bytes)?);
                copies.push(Copy { source_uid, message, body });
            }
            Told::Copied { source, is_move, copies }
        }
        kind::KEYWORD => {
            let bit = bytes.int(1)? as usize;
            (bit < KEYWORDS_MAX).then_some(())?;
            Told::Keyword { bit, keyword: name(&mut bytes)? }
        }
        _ => return None,
    };
    bytes.0.is_empty().then_some(told)
}

/// The items of an ITEMS.
pub(super) fn read_items(payload: &[u8]) -> Option<Vec<Item<'_>>> {
    let mut bytes = Bytes(payload);
    (bytes.int(4)? == 0).then_some(())?;
    let mut items = Vec::new();
    for _ in 0..bytes.int(4)? {
        let tag = bytes.int(1)?;
        let length = bytes.int(4)? as usize;
        let mut item = Bytes(bytes.take(length)?);
        items.push(read_item(tag, &mut item)?);
        item.0.is_empty().then_some(())?;
    }
    bytes.0.is_empty().then_some(items)
}

fn read_item<'a>(tag: u64, item: &mut Bytes<'a>) -> Option<Item<'a>> {
    Some(match tag {
        1 => Item::Counters { modseq: item.int(8)?, uid_validity: item.int(4)? as u32 },
        2 => {
            (item.0.len().is_multiple_of(16)).then_some(())?;
            item.take(item.0.len())?;
            Item::Other
        }
        3 => {
            let (id, name) = (number(item)?, text(item)?);
            item.take(12)?;
            text(item)?;
            for _ in 0..item.int(2)? {
                text(item)?;
            }
            Item::Account { id, name }
        }
        4 => {
            let (id, account) = (number(item)?, number(item)?);
            let (uid_validity, uid_next) = (item.int(4)? as u32, item.int(4)? as u32);
            let highest_modseq = item.int(8)?;
            item.take(1)?;
            let keyword_count = item.int(1)? as usize;
            (uid_validity != 0 && uid_next != 0).then_some(())?;
            (keyword_count <= KEYWORDS_MAX).then_some(())?;
            let name = text(item)?;
            let mut keywords = Vec::new();
            for _ in 0..keyword_count {
                keywords.push(text(item)?);
            }
            item.take(8)?;
            let range_count = item.int(4)? as usize;
            item.take(range_count.checked_mul(16)?)?;
            let header = Header { account, uid_validity, uid_next, highest_modseq, name, keywords };
            Item::Mailbox { id, header }
        }
        5 => {
            let mailbox = number(item)?;
            let (first, end) = (item.int(4)? as u32, item.int(4)? as u32);
            let mut messages = Vec::new();
            for _ in 0..item.int(4)? {
                let (message, body) = (Message::read(item)?, Body::read(item)?);
                (first..=end).contains(&message.uid).then_some(())?;
                messages.push((message, body));
            }
            Item::Messages { mailbox, first, end, messages }
        }
        6 => {
            while !item.0.is_empty() {
                number(item)?;
                item.take(4 + 4 + 5 + 1)?;
                number(item)?;
                Body::read(item)?;
            }
            Item::Other
        }
        7 => {
            number(item)?;
            number(item)?;
            item.take(4 + 1)?;
            text(item)?;
            Item::Other
        }
        _ => return None,
    })
}

impl Message {
    fn read(bytes: &mut Bytes<'_>) -> Option<Message> {
        let (uid, modseq) = (bytes.int(4)? as u32, bytes.int(8)?);
        // When it came in, with its zone, and into this mailbox.
        bytes.take(5 + 4)?;
        let (flags, keywords) = (bytes.int(1)? as u8, bytes.int(8)?);
        let body = number(bytes)?;
        let is_sound = (1..u32::MAX).contains(&uid) && modseq != 0;
        is_sound.then_some(Message { uid, modseq, flags, keywords, body })
    }
}

impl Body {
    /// As it stands behind a message.
    fn read(bytes: &mut Bytes<'_>) -> Option<Body> {
        let (place, total) = (Place::read(bytes)?, bytes.int(4)? as u32);
        let chunks = places(bytes)?;
        Some(Body { place: Some(place), bytes: total, chunks, beside_bytes: 0 })
    }
}

fn places(bytes: &mut Bytes<'_>) -> Option<Vec<Place>> {
    let mut places = Vec::new();
    for _ in 0..bytes.int(4)? {
        places.push(Place::read(bytes)?);
    }
    Some(places)
}

/// Ascending ranges of UIDs with gaps between.
fn ranges(bytes: &mut Bytes<'_>) -> Option<Vec<(u32, u32)>> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for _ in 0..bytes.int(4)? {
        let (first, end) = (bytes.int(4)? as u32, bytes.int(4)? as u32);
        let is_behind = ranges.last().is_none_or(|(_, last)| last.saturating_add(1) < first);
        (first != 0 && first <= end && is_behind).then_some(())?;
        ranges.push((first, end));
    }
    Some(ranges)
}

/// All that is left, which is a name.
fn name<'a>(bytes: &mut Bytes<'a>) -> Option<&'a str> {
    let left = bytes.0.len();
    bytes.text(left).filter(|name| !name.is_empty())
}

/// A text with its length in front.
fn text<'a>(bytes: &mut Bytes<'a>) -> Option<&'a str> {
    let length = bytes.int(2)? as usize;
    bytes.text(length)
}

/// A number of the journal.
fn number(bytes: &mut Bytes<'_>) -> Option<u64> {
    bytes.int(8).filter(|number| *number != 0)
}

/// Of every payload.
const VERSION: u64 = 1;
/// A mailbox has so many bits for them.
const KEYWORDS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: [u8; 16] = [3, 0, 2, 0, 9, 0, 0, 0, 64, 0, 0, 0, 30, 0, 0, 0];

    fn message(uid: u8) -> Vec<u8> {
        let mut bytes = vec![uid, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&[0; 9]);
        bytes.extend_from_slice(&[1, 2, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[77, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    fn body() -> Vec<u8> {
        [&PLACE[..], &[6, 0, 0, 0, 1, 0, 0, 0], &PLACE].concat()
    }

    /// Reads the payload, and nothing that ends before it does.
    fn whole(record: u8, payload: &[u8]) -> Told<'_> {
        // A name and the octets of a BODY may end anywhere behind their first.
        let is_open = [kind::ACCOUNT, kind::MAILBOX, kind::BODY, kind::KEYWORD].contains(&record);
        for end in 0..payload.len() {
            assert!(is_open || read(record, &payload[..end]).is_none(), "cut at {end}");
        }
        read(record, payload).expect("whole")
    }

    #[test]
    fn records_about_mailboxes_are_read_to_their_end() {
        let created = [&[1, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0][..], b"INBOX"].concat();
        let expected = Told::Created { account: 8, uid_validity: 9, name: "INBOX" };
        assert_eq!(whole(kind::MAILBOX, &created), expected);
        assert!((0..17).all(|end| read(kind::MAILBOX, &created[..end]).is_none()));

        let appended = [&[1, 0][..], &message(4)].concat();
        let Told::Appended(message4) = whole(kind::APPEND, &appended) else { panic!() };
        assert_eq!((message4.uid, message4.modseq, message4.body), (4, 5, 77));
        assert_eq!((message4.flags, message4.keywords), (1, 2));
        let keyed = [&[1, 1][..], &message(4), &[7; 16]].concat();
        assert_eq!(whole(kind::APPEND, &keyed), Told::Appended(message4));

        let flags = [
            &[1, 2, 4, 0, 9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0][..],
            &[1, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0],
        ]
        .concat();
        let Told::Flags(flags) = whole(kind::FLAGS, &flags) else { panic!() };
        assert_eq!(flags.uids, [(1, 2), (4, 4)]);
        assert_eq!(flags.result(&message4), (1, 0));

        let mut copy = vec![1, 1, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
        copy.extend_from_slice(&[message(4), body()].concat());
        let Told::Copied { source: 6, is_move: true, copies } = whole(kind::COPY, &copy) else {
            panic!()
        };
        assert_eq!((copies[0].source_uid, copies[0].message), (2, message4));
        assert_eq!((copies[0].body.bytes, copies[0].body.chunks.len()), (6, 1));
    }

    #[test]
    fn items_are_read_to_their_end() {
        let mut payload = vec![0, 0, 0, 0, 3, 0, 0, 0];
        let item = |tag: u8, value: &[u8]| {
            [&[tag][..], &(value.len() as u32).to_le_bytes(), value].concat()
        };
        let header = [
            &[7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0][..],
            &[6, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, b'a', 2, 0, b'$', b'k'],
            &[0; 8],
            &[1, 0, 0, 0],
            &[0; 16],
        ]
        .concat();
        payload.extend_from_slice(&item(4, &header));
        let messages = [
            &[7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0][..],
            &message(4),
            &body(),
        ];
        payload.extend_from_slice(&item(5, &messages.concat()));
        let deleted =
            [&[7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 1, 0][..], b"a"];
        payload.extend_from_slice(&item(7, &deleted.concat()));
        let items = read_items(&payload).expect("whole");
        let Item::Mailbox { id: 7, header } = &items[0] else { panic!() };
        assert_eq!(
            (header.name, header.uid_next, header.keywords.as_slice()),
            ("a", 5, &["$k"][..])
        );
        let Item::Messages { mailbox: 7, first: 1, end: 9, messages } = &items[1] else { panic!() };
        assert_eq!(messages[0].0.uid, 4);
        assert_eq!(items[2], Item::Other);
        assert!((0..payload.len()).all(|end| read_items(&payload[..end]).is_none()));
    }
}
