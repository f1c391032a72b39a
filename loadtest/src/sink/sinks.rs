//! The sinks of this process: one executor a core, and every sink on each of them.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringpost::proto::smtp::data::BareNewline;
use ringpost::proto::smtp::server::{Dialect, ServerConfig};
use ringpost::runtime::net::{BoundListener, Listener, TcpStream};
use ringpost::runtime::timer::{self, Deadline};
use ringpost::runtime::{executor, task};

use super::Rules;
use super::mode::{Dead, Mode};
use super::session::{self, Shard};
use super::tally::{Counters, Tally, Totals};
use crate::failure::{self, Failure};
use crate::ids::IdWriter;

/// One sink: where it is and how it behaves.
#[derive(Clone)]
pub struct Sink {
    pub address: SocketAddr,
    pub dialect: Dialect,
    pub rules: Arc<Rules>,
}

/// Sinks that run until they are stopped.
pub struct Sinks {
    sinks: Vec<Sink>,
    /// By sink, then by executor.
    counters: Vec<Arc<[Counters]>>,
    ended: Arc<AtomicBool>,
    executors: Vec<JoinHandle<std::io::Result<()>>>,
    tallied: Receiver<Result<Tally, Failure>>,
}

impl Sinks {
    /// Listens wherever the mode of a sink says so. Ids go to `record`, made before.
    pub fn start(
        sinks: Vec<Sink>,
        cores: &[usize],
        record: Option<&Path>,
    ) -> Result<Self, Failure> {
        let counters: Vec<Arc<[Counters]>> =
            sinks.iter().map(|_| cores.iter().map(|_| Counters::default()).collect()).collect();
        let ended = Arc::new(AtomicBool::new(false));
        let (tallies, tallied) = channel();
        let mut executors = Vec::new();
        for (index, core) in cores.iter().enumerate() {
            let mut places = Vec::new();
            for (sink, counters) in sinks.iter().zip(&counters) {
                let listener = match sink.rules.mode.mode() {
                    Mode::Dead(Dead::Closed) => None,
                    _ => Some(bind(sink.address)?),
                };
                let (sink, counters) = (sink.clone(), counters.clone());
                places.push(Place { sink, listener, counters });
            }
            let start = ShardStart {
                index,
                places,
                record: record.map(Path::to_owned),
                ended: ended.clone(),
                tallies: tallies.clone(),
            };
            let executor = executor::spawn(&format!("sink-{index}"), Some(*core), || start.run());
            executors.push(executor.map_err(|error| Failure::system(error.to_string()))?);
        }
        Ok(Self { sinks, counters, ended, executors, tallied })
    }

    pub fn rules(&self, sink_index: usize) -> &Rules {
        &self.sinks[sink_index].rules
    }

    /// Wall clock of the last message at any sink, microseconds since 1970; 0 without one.
    pub fn last_arrival_us(&self) -> u64 {
        let all = self.counters.iter().flat_map(|counters| counters.iter());
        all.map(Counters::last_us).max().unwrap_or(0)
    }

    /// Of all sinks together.
    pub fn all_totals(&self) -> Totals {
        Totals::of(self.counters.iter().flat_map(|counters| counters.iter()))
    }

    /// Ends all of them; what is open is not waited for.
    pub fn stop(self) -> Result<Tally, Failure> {
        self.ended.store(true, Ordering::Relaxed);
        failure::join_all(self.executors)?;
        let mut tally = Tally::default();
        for shard_tally in self.tallied.try_iter() {
            tally.add(&shard_tally?);
        }
        Ok(tally)
    }
}

fn bind(address: SocketAddr) -> Result<BoundListener, Failure> {
    BoundListener::bind(address).map_err(|error| {
        Failure::unavailable(format!(
            "cannot listen on {address}: {error}; choose another address with --listen"
        ))
    })
}

