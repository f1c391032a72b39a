//! What a group of processes has cost: CPU time, memory, flushes of the disk.
//!
//! CPU comes from a control group of its own where the kernel lets us make one, so threads,
//! children and processes that have ended are all counted. Otherwise it is summed from /proc.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::usage::{self, StatCpu};

/// A set of processes that is measured together.
pub struct Group {
    kind: Kind,
    /// Where the tree begins, for /proc.
    root_pids: Vec<u32>,
    /// CPU of roots that have ended, for /proc.
    ended_cpu: Duration,
}

enum Kind {
    /// Unified hierarchy: cpu.stat.
    CgroupV2(PathBuf),
    /// The cpuacct controller: cpuacct.usage.
    CgroupV1(PathBuf),
    Proc,
}

impl Group {
    /// Makes a control group, or falls back to /proc.
    pub fn new(name: &str) -> Self {
        let kind = make_cgroup(name).unwrap_or(Kind::Proc);
        Self { kind, root_pids: Vec::new(), ended_cpu: Duration::ZERO }
    }

    /// How CPU time is counted, in words.
    pub fn method(&self) -> &'static str {
        match self.kind {
            Kind::CgroupV2(_) => "cgroup v2 cpu.stat",
            Kind::CgroupV1(_) => "cgroup v1 cpuacct.usage",
            Kind::Proc => "sum of /proc/PID/stat over the process tree (no writable cgroup; 10 ms)",
        }
    }

    /// A command that starts `program` inside the group, on `cores` where given.
    pub fn command(&self, program: &Path, cores: Option<&str>) -> Command {
        let mut words: Vec<PathBuf> = Vec::new();
        if let Kind::CgroupV2(path) | Kind::CgroupV1(path) = &self.kind {
            // The shell joins the group and becomes the program: no process escapes the count.
            let script = r#"echo $$ > "$0" && exec "$@""#;
            words.extend(["sh", "-c", script].map(PathBuf::from));
            words.push(path.join("cgroup.procs"));
        }
        if let Some(cores) = cores {
            words.extend(["taskset", "-c", cores].map(PathBuf::from));
        }
        words.push(program.to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// Tells where the process tree begins; needed for /proc only.
    pub fn add_root(&mut self, pid: u32) {
        self.root_pids.push(pid);
    }

    /// Call before a root is killed: what it has used until then stays counted.
    pub fn root_ends(&mut self, pid: u32) {
        if matches!(self.kind, Kind::Proc) {
            let before = self.cpu();
            self.root_pids.retain(|root| *root != pid);
            self.ended_cpu = Duration::ZERO;
            self.ended_cpu = before.saturating_sub(self.cpu());
        }
    }

    /// CPU time of all processes and threads that are or were in the group.
    pub fn cpu(&self) -> Duration {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        match &self.kind {
            Kind::CgroupV2(path) => cpu_stat(&read(&path.join("cpu.stat"))),
            Kind::CgroupV1(path) => {
                let text = read(&path.join("cpuacct.usage"));
                Duration::from_nanos(text.trim().parse().unwrap_or(0))
            }
            Kind::Proc => {
                let processes = processes();
                let tree = tree(&self.root_pids, &processes);
                let cpu = |pid: &u32| processes[pid].own + processes[pid].children;
                self.ended_cpu + tree.iter().map(cpu).sum::<Duration>()
            }
        }
    }

    pub fn pids(&self) -> Vec<u32> {
        match &self.kind {
            Kind::CgroupV2(path) | Kind::CgroupV1(path) => {
                let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
                text.lines().filter_map(|line| line.parse().ok()).collect()
            }
            Kind::Proc => tree(&self.root_pids, &processes()),
        }
    }

    pub fn memory(&self) -> Memory {
        let mut sum = Memory::default();
        for pid in self.pids() {
            let path = format!("/proc/{pid}/smaps_rollup");
            let memory = memory_of_rollup(&fs::read_to_string(path).unwrap_or_default());
            sum.proportional_bytes += memory.proportional_bytes;
            sum.resident_bytes += memory.resident_bytes;
            sum.process_count += 1;
        }
        sum
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Kind::CgroupV2(path) | Kind::CgroupV1(path) = &self.kind {
            // A group that still has a process stays; the name says whose it was.
            let _ = fs::remove_dir(path);
        }
    }
}

/// Memory of a group at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Each shared page counted in shares (PSS): fair between one process and many.
    pub proportional_bytes: u64,
    /// Sum of resident memory; shared pages count again for each process.
    pub resident_bytes: u64,
    pub process_count: u64,
}

impl Memory {
    /// The larger of two moments.
    pub fn peak(self, other: Self) -> Self {
        if other.proportional_bytes > self.proportional_bytes { other } else { self }
    }
}

/// Counts flush requests of the disk under a directory: the same measure for every server, taken
/// outside of it. Flushes of others on that disk count too; the kernel may merge concurrent ones.
pub struct FlushCounter {
    stat: Option<PathBuf>,
}

