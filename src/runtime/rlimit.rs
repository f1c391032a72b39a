//! Resource limits of this process.

use std::io;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Descriptors, `ulimit -n`.
    OpenFiles,
    /// Octets of memory that may not be paged out, `ulimit -l` (which counts in KiB).
    LockedMemory,
}

/// `u64::MAX` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What holds now.
    pub soft: u64,
    /// How far this process may raise it.
    pub hard: u64,
}

/// Least locked memory with which an executor starts.
pub const LOCKED_MEMORY_BYTES_MIN: u64 = 512 * 1024;

pub fn limit(resource: Resource) -> io::Result<Limit> {
    let mut raw = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `raw` is ours to fill.
    if unsafe { libc::getrlimit(number(resource), &mut raw) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Limit { soft: raw.rlim_cur, hard: raw.rlim_max })
}

/// Raises the soft limit to the hard one, and returns what holds then.
pub fn raise(resource: Resource) -> io::Result<Limit> {
    let Limit { soft, hard } = limit(resource)?;
    if soft == hard {
        return Ok(Limit { soft, hard });
    }
    let raw = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the kernel only reads `raw`.
    if unsafe { libc::setrlimit(number(resource), &raw) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Limit { soft: hard, hard })
}

fn number(resource: Resource) -> libc::__rlimit_resource_t {
    match resource {
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
    }
}

const _: () = assert!(libc::RLIM_INFINITY == u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_limit_stands_at_its_end() {
        for resource in [Resource::OpenFiles, Resource::LockedMemory] {
            let raised = raise(resource).expect("raising to the hard limit is allowed");
            assert_eq!(raised.soft, raised.hard);
            assert_eq!(limit(resource).expect("a limit"), raised);
        }
    }
}
