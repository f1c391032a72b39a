//! The payloads of ENVELOPE and STATE records. `Pure.`
//!
//! All integers are little-endian. What is read here came from disk behind a checksum, and is
//! bounds-checked all the same.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ledger::{Cause, Ledger, Waiting};
use crate::config::{NextHop, parse_next_hop};
use crate::journal::Location;
pub use crate::journal::payload::Malformed;
use crate::journal::payload::{Reader, text};
use crate::limits::{CHUNK_BYTES_MAX, RECIPIENTS_MAX};
use crate::mail::envelope::Notify;
use crate::mail::{Class, Envelope, EnvelopeFlags, Recipient, Stream, TlsTag};

/// Appends the payload of an ENVELOPE. `chunks` says where the content stands, and is empty for
/// content beside the envelope.
pub fn write_envelope(envelope: &Envelope, chunks: &[Location], out: &mut Vec<u8>) {
    out.extend_from_slice(&envelope.accepted_ms.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&envelope.content_bytes.to_le_bytes());
    out.extend_from_slice(&envelope.content_hash.to_le_bytes());
    out.extend_from_slice(&envelope.flags.0.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
    field(out, tag::REVERSE_PATH, envelope.reverse_path.as_bytes());
    if let Some(envelope_id) = &envelope.envelope_id {
        field(out, tag::ENVELOPE_ID, envelope_id.as_bytes());
    }
    match envelope.client {
        Some(IpAddr::V4(client)) => field(out, tag::CLIENT, &client.octets()),
        Some(IpAddr::V6(client)) => field(out, tag::CLIENT, &client.octets()),
        None => {}
    }
    if envelope.release_ms != 0 {
        field(out, tag::RELEASE, &envelope.release_ms.to_le_bytes());
    }
    let stream = &envelope.stream;
    if !stream.tenant.is_empty() {
        field(out, tag::TENANT, stream.tenant.as_bytes());
    }
    if !stream.campaign.is_empty() {
        field(out, tag::CAMPAIGN, stream.campaign.as_bytes());
    }
    if stream.class == Class::Transactional {
        field(out, tag::TRANSACTIONAL, &[]);
    }
    if stream.tls != TlsTag::None {
        field(out, tag::TLS, &[stream.tls.number()]);
    }
    field(out, tag::HEADER_PREFIX, &envelope.header_prefix);
    if !chunks.is_empty() {
        out.push(tag::CHUNKS);
        out.extend_from_slice(&((chunks.len() * Location::BYTES) as u32).to_le_bytes());
        chunks.iter().for_each(|chunk| out.extend_from_slice(&chunk.to_bytes()));
    }
    for recipient in &envelope.recipients {
        out.push(tag::RECIPIENT);
        let original = recipient.original_recipient.as_deref().unwrap_or("");
        let value_bytes = 1 + 2 + recipient.address.len() + original.len();
        out.extend_from_slice(&(value_bytes as u32).to_le_bytes());
        out.push(recipient.notify.0);
        out.extend_from_slice(&(recipient.address.len() as u16).to_le_bytes());
        out.extend_from_slice(recipient.address.as_bytes());
        out.extend_from_slice(original.as_bytes());
    }
}

/// Reads the payload of an ENVELOPE: the envelope and the places of its chunks. Unknown fields are
/// skipped.
pub fn read_envelope(payload: &[u8]) -> Result<(Envelope, Vec<Location>), Malformed> {
    let mut reader = Reader::new(payload);
    let accepted_ms = reader.u64()?;
    reader.u64()?;
    let mut envelope = Envelope {
        accepted_ms,
        content_bytes: reader.u64()?,
        content_hash: reader.u128()?,
        flags: EnvelopeFlags(reader.u16()?),
        reverse_path: Box::default(),
        recipients: Vec::new(),
        release_ms: 0,
        stream: Stream::default(),
        envelope_id: None,
        client: None,
        header_prefix: Vec::new(),
    };
    reader.u16()?;
    let chunk_count = reader.u32()?;
    if u64::from(chunk_count) > envelope.content_bytes.div_ceil(CHUNK_BYTES_MAX as u64) {
        return Err(Malformed);
    }
    let mut chunks = Vec::new();
    while !reader.is_empty() {
        let tag = reader.u8()?;
        let value_bytes = reader.u32()? as usize;
        let value = reader.take(value_bytes)?;
        match tag {
            tag::REVERSE_PATH => envelope.reverse_path = text(value)?,
            tag::ENVELOPE_ID => envelope.envelope_id = Some(text(value)?),
            tag::RELEASE => envelope.release_ms = Reader::new(value).u64()?,
            tag::TENANT => envelope.stream.tenant = text(value)?,
            tag::CAMPAIGN => envelope.stream.campaign = text(value)?,
            tag::TRANSACTIONAL => envelope.stream.class = Class::Transactional,
            // A demand that is not understood is not ignored.
            tag::TLS => {
                let number = Reader::new(value).u8()?;
                envelope.stream.tls = TlsTag::of_number(number).ok_or(Malformed)?;
            }
            tag::HEADER_PREFIX => envelope.header_prefix = value.to_vec(),
            tag::CHUNKS => {
                let mut value = Reader::new(value);
                while !value.is_empty() {
                    chunks.push(Location::from_bytes(value.array()?));
                }
            }
            tag::CLIENT => {
                envelope.client = Some(match value.len() {
                    4 => Ipv4Addr::from(Reader::new(value).array::<4>()?).into(),
                    _ => Ipv6Addr::from(Reader::new(value).array::<16>()?).into(),
                });
            }
            tag::RECIPIENT => {
                if envelope.recipients.len() == RECIPIENTS_MAX {
                    return Err(Malformed);
                }
                let mut value = Reader::new(value);
                let notify = Notify(value.u8()?);
                let address_bytes = usize::from(value.u16()?);
                let address = text(value.take(address_bytes)?)?;
                let original = text(value.rest())?;
                let original_recipient = (!original.is_empty()).then_some(original);
                envelope.recipients.push(Recipient { address, original_recipient, notify });
            }
            _ => {}
        }
    }
    if envelope.recipients.is_empty() || chunks.len() != chunk_count as usize {
        return Err(Malformed);
    }
    Ok((envelope, chunks))
}

impl Change {
    /// A stream with the class that is wanted.
    pub fn apply<'a>(&self, stream: &'a Stream) -> Cow<'a, Stream> {
        match self.class {
            Some(class) if class != stream.class => Cow::Owned(Stream { class, ..stream.clone() }),
            _ => Cow::Borrowed(stream),
        }
    }
}