impl FlushCounter {
    pub fn of(directory: &Path) -> Self {
        let device = fs::metadata(directory).map(|metadata| metadata.dev()).unwrap_or(0);
        let (major, minor) = (libc::major(device), libc::minor(device));
        let mut stat = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok();
        // Flushes are counted for the whole disk, not for a partition.
        if stat.as_ref().is_some_and(|path| path.join("partition").exists()) {
            stat = stat.and_then(|path| path.parent().map(Path::to_owned));
        }
        Self { stat: stat.map(|path| path.join("stat")) }
    }

    /// `None` where the file system has no disk, or the kernel does not count.
    pub fn read(&self) -> Option<u64> {
        flushes_of_stat(&fs::read_to_string(self.stat.as_ref()?).ok()?)
    }
}

fn flushes_of_stat(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(15)?.parse().ok()
}

fn cpu_stat(text: &str) -> Duration {
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Duration::from_micros(usage.and_then(|usage| usage.trim().parse().ok()).unwrap_or(0))
}

fn memory_of_rollup(text: &str) -> Memory {
    let kib = |name: &str| -> u64 {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        let number = value.and_then(|value| value.trim().strip_suffix(" kB"));
        number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    Memory {
        proportional_bytes: kib("Pss:") * 1024,
        resident_bytes: kib("Rss:") * 1024,
        process_count: 1,
    }
}

fn make_cgroup(name: &str) -> Option<Kind> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mount = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let options = fields.get(3)?.split(',').any(|found| found == option);
            (fields[2] == kind && (option.is_empty() || options)).then(|| fields[1].to_owned())
        })
    };
    let place = |mount: String, controller: &str| {
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let controllers = fields.nth(1)?;
            controllers.split(',').any(|found| found == controller).then(|| fields.next())?
        });
        let path = PathBuf::from(mount).join(path.unwrap_or("/").trim_start_matches('/'));
        path.join(format!("ringpost-loadtest-{}-{name}", std::process::id()))
    };
    if let Some(mount) = mount("cgroup2", "") {
        let path = place(mount, "");
        if usable(&path, "cpu.stat") {
            return Some(Kind::CgroupV2(path));
        }
    }
    let path = place(mount("cgroup", "cpuacct")?, "cpuacct");
    usable(&path, "cpuacct.usage").then_some(Kind::CgroupV1(path))
}

/// Whether a group could be made that counts and takes processes.
fn usable(path: &Path, counter: &str) -> bool {
    if fs::create_dir(path).is_err() {
        return false;
    }
    let writable = fs::File::options().write(true).open(path.join("cgroup.procs")).is_ok();
    let counts = path.join(counter).exists();
    if !(writable && counts) {
        // It is empty, and ours.
        let _ = fs::remove_dir(path);
    }
    writable && counts
}

fn processes() -> HashMap<u32, StatCpu> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    let stat_of = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((pid, usage::cpu_of_stat(&stat)?))
    };
    entries.filter_map(|entry| stat_of(entry.ok()?)).collect()
}

fn tree(roots: &[u32], processes: &HashMap<u32, StatCpu>) -> Vec<u32> {
    let mut tree: Vec<u32> =
        roots.iter().copied().filter(|root| processes.contains_key(root)).collect();
    let mut index = 0;
    while let Some(parent) = tree.get(index).copied() {
        let children = processes.iter().filter(|(_, process)| process.parent_pid == parent);
        let fresh: Vec<u32> =
            children.map(|(pid, _)| *pid).filter(|pid| !tree.contains(pid)).collect();
        tree.extend(fresh);
        index += 1;
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_kernel_are_read() {
        let cpu = cpu_stat("usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n");
        assert_eq!(cpu, Duration::from_micros(1_234_567));
        let disk =
            "34074 9332 5399266 20170 3935 29651 5946416 15147 0 8860 35605 1 18 7 280 191 7";
        assert_eq!(flushes_of_stat(disk), Some(191));
        assert_eq!(flushes_of_stat("1 2 3 4 5 6 7 8 9 10 11"), None);
        let rollup = "00400000-7ffd rollup\nRss:    2048 kB\nPss:     512 kB\nPss_Anon: 4 kB\n";
        let expected =
            Memory { proportional_bytes: 512 << 10, resident_bytes: 2 << 20, process_count: 1 };
        assert_eq!(memory_of_rollup(rollup), expected);
    }

    #[test]
    fn a_tree_holds_children_and_their_children() {
        let process =
            |parent_pid| StatCpu { parent_pid, own: Duration::ZERO, children: Duration::ZERO };
        let processes = HashMap::from([
            (10, process(1)),
            (11, process(10)),
            (12, process(11)),
            (9, process(1)),
        ]);
        let mut found = tree(&[10, 99], &processes);
        found.sort_unstable();
        assert_eq!(found, [10, 11, 12]);
    }
}
