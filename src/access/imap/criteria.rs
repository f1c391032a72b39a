//! What a SEARCH asks for, as it is asked of messages (RFC 9051 §6.4.4, RFC 5032, RFC 7162,
//! RFC 8474, RFC 8514). `Pure.`
//!
//! A condition is tried on what is known of a message and says yes, no, or that more must be known:
//! first the index, then a summary, then the octets themselves.

use std::ops::Range;

use super::view::View;
use crate::limits::IMAP_FIELDS_BYTES_MAX;
use crate::mailbox::codec::BodyId;
use crate::mailbox::{Entry, Mailbox};
use crate::proto::imap::command::{Messages, Numbering};
use crate::proto::imap::flag::SystemFlags;
use crate::proto::imap::search::SearchKey;
use crate::proto::imap::set::NumberSet;
use crate::proto::imap::summary::Summary;
use crate::proto::mime::date::parse_date;
use crate::proto::mime::field::{FieldName, Fields};
use crate::proto::mime::haystack::{Haystack, Needles};
use crate::proto::mime::stored::stored_fields;

/// The criteria of one search over one mailbox.
pub(super) struct Criteria {
    root: Node,
    pub needles: Needles,
    /// For each needle, whether header sections are looked through too.
    pub is_in_header: Vec<bool>,
    /// A mod-sequence is asked for: the answer tells one (RFC 7162 §3.1.5).
    pub has_modseq: bool,
}

/// What is known of a message.
#[derive(Clone, Copy)]
pub(super) struct Known<'m> {
    pub entry: &'m Entry,
    pub body: BodyId,
    pub summary: Option<Summary<'m>>,
    /// The header section.
    pub header: Option<&'m [u8]>,
    /// Which needles are in the octets.
    pub found: Option<&'m [bool]>,
}

/// What a search knows beside its keys.
pub(super) struct Context<'c> {
    pub view: &'c View,
    pub recent: &'c NumberSet,
    pub mailbox: &'c Mailbox,
    /// `$`.
    pub saved: &'c NumberSet,
    /// The wall clock.
    pub unix_s: i64,
    /// The body that an EMAILID means here, if any.
    pub body_of: &'c dyn Fn(&[u8]) -> Option<BodyId>,
}

/// A condition; those that are cheaper to judge stand first.
enum Node {
    Always(bool),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Uids(NumberSet),
    Has(SystemFlags),
    Keyword(u64),
    /// Unix seconds.
    Received(Range<i64>),
    /// Seconds by the clock of the zone that INTERNALDATE is in.
    ReceivedLocal(Range<i64>),
    Saved(Range<i64>),
    Bytes(Range<u64>),
    ModSeqFrom(u64),
    Body(BodyId),
    /// Days by the calendar of the zone that Date is in.
    Sent(Range<i64>),
    /// Fields of this name, of which summaries have all; a needle in one, or just one.
    Field(FieldName, Option<usize>),
    /// A needle in a field of this name, or in one of the addresses in it as ENVELOPE has them.
    Address(FieldName, usize),
    Header(Vec<u8>, Option<usize>),
    Octets(usize),
}

/// How much must be known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    Index,
    Summary,
    Header,
    Octets,
}

impl Criteria {
    pub fn new(key: &SearchKey, context: &Context<'_>) -> Self {
        let mut compiler = Compiler { context, texts: Vec::new(), is_in_header: Vec::new() };
        let root = compiler.node(key);
        let Compiler { texts, is_in_header, .. } = compiler;
        let has_modseq = root.has_modseq();
        Self { root, needles: Needles::new(&texts), is_in_header, has_modseq }
    }

    /// UIDs beside which nothing can match.
    pub fn candidates(&self) -> NumberSet {
        self.root.candidates().unwrap_or_else(|| [(1, u32::MAX)].into_iter().collect())
    }

    /// Whether a summary can say something that the index cannot.
    pub fn asks_summaries(&self) -> bool {
        self.root.asks(Cost::Summary)
    }

    /// Whether the header section can say something that a summary cannot, but for texts.
    pub fn asks_headers(&self) -> bool {
        self.root.asks(Cost::Header)
    }

    /// Whether a message is meant; `None` when more must be known of it.
    pub fn judge(&self, known: &Known<'_>, haystack: &mut Haystack<'_>) -> Option<bool> {
        self.root.judge(known, haystack)
    }
}

struct Compiler<'c> {
    context: &'c Context<'c>,
    texts: Vec<Vec<u8>>,
    is_in_header: Vec<bool>,
}