/// A sink on one executor.
struct Place {
    sink: Sink,
    /// `None` while the sink is closed.
    listener: Option<BoundListener>,
    counters: Arc<[Counters]>,
}

struct ShardStart {
    index: usize,
    places: Vec<Place>,
    record: Option<PathBuf>,
    ended: Arc<AtomicBool>,
    tallies: Sender<Result<Tally, Failure>>,
}

impl ShardStart {
    /// One shard of all sinks, until the run is over.
    async fn run(self) {
        let tallies = self.tallies.clone();
        let result = self.receive().await;
        // The receiver is gone only when the program is ending already.
        let _ = tallies.send(result);
    }

    async fn receive(self) -> Result<Tally, Failure> {
        let system = |error: std::io::Error| Failure::system(error.to_string());
        let mut shards = Vec::new();
        for place in self.places {
            let shard = Rc::new(Shard {
                rules: place.sink.rules,
                config: Rc::new(server_config(place.sink.dialect)),
                counters: place.counters,
                index: self.index,
                tally: RefCell::default(),
                received: RefCell::new(IdWriter::open(self.record.as_deref()).map_err(system)?),
            });
            task::spawn(listen(shard.clone(), place.sink.address, place.listener));
            shards.push(shard);
        }
        while !self.ended.load(Ordering::Relaxed) {
            let before = Instant::now();
            timer::sleep(TICK).await;
            let stall = before.elapsed().saturating_sub(TICK * 2);
            for shard in &shards {
                shard.received.borrow_mut().flush().map_err(system)?;
                if let Some(limited) = &shard.rules.limited {
                    limited.on_stall(stall);
                }
            }
        }
        let mut tally = Tally::default();
        for shard in &shards {
            shard.received.borrow_mut().flush().map_err(system)?;
            tally.add(&shard.tally.borrow());
        }
        Ok(tally)
    }
}

/// Serves whoever comes while the sink is not closed, as long as the executor runs.
async fn listen(shard: Rc<Shard>, address: SocketAddr, mut bound: Option<BoundListener>) {
    loop {
        while is_closed(&shard) {
            bound = None;
            timer::sleep(TICK).await;
        }
        let listener = match bound.take().map_or_else(|| BoundListener::bind(address), Ok) {
            Ok(listener) => listener.attach(),
            Err(error) => {
                eprintln!("sink: cannot listen on {address}: {error}");
                timer::sleep(BIND_PAUSE).await;
                continue;
            }
        };
        while let Some((stream, peer)) = accept(&listener, &shard).await {
            task::spawn(session::serve(shard.clone(), stream, peer));
        }
    }
}

/// The next client, or `None` when the sink is to be closed. A client whose accept is under way
/// at that moment is lost with it, as with a host that goes down.
async fn accept(listener: &Listener, shard: &Shard) -> Option<(TcpStream, SocketAddr)> {
    let mut accepted = pin!(listener.accept());
    let look = Deadline::default();
    poll_fn(|context| {
        if is_closed(shard) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(client) = accepted.as_mut().poll(context) {
            return Poll::Ready(Some(client));
        }
        look.set(Some(LOOK_PERIOD));
        look.arm(context.waker());
        Poll::Pending
    })
    .await
}

fn is_closed(shard: &Shard) -> bool {
    shard.rules.mode.mode() == Mode::Dead(Dead::Closed)
}

/// A server that takes whatever it is given.
fn server_config(dialect: Dialect) -> ServerConfig {
    ServerConfig {
        hostname: "sink.test".to_owned(),
        dialect,
        message_bytes_max: 1 << 30,
        recipients_max: ringpost::limits::RECIPIENTS_MAX,
        errors_max: u32::MAX,
        received_fields_max: u32::MAX,
        bare_newline: BareNewline::Refuse,
        messages_max: u32::MAX,
        hold_max: None,
    }
}

const TICK: Duration = Duration::from_millis(10);
/// A closed sink is noticed within this.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
const BIND_PAUSE: Duration = Duration::from_millis(500);
