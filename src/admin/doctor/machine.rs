//! Kernel, limits, cores, ports and clock.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Finding;
use crate::config::{Config, ListenAddress};
use crate::runtime::net::BoundListener;
use crate::runtime::rlimit::{self, LOCKED_MEMORY_BYTES_MIN, Limit, Resource};
use crate::runtime::{probe, thread};
use crate::{control, entrance};

pub fn look(config: &Config) -> Vec<Finding> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut findings = vec![io_uring(), locked_memory(rlimit::limit(Resource::LockedMemory))];
    findings.push(cores(config, thread::allowed_cores()));
    findings.push(open_files(config, rlimit::limit(Resource::OpenFiles)));
    findings.push(accept_backlog(read_number("/proc/sys/net/core/somaxconn")));
    let runs = UnixStream::connect(control::socket_path(&config.data_dir)).is_ok();
    for listener in &config.listeners {
        findings.push(match &listener.address {
            ListenAddress::Network(address) => {
                port(*address, BoundListener::check_unused(*address), runs)
            }
            ListenAddress::Socket { path, .. } => {
                socket(path, entrance::socket::check_unused(path), runs)
            }
        });
    }
    if let Some(address) = config.metrics.listen {
        findings.push(port(address, BoundListener::check_unused(address), runs));
    }
    findings.push(clock(now, probe::clock_is_synchronised()));
    findings
}

fn io_uring() -> Finding {
    match probe::io_uring() {
        Ok(operations) => {
            Finding::ok("io_uring", format!("allowed, all {} operations there", operations.len()))
        }
        Err(error) => {
            let text = error.to_string();
            match text.split_once("; ") {
                Some((found, advice)) => Finding::fail("io_uring", found, advice),
                None => Finding::fail("io_uring", text, ""),
            }
        }
    }
}

fn locked_memory(limit: io::Result<Limit>) -> Finding {
    const SUBJECT: &str = "memlock";
    let advice = "systemd: LimitMEMLOCK=infinity; limits.conf: ringpost - memlock unlimited";
    match limit {
        Ok(limit) if limit.hard < LOCKED_MEMORY_BYTES_MIN => Finding::fail(
            SUBJECT,
            format!("limit {}, an executor needs 512 KiB", kib(limit.hard)),
            advice,
        ),
        Ok(limit) if limit.soft < LOCKED_MEMORY_BYTES_MIN => Finding::ok(
            SUBJECT,
            format!("limit {}, raised at start to {}", kib(limit.soft), kib(limit.hard)),
        ),
        Ok(limit) => Finding::ok(SUBJECT, format!("limit {}", kib(limit.soft))),
        Err(error) => Finding::warn(SUBJECT, format!("limit unknown: {error}"), advice),
    }
}

fn open_files(config: &Config, limit: io::Result<Limit>) -> Finding {
    const SUBJECT: &str = "descriptors";
    let advice = "systemd: LimitNOFILE=1048576; limits.conf: ringpost - nofile 1048576; or lower \
                  reception.sessions_max";
    let shard_count = config.shards.count.or(config.shards.cores.as_ref().map(Vec::len));
    let shard_count = shard_count.unwrap_or(1) as u64;
    let wanted = shard_count.saturating_mul(config.reception.sessions_max as u64);
    match limit {
        Ok(limit) if limit.hard < wanted => Finding::warn(
            SUBJECT,
            format!(
                "limit {}, {shard_count} shards of reception.sessions_max want {wanted}",
                limit.hard
            ),
            advice,
        ),
        Ok(limit) => Finding::ok(SUBJECT, format!("limit {}", limit.hard)),
        Err(error) => Finding::warn(SUBJECT, format!("limit unknown: {error}"), advice),
    }
}

fn cores(config: &Config, allowed: io::Result<Vec<usize>>) -> Finding {
    const SUBJECT: &str = "cores";
    let allowed = match allowed {
        Ok(allowed) => allowed,
        Err(error) => return Finding::warn(SUBJECT, format!("unknown: {error}"), ""),
    };
    let wanted = config.shards.cores.as_deref().unwrap_or(&allowed);
    if let Some(core) = wanted.iter().find(|core| !allowed.contains(core)) {
        return Finding::fail(
            SUBJECT,
            format!("shards.cores names {core}, this process may use {allowed:?}"),
            "correct shards.cores, or the cpuset of the service or container",
        );
    }
    let shard_count = config.shards.count.unwrap_or(wanted.len());
    let found = format!("may use {allowed:?}; {shard_count} shards on {wanted:?}");
    if shard_count > wanted.len() {
        return Finding::warn(
            SUBJECT,
            found,
            "more shards than cores is for tests: set shards.count to the number of cores",
        );
    }
    Finding::ok(SUBJECT, found)
}

fn accept_backlog(limit: Option<u64>) -> Finding {
    const SUBJECT: &str = "accept queue";
    match limit {
        Some(limit) if limit < BACKLOG_WANTED => Finding::warn(
            SUBJECT,
            format!("net.core.somaxconn is {limit}, listeners ask for {BACKLOG_WANTED}"),
            format!("sysctl -w net.core.somaxconn={BACKLOG_WANTED}"),
        ),
        Some(limit) => Finding::ok(SUBJECT, format!("net.core.somaxconn is {limit}")),
        None => Finding::warn(SUBJECT, "net.core.somaxconn cannot be read", ""),
    }
}

