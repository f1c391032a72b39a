//! Named std threads for work that must not stand in an executor's way.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread; `core` pins it. The name shows in `ps -L`, at most 15 bytes of it.
pub fn spawn(
    name: &str,
    core: Option<usize>,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(core) = core
            && let Err(error) = pin_to_core(core)
        {
            eprintln!("ringpost: thread not pinned to core {core}: {error}");
        }
        body();
    })
}

/// Lets others go before the calling thread where a core is wanted by both: it gets about a third
/// of what they get.
pub fn lower_priority() {
    // SAFETY: no memory is passed. For Linux a thread is what this names.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWER_PRIORITY) } != 0 {
        eprintln!("ringpost: thread keeps its priority: {}", io::Error::last_os_error());
    }
}

/// Pins the calling thread to one core.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    // SAFETY: a zeroed cpu_set_t is the empty set; CPU_SET checks `core` against its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The cores this process may run on, ascending.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    // SAFETY: the kernel writes at most the size given into a set that is ours.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        set
    };
    // SAFETY: CPU_ISSET reads within the set for indexes below CPU_SETSIZE.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|core| unsafe { libc::CPU_ISSET(*core, &set) })
        .collect())
}

/// Niceness of threads that can wait.
const LOWER_PRIORITY: libc::c_int = 5;
