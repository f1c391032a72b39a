//! Small files that are replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Puts `bytes` in the place of what the file holds, durable when this returns. After a crash or an
/// error the file is the old one or the new one, whole. Nobody else may read it.
///
/// What a crash leaves behind is `path` with the ending `new`, which the next call replaces.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    // Another mode of a file that is there already would stay.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(directory) if directory != Path::new("") => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_replaced_whole_and_is_ours_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.json");
        // What a crash left behind is in nobody's way.
        fs::write(directory.path().join("state.new"), "half").expect("written");
        for text in ["one", "a longer one", ""] {
            replace(&path, text.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), text);
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert!(replace(&path.join("below"), b"").is_err());
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
    }
}
