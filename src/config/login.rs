//! Name and password by which others know us, the password in a file or beside the name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::explain::Out;
use super::parse::{ConfigError, read_file};
use super::table::{Checked, Table};
use crate::proto::sasl;

/// A name and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The password of a file is read by `Config::load`, and empty before.
    pub credentials: Arc<sasl::Credentials>,
    pub password_file: Option<PathBuf>,
}

/// The keys of a login in its table, and what may stand there.
pub(super) struct Form {
    pub username: &'static str,
    pub password: &'static str,
    pub password_file: &'static str,
    /// Octets of name and password, each.
    pub bytes_max: usize,
}

impl Form {
    /// `None` where no key of it is there.
    pub fn read(&self, table: &Table<'_, '_>) -> Checked<Option<Login>> {
        let (mut name, mut password, mut password_file) = (None, None, None);
        table.parsed(self.username, "a name that is not empty", |text| {
            self.is_right(text).then(|| name = Some(text.to_owned()))
        })?;
        table.secret(self.password, &mut password)?;
        table.optional_path(self.password_file, &mut password_file)?;
        if name.is_none() && password.is_none() && password_file.is_none() {
            return Ok(None);
        }
        let name = name.ok_or_else(|| table.missing(self.username))?;
        let password = match (password, &password_file) {
            (Some(_), Some(_)) => {
                let text = format!("stands in {} too", self.password_file);
                return Err(table.refused(self.password, &text));
            }
            (Some(password), None) if !self.is_right(&password) => {
                return Err(table.refused(self.password, &format!("is {NO_SECRET}")));
            }
            (Some(password), None) => password,
            (None, Some(_)) => String::new(),
            (None, None) => return Err(table.missing(self.password_file)),
        };
        let authorization_id = String::new();
        let credentials = sasl::Credentials { authorization_id, name, password };
        Ok(Some(Login { credentials: credentials.into(), password_file }))
    }

    /// Reads the password where it stands in a file; `table` is for messages.
    pub fn load(&self, login: &mut Login, table: &str) -> Result<(), ConfigError> {
        if let Some(path) = &login.password_file {
            let password = self.load_password(path, table)?;
            let credentials = sasl::Credentials { password, ..(*login.credentials).clone() };
            login.credentials = Arc::new(credentials);
        }
        Ok(())
    }

    /// The first line of a file.
    fn load_password(&self, path: &Path, table: &str) -> Result<String, ConfigError> {
        let text = read_file(path)?;
        let password = text.lines().next().unwrap_or_default();
        if !self.is_right(password) {
            let file = path.display().to_string();
            let key = self.password_file;
            let message = format!("{table}.{key}: its first line is {NO_SECRET}");
            return Err(ConfigError { file, line: 1, message });
        }
        Ok(password.to_owned())
    }

    pub fn explain(&self, login: &Login, out: &mut Out) {
        out.text(self.username, Some(&login.credentials.name));
        match &login.password_file {
            Some(path) => out.path(self.password_file, Some(path)),
            None => out.comment(&format!("{} is not shown", self.password)),
        }
    }

    /// What a protocol can carry.
    fn is_right(&self, text: &str) -> bool {
        (1..=self.bytes_max).contains(&text.len()) && !text.contains('\0')
    }
}

const NO_SECRET: &str = "empty, too long or holds NUL";
