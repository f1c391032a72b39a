//! Control: what happens beside the mail: signals, reload, drain, metrics, the control socket.
//!
//! **Owns** the threads that speak to operators, and the one place where a reload is decided.
//! **Uses** `shard` by `Ask` only, `config`, `metrics`, `event`; what is plain of `queue`,
//! `delivery` and `routing`.
//! **Holds** that no shard ever waits for this room, that whoever connects has a deadline and a
//! bounded request, and that a configuration is either taken whole or refused with its line.
//! **Start reading** at `Control`.

mod accounts;
mod asking;
pub mod explain;
mod http;
mod orders;
mod socket;
mod standing;
mod verify;
pub mod wire;

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use accounts::Directory;
pub use asking::{AskError, Shards};
pub use socket::{SocketError, bind as bind_socket, path_in as socket_path};
pub use standing::{StandingError, load as load_suspensions};

use crate::config::{Config, ConfigError};
use crate::event::LogSink;
use crate::event::notice;
use crate::queue::StandingOrders;
use crate::runtime::signal::Signal;
use crate::runtime::{clock, signal, thread};
use crate::shard::ask::Ask;

/// The operators' side of a running server. Shared by the control threads.
pub struct Control {
    shards: Box<dyn Shards>,
    /// The file that a reload reads; none for the embedded default.
    source: Option<PathBuf>,
    log: LogSink,
    state: Mutex<State>,
    /// Held while they change: file and shards follow in the same order.
    suspensions: Mutex<Arc<StandingOrders>>,
    directory: Directory,
    /// Operators that are being served.
    client_count: AtomicUsize,
}

struct State {
    /// What the shards run by.
    config: Arc<Config>,
    draining_since: Option<Instant>,
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose new value waits for the next start.
    pub waiting: Vec<&'static str>,
    pub warnings: Vec<String>,
}

/// A standing order is not, or not everywhere, in force; the text says why and what to do.
#[derive(Debug)]
pub enum StandError {
    Refused(String),
    /// The old ones stand.
    NotSaved(io::Error),
    /// It is kept and in force on some shards, not on this one: give the order again.
    Shard(AskError),
}

impl fmt::Display for StandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StandError::Refused(text) => f.write_str(text),
            StandError::NotSaved(error) => {
                write!(f, "suspensions not saved, none changed: {error}")
            }
            StandError::Shard(error) => write!(f, "saved; {error}; give the order again"),
        }
    }
}

/// The old configuration stays; the text says why and what to do.
#[derive(Debug)]
pub enum ReloadError {
    /// The server runs its embedded default.
    NoFile,
    Config(ConfigError),
    /// Some shards have the new configuration, this one does not: reload again.
    Shard(AskError),
    Draining,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::NoFile => {
                f.write_str("started without --config: there is no file to read")
            }
            ReloadError::Config(error) => write!(f, "{error} (the old configuration stays)"),
            ReloadError::Shard(error) => write!(f, "{error}; reload again"),
            ReloadError::Draining => f.write_str("the server is stopping"),
        }
    }
}

impl Control {
    pub fn new(
        shards: Box<dyn Shards>,
        config: Arc<Config>,
        source: Option<PathBuf>,
        log: LogSink,
        suspensions: Arc<StandingOrders>,
        directory: Directory,
    ) -> Arc<Control> {
        let state = Mutex::new(State { config, draining_since: None });
        let suspensions = Mutex::new(suspensions);
        let client_count = 0.into();
        Arc::new(Control { shards, source, log, state, suspensions, directory, client_count })
    }

    /// Starts the threads: metrics, control socket, signals. They live as long as the process.
    pub fn start(
        self: &Arc<Self>,
        metrics: Option<TcpListener>,
        socket: socket::ControlListener,
    ) -> io::Result<()> {
        let core = self.config().shards.control_core;
        if let Some(listener) = metrics {
            let control = self.clone();
            thread::spawn("metrics", core, move || http::serve(&listener, &control))?;
        }
        let control = self.clone();
        thread::spawn("control", core, move || socket::serve(&socket, &control))?;
        let control = self.clone();
        signal::watch(core, move |signal| control.on_signal(signal))?;
        Ok(())
    }

    fn on_signal(self: &Arc<Self>, signal: Signal) {
        match signal {
            Signal::Hangup => match self.reload() {
                Ok(reloaded) => notice!("ringpost: {reloaded}"),
                Err(error) => notice!("ringpost: not reloaded: {error}"),
            },
            Signal::Stop => self.stop(),
        }
    }

