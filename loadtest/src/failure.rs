//! The one error of this program: a sentence for the user and an exit code of sysexits.h.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::thread::JoinHandle;

/// Why a command ended; the text says what to do about it.
#[derive(Debug)]
pub struct Failure {
    exit_code: u8,
    text: String,
}

impl Failure {
    /// The command line or a file it names is wrong (EX_USAGE).
    pub fn usage(text: impl Into<String>) -> Self {
        Self { exit_code: 64, text: text.into() }
    }

    /// An input file is missing or unreadable (EX_NOINPUT).
    pub fn no_input(text: impl Into<String>) -> Self {
        Self { exit_code: 66, text: text.into() }
    }

    /// The server does not answer (EX_UNAVAILABLE).
    pub fn unavailable(text: impl Into<String>) -> Self {
        Self { exit_code: 69, text: text.into() }
    }

    /// The measurement contradicts what must hold (EX_SOFTWARE).
    pub fn broken_promise(text: impl Into<String>) -> Self {
        Self { exit_code: 70, text: text.into() }
    }

    /// The operating system refuses something we need (EX_OSERR).
    pub fn system(text: impl Into<String>) -> Self {
        Self { exit_code: 71, text: text.into() }
    }

    /// A file or directory cannot be written (EX_CANTCREAT).
    pub fn cannot_create(text: impl Into<String>) -> Self {
        Self { exit_code: 73, text: text.into() }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code)
    }
}

/// Waits until all executors have ended as they should.
pub fn join_all(executors: Vec<JoinHandle<io::Result<()>>>) -> Result<(), Failure> {
    for executor in executors {
        match executor.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(Failure::system(format!("an executor did not start: {error}")));
            }
            Err(_) => return Err(Failure::broken_promise("an executor ended in a panic")),
        }
    }
    Ok(())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
