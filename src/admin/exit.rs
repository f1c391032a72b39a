//! How the program ends: sysexits.h, and one line of text.

use std::fmt;
use std::process::ExitCode;

/// Exit codes of sysexits.h, and 1 where a check found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `check` or `doctor` found something wrong.
    Found,
    /// EX_USAGE: the command line.
    Usage,
    /// EX_DATAERR: what is on disk is damaged or not ours.
    Data,
    /// EX_NOUSER: no such mailbox.
    NoUser,
    /// EX_UNAVAILABLE: a port is taken, no server runs.
    Unavailable,
    /// EX_SOFTWARE: a shard died.
    Software,
    /// EX_OSERR: the kernel refuses what we need.
    System,
    /// EX_CANTCREAT: a directory, log or socket cannot be made.
    CannotCreate,
    /// EX_IOERR: a disk or a socket fails.
    InputOutput,
    /// EX_TEMPFAIL: try again later.
    Temporary,
    /// EX_NOPERM: root's rights, or the right user's, are missing.
    Permission,
    /// EX_CONFIG: the configuration.
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Found => 1,
            Exit::Usage => 64,
            Exit::Data => 65,
            Exit::NoUser => 67,
            Exit::Unavailable => 69,
            Exit::Software => 70,
            Exit::System => 71,
            Exit::CannotCreate => 73,
            Exit::InputOutput => 74,
            Exit::Temporary => 75,
            Exit::Permission => 77,
            Exit::Config => 78,
        })
    }
}

/// Why a command failed: one line that says what is wrong and what to do.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub text: String,
}

impl Failure {
    pub fn new(exit: Exit, text: impl fmt::Display) -> Self {
        Self { exit, text: text.to_string() }
    }
}
