//! THREAD (RFC 5256): messages as the conversations they are parts of.
//!
//! Start reading at `references`. Nothing is recursive, and no thread is deeper than `DEPTH_MAX`:
//! what would stand deeper begins a thread of its own.

use std::collections::HashMap;
use std::io::Write;

use memchr::memchr;
use xxhash_rust::xxh3::xxh3_128;

use crate::limits::IMAP_REFERENCES_MAX;

/// A message to be threaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is called in the response.
    pub number: u32,
    /// When it was sent; Unix seconds.
    pub sent_s: i64,
    /// Base subject, folded.
    pub subject: Box<[u8]>,
    /// The subject is that of a reply or a forwarded message.
    pub is_reply: bool,
    pub id: Option<MessageId>,
    /// Messages before it in its thread, the nearest last.
    pub references: Vec<MessageId>,
}

/// A Message-ID, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(u128);

/// The Message-IDs of a field body in order; of very many the last ones.
pub fn message_ids(body: &[u8]) -> Vec<MessageId> {
    let mut ids = Vec::new();
    let mut rest = body;
    while let Some(start) = memchr(b'<', rest) {
        rest = &rest[start + 1..];
        let Some(end) = memchr(b'>', rest) else { break };
        let inside = &rest[..end];
        // What has another one inside began there.
        let inside = inside.rsplit(|octet| *octet == b'<').next().unwrap_or(inside);
        let id: Vec<u8> =
            inside.iter().copied().filter(|it| !it.is_ascii_whitespace() && *it != b'"').collect();
        if memchr(b'@', &id).is_some() {
            ids.push(MessageId(xxh3_128(&id)));
        }
        rest = &rest[end + 1..];
    }
    ids.split_off(ids.len().saturating_sub(IMAP_REFERENCES_MAX))
}

/// Threads as they are written: each message with those below it.
#[derive(Debug, Default)]
struct Forest {
    nodes: Vec<Node>,
    roots: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Index of the message; `None` for one that is referred to and not there.
    message: Option<usize>,
    parent: Option<usize>,
    children: Vec<usize>,
}

/// Appends threads by THREAD=ORDEREDSUBJECT, each behind the other.
pub fn ordered_subject(messages: &[Message], out: &mut Vec<u8>) {
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|index| {
        let message = &messages[*index];
        (&message.subject, message.sent_s, message.number)
    });
    let same = |one: &usize, other: &usize| messages[*one].subject == messages[*other].subject;
    let mut threads: Vec<&[usize]> = order.chunk_by(same).collect();
    threads.sort_unstable_by_key(|thread| date(&messages[thread[0]]));
    let mut forest = Forest::default();
    for thread in threads {
        let root = forest.add(Some(thread[0]));
        forest.roots.push(root);
        for index in &thread[1..] {
            let child = forest.add(Some(*index));
            forest.adopt(root, child);
        }
    }
    forest.write(messages, out);
}

/// Appends threads by THREAD=REFERENCES, each behind the other.
pub fn references(messages: &[Message], out: &mut Vec<u8>) {
    let mut forest = Forest::by_references(messages);
    forest.prune();
    forest.sort_children(messages);
    forest.join_subjects(messages);
    forest.sort_children(messages);
    forest.write(messages, out);
}

/// What siblings are sorted by.
fn date(message: &Message) -> (i64, u32) {
    (message.sent_s, message.number)
}

impl Forest {
    fn add(&mut self, message: Option<usize>) -> usize {
        self.nodes.push(Node { message, ..Node::default() });
        self.nodes.len() - 1
    }

    fn adopt(&mut self, parent: usize, child: usize) {
        self.nodes[child].parent = Some(parent);
        self.nodes[parent].children.push(child);
    }

    /// Whether `below` may stand below `above`: it is not above it itself, and not too deep.
    fn may_adopt(&self, above: usize, below: usize) -> bool {
        let mut at = Some(above);
        for _ in 0..DEPTH_MAX {
            match at {
                None => return true,
                Some(index) if index == below => return false,
                Some(index) => at = self.nodes[index].parent,
            }
        }
        false
    }

