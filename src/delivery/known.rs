//! Mailboxes that deliveries have told of: what their hosts answered last. `Pure.`

use xxhash_rust::xxh3::xxh3_64;

use crate::limits::KNOWN_MAILBOXES_MAX;

/// How the last delivery to a mailbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The host of its domain took a message for it.
    Accepted,
    /// There is no such mailbox.
    Refused,
}

/// One entry a place; a mailbox that falls on a place takes it. 8 bytes each.
#[derive(Default)]
pub(super) struct KnownMailboxes {
    /// Empty until something is known.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// The other half of the hash.
    tag: u32,
    /// Minutes since 1970, and 1 in the lowest bit where it was accepted; 0 for none.
    minute_and_answer: u32,
}

impl KnownMailboxes {
    /// A delivery to `address` ended at `now_s`, in Unix seconds.
    pub fn note(&mut self, address: &str, known: Known, now_s: u64) {
        if self.entries.is_empty() {
            self.entries = vec![Entry::default(); KNOWN_MAILBOXES_MAX];
        }
        let (place, tag) = place_of(address);
        let minute = (now_s / 60) as u32;
        let minute_and_answer = minute << 1 | u32::from(known == Known::Accepted);
        self.entries[place] = Entry { tag, minute_and_answer };
    }

    /// What is known, and how many seconds ago it was true.
    pub fn find(&self, address: &str, now_s: u64) -> Option<(Known, u64)> {
        let (place, tag) = place_of(address);
        let entry = self.entries.get(place).filter(|it| it.tag == tag)?;
        if entry.minute_and_answer == 0 {
            return None;
        }
        let seconds_ago = now_s.saturating_sub(u64::from(entry.minute_and_answer >> 1) * 60);
        let is_accepted = entry.minute_and_answer & 1 == 1;
        let known = if is_accepted { Known::Accepted } else { Known::Refused };
        (seconds_ago <= AGE_S_MAX).then_some((known, seconds_ago))
    }
}

/// Domains are the same in any case; local parts as a rule are, and where they are not a host that
/// tells them apart is asked anew.
fn place_of(address: &str) -> (usize, u32) {
    let hash = xxh3_64(address.to_ascii_lowercase().as_bytes());
    ((hash % KNOWN_MAILBOXES_MAX as u64) as usize, (hash >> 32) as u32)
}

/// What is older says too little.
const AGE_S_MAX: u64 = 7 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_counts_for_a_week() {
        let mut known = KnownMailboxes::default();
        let now_s = 1_800_000_000;
        assert_eq!(known.find("a@b.test", now_s), None);
        known.note("a@b.test", Known::Refused, now_s);
        known.note("A@B.test", Known::Accepted, now_s);
        known.note("c@b.test", Known::Refused, now_s);
        assert_eq!(known.find("a@b.test", now_s + 60), Some((Known::Accepted, 60)));
        assert_eq!(known.find("c@b.test", now_s), Some((Known::Refused, 0)));
        assert_eq!(known.find("d@b.test", now_s), None);
        assert_eq!(known.find("a@b.test", now_s + AGE_S_MAX + 61), None);
    }
}