/// Where one recipient of a task stands, as a STATE record keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecipientState {
    Delayed,
    Held,
    Delivered,
    Relayed,
    Failed,
}

impl RecipientState {
    /// Whether no attempt follows.
    pub fn is_final(self) -> bool {
        !matches!(self, RecipientState::Delayed | RecipientState::Held)
    }

    fn to_u8(self) -> u8 {
        match self {
            RecipientState::Delayed => 1,
            RecipientState::Held => 2,
            RecipientState::Delivered => 3,
            RecipientState::Relayed => 4,
            RecipientState::Failed => 5,
        }
    }

    fn from_u8(value: u8) -> Result<Self, Malformed> {
        Ok(match value {
            1 => RecipientState::Delayed,
            2 => RecipientState::Held,
            3 => RecipientState::Delivered,
            4 => RecipientState::Relayed,
            5 => RecipientState::Failed,
            _ => return Err(Malformed),
        })
    }
}

/// The absolute state of one task: a later STATE of the same task replaces an earlier one whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    pub attempts: u32,
    /// Unix milliseconds of the next attempt.
    pub due_ms: u64,
    pub possible_duplicate: bool,
    /// The reverse-path was told that recipients are Delayed; it is told once.
    pub delay_notified: bool,
    /// Recipients that share a state and the reply that decided it. Every recipient of the task
    /// stands in exactly one group.
    pub groups: Vec<Group>,
    /// What an operator made different for the task.
    pub change: Change,
    /// Where the time went; `None` in a record of a version that did not keep it.
    pub ledger: Option<Ledger>,
}