/// `server_runs`: a server of this configuration answers, so its ports are taken by right.
fn port(address: SocketAddr, checked: io::Result<()>, server_runs: bool) -> Finding {
    const SUBJECT: &str = "port";
    match checked {
        Ok(()) => Finding::ok(SUBJECT, format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && server_runs => {
            Finding::ok(SUBJECT, format!("{address} is in use, and the server runs"))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::fail(
            SUBJECT,
            format!("{address} is in use by another program"),
            format!(
                "`ss -ltnp 'sport = {}'` shows which; stop it or change it here",
                address.port()
            ),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::fail(
            SUBJECT,
            format!("{address}: {error}"),
            "start as root with `user` set, or give the program CAP_NET_BIND_SERVICE",
        ),
        Err(error) => Finding::fail(SUBJECT, format!("{address}: {error}"), "correct the address"),
    }
}

fn socket(path: &str, checked: io::Result<()>, server_runs: bool) -> Finding {
    const SUBJECT: &str = "socket";
    match checked {
        Ok(()) => Finding::ok(SUBJECT, format!("{path} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && server_runs => {
            Finding::ok(SUBJECT, format!("{path} is listened at, and the server runs"))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::fail(
            SUBJECT,
            format!("{path} is listened at by another program"),
            format!("`ss -lxp src {path}` shows which; stop it or change it here"),
        ),
        Err(error) => Finding::fail(
            SUBJECT,
            format!("{path}: {error}"),
            "correct the path, or make its directory for the server's user",
        ),
    }
}

fn clock(now: u64, synchronised: Option<bool>) -> Finding {
    const SUBJECT: &str = "clock";
    let advice = "run a time service (chrony, systemd-timesyncd): retries and lifetimes follow it";
    if now < CLOCK_MIN {
        return Finding::fail(SUBJECT, format!("stands at {now} s, before this program"), advice);
    }
    match synchronised {
        Some(true) => Finding::ok(SUBJECT, "kept by a time service"),
        Some(false) => Finding::warn(SUBJECT, "not kept by a time service", advice),
        None => Finding::ok(SUBJECT, "plausible; the kernel does not say who keeps it"),
    }
}

fn kib(bytes: u64) -> String {
    match bytes {
        u64::MAX => "unlimited".to_owned(),
        bytes => format!("{} KiB", bytes >> 10),
    }
}

fn read_number(path: impl AsRef<Path>) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What our listeners ask for.
const BACKLOG_WANTED: u64 = 4096;
/// 2025-01-01: no machine that runs this is older.
const CLOCK_MIN: u64 = 1_735_689_600;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::finding::Verdict;

    fn check(finding: &Finding, verdict: Verdict, expected: &str) {
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert!(finding.found.contains(expected), "{finding:?}");
        assert_eq!(finding.advice.is_empty(), verdict == Verdict::Ok, "{finding:?}");
    }

    #[test]
    fn limits_are_judged_by_how_far_they_can_be_raised() {
        let limit = |soft, hard| Ok(Limit { soft, hard });
        check(&locked_memory(limit(65_536, 65_536)), Verdict::Fail, "64 KiB");
        check(&locked_memory(limit(65_536, u64::MAX)), Verdict::Ok, "raised");
        check(&locked_memory(limit(u64::MAX, u64::MAX)), Verdict::Ok, "unlimited");
        let mut config = Config::embedded();
        config.shards.count = Some(4);
        config.reception.sessions_max = 1000;
        check(&open_files(&config, limit(1024, 3999)), Verdict::Warn, "want 4000");
        check(&open_files(&config, limit(1024, 4000)), Verdict::Ok, "4000");
    }

    #[test]
    fn cores_must_be_allowed_and_are_best_used_once() {
        let mut config = Config::embedded();
        check(&cores(&config, Ok(vec![0, 1])), Verdict::Ok, "2 shards on [0, 1]");
        config.shards.count = Some(3);
        check(&cores(&config, Ok(vec![0, 1])), Verdict::Warn, "3 shards on [0, 1]");
        config.shards.cores = Some(vec![0, 5]);
        check(&cores(&config, Ok(vec![0, 1])), Verdict::Fail, "names 5");
    }

    #[test]
    fn a_taken_port_is_right_only_when_our_server_has_it() {
        let address: SocketAddr = "127.0.0.1:25".parse().expect("an address");
        let error = |kind: io::ErrorKind| Err(io::Error::from(kind));
        check(&port(address, Ok(()), false), Verdict::Ok, "free");
        check(&port(address, error(io::ErrorKind::AddrInUse), true), Verdict::Ok, "runs");
        check(&port(address, error(io::ErrorKind::AddrInUse), false), Verdict::Fail, "another");
        check(&port(address, error(io::ErrorKind::PermissionDenied), false), Verdict::Fail, "25");
        let in_use = || error(io::ErrorKind::AddrInUse);
        check(&socket("/s", Ok(()), false), Verdict::Ok, "free");
        check(&socket("/s", in_use(), true), Verdict::Ok, "runs");
        check(&socket("/s", in_use(), false), Verdict::Fail, "another");
        check(&socket("/s", error(io::ErrorKind::NotFound), false), Verdict::Fail, "/s: ");
    }

    #[test]
    fn a_clock_before_this_program_cannot_be_right() {
        check(&clock(0, Some(true)), Verdict::Fail, "before");
        check(&clock(CLOCK_MIN, Some(false)), Verdict::Warn, "not kept");
        check(&clock(CLOCK_MIN, Some(true)), Verdict::Ok, "kept");
        check(&accept_backlog(Some(128)), Verdict::Warn, "128");
    }
}