impl Compiler<'_> {
    fn node(&mut self, key: &SearchKey) -> Node {
        let day = |day: &i64| day.saturating_mul(DAY_S);
        let before = |at: i64| i64::MIN..at;
        let since = |at: i64| at..i64::MAX;
        let on = |at: i64| at..at.saturating_add(DAY_S);
        let unix_s = self.context.unix_s;
        match key {
            SearchKey::All | SearchKey::SaveDateSupported => Node::Always(true),
            SearchKey::Recent => self.recent(),
            SearchKey::Old => not(self.recent()),
            SearchKey::New => Node::All(vec![self.recent(), not(Node::Has(SystemFlags::SEEN))]),
            SearchKey::And(keys) => Node::All(self.nodes(keys.iter())),
            SearchKey::Or(left, right) => Node::Any(self.nodes([&**left, &**right].into_iter())),
            SearchKey::Not(key) => not(self.node(key)),
            SearchKey::Sequence(messages) => self.messages(Numbering::Sequence, messages),
            SearchKey::Uid(messages) => self.messages(Numbering::Uid, messages),
            SearchKey::Has(flag) => Node::Has(*flag),
            SearchKey::Lacks(flag) => not(Node::Has(*flag)),
            SearchKey::Keyword(keyword) => self.keyword(keyword),
            SearchKey::Unkeyword(keyword) => not(self.keyword(keyword)),
            SearchKey::Bcc(text) => self.address(FieldName::Bcc, text),
            SearchKey::Cc(text) => self.address(FieldName::Cc, text),
            SearchKey::From(text) => self.address(FieldName::From, text),
            SearchKey::Subject(text) => self.field(FieldName::Subject, text),
            SearchKey::To(text) => self.address(FieldName::To, text),
            SearchKey::Header { name, text } => match FieldName::from_octets(name) {
                Some(name) => self.field(name, text),
                None => Node::Header(name.clone(), self.needle(text, false)),
            },
            SearchKey::Body(text) => self.octets(text, false),
            SearchKey::Text(text) => self.octets(text, true),
            SearchKey::Before(at) => Node::ReceivedLocal(before(day(at))),
            SearchKey::On(at) => Node::ReceivedLocal(on(day(at))),
            SearchKey::Since(at) => Node::ReceivedLocal(since(day(at))),
            SearchKey::SentBefore(at) => Node::Sent(before(*at)),
            SearchKey::SentOn(at) => Node::Sent(*at..at.saturating_add(1)),
            SearchKey::SentSince(at) => Node::Sent(since(*at)),
            SearchKey::SavedBefore(at) => Node::Saved(before(day(at))),
            SearchKey::SavedOn(at) => Node::Saved(on(day(at))),
            SearchKey::SavedSince(at) => Node::Saved(since(day(at))),
            SearchKey::Larger(bytes) => Node::Bytes(bytes.saturating_add(1)..u64::MAX),
            SearchKey::Smaller(bytes) => Node::Bytes(0..*bytes),
            // At exactly this age a message is both (RFC 5032 §2).
            SearchKey::Older(age_s) => {
                Node::Received(before(unix_s.saturating_sub_unsigned(*age_s).saturating_add(1)))
            }
            SearchKey::Younger(age_s) => {
                Node::Received(since(unix_s.saturating_sub_unsigned(*age_s)))
            }
            SearchKey::ModSeq(modseq) => Node::ModSeqFrom(*modseq),
            SearchKey::EmailId(id) => match (self.context.body_of)(id) {
                Some(body) => Node::Body(body),
                None => Node::Always(false),
            },
            // No message has one.
            SearchKey::ThreadId(_) => Node::Always(false),
        }
    }

    fn nodes<'k>(&mut self, keys: impl Iterator<Item = &'k SearchKey>) -> Vec<Node> {
        let mut nodes: Vec<Node> = keys.map(|key| self.node(key)).collect();
        nodes.sort_by_key(Node::cost);
        nodes
    }

    fn messages(&self, numbering: Numbering, messages: &Messages) -> Node {
        let Context { view, mailbox, saved, .. } = self.context;
        Node::Uids(match messages {
            Messages::Saved => (*saved).clone(),
            Messages::Set(set) => view.resolve_known(mailbox, numbering, set),
        })
    }

    fn recent(&self) -> Node {
        Node::Uids(self.context.recent.clone())
    }

    fn keyword(&self, keyword: &str) -> Node {
        match self.context.mailbox.keyword_bit(keyword) {
            Some(bit) => Node::Keyword(1 << bit),
            None => Node::Always(false),
        }
    }

    fn field(&mut self, name: FieldName, text: &[u8]) -> Node {
        Node::Field(name, self.needle(text, false))
    }

    fn address(&mut self, name: FieldName, text: &[u8]) -> Node {
        match self.needle(text, false) {
            Some(needle) => Node::Address(name, needle),
            None => Node::Field(name, None),
        }
    }

    fn octets(&mut self, text: &[u8], is_in_header: bool) -> Node {
        self.needle(text, is_in_header).map_or(Node::Always(true), Node::Octets)
    }

    /// The index of a text to look for; an empty one is everywhere.
    fn needle(&mut self, text: &[u8], is_in_header: bool) -> Option<usize> {
        (!text.is_empty()).then(|| {
            self.texts.push(text.to_vec());
            self.is_in_header.push(is_in_header);
            self.texts.len() - 1
        })
    }
}

