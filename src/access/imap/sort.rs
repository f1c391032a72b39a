//! SORT (RFC 5256, RFC 5957).

use std::cmp::Ordering;
use std::io::Write;

use super::search::{Candidate, Found, Scope, SearchError, Told, run as search, write_extended};
use super::thread::on_thread;
use super::view::View;
use crate::limits::IMAP_SORT_KEY_BYTES_MAX;
use crate::mailbox::{Entry, KeptSummary, Mailbox, Partition};
use crate::proto::imap::base_subject::base_subject;
use crate::proto::imap::command::{Numbering, Tag};
use crate::proto::imap::search::{Order, Sort, SortField};
use crate::proto::imap::set::NumberSet;
use crate::proto::mime::address::{Entry as Address, for_each_entry};
use crate::proto::mime::casemap::Folder;
use crate::proto::mime::date::parse_date;
use crate::proto::mime::encoded_word::decode_field;
use crate::proto::mime::field::FieldName;
use crate::proto::mime::stored::{StoredField, stored_fields};
use crate::runtime::task;

/// What SORT has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted {
    /// In the order that was asked for.
    pub uids: Vec<u32>,
    /// The same, and what else a search tells.
    pub found: Found,
}

/// A message on its way into order.
struct Item {
    uid: u32,
    /// As many as sort keys.
    values: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Number(i64),
    Text(Box<[u8]>),
}

/// The messages that meet the criteria, in order; of those that are equal in all the lower sequence
/// number comes first.
pub async fn run(scope: &Scope<'_>, command: &Sort) -> Result<Sorted, SearchError> {
    let found = search(scope, &command.criteria).await?;
    let needs_summary =
        command.keys.iter().any(|it| !matches!(it.field, SortField::Arrival | SortField::Size));
    let mut folder = Folder::default();
    let mut items = Vec::with_capacity(found.uids.count() as usize);
    let mut next = Some(0);
    while let Some(uid_from) = next {
        let (entries, next_uid) = entries(scope, &found.uids, uid_from).await?;
        next = next_uid;
        let summaries = match needs_summary {
            true => summaries(scope, &entries).await,
            false => entries.iter().map(|_| None).collect(),
        };
        for (Candidate { entry, .. }, summary) in entries.iter().zip(&summaries) {
            let value = |field| value(field, entry, summary.as_ref(), &mut folder);
            let values = command.keys.iter().map(|key| key.field).map(value).collect();
            items.push(Item { uid: entry.uid, values });
        }
        task::yield_now().await;
    }
    let orders: Vec<Order> = command.keys.iter().map(|key| key.order).collect();
    let uids = on_thread(items.len(), move || {
        items.sort_unstable_by(|one, other| compare(one, other, &orders));
        items.iter().map(|item| item.uid).collect()
    });
    Ok(Sorted { uids: uids.await?, found })
}

/// The next messages of a set, and where those behind them begin.
pub(super) async fn entries(
    scope: &Scope<'_>,
    uids: &NumberSet,
    uid_from: u32,
) -> Result<(Vec<Candidate>, Option<u32>), SearchError> {
    let read = |partition: &Partition, mailbox: &Mailbox, view: &View| {
        let mut entries = Vec::new();
        for known in view.walk(mailbox, uids, uid_from) {
            if entries.len() == ENTRIES_AT_ONCE {
                return (entries, Some(known.uid));
            }
            let candidate = known.entry.map(|entry| {
                let body = partition.bodies().id(entry.body);
                Candidate { entry, body }
            });
            entries.extend(candidate);
        }
        (entries, None)
    };
    scope.read(read).await
}

/// Summaries of messages; none where it cannot be had.
pub(super) async fn summaries(
    scope: &Scope<'_>,
    entries: &[Candidate],
) -> Vec<Option<KeptSummary>> {
    let mut summaries = Vec::with_capacity(entries.len());
    for (index, group) in entries.chunks(SUMMARIES_AT_ONCE).enumerate() {
        let ahead = entries.len() - index * SUMMARIES_AT_ONCE;
        let group = scope.summaries(group, ahead).await;
        summaries.extend(group.into_iter().map(Result::ok));
    }
    summaries
}

fn compare(one: &Item, other: &Item, orders: &[Order]) -> Ordering {
    let values = one.values.iter().zip(&other.values).zip(orders);
    let by_values = values.map(|((one, other), order)| match order {
        Order::Ascending => one.cmp(other),
        Order::Descending => other.cmp(one),
    });
    let mut by_values = by_values.filter(|order| order.is_ne());
    by_values.next().unwrap_or_else(|| one.uid.cmp(&other.uid))
}

