//! The resolver of a shard: questions to recursive resolvers, and the answers while they hold.
//!
//! **Owns** the cache, the book on upstreams, and the questions on their way.
//! **Uses** `proto::dns`, `runtime`, `config`, `metrics`. Knows nothing of mail.
//! **Holds** that one question is on its way once however many ask, that an answer is believed
//! only if it repeats id, port and the question letter for letter, and that memory has a bound.
//! **Start reading** at `Resolver::lookup`, then `lookup::Lookup`.

mod cache;
mod exchange;
mod lookup;
mod resolv_conf;
mod settings;
mod upstreams;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::limits::DNS_QUESTIONS_MAX;
use crate::metrics::Metrics;
use crate::proto::dns::{Kind, LookupError, Name, Transport};
use crate::runtime::sync::{Sender, oneshot};
use crate::runtime::{clock, task};

pub use cache::Found;
pub use resolv_conf::ResolvConf;
pub use settings::Settings;

use cache::{Cache, Question};
use lookup::{Heard, Lookup, Outcome, Step};
use upstreams::Upstreams;

/// The resolver of one executor. Clones are the same resolver.
#[derive(Clone)]
pub struct Resolver(Rc<Shared>);

struct Shared {
    settings: Settings,
    metrics: Rc<Metrics>,
    cache: RefCell<Cache>,
    upstreams: RefCell<Upstreams>,
    /// Who waits for the questions on their way.
    flights: RefCell<HashMap<Question, Vec<Sender<Found>>>>,
}

impl Resolver {
    pub fn new(settings: Settings, metrics: Rc<Metrics>) -> Self {
        Self(Rc::new(Shared {
            cache: RefCell::new(Cache::new(settings.bounds)),
            upstreams: RefCell::new(Upstreams::new(&settings.upstreams)),
            flights: RefCell::default(),
            settings,
            metrics,
        }))
    }

    /// The records of this name and type, from the cache or from an upstream.
    ///
    /// Suspends while an upstream is asked, at most for `timeout` times `attempts` for each of
    /// them and each alias. Whoever asks the same meanwhile waits for the same answer; dropping
    /// this future leaves the question on its way, for the others and for the cache.
    pub async fn lookup(&self, name: &Name, kind: Kind) -> Found {
        let numbers = &self.0.metrics.dns;
        numbers.lookups.add(1);
        let question = Question { name: name.clone(), kind };
        if let Some(found) = self.0.cache.borrow_mut().find(&question, clock::coarse_ms()) {
            numbers.cache_hits.add(1);
            numbers.stale_answers.add(u64::from(found.stale));
            return found;
        }
        let (sender, receiver) = oneshot();
        {
            let mut flights = self.0.flights.borrow_mut();
            if let Some(waiters) = flights.get_mut(&question) {
                waiters.push(sender);
            } else if flights.len() >= DNS_QUESTIONS_MAX {
                return failure(LookupError::Busy);
            } else {
                flights.insert(question.clone(), vec![sender]);
                let flight = Flight { shared: self.0.clone(), question };
                task::spawn(flight.run());
            }
        }
        // Without an answer the task has panicked, which is in the log.
        receiver.await.unwrap_or_else(|| failure(LookupError::ServerFailure))
    }
}

fn failure(error: LookupError) -> Found {
    Found { result: Err(error), ttl: std::time::Duration::ZERO, stale: false }
}

/// A question on its way. Its waiters leave the table with it, whatever happens.
struct Flight {
    shared: Rc<Shared>,
    question: Question,
}

impl Flight {
    async fn run(self) {
        let outcome = self.ask().await;
        let shared = &self.shared;
        let failed = outcome.result.as_ref().is_err_and(|error| !error.is_denial());
        shared.metrics.dns.failures.add(u64::from(failed));
        let found = shared.cache.borrow_mut().put(&self.question, outcome, clock::coarse_ms());
        {
            let cache = shared.cache.borrow();
            shared.metrics.dns.cache_entries.set(cache.entry_count() as u64);
            shared.metrics.dns.cache_bytes.set(cache.bytes() as u64);
        }
        let waiters = shared.flights.borrow_mut().remove(&self.question);
        for waiter in waiters.into_iter().flatten() {
            shared.metrics.dns.stale_answers.add(u64::from(found.stale));
            waiter.send(found.clone());
        }
    }

    async fn ask(&self) -> Outcome {
        let shared = &*self.shared;
        let order = shared.upstreams.borrow_mut().order(clock::coarse_ms());
        let Question { name, kind } = self.question.clone();
        let mut lookup = Lookup::new(name, kind, order, shared.settings.attempts);
        loop {
            let mut randomness = [0; 34];
            clock::fill_random(&mut randomness);
            let now_ms = clock::coarse_ms();
            let takes_edns = |index| shared.upstreams.borrow().takes_edns(index, now_ms);
            let (upstream, transport) = match lookup.next(takes_edns, &randomness) {
                Step::Ask { upstream, transport } => (upstream, transport),
                Step::Done(outcome) => return outcome,
            };
            self.exchange(&mut lookup, upstream, transport).await;
        }
    }

    /// One query and what comes of it.
    async fn exchange(&self, lookup: &mut Lookup, upstream: usize, transport: Transport) {
        let shared = &*self.shared;
        let numbers = &shared.metrics.dns;
        let address = shared.upstreams.borrow().address(upstream);
        let trusted = shared.settings.trust_ad && address.ip().is_loopback();
        let timeout = shared.settings.timeout;
        let started = clock::now();
        numbers.queries.add(1);
        let heard = match transport {
            Transport::Udp => {
                exchange::over_udp(address, timeout, lookup, |lookup, message| {
                    let heard = lookup.handle(message, trusted);
                    numbers.mismatches.add(u64::from(heard == Heard::Nothing));
                    heard
                })
                .await
            }
            Transport::Tcp => {
                numbers.tcp_queries.add(1);
                let answer = exchange::over_tcp(address, timeout, lookup.query()).await;
                answer.map(|message| lookup.handle(&message, trusted))
            }
        };
        let now_ms = clock::coarse_ms();
        let mut upstreams = shared.upstreams.borrow_mut();
        match heard {
            Ok(heard) => {
                let elapsed = started.elapsed();
                shared.metrics.dns_latency.record(elapsed);
                match heard {
                    Heard::Unfit => upstreams.on_failure(upstream, now_ms),
                    Heard::EdnsRefused => {
                        upstreams.on_edns_refused(upstream, now_ms);
                        upstreams.on_answer(upstream, elapsed);
                    }
                    Heard::Answer | Heard::Nothing => upstreams.on_answer(upstream, elapsed),
                }
            }
            Err(_) => {
                numbers.unanswered.add(1);
                upstreams.on_failure(upstream, now_ms);
                lookup.handle_no_answer();
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Present only where `run` did not come to its end.
        let waiters = self.shared.flights.borrow_mut().remove(&self.question);
        drop(waiters);
    }
}
