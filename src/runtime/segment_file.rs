//! Files of the journal: made in advance, written past the page cache, locked.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::aligned::AlignedBuffer;

/// Whether writes pass the page cache by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Direct,
    /// The file system refuses direct access.
    Buffered,
}

/// Opens a segment for reading and writing, directly where the file system can.
pub fn open(path: &Path) -> io::Result<(File, Access)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => Ok((file, Access::Direct)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok((options.open(path)?, Access::Buffered))
        }
        Err(error) => Err(error),
    }
}

/// Makes a file of `bytes` written zeros under its final name, durably: a write into it never
/// allocates. A crash midway leaves only the temporary name behind.
pub fn create_zeroed(directory: &Path, name: &str, bytes: u64) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    drop(OpenOptions::new().create(true).write(true).truncate(true).open(&temporary)?);
    let (file, _) = open(&temporary)?;
    // SAFETY: the descriptor is open; no memory is passed.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) } != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            // What could not be allocated is not left lying about.
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
    }
    let zeros = AlignedBuffer::new(ZERO_BYTES);
    let mut offset = 0;
    while offset < bytes {
        let count = (bytes - offset).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..count], offset)?;
        offset += count as u64;
    }
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    sync_directory(directory)
}

/// Makes names in a directory durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Takes the lock of an open file; `WouldBlock` when another process has it.
pub fn lock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Bytes of the file system that this process may still take.
pub fn available_bytes(directory: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: `path` is a C string and `stat` ours to fill.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut stat) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

/// Written at once. Segments are made while mail flows: what this takes is not the mail's.
const ZERO_BYTES: usize = 256 * 1024;
