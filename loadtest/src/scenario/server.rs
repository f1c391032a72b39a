//! The ringpost under test: started, stopped, killed and asked, with the times that this takes.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::relay::accounting::Group;
use crate::relay::child::Process;
use crate::relay::server::{metric_values, scrape};

pub struct Server {
    pub address: SocketAddr,
    pub group: Group,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    metrics: SocketAddr,
    process: Option<Process>,
}

impl Server {
    /// Writes the configuration beside the logs; does not start yet. Its CPU is counted by `group`.
    pub fn new(
        program: PathBuf,
        directory: &Path,
        address: SocketAddr,
        metrics: SocketAddr,
        group: &str,
        config_text: &str,
    ) -> Result<Self, Failure> {
        let config = directory.join("ringpost.toml");
        fs::write(&config, config_text).map_err(|error| {
            Failure::cannot_create(format!("cannot write {}: {error}", config.display()))
        })?;
        let log = directory.join("server.log");
        let group = Group::new(group);
        Ok(Self { address, group, program, config, log, metrics, process: None })
    }

    /// Starts it; returns the time from exec to its greeting.
    pub fn start(&mut self) -> Result<Duration, Failure> {
        assert!(self.process.is_none());
        let mut command = self.group.command(&self.program, None);
        command.arg("serve").arg("--config").arg(&self.config);
        let started = Instant::now();
        let mut process = Process::start("ringpost", command, &self.log)?;
        self.group.add_root(process.pid());
        while !greets(self.address, START_TIME_MAX.saturating_sub(started.elapsed())) {
            if process.ended().is_some() || started.elapsed() >= START_TIME_MAX {
                return Err(Failure::unavailable(format!(
                    "ringpost does not greet: {}",
                    process.last_words()
                )));
            }
            std::thread::sleep(POLL);
        }
        self.process = Some(process);
        Ok(started.elapsed())
    }

    /// Ends it in order; returns how long that took.
    pub fn stop(&mut self) -> Result<Duration, Failure> {
        self.check_alive()?;
        let started = Instant::now();
        if let Some(mut process) = self.process.take() {
            self.group.root_ends(process.pid());
            if !process.stop(STOP_TIME_MAX) {
                return Err(Failure::broken_promise(format!(
                    "ringpost did not stop within {STOP_TIME_MAX:?}"
                )));
            }
        }
        Ok(started.elapsed())
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.check_alive()?;
        if let Some(mut process) = self.process.take() {
            self.group.root_ends(process.pid());
            process.kill();
        }
        Ok(())
    }

    /// Stands still while `work` is done, then goes on. Its watchdog counts beats, not time.
    pub fn paused<T>(&self, work: impl FnOnce() -> T) -> T {
        if let Some(process) = &self.process {
            process.signal("STOP");
        }
        let done = work();
        if let Some(process) = &self.process {
            process.signal("CONT");
        }
        done
    }

    /// Fails when it has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), Failure> {
        match self.process.as_mut().map(|process| (process.ended(), process.last_words())) {
            Some((Some(status), words)) => Err(Failure::broken_promise(format!(
                "ringpost ended by itself ({status}): {words}"
            ))),
            _ => Ok(()),
        }
    }

    /// Sum of a metric over its labels; `None` where the server does not know it.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = scrape(self.metrics).ok()?;
        let values: Vec<f64> = metric_values(&page, name).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    pub fn queued(&self) -> Option<u64> {
        self.metric("ringpost_queue_messages").map(|count| count as u64)
    }

    pub fn resident_bytes(&self) -> u64 {
        self.group.memory().resident_bytes
    }

    /// Whether the server knows every key of its configuration.
    pub fn takes_its_config(&self) -> Result<bool, Failure> {
        let status = Command::new(&self.program)
            .args(["check", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|error| Failure::system(format!("ringpost check: {error}")))?;
        Ok(status.success())
    }

    /// `ringpost queue retry --all`; false where the server does not know the command.
    pub fn retry_all(&self) -> Result<bool, Failure> {
        let system = |error: std::io::Error| Failure::system(format!("queue retry: {error}"));
        let mut child = Command::new(&self.program)
            .args(["queue", "retry", "--all", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(system)?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(system)? {
                break status;
            }
            if started.elapsed() >= RETRY_TIME_MAX {
                // Whatever it has done by now shows in the drain.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Failure::broken_promise(format!(
                    "`ringpost queue retry --all` did not end within {RETRY_TIME_MAX:?}"
                )));
            }
            std::thread::sleep(POLL);
        };
        match status.code() {
            Some(0) => Ok(true),
            Some(EX_USAGE) => Ok(false),
            _ => Err(Failure::broken_promise(format!(
                "`ringpost queue retry --all` failed ({status})"
            ))),
        }
    }
}

/// Whether a connection is answered by a greeting within `patience`.
fn greets(address: SocketAddr, patience: Duration) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) else {
        return false;
    };
    let mut greeting = [0; 3];
    stream.set_read_timeout(Some(patience.max(POLL))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"220"
}

/// A queue of millions on a slow disk.
const START_TIME_MAX: Duration = Duration::from_secs(300);
const STOP_TIME_MAX: Duration = Duration::from_secs(120);
const RETRY_TIME_MAX: Duration = Duration::from_secs(120);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(1);
const EX_USAGE: i32 = 64;
