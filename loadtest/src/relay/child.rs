//! Processes of a run: started in their group, waited for, and ended by their id.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// A process of ours, killed when dropped; what it says goes to a log file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and error in `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self, Failure> {
        let unusable = |error: std::io::Error| {
            Failure::cannot_create(format!("cannot write {}: {error}", log.display()))
        };
        let output = File::options().create(true).append(true).open(log).map_err(unusable)?;
        let errors = output.try_clone().map_err(unusable)?;
        let program = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(
            |error| Failure::system(format!("cannot start {}: {error}", program.display())),
        )?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the address answers with a greeting, or says why the process did not get there.
    pub fn wait_ready(&mut self, address: SocketAddr, patience: Duration) -> Result<(), Failure> {
        self.wait_until(&format!("does not greet on {address}"), patience, || greets(address))
    }

    /// Waits until it `is_ready`; `otherwise` says what it did not do.
    pub fn wait_until(
        &mut self,
        otherwise: &str,
        patience: Duration,
        is_ready: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + patience;
        while !is_ready() {
            let what = match self.child.try_wait() {
                Ok(Some(status)) => format!("ended at its start ({status})"),
                _ if Instant::now() > deadline => otherwise.to_owned(),
                _ => {
                    std::thread::sleep(POLL);
                    continue;
                }
            };
            let text = format!("{} {what}: {}", self.name, self.last_words());
            return Err(Failure::unavailable(text));
        }
        Ok(())
    }

    /// `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL: as a crash.
    pub fn kill(&mut self) {
        // One that has ended already needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by its name, such as `TERM`, without waiting for what follows.
    pub fn signal(&self, name: &str) {
        let (name, pid) = (format!("-{name}"), self.pid().to_string());
        // Where there is no `kill` whoever waits has a deadline.
        let _ = Command::new("kill").args([name, pid]).status();
    }

    /// SIGTERM, and SIGKILL when the patience is over. False when that was needed.
    pub fn stop(&mut self, patience: Duration) -> bool {
        if self.ended().is_some() {
            return true;
        }
        self.signal("TERM");
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if self.ended().is_some() {
                return true;
            }
            std::thread::sleep(POLL);
        }
        self.kill();
        false
    }

    /// The end of what it printed.
    pub fn last_words(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let start = file.metadata()?.len().saturating_sub(LAST_WORDS_BYTES);
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        match read() {
            Ok(words) if !words.is_empty() => words,
            _ => "it said nothing".to_owned(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether an SMTP server greets there.
pub fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    let mut greeting = [0; 3];
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"220"
}

/// A port of the loopback interface that nobody uses now.
pub fn free_address() -> Result<SocketAddr, Failure> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|error| Failure::system(format!("no free port on 127.0.0.1: {error}")))
}

const POLL: Duration = Duration::from_millis(10);
const LAST_WORDS_BYTES: u64 = 600;