fn value(
    field: SortField,
    entry: &Entry,
    summary: Option<&KeptSummary>,
    folder: &mut Folder,
) -> Value {
    let fields = summary.map(|it| stored_fields(it.get().structure)).into_iter().flatten();
    let named = |name| fields.filter(move |it: &StoredField| it.name == name);
    let mut text = |text: &[u8]| {
        let mut folded = folder.folded(text);
        folded.truncate(IMAP_SORT_KEY_BYTES_MAX);
        Value::Text(folded.into())
    };
    match field {
        SortField::Arrival => Value::Number(entry.date.unix_s.into()),
        SortField::Size => Value::Number(entry.bytes.into()),
        SortField::Date => {
            Value::Number(sent_s(named(FieldName::Date).next().map(|it| it.body), entry))
        }
        SortField::Subject => {
            let field = named(FieldName::Subject).next();
            let base = field.map(|it| base_subject(it.body).text);
            text(base.unwrap_or_default().as_bytes())
        }
        SortField::Cc => text(&first(named(FieldName::Cc), local_part)),
        SortField::From => text(&first(named(FieldName::From), local_part)),
        SortField::To => text(&first(named(FieldName::To), local_part)),
        SortField::DisplayFrom => text(&first(named(FieldName::From), display)),
        SortField::DisplayTo => text(&first(named(FieldName::To), display)),
    }
}

/// When a message was sent, or else came in; Unix seconds (RFC 5256 §2.2).
pub(super) fn sent_s(date: Option<&[u8]>, entry: &Entry) -> i64 {
    date.and_then(parse_date).map_or(entry.date.unix_s.into(), |date| date.unix_seconds)
}

/// What the first address of some fields is sorted by; empty without any.
fn first<'f>(
    fields: impl Iterator<Item = StoredField<'f>>,
    text: fn(Address) -> Vec<u8>,
) -> Vec<u8> {
    for field in fields {
        let mut found = None;
        for_each_entry(field.body, |entry| {
            found.get_or_insert_with(|| text(entry));
        });
        if let Some(found) = found {
            return found;
        }
    }
    Vec::new()
}

fn local_part(address: Address) -> Vec<u8> {
    match address {
        Address::Mailbox { local_part, .. } => local_part,
        Address::GroupStart { name } => name,
        Address::GroupEnd => Vec::new(),
    }
}

/// The display name, or else the address (RFC 5957 §3).
fn display(address: Address) -> Vec<u8> {
    let (name, address) = match address {
        Address::Mailbox { name, local_part, domain, .. } => {
            let domain = domain.map(|domain| [b"@", &domain[..]].concat());
            (name, [local_part, domain.unwrap_or_default()].concat())
        }
        Address::GroupStart { name } => (Some(name), Vec::new()),
        Address::GroupEnd => (None, Vec::new()),
    };
    let mut decoded = Vec::new();
    decode_field(&name.unwrap_or_default(), &mut decoded);
    if decoded.is_empty() { address } else { decoded }
}

/// Appends the response to SORT; ESEARCH where the client asked for that (RFC 5267).
pub async fn write(
    tag: &Tag,
    command: &Sort,
    scope: &Scope<'_>,
    sorted: &Sorted,
    out: &mut Vec<u8>,
) -> Result<(), SearchError> {
    let numbers = match command.numbering {
        Numbering::Uid => sorted.uids.clone(),
        Numbering::Sequence => {
            let number = |_: &Partition, mailbox: &Mailbox, view: &View| {
                let uids = sorted.uids.iter();
                uids.filter_map(|uid| view.number(mailbox, *uid)).collect()
            };
            scope.read(number).await?
        }
    };
    let modseqs = sorted.found.modseqs;
    match command.returns {
        Some(returns) => {
            let ends = numbers.first().copied().zip(numbers.last().copied());
            let told = Told { ends, count: numbers.len() as u64, modseqs };
            let all = |out: &mut Vec<u8>| write_in_order(&numbers, out);
            write_extended(tag, command.numbering, returns, &told, all, out);
        }
        None => {
            out.extend_from_slice(b"* SORT");
            // Writing into memory does not fail.
            numbers.iter().for_each(|number| drop(write!(out, " {number}")));
            if let Some([_, _, highest]) = modseqs.filter(|_| !numbers.is_empty()) {
                let _ = write!(out, " (MODSEQ {highest})");
            }
            out.extend_from_slice(b"\r\n");
        }
    }
    Ok(())
}

/// Appends numbers as a set that keeps their order, ascending runs as ranges (RFC 5267 §3.1).
fn write_in_order(numbers: &[u32], out: &mut Vec<u8>) {
    let runs = numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    for (index, run) in runs.enumerate() {
        out.extend((index > 0).then_some(b','));
        // Writing into memory does not fail.
        let _ = match run {
            [only] => write!(out, "{only}"),
            run => write!(out, "{}:{}", run[0], run[run.len() - 1]),
        };
    }
}

/// Messages whose keys are made before others get a turn.
const ENTRIES_AT_ONCE: usize = 256;
/// Summaries that are asked for at the same time.
const SUMMARIES_AT_ONCE: usize = 32;
