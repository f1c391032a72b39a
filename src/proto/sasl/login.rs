//! LOGIN: name and password in two messages, each answering a prompt (draft-murchison-sasl-login).

use super::Credentials;

/// An exchange under way.
#[derive(Debug, Default)]
pub struct Login {
    name: Option<String>,
}

/// What follows a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this, then hand in the answer.
    Challenge(&'static str),
    Credentials(Credentials),
    /// Not UTF-8, empty, with NUL or too long.
    Malformed,
}

impl Login {
    /// What to send before the first message, when the client has sent none along.
    pub fn first_challenge(&self) -> &'static str {
        "Username:"
    }

    /// The next message of the client.
    pub fn step(&mut self, message: &[u8]) -> Step {
        let text = match std::str::from_utf8(message) {
            Ok(text) if (1..=FIELD_BYTES_MAX).contains(&text.len()) && !text.contains('\0') => text,
            _ => return Step::Malformed,
        };
        match self.name.take() {
            None => {
                self.name = Some(text.into());
                Step::Challenge("Password:")
            }
            Some(name) => Step::Credentials(Credentials {
                authorization_id: String::new(),
                name,
                password: text.into(),
            }),
        }
    }
}

const FIELD_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_then_a_password() {
        let mut login = Login::default();
        assert_eq!(login.first_challenge(), "Username:");
        assert_eq!(login.step(b"a"), Step::Challenge("Password:"));
        let Step::Credentials(credentials) = login.step(b"b") else { panic!("credentials") };
        assert_eq!((credentials.name.as_str(), credentials.password.as_str()), ("a", "b"));
        for bad in [&b""[..], b"\xff", b"a\0b", &[b'a'; 2000]] {
            assert_eq!(Login::default().step(bad), Step::Malformed);
        }
    }
}