fn not(node: Node) -> Node {
    match node {
        Node::Always(is_always) => Node::Always(!is_always),
        node => Node::Not(Box::new(node)),
    }
}

impl Node {
    fn cost(&self) -> Cost {
        match self {
            Self::All(nodes) | Self::Any(nodes) => {
                nodes.iter().map(Self::cost).max().unwrap_or(Cost::Index)
            }
            Self::Not(node) => node.cost(),
            Self::Sent(_) | Self::Field(..) | Self::Address(..) => Cost::Summary,
            Self::Header(..) => Cost::Header,
            Self::Octets(_) => Cost::Octets,
            _ => Cost::Index,
        }
    }

    /// Whether some condition in it costs exactly this.
    fn asks(&self, cost: Cost) -> bool {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().any(|node| node.asks(cost)),
            Self::Not(node) => node.asks(cost),
            node => node.cost() == cost,
        }
    }

    fn has_modseq(&self) -> bool {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().any(Self::has_modseq),
            Self::Not(node) => node.has_modseq(),
            node => matches!(node, Self::ModSeqFrom(_)),
        }
    }

    /// UIDs beside which it never holds; `None` for all.
    fn candidates(&self) -> Option<NumberSet> {
        match self {
            Self::Uids(uids) => Some(uids.clone()),
            Self::All(nodes) => {
                let sets = nodes.iter().filter_map(Self::candidates);
                sets.reduce(|one, other| one.intersection(&other))
            }
            Self::Always(false) => Some(NumberSet::default()),
            _ => None,
        }
    }

    fn judge(&self, known: &Known<'_>, haystack: &mut Haystack<'_>) -> Option<bool> {
        let entry = known.entry;
        Some(match self {
            Self::Always(is_always) => *is_always,
            Self::All(nodes) => return judge_all(nodes, false, known, haystack),
            Self::Any(nodes) => return judge_all(nodes, true, known, haystack),
            Self::Not(node) => !node.judge(known, haystack)?,
            Self::Uids(uids) => uids.contains(entry.uid),
            Self::Has(flag) => entry.flags.has(*flag),
            Self::Keyword(bits) => entry.keywords & bits == *bits,
            Self::Received(range) => range.contains(&entry.date.unix_s.into()),
            Self::ReceivedLocal(range) => range.contains(&entry.date.local_s()),
            Self::Saved(range) => range.contains(&entry.saved_s.into()),
            Self::Bytes(range) => range.contains(&entry.bytes.into()),
            Self::ModSeqFrom(modseq) => entry.modseq >= *modseq,
            Self::Body(body) => known.body == *body,
            Self::Sent(days) => {
                let date = known.fields(FieldName::Date)?.next().and_then(parse_date);
                date.is_some_and(|date| days.contains(&date.local_days()))
            }
            Self::Field(name, needle) => {
                let has = |body: &[u8]| needle.is_none_or(|it| haystack.field_has(it, body));
                known.fields(*name)?.any(has)
            }
            Self::Address(name, needle) => {
                known.fields(*name)?.any(|body| haystack.addresses_have(*needle, body))
            }
            Self::Header(name, needle) => {
                let mut named = Fields::new(known.header?).filter(|field| field.is_named(name));
                named.any(|field| needle.is_none_or(|it| haystack.field_has(it, field.body)))
            }
            Self::Octets(needle) => known.found?[*needle],
        })
    }
}

/// Whether one of the nodes says `decisive`, or else all the opposite.
fn judge_all(
    nodes: &[Node],
    decisive: bool,
    known: &Known<'_>,
    haystack: &mut Haystack<'_>,
) -> Option<bool> {
    let mut is_open = false;
    for node in nodes {
        match node.judge(known, haystack) {
            Some(said) if said == decisive => return Some(decisive),
            Some(_) => {}
            None => is_open = true,
        }
    }
    (!is_open).then_some(!decisive)
}

impl<'m> Known<'m> {
    /// Bodies of the fields of one name that summaries have; `None` when there is neither a whole
    /// summary nor the header section.
    fn fields(&self, name: FieldName) -> Option<Box<dyn Iterator<Item = &'m [u8]> + 'm>> {
        if let Some(summary) = self.summary.filter(|summary| !summary.is_truncated()) {
            let fields = stored_fields(summary.structure).filter(move |it| it.name == name);
            return Some(Box::new(fields.map(|field| field.body)));
        }
        let header = self.header?;
        let header = &header[..header.len().min(IMAP_FIELDS_BYTES_MAX)];
        let named = Fields::new(header).filter(move |it| it.is_named(name.as_str().as_bytes()));
        Some(Box::new(named.map(|field| field.body)))
    }
}

const DAY_S: i64 = 86_400;
