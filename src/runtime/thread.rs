//! Named std threads for work that must not stand in an executor's way.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::event::notice;

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
            notice!("ringpost: thread not pinned to core {core}: {error}");
        }
        body();
    })
}

/// Lets others go before the calling thread where a core is wanted by both: it gets about a third
/// of what they get.
pub fn lower_priority() {
    // SAFETY: no memory is passed. For Linux a thread is what this names.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWER_PRIORITY) } != 0 {
        notice!("ringpost: thread keeps its priority: {}", io::Error::last_os_error());
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

/// The kernel's number of the calling thread.
pub fn own_id() -> u32 {
    // SAFETY: no memory is passed; it does not fail.
    unsafe { libc::gettid() as u32 }
}

/// What a thread of this process does, for a person who looks for the reason why it does not go on:
/// its state, its time on a core so far, and where in the kernel it waits, as far as that may be
/// known.
pub fn doing(id: u32) -> String {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/task/{id}/{file}"));
    let stat = read("stat").unwrap_or_default();
    // The name may hold anything, parentheses too.
    let fields: Vec<&str> = match stat.rsplit_once(')') {
        Some((_, fields)) => fields.split_whitespace().collect(),
        None => return "nothing is known of its thread".to_owned(),
    };
    let field = |at: usize| fields.get(at).copied().unwrap_or_default();
    // Behind the name: the state, and as 12th and 13th the ticks in the program and in the kernel.
    let ticks: u64 = [11, 12].into_iter().filter_map(|at| field(at).parse::<u64>().ok()).sum();
    // SAFETY: no memory is passed.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
    let state = match field(0) {
        "R" => "running or waiting for a core",
        "S" => "asleep",
        "D" => "asleep, not to be woken",
        "T" | "t" => "stopped",
        other => other,
    };
    let on_core = ticks as f64 / ticks_a_second;
    let place = |file| read(file).map(|text| text.trim().to_owned()).unwrap_or_default();
    let (place, call) = (place("wchan"), place("syscall"));
    format!("{state}, {on_core:.1} s on a core, in the kernel at {place:?}, system call {call:?}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_does_can_be_told() {
        let (send_id, id) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let sleeper = spawn("a) R 1", None, move || {
            send_id.send(own_id()).expect("waited for");
            let _ = ended.recv();
        });
        let id = id.recv().expect("sent");
        let is_soon = |beginning: &str| {
            let found = (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                doing(id).starts_with(beginning)
            });
            assert!(found, "{beginning} is not how {} begins", doing(id));
        };
        is_soon("asleep, 0.");
        assert!(doing(own_id()).starts_with("running"), "{}", doing(own_id()));
        end.send(()).expect("waited for");
        sleeper.expect("started").join().expect("ended");
        is_soon("nothing is known");
    }
}
