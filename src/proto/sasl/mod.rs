//! SASL (RFC 4422): mechanisms as machines that see the decoded messages of the peer and return
//! what to send. `client` is the client's half, all else the server's. Who is who is decided by
//! the caller.
//!
//! Start reading at `Mechanism`.

pub mod base64;
pub mod client;
pub mod digest;
pub mod login;
pub mod plain;
pub mod scram;

/// The mechanisms that are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// `plain`: name and password in one message.
    Plain,
    /// `login`: name and password in two messages; no standard, but old clients know nothing else.
    Login,
    /// `scram`: the password stays with the client.
    ScramSha256,
}

impl Mechanism {
    /// The mechanism of this name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        ALL.into_iter().find(|mechanism| name.eq_ignore_ascii_case(mechanism.as_str()))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
        }
    }

    /// Whether an eavesdropper learns the password: then it needs TLS.
    pub fn shows_password(self) -> bool {
        self != Self::ScramSha256
    }
}

const ALL: [Mechanism; 3] = [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256];

/// Name and password, to be checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Whom to act as; empty: the one who authenticates.
    pub authorization_id: String,
    pub name: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("authorization_id", &self.authorization_id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mechanisms_are_known_by_name() {
        for mechanism in ALL {
            assert_eq!(Mechanism::from_name(&mechanism.as_str().to_lowercase()), Some(mechanism));
        }
        assert_eq!(Mechanism::from_name("SCRAM-SHA-256-PLUS"), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        let credentials = Credentials {
            authorization_id: String::new(),
            name: "a".into(),
            password: "secret".into(),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