    /// Step 1 and 2: who refers to whom.
    fn by_references(messages: &[Message]) -> Self {
        let mut forest = Self::default();
        let mut by_id: HashMap<MessageId, usize> = HashMap::new();
        let mut own = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let node = forest.add(Some(index));
            own.push(node);
            if let Some(id) = message.id {
                // Of several with the same the first has it.
                by_id.entry(id).or_insert(node);
            }
        }
        for (message, own) in messages.iter().zip(own) {
            let mut above: Option<usize> = None;
            for id in &message.references {
                let node = *by_id.entry(*id).or_insert_with(|| {
                    forest.nodes.push(Node::default());
                    forest.nodes.len() - 1
                });
                if let Some(above) = above
                    && forest.nodes[node].parent.is_none()
                    && forest.may_adopt(above, node)
                {
                    forest.nodes[node].parent = Some(above);
                }
                above = Some(node);
            }
            // What others said of its parent may have been cut short: itself it knows better.
            if above.is_none_or(|above| forest.may_adopt(above, own)) {
                forest.nodes[own].parent = above;
            }
        }
        for node in 0..forest.nodes.len() {
            match forest.nodes[node].parent {
                Some(parent) => forest.nodes[parent].children.push(node),
                None => forest.roots.push(node),
            }
        }
        forest
    }

    /// Step 3: those that are not there go, and what is below them takes their place; a root stays
    /// that holds several together.
    fn prune(&mut self) {
        // Those below come before those above.
        for node in self.downwards().into_iter().rev() {
            let children = std::mem::take(&mut self.nodes[node].children);
            let kept = children.into_iter().flat_map(|child| match self.nodes[child].message {
                Some(_) => vec![child],
                None => std::mem::take(&mut self.nodes[child].children),
            });
            let kept: Vec<usize> = kept.collect();
            kept.iter().for_each(|child| self.nodes[*child].parent = Some(node));
            self.nodes[node].children = kept;
        }
        let roots = std::mem::take(&mut self.roots);
        for root in roots {
            match (self.nodes[root].message, self.nodes[root].children.as_slice()) {
                (None, []) => {}
                (None, &[only]) => {
                    self.nodes[only].parent = None;
                    self.roots.push(only);
                }
                _ => self.roots.push(root),
            }
        }
    }

    /// All nodes that are in the forest, those above before those below.
    fn downwards(&self) -> Vec<usize> {
        let mut order = self.roots.clone();
        let mut at = 0;
        while at < order.len() {
            order.extend_from_slice(&self.nodes[order[at]].children);
            at += 1;
        }
        order
    }

    /// Steps 4 and 6: by the date sent, at each level.
    fn sort_children(&mut self, messages: &[Message]) {
        for node in self.downwards().into_iter().rev() {
            let mut children = std::mem::take(&mut self.nodes[node].children);
            children.sort_unstable_by_key(|child| self.date(*child, messages));
            self.nodes[node].children = children;
        }
        let mut roots = std::mem::take(&mut self.roots);
        roots.sort_unstable_by_key(|root| self.date(*root, messages));
        self.roots = roots;
    }

    /// The message of a node, or the first one below it.
    fn message<'m>(&self, node: usize, messages: &'m [Message]) -> &'m Message {
        let node = &self.nodes[node];
        let first = || node.children.first().and_then(|child| self.nodes[*child].message);
        let index = node.message.or_else(first);
        &messages[index.expect("a dummy holds messages together")]
    }

    fn date(&self, node: usize, messages: &[Message]) -> (i64, u32) {
        date(self.message(node, messages))
    }

    /// Step 5: threads with one subject become one.
    fn join_subjects(&mut self, messages: &[Message]) {
        let mut by_subject: HashMap<&[u8], usize> = HashMap::new();
        for root in &self.roots {
            let message = self.message(*root, messages);
            if message.subject.is_empty() {
                continue;
            }
            by_subject
                .entry(&message.subject)
                .and_modify(|known| {
                    let is_dummy = self.is_dummy(*root) && !self.is_dummy(*known);
                    let is_original = self.message(*known, messages).is_reply && !message.is_reply;
                    if is_dummy || is_original && !self.is_dummy(*known) {
                        *known = *root;
                    }
                })
                .or_insert(*root);
        }
        for root in std::mem::take(&mut self.roots) {
            if self.nodes[root].parent.is_some() {
                // Others have joined it, under a dummy.
                continue;
            }
            let message = self.message(root, messages);
            let known = by_subject.get(&*message.subject).copied().filter(|it| *it != root);
            let Some(known) = known else {
                self.roots.push(root);
                continue;
            };
            match (self.is_dummy(known), self.is_dummy(root)) {
                (true, true) => {
                    let children = std::mem::take(&mut self.nodes[root].children);
                    children.into_iter().for_each(|child| self.adopt(known, child));
                }
                (true, false) => self.adopt(known, root),
                (false, false) if message.is_reply && !self.message(known, messages).is_reply => {
                    self.adopt(known, root);
                }
                _ => {
                    let both = self.add(None);
                    self.roots.retain(|it| *it != known);
                    self.adopt(both, known);
                    match self.is_dummy(root) {
                        true => {
                            let children = std::mem::take(&mut self.nodes[root].children);
                            children.into_iter().for_each(|child| self.adopt(both, child));
                        }
                        false => self.adopt(both, root),
                    }
                    self.roots.push(both);
                    by_subject.insert(&message.subject, both);
                }
            }
        }
    }

    fn is_dummy(&self, node: usize) -> bool {
        self.nodes[node].message.is_none()
    }

    /// `(1 2 (3)(4 5))(6)`.
    fn write(&self, messages: &[Message], out: &mut Vec<u8>) {
        enum Step {
            Open,
            Node(usize),
            Close,
        }
        let push_thread = |node: usize, steps: &mut Vec<Step>| {
            steps.extend([Step::Close, Step::Node(node), Step::Open]);
        };
        let mut steps: Vec<Step> = Vec::new();
        self.roots.iter().rev().for_each(|root| push_thread(*root, &mut steps));
        while let Some(step) = steps.pop() {
            match step {
                Step::Open => out.push(b'('),
                Step::Close => out.push(b')'),
                Step::Node(index) => {
                    let node = &self.nodes[index];
                    if let Some(message) = node.message {
                        // Writing into memory does not fail.
                        let _ = write!(out, "{}", messages[message].number);
                        out.extend((!node.children.is_empty()).then_some(b' '));
                    }
                    match node.children.as_slice() {
                        [only] => steps.push(Step::Node(*only)),
                        children => {
                            children.iter().rev().for_each(|it| push_thread(*it, &mut steps));
                        }
                    }
                }
            }
        }
    }
}

