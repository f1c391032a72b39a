//! Whether this kernel lets this process have an io_uring, asked before the first executor starts.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

/// An operation that shards or log threads submit, and whether the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub name: &'static str,
    pub supported: bool,
}

/// Why no executor can start. The text is one sentence: what is missing and how to fix it.
#[derive(Debug)]
pub enum ProbeError {
    /// The kernel has no io_uring at all.
    NoSystemCall,
    /// `kernel.io_uring_disabled` forbids it; the value is 1 or 2.
    Disabled(u8),
    /// Something else forbids it: a seccomp filter of a container or of a service manager.
    Forbidden,
    /// The ring's memory is above RLIMIT_MEMLOCK (kernels before 5.12).
    LockedMemory,
    /// The kernel is too old for these operations.
    Operations(Vec<&'static str>),
    Other(io::Error),
}

/// Makes a small ring, asks it for its operations and drops it.
///
/// Succeeds only when every operation that is needed is there.
pub fn io_uring() -> Result<Vec<Operation>, ProbeError> {
    let ring = IoUring::new(PROBE_ENTRIES).map_err(|error| translate(error, disabled_setting()))?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| translate(error, disabled_setting()))?;
    let operations: Vec<Operation> = NEEDED
        .iter()
        .map(|(name, code)| Operation { name, supported: probe.is_supported(*code) })
        .collect();
    let missing: Vec<_> = operations.iter().filter(|it| !it.supported).map(|it| it.name).collect();
    if missing.is_empty() { Ok(operations) } else { Err(ProbeError::Operations(missing)) }
}

/// `kernel.io_uring_disabled`: 0 for nobody, 1 for all but a group, 2 for everybody. 0 before
/// Linux 6.6.
pub fn disabled_setting() -> u8 {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether a time service keeps the clock; `None` where the kernel does not say.
pub fn clock_is_synchronised() -> Option<bool> {
    // SAFETY: zeroed modes ask and change nothing; the kernel fills the rest.
    let state = unsafe {
        let mut state: libc::timex = std::mem::zeroed();
        libc::adjtimex(&mut state)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

fn translate(error: io::Error, disabled: u8) -> ProbeError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => ProbeError::NoSystemCall,
        Some(libc::EPERM) if disabled > 0 => ProbeError::Disabled(disabled),
        Some(libc::EPERM | libc::EACCES) => ProbeError::Forbidden,
        Some(libc::ENOMEM) => ProbeError::LockedMemory,
        _ => ProbeError::Other(error),
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeError::NoSystemCall => {
                f.write_str("this kernel has no io_uring; run Linux 5.11 or later")
            }
            ProbeError::Disabled(value) => write!(
                f,
                "io_uring is switched off by sysctl kernel.io_uring_disabled={value}; \
                 run `sysctl -w kernel.io_uring_disabled=0` as root"
            ),
            ProbeError::Forbidden => f.write_str(
                "io_uring is forbidden, most likely by a seccomp filter; allow the system calls \
                 io_uring_setup, io_uring_enter and io_uring_register (for a container: a seccomp \
                 profile that has them)",
            ),
            ProbeError::LockedMemory => f.write_str(
                "the kernel has no locked memory for an io_uring; raise the memlock limit \
                 (systemd: LimitMEMLOCK=infinity; shell: ulimit -l unlimited)",
            ),
            ProbeError::Operations(names) => write!(
                f,
                "this kernel's io_uring lacks {}; run Linux 5.11 or later",
                names.join(", ")
            ),
            ProbeError::Other(error) => write!(f, "io_uring cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for ProbeError {}

/// What executors and log threads submit.
const NEEDED: &[(&str, u8)] = &[
    ("READ", opcode::Read::CODE),
    ("READV", opcode::Readv::CODE),
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("WRITE", opcode::Write::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("WRITE_FIXED", opcode::WriteFixed::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("POLL_REMOVE", opcode::PollRemove::CODE),
    ("ACCEPT", opcode::Accept::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("SEND", opcode::Send::CODE),
    ("RECV", opcode::Recv::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("TIMEOUT_REMOVE", opcode::TimeoutRemove::CODE),
    ("LINK_TIMEOUT", opcode::LinkTimeout::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("STATX", opcode::Statx::CODE),
];
const PROBE_ENTRIES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_the_kernel_names_its_fix() {
        let shown =
            |code, disabled| translate(io::Error::from_raw_os_error(code), disabled).to_string();
        assert!(shown(libc::ENOSYS, 0).contains("Linux 5.11"));
        assert!(shown(libc::EPERM, 2).contains("kernel.io_uring_disabled=2"));
        assert!(shown(libc::EPERM, 0).contains("seccomp"));
        assert!(shown(libc::ENOMEM, 0).contains("LimitMEMLOCK"));
        let missing = ProbeError::Operations(vec!["CONNECT", "STATX"]).to_string();
        assert!(missing.contains("CONNECT, STATX"));
    }
}