/// What an operator made different for one task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Change {
    /// The next hop instead of the one that routes lead to.
    pub next_hop: Option<NextHop>,
    /// The class instead of the one of the envelope.
    pub class: Option<Class>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub state: RecipientState,
    /// The reply in words, at most `REPLY_TEXT_BYTES_MAX` bytes.
    pub reply: Box<str>,
    /// Positions in the envelope, ascending.
    pub recipient_indexes: Vec<u16>,
}

impl TaskRecord {
    /// Recipients for which an attempt is to follow, ascending.
    pub fn open_recipients(&self) -> Vec<u16> {
        let open = self.groups.iter().filter(|group| group.state == RecipientState::Delayed);
        let mut indexes: Vec<u16> =
            open.flat_map(|group| group.recipient_indexes.clone()).collect();
        indexes.sort_unstable();
        indexes
    }

    /// Recipients in state `from` are in state `to`, and what is due is due at once.
    pub fn turn(&mut self, from: RecipientState, to: RecipientState) {
        for group in self.groups.iter_mut().filter(|group| group.state == from) {
            group.state = to;
        }
        self.due_ms = 0;
    }

    /// Accounts for the time up to `now_ms`, at which the task is Held as the record says, waits
    /// for its time or in a line, or is being tried since `begun_ms`.
    pub fn account_for(
        &self,
        ledger: &mut Ledger,
        line: &dyn Waiting,
        begun_ms: Option<u64>,
        now_ms: u64,
    ) {
        if self.is_held() {
            ledger.add(Cause::Held, now_ms);
            return;
        }
        let waited_ms = begun_ms.unwrap_or(now_ms).min(now_ms);
        let before_due = if self.attempts == 0 { Cause::Scheduled } else { Cause::BackOff };
        ledger.add(before_due, self.due_ms.min(waited_ms));
        ledger.add_waiting(line, waited_ms);
        ledger.add(Cause::Attempt, now_ms);
    }

    /// Memory of the record in a box.
    pub fn heap_bytes(&self) -> usize {
        let groups = self.groups.iter();
        let of_groups = groups.map(|it| it.reply.len() + it.recipient_indexes.capacity() * 2);
        let groups = self.groups.capacity() * size_of::<Group>();
        size_of::<Self>() + groups + of_groups.sum::<usize>()
    }

    /// Whether some recipient waits for an operator.
    pub fn is_held(&self) -> bool {
        self.groups.iter().any(|group| group.state == RecipientState::Held)
    }
}

/// Longest reply kept in a STATE.
pub const REPLY_TEXT_BYTES_MAX: usize = 200;

