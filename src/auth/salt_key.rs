//! The key by which a name that nobody has gets its salt, the same one over restarts: otherwise a
//! client that asks before and after one would know names that somebody has.

use std::fs;
use std::io;
use std::path::Path;

use crate::runtime::{clock, whole_file};

pub type SaltKey = [u8; 32];

/// The key of a data directory; made where there is none, or it is damaged. Blocks.
pub fn salt_key(data_dir: &Path) -> io::Result<SaltKey> {
    let path = data_dir.join("auth.key");
    match fs::read(&path) {
        Ok(octets) => {
            if let Ok(key) = SaltKey::try_from(octets) {
                return Ok(key);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut key = SaltKey::default();
    clock::fill_random(&mut key);
    whole_file::replace(&path, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_and_a_damaged_one_is_made_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let read = || salt_key(directory.path()).expect("a key");
        let first = read();
        assert_eq!(read(), first);
        fs::write(directory.path().join("auth.key"), b"short").expect("written");
        let second = read();
        assert_ne!(second, first);
        assert_eq!(read(), second);
        assert!(salt_key(&directory.path().join("nowhere")).is_err());
    }
}
