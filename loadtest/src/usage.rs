//! The wall clock, and what this process has used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970: times that are compared between our own processes.
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros() as u64
}

/// CPU time of all threads of this process, ended ones as far as the kernel counts them: to 10 ms.
pub fn own_cpu() -> Duration {
    std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| cpu_of_stat(&stat))
        .map_or(Duration::ZERO, |cpu| cpu.own)
}

/// CPU time in a line of /proc/PID/stat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatCpu {
    pub own: Duration,
    /// Of its ended and waited-for children.
    pub children: Duration,
    pub parent_pid: u32,
}

/// Reads /proc/PID/stat: user and system time are in hundredths of a second on every platform of
/// Linux (USER_HZ).
pub fn cpu_of_stat(stat: &str) -> Option<StatCpu> {
    // The name in parentheses may hold anything, spaces and parentheses too.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |index: usize| -> Option<u64> { fields.get(index)?.parse().ok() };
    let duration = |ticks| Duration::from_millis(ticks * 10);
    Some(StatCpu {
        parent_pid: u32::try_from(ticks(1)?).ok()?,
        own: duration(ticks(11)? + ticks(12)?),
        children: duration(ticks(13)? + ticks(14)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_any_process_name() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 0 0 0 0 0 12 34 5 6 20 0 1 0 100 0 0";
        let expected = StatCpu {
            parent_pid: 7,
            own: Duration::from_millis(460),
            children: Duration::from_millis(110),
        };
        assert_eq!(cpu_of_stat(stat), Some(expected));
        assert_eq!(cpu_of_stat("42 (a"), None);
    }
}