    /// Reads the configuration anew and gives it to every shard; opens the log anew in any case.
    ///
    /// Blocks until every shard has it, a few seconds at most.
    pub fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.log.reopen();
        let source = self.source.as_ref().ok_or(ReloadError::NoFile)?;
        let new = Config::load(source).map_err(ReloadError::Config)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.draining_since.is_some() {
            return Err(ReloadError::Draining);
        }
        let (merged, waiting) = state.config.reloaded(&new);
        let warnings = merged.warnings();
        self.put_in_force(&mut state, merged)?;
        Ok(Reloaded { waiting, warnings })
    }

    /// Reads the files of certificates and keys anew, and nothing else of the configuration.
    pub fn renew_certificates(&self) -> Result<(), ReloadError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.draining_since.is_some() {
            return Err(ReloadError::Draining);
        }
        let renewed = state.config.with_certificates_anew().map_err(ReloadError::Config)?;
        self.put_in_force(&mut state, renewed)
    }

    fn put_in_force(&self, state: &mut State, config: Config) -> Result<(), ReloadError> {
        // From here on the new one counts: a shard that misses it gets it by the next reload.
        state.config = Arc::new(config);
        for shard in self.shards.numbers() {
            asking::tell(&*self.shards, shard, Ask::Reload(state.config.clone()), ANSWER_WAIT)
                .map_err(ReloadError::Shard)?;
        }
        Ok(())
    }

    /// Tells every shard to drain; asked again after a moment, ends the process at once.
    fn stop(self: &Arc<Self>) {
        let time_max = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(since) = state.draining_since {
                // Supervisors tell the process and its group: that is one order, not two.
                if since.elapsed() < SECOND_ORDER_AFTER {
                    return;
                }
                // Nothing that was answered 250 can be lost by it.
                notice!("ringpost: told to stop twice: ending at once");
                notice::finish();
                std::process::exit(EXIT_CUT);
            }
            state.draining_since = Some(Instant::now());
            state.config.shards.drain
        };
        notice!("ringpost: stopping; open sessions have {time_max:?}");
        let end_by = Instant::now() + time_max + DRAIN_GRACE;
        let started = thread::spawn("drain-deadline", None, move || {
            std::thread::sleep(end_by.saturating_duration_since(Instant::now()));
            notice!("ringpost: a shard did not come to its end in time: ending at once");
            notice::finish();
            std::process::exit(EXIT_CUT);
        });
        if let Err(error) = started {
            notice!("ringpost: stopping without a deadline: {error}");
        }
        for shard in self.shards.numbers() {
            let told = asking::tell(&*self.shards, shard, Ask::Drain { time_max }, time_max);
            if let Err(error) = told {
                notice!("ringpost: {error}");
            }
        }
    }

    /// The standing orders as they are. Those that have ended by themselves may be among them.
    fn suspensions(&self) -> Arc<StandingOrders> {
        self.suspensions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the standing orders: first on disk, then on every shard.
    fn change_suspensions<T>(
        &self,
        change: impl FnOnce(&mut StandingOrders) -> Result<T, StandError>,
    ) -> Result<T, StandError> {
        let mut standing = self.suspensions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = (**standing).clone();
        let now_ms = clock::unix_ms();
        changed.remove(|suspension| !suspension.stands(now_ms));
        let result = change(&mut changed)?;
        standing::save(&self.config().data_dir, &changed).map_err(StandError::NotSaved)?;
        *standing = Arc::new(changed);
        let told = self.shards.numbers().into_iter().map(|shard| {
            asking::tell(&*self.shards, shard, Ask::Suspend(standing.clone()), ANSWER_WAIT)
        });
        // Whoever hears nothing is told with the next change, or reads the file at the next start.
        let told: Vec<_> = told.collect();
        told.into_iter().collect::<Result<(), AskError>>().map_err(StandError::Shard)?;
        Ok(result)
    }

    /// What is in force.
    pub fn config(&self) -> Arc<Config> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).config.clone()
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("configuration reloaded")?;
        if !self.waiting.is_empty() {
            write!(f, "; waits for the next start: {}", self.waiting.join(", "))?;
        }
        for warning in &self.warnings {
            write!(f, "; warning: {warning}")?;
        }
        Ok(())
    }
}

/// Longest wait for a shard's answer: it says in far less, or it hangs.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Before this a repeated order to stop is the same one.
const SECOND_ORDER_AFTER: Duration = Duration::from_secs(1);
/// What a shard may take beyond the drain time to make everything durable.
const DRAIN_GRACE: Duration = Duration::from_secs(10);
/// The process ended before every session had; EX_TEMPFAIL.
const EXIT_CUT: i32 = 75;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::LogWriter;

    #[test]
    fn a_bad_file_keeps_the_old_configuration_and_a_good_one_reaches_every_shard() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ringpost.toml");
        let log_path = directory.path().join("log");
        let (writer, log) = LogWriter::start(Some(log_path)).expect("a log");
        let (shards, inboxes) = asking::fake::shards(2);
        let running = Arc::new(Config::embedded());
        let control = Control::new(
            Box::new(shards),
            running.clone(),
            Some(path.clone()),
            log,
            Arc::default(),
            Directory::default(),
        );
        std::fs::write(&path, "node = 1\nnod = 2\n").expect("written");
        let error = control.reload().expect_err("refused").to_string();
        assert!(error.contains(":2: nod: unknown key"), "{error}");
        assert!(inboxes.iter().all(|inbox| inbox.try_recv().is_err()));
        let mut wanted = (*running).clone();
        wanted.reception.recipients_max = 123;
        wanted.node = 7;
        std::fs::write(&path, wanted.explain()).expect("written");
        let reloaded = control.reload().expect("accepted");
        assert_eq!(reloaded, Reloaded { waiting: vec!["node"], warnings: vec![] });
        for inbox in &inboxes {
            let Ok(Ask::Reload(config)) = inbox.try_recv() else { panic!("no reload") };
            assert_eq!((config.node, config.reception.recipients_max), (0, 123));
        }
        writer.stop();
    }
}