/// Appends the payload of a STATE.
pub fn write_state(state: &TaskRecord, out: &mut Vec<u8>) {
    out.extend_from_slice(&state.attempts.to_le_bytes());
    out.extend_from_slice(&state.due_ms.to_le_bytes());
    let flags = [
        (state.possible_duplicate, state_flag::POSSIBLE_DUPLICATE),
        (state.delay_notified, state_flag::DELAY_NOTIFIED),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
    out.push(flags.fold(0, |flags, (_, flag)| flags | flag));
    out.extend_from_slice(&(state.groups.len() as u16).to_le_bytes());
    for group in &state.groups {
        let reply = clip(&group.reply);
        out.push(group.state.to_u8());
        out.push(reply.len() as u8);
        out.extend_from_slice(&(group.recipient_indexes.len() as u16).to_le_bytes());
        out.extend_from_slice(reply.as_bytes());
        for recipient_index in &group.recipient_indexes {
            out.extend_from_slice(&recipient_index.to_le_bytes());
        }
    }
    if let Some(next_hop) = &state.change.next_hop {
        field(out, state_tag::NEXT_HOP, next_hop.to_string().as_bytes());
    }
    if let Some(class) = state.change.class {
        field(out, state_tag::CLASS, class.as_str().as_bytes());
    }
    if let Some(ledger) = &state.ledger {
        let mut value = ledger.until_ms().to_le_bytes().to_vec();
        for (cause, ms) in ledger.spent() {
            value.push(cause.number());
            value.extend_from_slice(&ms.to_le_bytes());
        }
        field(out, state_tag::LEDGER, &value);
    }
}

/// Reads the payload of a STATE. Unknown fields are skipped.
pub fn read_state(payload: &[u8]) -> Result<TaskRecord, Malformed> {
    let mut reader = Reader::new(payload);
    let (attempts, due_ms, flags) = (reader.u32()?, reader.u64()?, reader.u8()?);
    let mut state = TaskRecord {
        attempts,
        due_ms,
        possible_duplicate: flags & state_flag::POSSIBLE_DUPLICATE != 0,
        delay_notified: flags & state_flag::DELAY_NOTIFIED != 0,
        groups: Vec::new(),
        change: Change::default(),
        ledger: None,
    };
    for _ in 0..reader.u16()? {
        let recipient_state = RecipientState::from_u8(reader.u8()?)?;
        let reply_bytes = usize::from(reader.u8()?);
        let recipient_count = reader.u16()?;
        let reply = text(reader.take(reply_bytes)?)?;
        let mut recipient_indexes = Vec::new();
        for _ in 0..recipient_count {
            recipient_indexes.push(reader.u16()?);
        }
        state.groups.push(Group { state: recipient_state, reply, recipient_indexes });
    }
    while !reader.is_empty() {
        let tag = reader.u8()?;
        let value_bytes = reader.u32()? as usize;
        let value = reader.take(value_bytes)?;
        match tag {
            state_tag::NEXT_HOP => {
                let next_hop = parse_next_hop(&text(value)?).ok_or(Malformed)?;
                state.change.next_hop = Some(next_hop);
            }
            state_tag::CLASS => {
                state.change.class = Some(Class::parse(&text(value)?).ok_or(Malformed)?);
            }
            state_tag::LEDGER => state.ledger = Some(read_ledger(value)?),
            _ => {}
        }
    }
    Ok(state)
}

fn read_ledger(value: &[u8]) -> Result<Ledger, Malformed> {
    let mut reader = Reader::new(value);
    let until_ms = reader.u64()?;
    let mut spent = Vec::new();
    while !reader.is_empty() {
        let cause = Cause::from_number(reader.u8()?).ok_or(Malformed)?;
        spent.push((cause, reader.u64()?));
    }
    Ok(Ledger::from_parts(until_ms, spent))
}

/// The longest prefix of at most `REPLY_TEXT_BYTES_MAX` bytes that ends between characters.
fn clip(reply: &str) -> &str {
    let mut end = reply.len().min(REPLY_TEXT_BYTES_MAX);
    while !reply.is_char_boundary(end) {
        end -= 1;
    }
    &reply[..end]
}

fn field(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

mod state_flag {
    pub const POSSIBLE_DUPLICATE: u8 = 1;
    pub const DELAY_NOTIFIED: u8 = 2;
}

mod tag {
    pub const REVERSE_PATH: u8 = 1;
    pub const RECIPIENT: u8 = 2;
    pub const ENVELOPE_ID: u8 = 3;
    pub const CLIENT: u8 = 4;
    pub const HEADER_PREFIX: u8 = 5;
    pub const RELEASE: u8 = 6;
    pub const TENANT: u8 = 7;
    pub const CAMPAIGN: u8 = 8;
    pub const TRANSACTIONAL: u8 = 9;
    pub const CHUNKS: u8 = 10;
    pub const TLS: u8 = 11;
}

/// Fields of a STATE.
mod state_tag {
    pub const NEXT_HOP: u8 = 1;
    pub const CLASS: u8 = 2;
    pub const LEDGER: u8 = 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let recipient = |address: &str, original: Option<&str>| Recipient {
            address: address.into(),
            original_recipient: original.map(Box::from),
            notify: Notify(Notify::FAILURE | Notify::DELAY),
        };
        Envelope {
            reverse_path: "sender@example.test".into(),
            recipients: vec![
                recipient("one@example.test", Some("rfc822;eins@example.test")),
                recipient("zwei@bücher.example", None),
            ],
            flags: EnvelopeFlags(EnvelopeFlags::SMTPUTF8),
            accepted_ms: 1_700_000_000_000,
            release_ms: 1_700_000_100_000,
            stream: Stream {
                tenant: "acme".into(),
                campaign: "spring".into(),
                class: Class::Transactional,
                tls: TlsTag::Required,
            },
            envelope_id: Some("QQ314159".into()),
            client: Some("2001:db8::1".parse().expect("an address")),
            header_prefix: b"Received: from x\r\n".to_vec(),
            content_bytes: 3 * CHUNK_BYTES_MAX as u64,
            content_hash: 7 << 100,
        }
    }

    fn state() -> TaskRecord {
        TaskRecord {
            attempts: 3,
            due_ms: 1_700_000_000_000,
            possible_duplicate: true,
            delay_notified: true,
            groups: vec![
                Group {
                    state: RecipientState::Delayed,
                    reply: "451 4.3.0 später".into(),
                    recipient_indexes: vec![0, 2],
                },
                Group {
                    state: RecipientState::Failed,
                    reply: "550 5.1.1 no".into(),
                    recipient_indexes: vec![1],
                },
            ],
            change: Change {
                next_hop: parse_next_hop("lmtp://[::1]:24"),
                class: Some(Class::Transactional),
            },
            ledger: Some(Ledger::from_parts(1_700_000_000_000, [(Cause::Held, 1 << 40)])),
        }
    }

    #[test]
    fn an_envelope_reads_back_and_no_prefix_of_it_passes_for_whole() {
        let mut payload = Vec::new();
        let chunk =
            Location { slot: 1, block: 7, epoch_low: 9, in_frame: 64, record_bytes: 262_168 };
        let chunks = [1, 2, 3].map(|slot| Location { slot, ..chunk });
        write_envelope(&envelope(), &chunks, &mut payload);
        assert_eq!(read_envelope(&payload), Ok((envelope(), chunks.to_vec())));
        for end in 0..payload.len() {
            // Cut between two fields it is a valid, shorter envelope; the checksum judges that.
            if let Ok((cut, _)) = read_envelope(&payload[..end]) {
                assert!(cut.recipients.len() < envelope().recipients.len(), "cut at {end}");
            }
        }
    }

    #[test]
    fn a_state_reads_back_and_no_prefix_of_it_passes_for_whole() {
        let mut payload = Vec::new();
        write_state(&state(), &mut payload);
        assert_eq!(read_state(&payload), Ok(state()));
        let bare = TaskRecord { change: Change::default(), ledger: None, ..state() };
        let mut bare_payload = Vec::new();
        write_state(&bare, &mut bare_payload);
        assert_eq!(read_state(&bare_payload), Ok(bare));
        let mut whole_count = 0;
        for end in 0..payload.len() {
            // Cut between two fields it is a valid, shorter record; the checksum judges that.
            if let Ok(cut) = read_state(&payload[..end]) {
                assert!(end >= bare_payload.len() && cut.ledger.is_none(), "cut at {end}");
                whole_count += 1;
            }
        }
        assert_eq!(whole_count, 3, "before the first field, the second and the third");
    }

    #[test]
    fn fields_of_a_state_are_checked_and_unknown_ones_skipped() {
        let bare = TaskRecord { change: Change::default(), ledger: None, ..state() };
        let with = |tag: u8, value: &[u8]| {
            let mut payload = Vec::new();
            write_state(&bare, &mut payload);
            field(&mut payload, tag, value);
            read_state(&payload)
        };
        assert_eq!(with(200, b"anything"), Ok(bare.clone()));
        assert_eq!(with(state_tag::NEXT_HOP, b"smtp://nowhere"), Err(Malformed));
        assert_eq!(with(state_tag::CLASS, b"\xff"), Err(Malformed));
        assert_eq!(with(state_tag::CLASS, b"urgent"), Err(Malformed));
        assert_eq!(with(state_tag::LEDGER, &[0; 7]), Err(Malformed));
        let unknown_cause = [&[0; 8][..], &[99], &[0; 8]].concat();
        assert_eq!(with(state_tag::LEDGER, &unknown_cause), Err(Malformed));
    }

    #[test]
    fn a_long_reply_is_cut_between_characters() {
        let mut long = state();
        long.groups[0].reply = "ü".repeat(REPLY_TEXT_BYTES_MAX).into();
        let mut payload = Vec::new();
        write_state(&long, &mut payload);
        let read = read_state(&payload).expect("a state");
        assert_eq!(&*read.groups[0].reply, "ü".repeat(REPLY_TEXT_BYTES_MAX / 2));
    }
}
