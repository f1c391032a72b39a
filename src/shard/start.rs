//! From a configuration to running shards.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ask::Ask;
use super::memo::Memo;
use super::run::{self, Neighbours, OpenFailure, Opened};
use crate::auth::{self, Authenticator, SaltKey};
use crate::config::{Config, ListenAddress};
use crate::delivery::lease::store::RecordStore;
use crate::delivery::sts::Policies;
use crate::delivery::tls_reports::ReportStore;
use crate::entrance::socket::{BoundSocket, SocketFile};
use crate::event::LogSink;
use crate::journal::{self, OpenError};
use crate::limits::{AUTH_THREADS_MAX, INBOX_MESSAGES_MAX, SHARDS_MAX};
use crate::mail::Accounts;
use crate::mailbox::{self, PartitionError};
use crate::queue::StandingOrders;
use crate::runtime::inbox::{InboxSender, inbox};
use crate::runtime::net::{BoundListener, DetachedTcpStream};
use crate::runtime::privilege::Identity;
use crate::runtime::{executor, task, thread};
use crate::web::Web;

/// Why the server did not start. Nothing was accepted.
#[derive(Debug)]
pub enum StartError {
    /// The address is taken or not ours.
    Bind {
        address: ListenAddress,
        error: io::Error,
    },
    /// A core that this process may not use was asked for.
    Core {
        core: usize,
        allowed: Vec<usize>,
    },
    /// A shard's journal could not be opened.
    Journal {
        shard: usize,
        error: OpenError,
    },
    /// A partition of mailboxes could not be opened.
    Partition {
        partition: u16,
        error: PartitionError,
    },
    /// A thread or its ring could not be made.
    Thread {
        name: String,
        error: io::Error,
    },
    /// The shard's thread ended before it was ready.
    Lost {
        shard: usize,
    },
    DataDir {
        path: PathBuf,
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind { address, error } => write!(
                f,
                "cannot listen on {address}: {error}; choose another [[listener]] address"
            ),
            StartError::Core { core, allowed } => {
                write!(f, "[shards] cores names core {core}, this process may use {allowed:?}")
            }
            StartError::Journal { shard, error } => write!(f, "shard {shard}: {error}"),
            StartError::Partition { partition, error } => {
                write!(f, "partition {partition} of mailboxes: {error}")
            }
            StartError::Thread { name, error } => write!(f, "cannot start {name}: {error}"),
            StartError::Lost { shard } => write!(f, "shard {shard} ended while it started"),
            StartError::DataDir { path, error } => {
                write!(f, "cannot use data_dir {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for StartError {}

/// Listening sockets for every shard; nothing runs yet.
pub struct Bound {
    config: Arc<Config>,
    cores: Vec<usize>,
    /// By shard, each with the position of its `[[listener]]`.
    listeners: Vec<Vec<(usize, BoundListener)>>,
    /// Of all shards, in the same way.
    sockets: Vec<(usize, BoundSocket)>,
}

/// Binds every listener: an address once for each shard, a socket of this machine once, as one of
/// `owner`'s. Call before privileges are dropped.
pub fn bind(config: Arc<Config>, owner: Option<&Identity>) -> Result<Bound, StartError> {
    let allowed = thread::allowed_cores()
        .map_err(|error| StartError::Thread { name: "a pinned thread".into(), error })?;
    let cores = match &config.shards.cores {
        Some(cores) => {
            if let Some(core) = cores.iter().find(|core| !allowed.contains(core)) {
                return Err(StartError::Core { core: *core, allowed });
            }
            cores.clone()
        }
        None => allowed,
    };
    let shard_count = config.shards.count.unwrap_or(cores.len()).clamp(1, SHARDS_MAX);
    let mut listeners: Vec<Vec<_>> = (0..shard_count).map(|_| Vec::new()).collect();
    let mut sockets = Vec::new();
    for (position, listener) in config.listeners.iter().enumerate() {
        let address = &listener.address;
        let failed = |error| StartError::Bind { address: address.clone(), error };
        match address {
            ListenAddress::Network(address) => {
                for of_shard in &mut listeners {
                    of_shard.push((position, BoundListener::bind(*address).map_err(failed)?));
                }
            }
            ListenAddress::Socket { path, mode } => {
                let bound = BoundSocket::bind(path, *mode, owner).map_err(failed)?;
                sockets.push((position, bound));
            }
        }
    }
    Ok(Bound { config, cores, listeners, sockets })
}

impl Bound {
    /// Files of sockets, to be removed at the end.
    pub fn socket_files(&self) -> Vec<SocketFile> {
        self.sockets.iter().map(|(_, socket)| socket.file()).collect()
    }

    pub fn shard_count(&self) -> usize {
        self.listeners.len()
    }

    /// The core of each shard.
    pub fn cores(&self) -> Vec<usize> {
        (0..self.shard_count()).map(|shard| self.cores[shard % self.cores.len()]).collect()
    }

    /// Opens every journal, then lets every shard accept; mail of `suspensions` waits. Returns once
    /// all do. Outcomes go to `log`.
    pub fn start(
        self,
        log: &LogSink,
        suspensions: &Arc<StandingOrders>,
    ) -> Result<Shards, StartError> {
        task::end_process_on_panic_in(&["journal", "queue", "mailbox"]);
        let data_dir = self.config.data_dir.clone();
        let control_core = self.config.shards.control_core;
        let made = std::fs::create_dir_all(&data_dir);
        // Shards of an earlier configuration: what is in their journals is owed all the same.
        let left_over = made.and_then(|()| journal::shards_from(self.shard_count(), &data_dir));
        let data_dir_error = |error| StartError::DataDir { path: data_dir.clone(), error };
        let left_over = left_over.map_err(data_dir_error)?;
        let partition_count = mailbox::count_partitions(&self.config, self.shard_count());
        let partition_count = partition_count.map_err(data_dir_error)?;
        let lease_records = RecordStore::start(&self.config.data_dir)
            .map_err(|error| StartError::Thread { name: "leases".into(), error })?;
        let policies = Policies::start(&self.config.data_dir, Web::default())
            .map_err(|error| StartError::Thread { name: "mta-sts".into(), error })?;
        let tls_reports = ReportStore::start(&self.config.data_dir)
            .map_err(|error| StartError::Thread { name: "tls-reports".into(), error })?;
        // Without accounts nobody asks for a salt, and nothing is made.
        let salt_key = match partition_count {
            0 => SaltKey::default(),
            _ => auth::salt_key(&self.config.data_dir).map_err(data_dir_error)?,
        };
        let hashing = (self.cores.len() / 2).clamp(1, AUTH_THREADS_MAX);
        let authenticator = Authenticator::new(hashing, salt_key, Some(log.clone()));
        let serving_count = self.shard_count();
        let cores = self.cores();
        let serving = self.listeners.into_iter().enumerate();
        let draining = left_over.into_iter().map(|number| (number, Vec::new()));
        let mut starting = Vec::new();
        for (number, listeners) in serving.chain(draining) {
            let (opened_sender, opened) = mpsc::channel();
            let (gate_sender, gate) = inbox(1);
            let (sender, memos) = inbox::<Memo>(INBOX_MESSAGES_MAX);
            let start = run::Start {
                config: self.config.clone(),
                number,
                serves: number < serving_count,
                listeners,
                inbox: memos,
                log: log.clone(),
                lease_records: lease_records.clone(),
                policies: policies.clone(),
                tls_reports: tls_reports.clone(),
                authenticator: authenticator.clone(),
                suspensions: suspensions.clone(),
                partitions: partitions_of(number, serving_count, partition_count),
                opened: opened_sender,
                gate,
            };
            let name = format!("shard-{number}");
            let core = cores[number % serving_count];
            let thread = executor::spawn(&name, Some(core), move || run::run(start))
                .map_err(|error| StartError::Thread { name, error })?;
            starting.push((Shard { number, sender, thread }, opened, gate_sender));
        }
        let mut shards =
            Shards { shards: Vec::new(), opened: Vec::new(), accounts: Arc::default() };
        let mut gates = Vec::new();
        for (shard, opened, gate) in starting {
            let number = shard.number;
            let opened = opened.recv().map_err(|_| StartError::Lost { shard: number })?;
            let opened = opened.map_err(|failure| match failure {
                OpenFailure::Queue(error) => StartError::Journal { shard: number, error },
                OpenFailure::Partition(partition, error) => {
                    StartError::Partition { partition, error }
                }
            })?;
            if opened.is_needed {
                shards.opened.push((number, opened));
                shards.shards.push(shard);
                gates.push(gate);
            }
        }
        // Reading a long journal takes as long as it takes: only what serves is watched.
        executor::start_watchdog(STALL_MAX)
            .map_err(|error| StartError::Thread { name: "watchdog".into(), error })?;
        let senders: Vec<_> = shards.shards.iter().map(|shard| shard.sender.clone()).collect();
        let found = shards.opened.iter().flat_map(|(_, opened)| &opened.partitions);
        let accounts = found.flat_map(|partition| partition.accounts.iter().cloned());
        shards.accounts = Arc::new(accounts.collect());
        for (place, gate) in gates.into_iter().enumerate() {
            // A shard that has opened its journal waits at its gate.
            let senders = senders.clone();
            let accounts = shards.accounts.clone();
            let _ = gate.try_send(Neighbours { place, serving_count, senders, accounts });
        }
        for (listener, socket) in self.sockets {
            let serving = senders[..serving_count].to_vec();
            socket
                .serve(control_core, hand_over(serving, listener))
                .map_err(|error| StartError::Thread { name: "accept".into(), error })?;
        }
        Ok(shards)
    }
}

/// Gives each connection to the next of these shards that has room for it. One that none takes for
/// `HAND_OVER_TIME_MAX` is closed: its client comes again.
fn hand_over(
    shards: Vec<InboxSender<Memo>>,
    listener: usize,
) -> impl FnMut(DetachedTcpStream) + Send + 'static {
    let mut next = (0..shards.len()).cycle();
    move |stream| {
        let end = Instant::now() + HAND_OVER_TIME_MAX;
        let mut memo = Memo::Arrived { listener, stream };
        while Instant::now() < end {
            for _ in 0..shards.len() {
                let shard = &shards[next.next().expect("it goes round")];
                match shard.try_send(memo) {
                    Ok(()) => return,
                    Err(refused) => memo = refused,
                }
            }
            std::thread::sleep(INBOX_POLL);
        }
    }
}

/// The partitions of a shard: partition p has shard p mod N of the N that serve.
fn partitions_of(shard: usize, serving_count: usize, partition_count: usize) -> Vec<u16> {
    if shard >= serving_count {
        return Vec::new();
    }
    (shard..partition_count).step_by(serving_count).map(|partition| partition as u16).collect()
}

struct Shard {
    number: usize,
    sender: InboxSender<Memo>,
    thread: JoinHandle<io::Result<()>>,
}

/// The running shards, as the control thread sees them: those that serve, then those that only
/// deliver what an earlier configuration left in their journals.
pub struct Shards {
    shards: Vec<Shard>,
    opened: Vec<(usize, Opened)>,
    accounts: Arc<Accounts>,
}

impl Shards {
    /// What each shard found in its journal, with its number.
    pub fn opened(&self) -> &[(usize, Opened)] {
        &self.opened
    }

    /// All that have mailboxes, as the start found them.
    pub fn accounts(&self) -> Arc<Accounts> {
        self.accounts.clone()
    }

    /// The partitions of mailboxes with the number of the shard that has each.
    pub fn partitions(&self) -> impl Iterator<Item = (u16, usize)> {
        let all = self.opened.iter();
        all.flat_map(|(shard, opened)| opened.partitions.iter().map(|it| (it.number, *shard)))
    }

    /// Numbers, and handles that other threads can ask through.
    pub fn senders(&self) -> Vec<(usize, InboxSender<Memo>)> {
        self.shards.iter().map(|shard| (shard.number, shard.sender.clone())).collect()
    }

    /// Waits until every shard has drained. An error means that one died.
    pub fn join(self) -> io::Result<()> {
        for shard in self.shards {
            shard.thread.join().map_err(|_| io::Error::other("a shard panicked"))??;
        }
        Ok(())
    }
}

/// Puts a question into one inbox.
pub fn ask_through(sender: &InboxSender<Memo>, ask: Ask) -> Result<(), Ask> {
    sender.try_send(Memo::Ask(ask)).map_err(|memo| match memo {
        Memo::Ask(ask) => ask,
        _ => unreachable!("what was sent comes back"),
    })
}

/// How long a connection waits for room in an inbox.
const HAND_OVER_TIME_MAX: Duration = Duration::from_secs(1);
/// How often full inboxes are tried again.
const INBOX_POLL: Duration = Duration::from_millis(20);
/// An executor that stands still this long ends the process.
const STALL_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_one_shard_that_serves() {
        for (serving_count, partition_count) in [(1, 4), (4, 4), (3, 4), (4, 3), (2, 0)] {
            let shards = 0..serving_count + 2;
            let all = shards.map(|shard| partitions_of(shard, serving_count, partition_count));
            let all: Vec<Vec<u16>> = all.collect();
            assert!(all[serving_count..].iter().all(Vec::is_empty));
            let mut numbers: Vec<u16> = all.into_iter().flatten().collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..partition_count as u16).collect::<Vec<u16>>());
        }
        assert_eq!(partitions_of(1, 3, 8), [1, 4, 7]);
    }
}
