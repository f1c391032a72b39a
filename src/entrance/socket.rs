//! Sockets of this machine that are listened at in place of an address.
//!
//! The kernel spreads connections over several listeners of an address, not over those of a path.
//! So one thread accepts for all shards, and a connection comes to its shard without an executor.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::NEW_SUFFIX;
use crate::runtime::net::{self, DetachedTcpStream};
use crate::runtime::privilege::Identity;
use crate::runtime::thread;

/// A listening socket that nobody accepts from yet.
pub struct BoundSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl BoundSocket {
    /// Makes the socket with permissions `mode`, and as one of `owner`'s. A file that a killed
    /// server left is replaced; see `check_unused` for what is not.
    pub fn bind(path: &str, mode: u32, owner: Option<&Identity>) -> io::Result<Self> {
        check_unused(path)?;
        // Under its name nobody meets a socket that is not ready.
        let new = PathBuf::from(format!("{path}{NEW_SUFFIX}"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        if let Some(owner) = owner {
            chown(&new, Some(owner.uid), Some(owner.gid))?;
        }
        fs::set_permissions(&new, Permissions::from_mode(mode))?;
        let file = SocketFile { path: path.into(), number: number_of(&new)? };
        fs::rename(&new, path)?;
        Ok(Self { listener, file })
    }

    pub fn file(&self) -> SocketFile {
        self.file.clone()
    }

    /// Gives each connection to `take`, on a thread of its own, for as long as the process lives.
    pub fn serve(
        self,
        core: Option<usize>,
        mut take: impl FnMut(DetachedTcpStream) + Send + 'static,
    ) -> io::Result<()> {
        let accept = move || {
            loop {
                match self.listener.accept() {
                    Ok((stream, _)) => take(stream.into()),
                    // Out of descriptors: they come back.
                    Err(_) => std::thread::sleep(ACCEPT_RETRY_WAIT),
                }
            }
        };
        thread::spawn("accept", core, accept).map(drop)
    }
}

/// The file of a socket, as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    number: (u64, u64),
}

impl SocketFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, unless it is gone or another one has its name.
    pub fn remove(&self) -> io::Result<()> {
        match number_of(&self.path) {
            Ok(number) if number == self.number => fs::remove_file(&self.path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a socket may be made there: `AddrInUse` where somebody listens, `AlreadyExists` where
/// something is that is no socket, `NotFound` where its directory is missing. What is in the way of
/// an answer is an error as well.
pub fn check_unused(path: &str) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => {
            let text = "something that is no socket is there";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = Path::new(path).parent().ok_or(io::ErrorKind::NotADirectory)?;
            return fs::metadata(directory).map(drop);
        }
        Err(error) => return Err(error),
    }
    match net::is_listened_at(path)? {
        true => Err(io::ErrorKind::AddrInUse.into()),
        false => Ok(()),
    }
}

fn number_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Pause when descriptors or memory have run out.
const ACCEPT_RETRY_WAIT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn place() -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lmtp").to_str().expect("UTF-8").to_owned();
        (directory, path)
    }

    fn kind(path: &str) -> io::ErrorKind {
        let error = BoundSocket::bind(path, 0o660, None).map(drop).expect_err("refused");
        assert_eq!(check_unused(path).expect_err("refused").kind(), error.kind());
        error.kind()
    }

    #[test]
    fn a_socket_has_its_permissions_and_is_removed_by_who_made_it() {
        for mode in [0o600, 0o660, 0o666] {
            let (directory, path) = place();
            let bound = BoundSocket::bind(&path, mode, None).expect("bound");
            let metadata = fs::symlink_metadata(&path).expect("there");
            assert_eq!(metadata.permissions().mode() & 0o777, mode);
            let file = bound.file();
            drop(bound);
            let other = BoundSocket::bind(&path, mode, None).expect("the first is dead");
            file.remove().expect("nothing to do");
            assert_eq!(fs::read_dir(&directory).expect("there").count(), 1, "it is another's");
            other.file().remove().expect("removed");
            other.file().remove().expect("gone already");
            assert_eq!(fs::read_dir(&directory).expect("there").count(), 0);
        }
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let (directory, path) = place();
        drop(UnixListener::bind(&path).expect("bound"));
        fs::write(directory.path().join("lmtp.new"), "left").expect("written");
        let bound = BoundSocket::bind(&path, 0o600, None).expect("nobody listens");
        assert_eq!(kind(&path), io::ErrorKind::AddrInUse);
        drop(bound);
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "not ours").expect("written");
        assert_eq!(kind(&path), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("there"), b"not ours");
        assert_eq!(kind(&format!("{path}/x")), io::ErrorKind::NotADirectory);
        assert_eq!(kind(&format!("{path}s/x")), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_server_whose_queue_of_connections_is_full_counts_as_live() {
        let (_directory, path) = place();
        let _listener = UnixListener::bind(&path).expect("bound");
        let most = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("readable");
        for _ in 0..most.trim().parse::<usize>().expect("a number") + 2 {
            assert!(net::is_listened_at(&path).expect("known"));
        }
        assert_eq!(kind(&path), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn connections_come_in_order() {
        let (_directory, path) = place();
        let bound = BoundSocket::bind(&path, 0o600, None).expect("bound");
        let (sender, taken) = std::sync::mpsc::channel();
        bound
            .serve(None, move |stream| sender.send(stream).expect("waited for"))
            .expect("a thread");
        for _ in 0..3 {
            let mut client = UnixStream::connect(&path).expect("a session");
            drop(taken.recv().expect("accepted"));
            assert_eq!(client.read(&mut [0; 1]).expect("closed"), 0);
        }
    }
}
