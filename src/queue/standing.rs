//! Standing orders of an operator: mail that waits until it is resumed, what comes later included.
//! `Pure.`

use std::fmt;

use serde::{Deserialize, Serialize};

use super::selection::{Conditions, FlowPattern};
use crate::limits::STANDING_ORDERS_MAX;
use crate::mail::Stream;

/// One standing order, as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingOrder {
    /// Names it; never used twice in a data directory.
    pub number: u32,
    /// Which mail waits; without a condition all of it.
    pub mail: Conditions,
    /// Unix milliseconds at which it was given.
    pub since_ms: u64,
    /// Unix milliseconds at which it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// The user who gave it.
    pub by: String,
    /// Why, in the operator's words; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Every standing order there is. A value of this type has been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandingOrders {
    next_number: u32,
    entries: Vec<(StandingOrder, FlowPattern)>,
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    next_number: u32,
    suspensions: Vec<StandingOrder>,
}

/// Why a standing order is not taken. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandError {
    /// A condition makes no sense.
    Conditions(String),
    Full,
    NoteTooLong,
}

impl fmt::Display for StandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StandError::Conditions(text) => f.write_str(text),
            StandError::Full => {
                write!(f, "{STANDING_ORDERS_MAX} suspensions stand already; resume some of them")
            }
            StandError::NoteTooLong => {
                write!(f, "note: expected at most {NOTE_BYTES_MAX} octets")
            }
        }
    }
}

impl StandingOrders {
    /// Reads what `write` wrote. The error says what is wrong, for the operator.
    pub fn parse(text: &[u8]) -> Result<StandingOrders, String> {
        let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if document.version != VERSION {
            return Err(format!("version {}; expected {VERSION}", document.version));
        }
        let mut suspensions =
            StandingOrders { next_number: document.next_number, entries: Vec::new() };
        for suspension in document.suspensions {
            let number = suspension.number;
            let last = suspensions.entries.last().map_or(0, |(last, _)| last.number);
            if number <= last || number >= document.next_number {
                return Err(format!("suspension {number} is out of order"));
            }
            suspensions.push(suspension).map_err(|error| error.to_string())?;
        }
        Ok(suspensions)
    }

    /// The content of the file that keeps them.
    pub fn write(&self) -> Vec<u8> {
        let suspensions = self.iter().cloned().collect();
        let document = Document { version: VERSION, next_number: self.next_number, suspensions };
        let mut text =
            serde_json::to_vec_pretty(&document).expect("strings and numbers have a JSON form");
        text.push(b'\n');
        text
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &StandingOrder> {
        self.entries.iter().map(|(suspension, _)| suspension)
    }

    /// Adds a standing order and gives it its number, which is returned. It replaces one for the
    /// same mail.
    pub fn add(&mut self, mut suspension: StandingOrder) -> Result<u32, StandError> {
        let number = self.next_number.max(1);
        suspension.number = number;
        let replaced = self.entries.iter().position(|(it, _)| it.mail == suspension.mail);
        let replaced = replaced.map(|position| self.entries.remove(position));
        if let Err(error) = self.push(suspension) {
            self.entries.extend(replaced);
            self.entries.sort_by_key(|(it, _)| it.number);
            return Err(error);
        }
        self.next_number = number + 1;
        Ok(number)
    }

    fn push(&mut self, suspension: StandingOrder) -> Result<(), StandError> {
        if self.entries.len() >= STANDING_ORDERS_MAX {
            return Err(StandError::Full);
        }
        if suspension.note.len() > NOTE_BYTES_MAX {
            return Err(StandError::NoteTooLong);
        }
        let flows = suspension.mail.parse().map_err(StandError::Conditions)?;
        self.entries.push((suspension, flows));
        Ok(())
    }

    /// Takes out, and returns, those that `lift` says.
    pub fn remove(&mut self, mut lift: impl FnMut(&StandingOrder) -> bool) -> Vec<StandingOrder> {
        let lifted = self.entries.extract_if(.., |(suspension, _)| lift(suspension));
        lifted.map(|(suspension, _)| suspension).collect()
    }

    /// The first standing order at `now_ms` for mail of `stream` to `domain` by way of `site`, the
    /// next hop in words.
    pub fn find(
        &self,
        domain: &str,
        stream: &Stream,
        site: Option<&str>,
        now_ms: u64,
    ) -> Option<&StandingOrder> {
        self.all(domain, stream, site, now_ms).next()
    }

    /// All of them.
    pub fn all<'a, 'b>(
        &'a self,
        domain: &'b str,
        stream: &'b Stream,
        site: Option<&'b str>,
        now_ms: u64,
    ) -> impl Iterator<Item = &'a StandingOrder> + use<'a, 'b> {
        let standing = self.entries.iter().filter(move |(it, _)| it.stands(now_ms));
        standing.filter(move |(_, flows)| flows.takes(domain, stream, || site)).map(|(it, _)| it)
    }

