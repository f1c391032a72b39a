//! Small disks of the tests' own: file systems in memory that fill up, and that fail when told to.
//!
//! Mounts stand in a mount namespace of the test's thread and of the processes that it starts: they
//! are gone with those, and their loop devices too, however the test ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system.
pub struct Disk {
    directory: TempDir,
    /// What is mounted below the directory, in order.
    mounts: Vec<PathBuf>,
    options: &'static str,
    device: Option<File>,
}

/// How an ext4 is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ext4 {
    /// As everywhere.
    Usual,
    /// Without a journal of its own: a failing disk fails data only.
    NoJournal,
    /// Data passes through its journal: writes wait in the cache, so that syncs fail.
    DataJournal,
}

impl Disk {
    /// In memory, without any disk below; `None`, and a line that says so, where nobody may mount.
    pub fn tmpfs(mebibytes: u64) -> Option<Disk> {
        let mut disk = Disk::begin()?;
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "none"], "disk")?;
        Some(disk)
    }

    /// On a loop device over a file in memory; `None`, and a line that says so, where nobody may.
    pub fn ext4(mebibytes: u64, kind: Ext4) -> Option<Disk> {
        let mut disk = Disk::begin()?;
        let memory = format!("size={}m", mebibytes + 8);
        disk.mount(&["-t", "tmpfs", "-o", &memory, "none"], "memory")?;
        let backing = disk.directory.path().join("memory/backing");
        File::create(&backing).expect("created").set_len(mebibytes << 20).expect("sized");
        // Few inodes, so that all that is no data stands at the front.
        let features = if kind == Ext4::NoJournal { "^has_journal" } else { "has_journal" };
        let arguments = ["-q", "-b", "4096", "-N", "256", "-m", "0", "-O", features];
        let made = run(Command::new("mkfs.ext4").args(arguments).arg(&backing));
        skip_unless(made.map(drop))?;
        if kind == Ext4::DataJournal {
            disk.options = "loop,data=journal";
        }
        let backing = backing.to_str().expect("a path of text").to_owned();
        disk.mount(&["-o", disk.options, &backing], "disk")?;
        disk.open_device();
        Some(disk)
    }

    fn begin() -> Option<Disk> {
        skip_unless(own_mounts())?;
        let directory = tempfile::tempdir().expect("a directory");
        Some(Disk { directory, mounts: Vec::new(), options: "loop", device: None })
    }

    fn mount(&mut self, arguments: &[&str], name: &str) -> Option<()> {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(&path).expect("made");
        skip_unless(run(Command::new("mount").args(arguments).arg(&path)).map(drop))?;
        self.mounts.push(path);
        Some(())
    }

    fn open_device(&mut self) {
        let mut find = Command::new("findmnt");
        let found = run(find.args(["-n", "-o", "SOURCE", "--target"]).arg(self.path()));
        let device = found.expect("a mount has a source");
        let open = OpenOptions::new().read(true).write(true).open(device.trim());
        self.device = Some(open.expect("a loop device"));
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// Bytes that anybody may still take.
    pub fn free_bytes(&self) -> u64 {
        let output = run(Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.path()));
        let text = output.expect("a file system");
        let (blocks, block_bytes) = text.trim().split_once(' ').expect("two numbers");
        let number = |text: &str| -> u64 { text.parse().expect("a number") };
        number(blocks) * number(block_bytes)
    }

    /// Takes all that is free, by a file that `remove_filler` removes.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("created");
        for bytes in [1 << 20, 4096, 512] {
            while file.write_all(&vec![b'f'; bytes]).is_ok() {}
        }
        // What waits in the cache has its place by now, or never gets one.
        let _ = file.sync_all();
    }

    pub fn remove_filler(&self) {
        std::fs::remove_file(self.filler()).expect("removed");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// From here on whoever reads or writes behind the first `bytes` gets EIO, as from a disk that
    /// has gone; what stands there stays.
    pub fn fail_behind(&self, bytes: u64) {
        self.limit(bytes);
    }

    pub fn heal(&self) {
        self.limit(0);
    }

    /// The loop device ends there; 0: at the end of its file.
    fn limit(&self, bytes: u64) {
        let device = self.device.as_ref().expect("a disk on a loop device").as_raw_fd();
        let mut status = [0_u64; LOOP_STATUS_WORDS];
        // SAFETY: the descriptor is open, and the kernel fills or reads `struct loop_info64`, whose
        // size `status` has.
        unsafe {
            let got = libc::ioctl(device, LOOP_GET_STATUS64, status.as_mut_ptr());
            assert_eq!(got, 0, "{}", io::Error::last_os_error());
            status[LOOP_SIZE_LIMIT] = bytes;
            let set = libc::ioctl(device, LOOP_SET_STATUS64, status.as_ptr());
            assert_eq!(set, 0, "{}", io::Error::last_os_error());
        }
    }

    /// Unmounts and mounts again, as after a restart of the machine.
    pub fn mount_again(&mut self) {
        self.device = None;
        let path = self.path();
        let source = self.directory.path().join("memory/backing");
        run(Command::new("umount").arg(&path)).expect("unmounted");
        let mut mount = Command::new("mount");
        run(mount.args(["-o", self.options]).arg(source).arg(path)).expect("mounted");
        self.open_device();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.device = None;
        for path in self.mounts.iter().rev() {
            let gone = run(Command::new("umount").arg(path));
            // Somebody may still be in it after a test that failed.
            if gone.is_err() {
                let _ = run(Command::new("umount").arg("-l").arg(path));
            }
        }
    }
}

/// Mounts of this thread, and of the processes it starts, are theirs alone from here on.
pub fn own_mounts() -> Result<(), String> {
    // SAFETY: no memory is passed.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(format!("no mount namespace: {}", io::Error::last_os_error()));
    }
    run(Command::new("mount").args(["--make-rprivate", "/"])).map(drop)
}

/// What a command printed, or why it failed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn skip_unless(possible: Result<(), String>) -> Option<()> {
    possible.map_err(|why| println!("SKIPPED, small disks need root and mounts: {why}")).ok()
}

/// Bytes of all files directly in a directory whose names begin so.
pub fn bytes_of(directory: &Path, start: &str) -> u64 {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|it| it.expect("one"));
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(start))
        .map(|entry| entry.metadata().expect("a file").len())
        .sum()
}

/// Of `struct loop_info64`.
const LOOP_STATUS_WORDS: usize = 29;
const LOOP_SIZE_LIMIT: usize = 4;
const LOOP_SET_STATUS64: libc::Ioctl = 0x4C04;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
