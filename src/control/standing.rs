//! The file in the data directory that keeps suspensions over restarts.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::queue::StandingOrders;
use crate::runtime::whole_file;

/// The suspensions cannot be read. Starting without them would send mail that is to wait.
#[derive(Debug)]
pub enum StandingError {
    Io { path: PathBuf, error: io::Error },
    Damaged { path: PathBuf, reason: String },
}

impl fmt::Display for StandingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StandingError::Io { path, error } => write!(f, "{}: {error}", path.display()),
            StandingError::Damaged { path, reason } => write!(
                f,
                "{}: damaged: {reason}; mail that an operator suspended would go out: repair the \
                 file, or move it away to start without suspensions",
                path.display(),
            ),
        }
    }
}

impl std::error::Error for StandingError {}

/// What a data directory keeps; nothing where there is no file.
pub fn load(data_dir: &Path) -> Result<StandingOrders, StandingError> {
    let path = data_dir.join(FILE);
    match fs::read(&path) {
        Ok(text) => {
            StandingOrders::parse(&text).map_err(|reason| StandingError::Damaged { path, reason })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(StandingOrders::default()),
        Err(error) => Err(StandingError::Io { path, error }),
    }
}

/// Replaces the file whole; durable on return. After an error the old one or the new one stands.
pub(super) fn save(data_dir: &Path, suspensions: &StandingOrders) -> io::Result<()> {
    whole_file::replace(&data_dir.join(FILE), &suspensions.write())
}

const FILE: &str = "suspensions.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Conditions, StandingOrder};

    #[test]
    fn what_is_saved_is_there_again_and_damage_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        assert_eq!(load(path).expect("no file"), StandingOrders::default());
        let mut suspensions = StandingOrders::default();
        let suspension = StandingOrder {
            number: 0,
            mail: Conditions::default(),
            since_ms: 1,
            until_ms: None,
            by: "root".into(),
            note: String::new(),
        };
        suspensions.add(suspension).expect("room");
        // What a crash left behind is in nobody's way.
        fs::write(path.join("suspensions.new"), "half").expect("written");
        save(path, &suspensions).expect("saved");
        assert_eq!(load(path).expect("whole"), suspensions);
        fs::write(path.join(FILE), "{\"version\": 1").expect("written");
        let error = load(path).expect_err("damaged").to_string();
        assert!(error.contains("suspensions.json: damaged: ") && error.contains("move it away"));
        assert!(!error.contains('\n'), "{error}");
    }
}