    /// Since when, and until when at the latest, mail waits by each order that is for it.
    pub fn times(
        &self,
        domain: &str,
        stream: &Stream,
        site: Option<&str>,
    ) -> impl Iterator<Item = (u64, u64)> {
        let of_flow =
            self.entries.iter().filter(move |(_, flows)| flows.takes(domain, stream, || site));
        of_flow.map(|(order, _)| (order.since_ms, order.until_ms.unwrap_or(u64::MAX)))
    }

    /// When the next of them ends by itself after `now_ms`.
    pub fn next_end_ms(&self, now_ms: u64) -> Option<u64> {
        self.iter().filter_map(|it| it.until_ms).filter(|until_ms| *until_ms > now_ms).min()
    }
}

impl StandingOrder {
    /// Whether it still stands at `now_ms`.
    pub fn stands(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until_ms| now_ms < until_ms)
    }
}

const VERSION: u32 = 1;
const NOTE_BYTES_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn suspension(tenant: Option<&str>, until_ms: Option<u64>) -> StandingOrder {
        StandingOrder {
            number: 0,
            mail: Conditions { tenant: tenant.map(Into::into), ..Conditions::default() },
            since_ms: 1_000,
            until_ms,
            by: "root".into(),
            note: "über\nall".into(),
        }
    }

    fn example() -> StandingOrders {
        let mut suspensions = StandingOrders::default();
        assert_eq!(suspensions.add(suspension(Some("acme"), Some(5_000))), Ok(1));
        assert_eq!(suspensions.add(suspension(Some("b*"), None)), Ok(2));
        assert_eq!(suspensions.add(suspension(None, Some(2_000))), Ok(3));
        suspensions
    }

    #[test]
    fn what_is_written_reads_back_and_no_part_of_it_passes_for_whole() {
        let mut suspensions = example();
        assert_eq!(suspensions.remove(|it| it.number == 3).len(), 1);
        let text = suspensions.write();
        assert_eq!(StandingOrders::parse(&text), Ok(suspensions.clone()));
        for end in 0..text.len() - 1 {
            assert!(StandingOrders::parse(&text[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(suspensions.add(suspension(None, None)), Ok(4), "numbers are used once");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let text = String::from_utf8(example().write()).expect("UTF-8");
        for (from, to) in [
            ("\"version\": 1", "\"version\": 2"),
            ("\"number\": 2", "\"number\": 1"),
            ("\"next_number\": 4", "\"next_number\": 3"),
            ("\"b*\"", "\"*b*\""),
            ("\"until_ms\": 5000", "\"until\": 5000"),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(StandingOrders::parse(text.replace(from, to).as_bytes()).is_err(), "{to}");
        }
        let mut suspensions = StandingOrders::default();
        for number in 0..STANDING_ORDERS_MAX {
            suspensions.add(suspension(Some(&number.to_string()), None)).expect("room");
        }
        assert_eq!(suspensions.add(suspension(None, None)), Err(StandError::Full));
        let next = STANDING_ORDERS_MAX as u32 + 1;
        assert_eq!(suspensions.add(suspension(Some("7"), Some(1))), Ok(next), "replaced");
        assert_eq!(suspensions.iter().count(), STANDING_ORDERS_MAX);
    }

    #[test]
    fn a_suspension_stands_until_its_end_for_what_it_takes() {
        let suspensions = example();
        let find = |tenant: &str, now_ms| {
            let stream = Stream { tenant: tenant.into(), ..Stream::default() };
            suspensions.find("a.test", &stream, None, now_ms).map(|it| it.number)
        };
        assert_eq!((find("acme", 1_500), find("c", 1_500)), (Some(1), Some(3)));
        assert_eq!((find("acme", 4_999), find("c", 2_000)), (Some(1), None));
        assert_eq!((find("acme", 5_000), find("Bob", 5_000)), (None, Some(2)));
        assert_eq!(suspensions.next_end_ms(1_000), Some(2_000));
        assert_eq!(suspensions.next_end_ms(2_000), Some(5_000));
        assert_eq!(suspensions.next_end_ms(5_000), None);
    }
}
