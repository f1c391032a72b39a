//! What goes over the control socket: one line of JSON asks, lines of JSON answer.
//!
//! The answer ends with `End` or `Error`; a stream that ends before is cut off.

use serde::{Deserialize, Serialize};

use crate::shard::ask::{QueueStats, QueuedMessage};

/// The one line of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// At most `count_max` messages behind `after`, by shard, then by age.
    QueueList {
        after: Option<String>,
        count_max: usize,
    },
    QueueShow {
        id: String,
    },
    QueueStats,
    /// Carries out an order on what all conditions take; at least one, or `all`.
    QueueSteer {
        order: SteerOrder,
        id: Option<String>,
        domain: Option<String>,
        all: bool,
        dry_run: bool,
    },
    Reload,
}

/// What an operator does to queued messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SteerOrder {
    Retry,
    Hold,
    Release,
    Bounce,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    Message(QueuedMessage),
    Stats {
        shard: usize,
        stats: QueueStats,
    },
    /// Tasks that an order was for, and those it was carried out on.
    Steered {
        shard: usize,
        matched: usize,
        done: usize,
    },
    /// Words for the operator.
    Note(String),
    /// The answer is not complete, or was refused; the last line.
    Error(String),
    /// The answer is complete; the last line.
    End,
}

impl Request {
    /// Understands one line, without its line feed. The error is for the client.
    pub fn parse(line: &[u8]) -> Result<Request, String> {
        serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))
    }
}

impl Line {
    /// Appends the line with its line feed.
    pub fn write(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("strings and numbers have a JSON form");
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_whole_or_refused() {
        let request = Request::QueueList { after: None, count_max: 3 };
        let line = serde_json::to_vec(&request).expect("JSON");
        assert_eq!(Request::parse(&line), Ok(request));
        assert_eq!(Request::parse(b"{\"ask\":\"queue-stats\"}"), Ok(Request::QueueStats));
        for line in ["", "{}", "queue-stats", "{\"ask\":\"x\"}", "{\"ask\":\"queue-show\"}"] {
            assert!(Request::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn a_line_feed_in_text_does_not_end_a_line() {
        let mut out = Vec::new();
        Line::Note("a\nb".into()).write(&mut out);
        assert_eq!(out, b"{\"note\":\"a\\nb\"}\n");
    }
}