/// Messages above one another, as far as that is looked.
const DEPTH_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    /// `number date subject <id> references`, `re:` before the subject of a reply.
    fn message(text: &str) -> Message {
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (number, sent_s, subject) = (word().parse(), word().parse(), word());
        let base = subject.strip_prefix("re:");
        let ids: Vec<MessageId> = words.flat_map(|id| message_ids(id.as_bytes())).collect();
        Message {
            number: number.expect("a number"),
            sent_s: sent_s.expect("a date"),
            subject: base.unwrap_or(subject).as_bytes().into(),
            is_reply: base.is_some(),
            id: ids.first().copied(),
            references: ids.get(1..).unwrap_or_default().to_vec(),
        }
    }

    fn check(messages: &[&str], by_subject: &str, by_references: &str) {
        let messages: Vec<Message> = messages.iter().map(|text| message(text)).collect();
        let written = |thread: fn(&[Message], &mut Vec<u8>)| {
            let mut out = Vec::new();
            thread(&messages, &mut out);
            String::from_utf8(out).expect("ASCII")
        };
        assert_eq!(written(ordered_subject), by_subject, "{messages:?}");
        assert_eq!(written(references), by_references, "{messages:?}");
    }

    #[test]
    fn replies_stand_below_what_they_answer() {
        check(&[], "", "");
        check(&["1 5 a <1@x>", "2 6 b <2@x>"], "(1)(2)", "(1)(2)");
        check(
            &["1 5 a <1@x>", "2 6 re:a <2@x> <1@x>", "3 7 re:a <3@x> <1@x> <2@x>"],
            "(1 (2)(3))",
            "(1 2 3)",
        );
        // By the dates, not by the numbers.
        check(
            &["1 9 re:a <3@x> <1@x>", "2 8 re:a <2@x> <1@x>", "3 7 a <1@x>", "4 1 z <4@x>"],
            "(4)(3 (2)(1))",
            "(4)(3 (2)(1))",
        );
        // RFC 5256 §4.
        check(
            &[
                "3 1 a <3@x>",
                "6 2 re:a <6@x> <3@x>",
                "4 3 re:a <4@x> <6@x>",
                "23 4 re:a <23@x> <4@x>",
                "44 5 re:a <44@x> <6@x>",
                "7 6 re:a <7@x> <44@x>",
                "96 7 re:a <96@x> <7@x>",
            ],
            "(3 (6)(4)(23)(44)(7)(96))",
            "(3 6 (4 23)(44 7 96))",
        );
    }

    #[test]
    fn messages_that_are_not_there_hold_others_together() {
        check(&["1 1 a <1@x> <0@x>", "2 2 b <2@x> <0@x>"], "(1)(2)", "((1)(2))");
        check(&["1 1 a <1@x> <9@x> <0@x>"], "(1)", "(1)");
        check(
            &["1 1 a <1@x>", "2 2 b <2@x> <1@x> <0@x>", "3 3 c <3@x> <1@x> <0@x>"],
            "(1)(2)(3)",
            "(1 (2)(3))",
        );
    }

    #[test]
    fn threads_of_one_subject_are_joined() {
        check(&["1 1 a <1@x>", "2 2 a <2@x>"], "(1 2)", "((1)(2))");
        check(&["1 1 re:a <1@x>", "2 2 a <2@x>"], "(1 2)", "(2 1)");
        check(&["1 1 re:a", "2 2 re:a", "3 3 re:a"], "(1 (2)(3))", "((1)(2)(3))");
        check(
            &["1 1 a <1@x> <0@x>", "2 2 a <2@x> <0@x>", "3 3 a", "4 4 re:a"],
            "(1 (2)(3)(4))",
            "((1)(2)(3)(4))",
        );
    }

    #[test]
    fn loops_and_doubles_do_no_harm() {
        check(&["1 1 a <1@x> <2@x>", "2 2 b <2@x> <1@x>"], "(1)(2)", "(2 1)");
        check(&["1 1 a <1@x> <1@x>", "2 2 b <1@x> <1@x>"], "(1)(2)", "(1 2)");
        let long: Vec<String> =
            (1..2000).map(|at| format!("{at} {at} {at} <{at}@x> <{}@x>", at - 1)).collect();
        let messages: Vec<Message> = long.iter().map(|text| message(text)).collect();
        let mut out = Vec::new();
        references(&messages, &mut out);
        let text = String::from_utf8(out).expect("ASCII");
        assert!(text.starts_with("(1 2 3 4 ") && text.matches('(').count() > 2);
        let numbers = text.split(['(', ')', ' ']).filter(|number| !number.is_empty()).count();
        assert_eq!(numbers, 1999);
    }

    #[test]
    fn message_ids_are_read_forgivingly() {
        let count = |body: &str| message_ids(body.as_bytes()).len();
        assert_eq!(count("<a@b> (c) <d@e>\r\n <f@g"), 2);
        assert_eq!(count("no <id> <>"), 0);
        assert_eq!(message_ids(b"<\"a\"@b>"), message_ids(b"x <y <a@\r\n b>"));
        assert_eq!(count(&"<a@b>".repeat(1000)), IMAP_REFERENCES_MAX);
    }
}
