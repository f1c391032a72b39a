//! One question from the first query to its end: which upstream next, over what, and when to stop.
//! Pure: the caller sends, waits and measures.

use crate::limits::{DNS_ALIASES_MAX, DNS_TRIES_MAX};
use crate::proto::dns::{Answer, Answered, Kind, LookupError, Name, Query, Reading, Transport};

/// What to do for the question next.
pub enum Step {
    /// Send `query`, then call `handle` with what comes until it is settled, or
    /// `handle_no_answer`.
    Ask {
        upstream: usize,
        transport: Transport,
    },
    Done(Outcome),
}

/// How a question ended, and for how many seconds that holds; 0 for this asker alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub result: Result<Answer, LookupError>,
    pub ttl: u32,
}

/// What a message meant, for the book on upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Not for us: go on listening.
    Nothing,
    /// An answer or a failure that is not the upstream's own.
    Answer,
    EdnsRefused,
    /// This upstream is of no use for the question.
    Unfit,
}

/// A question under way.
pub struct Lookup {
    /// What is asked now: the name, or what it is an alias for.
    name: Name,
    kind: Kind,
    /// Upstreams that may still help, best first.
    upstreams: Vec<usize>,
    /// Position of the next one.
    position: usize,
    rounds_left: u32,
    try_count: u32,
    /// How the upstream before is asked once more.
    again: Option<Ask>,
    asking: Option<(Ask, Query)>,
    foreign_count: u32,
    alias_count: usize,
    /// Of the aliases followed so far.
    ttl: u32,
    is_alias: bool,
    authenticated: bool,
    error: LookupError,
    done: Option<Outcome>,
}

#[derive(Clone, Copy)]
struct Ask {
    upstream: usize,
    transport: Transport,
    with_edns: bool,
}

impl Lookup {
    /// `upstreams` in the order to ask; each at most `attempts` times without an answer.
    pub fn new(name: Name, kind: Kind, upstreams: Vec<usize>, attempts: u32) -> Self {
        Self {
            name,
            kind,
            upstreams,
            position: 0,
            rounds_left: attempts,
            try_count: 0,
            again: None,
            asking: None,
            foreign_count: 0,
            alias_count: 0,
            ttl: u32::MAX,
            is_alias: false,
            authenticated: true,
            error: LookupError::NoAnswer,
            done: None,
        }
    }

    /// `takes_edns` says it of an upstream; `randomness` is fresh from a generator nobody can
    /// predict.
    pub fn next(&mut self, takes_edns: impl Fn(usize) -> bool, randomness: &[u8; 34]) -> Step {
        if let Some(outcome) = self.done.take() {
            return Step::Done(outcome);
        }
        let again = self.again.take();
        let Some(ask) = again.or_else(|| self.next_upstream(takes_edns)) else {
            return Step::Done(Outcome { result: Err(self.error), ttl: 0 });
        };
        if self.try_count == DNS_TRIES_MAX {
            return Step::Done(Outcome { result: Err(self.error), ttl: 0 });
        }
        self.try_count += 1;
        self.foreign_count = 0;
        let query = Query::new(&self.name, self.kind, ask.with_edns, randomness);
        self.asking = Some((ask, query));
        Step::Ask { upstream: ask.upstream, transport: ask.transport }
    }

    /// The message to send after `Step::Ask`.
    pub fn query(&self) -> &[u8] {
        self.asking.as_ref().map_or(&[], |(_, query)| query.bytes())
    }

    /// Takes a message that came from the upstream. `trusted` says that its AD bit counts.
    pub fn handle(&mut self, bytes: &[u8], trusted: bool) -> Heard {
        let Some((ask, query)) = &self.asking else { return Heard::Nothing };
        let ask = *ask;
        let reading = query.read(bytes, ask.transport);
        if reading == Reading::Foreign && ask.transport == Transport::Udp {
            self.foreign_count += 1;
            if self.foreign_count < FOREIGN_MAX {
                return Heard::Nothing;
            }
        }
        self.asking = None;
        match reading {
            Reading::Answered(response) => {
                self.authenticated &= trusted && response.authenticated;
                self.ttl = self.ttl.min(response.ttl);
                self.alias_count += response.alias_count;
                self.on_answered(response.answered);
                Heard::Answer
            }
            // Somebody guesses: a connection cannot be guessed into.
            Reading::Foreign if ask.transport == Transport::Udp => {
                self.again = Some(Ask { transport: Transport::Tcp, ..ask });
                Heard::Answer
            }
            Reading::Truncated | Reading::CaseLost => {
                self.again = Some(Ask { transport: Transport::Tcp, ..ask });
                Heard::Answer
            }
            Reading::EdnsRefused => {
                self.again = Some(Ask { with_edns: false, ..ask });
                Heard::EdnsRefused
            }
            Reading::Failed(SERVFAIL) => {
                self.give_up(ask.upstream, LookupError::ServerFailure);
                Heard::Answer
            }
            Reading::Failed(_) | Reading::Lame => {
                self.give_up(ask.upstream, LookupError::Refused);
                Heard::Unfit
            }
            Reading::Malformed | Reading::Foreign => {
                self.give_up(ask.upstream, LookupError::Malformed);
                Heard::Unfit
            }
        }
    }

    /// Nothing came in time, or the message could not be sent.
    pub fn handle_no_answer(&mut self) {
        self.asking = None;
    }

    fn on_answered(&mut self, answered: Answered) {
        let result = match answered {
            Answered::Records { records, canonical } => {
                let canonical = canonical.or_else(|| self.is_alias.then(|| self.name.clone()));
                Ok(Answer { records, canonical, authenticated: self.authenticated })
            }
            Answered::NoData => Err(LookupError::NoData),
            Answered::NoDomain => Err(LookupError::NoDomain),
            Answered::Alias(_) if self.alias_count > DNS_ALIASES_MAX => Err(LookupError::Malformed),
            Answered::Alias(target) => {
                self.name = target;
                self.is_alias = true;
                // The one that answered goes on.
                self.position = self.position.saturating_sub(1);
                return;
            }
        };
        self.done = Some(Outcome { result, ttl: self.ttl });
    }

    fn next_upstream(&mut self, takes_edns: impl Fn(usize) -> bool) -> Option<Ask> {
        if self.position >= self.upstreams.len() {
            self.position = 0;
            self.rounds_left = self.rounds_left.saturating_sub(1);
        }
        if self.rounds_left == 0 {
            return None;
        }
        let upstream = *self.upstreams.get(self.position)?;
        self.position += 1;
        Some(Ask { upstream, transport: Transport::Udp, with_edns: takes_edns(upstream) })
    }

    /// Asks `upstream` no more; `error` is what remains if nobody knows better.
    fn give_up(&mut self, upstream: usize, error: LookupError) {
        if let Some(position) = self.upstreams.iter().position(|it| *it == upstream) {
            self.upstreams.remove(position);
            if position < self.position {
                self.position -= 1;
            }
        }
        if self.error != LookupError::ServerFailure {
            self.error = error;
        }
    }
}

const SERVFAIL: u16 = 2;
/// Foreign datagrams for one query before it is asked over TCP.
const FOREIGN_MAX: u32 = 16;

#[cfg(test)]
mod tests;
