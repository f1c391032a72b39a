//! What stands for a password at rest: one line of text with two parts.
//!
//! The first is a hash by Argon2id (RFC 9106), with its parameters, in the form of the PHC string
//! format: `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`. 19 MiB and two passes are what OWASP's
//! Password Storage Cheat Sheet advises where one lane is used. PLAIN, LOGIN, USER and PASS are
//! checked against it.
//!
//! The second, after a space, is the verifier of SCRAM-SHA-256 (RFC 7677), in the form that
//! PostgreSQL keeps it in: `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`. Whoever steals it
//! can try passwords much faster than against the first; it is there because the password of who
//! logs in by SCRAM never comes here.

use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Block, Params, Version};

use super::HASHES;
use crate::limits::{PASSWORD_HASH_KIB_MAX, PASSWORD_HASH_PASSES_MAX, SCRAM_ITERATIONS_MAX};
use crate::proto::sasl::base64;
use crate::proto::sasl::digest::Digest;
use crate::proto::sasl::scram::Verifier;
use crate::runtime::clock;
use crate::runtime::pages::Pages;
use crate::tls::digest::{pbkdf2_hmac_sha256, sha256};

/// Both parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub password: PasswordHash,
    pub scram: Verifier,
}

/// The text for a password: with salts of its own each time. Blocks for some ten milliseconds.
///
/// A password that is not ASCII is taken as it is, for SCRAM too: for composed letters that is what
/// RFC 4013 makes of it, and what most clients do.
pub fn make_secret(password: &str) -> String {
    let (mut salt, mut scram_salt) = ([0; SALT_BYTES], [0; SALT_BYTES]);
    clock::fill_random(&mut salt);
    clock::fill_random(&mut scram_salt);
    let password_hash = PasswordHash::make(password.as_bytes(), &salt);
    let salted = pbkdf2_hmac_sha256(password.as_bytes(), &scram_salt, SCRAM_ITERATIONS);
    let salt = scram_salt.to_vec();
    let scram = Verifier::from_salted_password(&salted, salt, SCRAM_ITERATIONS, HASHES);
    Secret { password: password_hash, scram }.to_text()
}

impl Secret {
    /// `None` where it is not such a text, or asks for more work than anybody's should.
    pub fn parse(text: &str) -> Option<Self> {
        let (password, scram) = text.split_once(' ')?;
        Some(Self { password: PasswordHash::parse(password)?, scram: parse_scram(scram)? })
    }

    /// Of no password, and as much work as others.
    pub(super) fn of_nobody() -> Self {
        let mut random = [0; 32];
        clock::fill_random(&mut random);
        Self::of_name_of_nobody(random)
    }

    /// The same, with a salt that is always the same for the same `random` octets: whoever asks
    /// twice is told it twice.
    pub(super) fn of_name_of_nobody(random: Digest) -> Self {
        let (salt, digest) = (&random[..SALT_BYTES], sha256(&random));
        let password = PasswordHash { kib: KIB, passes: PASSES, salt: salt.into(), digest };
        let scram = Verifier {
            salt: salt.into(),
            iterations: SCRAM_ITERATIONS,
            stored_key: digest,
            server_key: digest,
        };
        Self { password, scram }
    }

    fn to_text(&self) -> String {
        let Self { password, scram } = self;
        let encoded = |octets: &[u8]| {
            let mut text = String::new();
            base64::encode(octets, &mut text);
            text
        };
        let unpadded = |octets: &[u8]| encoded(octets).trim_end_matches('=').to_owned();
        format!(
            "{ARGON2}m={},t={},p=1${}${} {SCRAM}{}:{}${}:{}",
            password.kib,
            password.passes,
            unpadded(&password.salt),
            unpadded(&password.digest),
            scram.iterations,
            encoded(&scram.salt),
            encoded(&scram.stored_key),
            encoded(&scram.server_key),
        )
    }
}

/// Argon2id of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    /// Memory in KiB.
    kib: u32,
    passes: u32,
    salt: Box<[u8]>,
    digest: Digest,
}

impl std::fmt::Debug for PasswordHash {
    /// Without the hash.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordHash")
            .field("kib", &self.kib)
            .field("passes", &self.passes)
            .finish_non_exhaustive()
    }
}

impl PasswordHash {
    fn make(password: &[u8], salt: &[u8]) -> Self {
        let mut hash = Self { kib: KIB, passes: PASSES, salt: salt.into(), digest: [0; 32] };
        hash.digest = hash.digest_of(password);
        hash
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.strip_prefix(ARGON2)?.split('$');
        let mut parameters = fields.next()?.split(',');
        let mut parameter = |name: &str| parameters.next()?.strip_prefix(name)?.parse::<u32>().ok();
        let (kib, passes, lanes) = (parameter("m=")?, parameter("t=")?, parameter("p=")?);
        let salt = decode_unpadded(fields.next()?)?;
        let digest = Digest::try_from(decode_unpadded(fields.next()?)?).ok()?;
        let is_bounded = (KIB_MIN..=PASSWORD_HASH_KIB_MAX).contains(&kib)
            && (1..=PASSWORD_HASH_PASSES_MAX).contains(&passes)
            && (argon2::MIN_SALT_LEN..=SALT_BYTES_MAX).contains(&salt.len());
        if !is_bounded || lanes != 1 || parameters.next().is_some() || fields.next().is_some() {
            return None;
        }
        Some(Self { kib, passes, salt: salt.into(), digest })
    }

    /// Whether it is that of this password. Blocks, and takes its memory for that time.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let found = self.digest_of(password);
        // Where the two differ tells nothing of the password.
        found == self.digest
    }

    fn digest_of(&self, password: &[u8]) -> Digest {
        let mut digest = [0; 32];
        let params = Params::new(self.kib, self.passes, 1, Some(digest.len()));
        let params = params.expect("parameters are bounded");
        let memory = Pages::filled(params.block_count(), Block::new());
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(password, &self.salt, &mut digest, memory)
            .expect("password and salt are bounded");
        digest
    }
}

fn parse_scram(text: &str) -> Option<Verifier> {
    let (recipe, keys) = text.strip_prefix(SCRAM)?.split_once('$')?;
    let (iterations, salt) = recipe.split_once(':')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    let iterations: NonZeroU32 = iterations.parse().ok()?;
    let salt = base64::decode(salt.as_bytes())?;
    let key = |text: &str| Digest::try_from(base64::decode(text.as_bytes())?).ok();
    let is_bounded = (SCRAM_ITERATIONS_MIN..=SCRAM_ITERATIONS_MAX).contains(&iterations.get())
        && (1..=SALT_BYTES_MAX).contains(&salt.len());
    let (stored_key, server_key) = (key(stored_key)?, key(server_key)?);
    is_bounded.then_some(Verifier { salt, iterations, stored_key, server_key })
}

/// Base64 without the padding, as PHC strings have it.
fn decode_unpadded(text: &str) -> Option<Vec<u8>> {
    let padding = &"==="[..(4 - text.len() % 4) % 4];
    base64::decode([text, padding].concat().as_bytes())
}

const ARGON2: &str = "$argon2id$v=19$";
const SCRAM: &str = "SCRAM-SHA-256$";
/// What new hashes are made with.
const KIB: u32 = Params::DEFAULT_M_COST;
const PASSES: u32 = Params::DEFAULT_T_COST;
const SALT_BYTES: usize = 16;
const SALT_BYTES_MAX: usize = 64;
/// The least that Argon2 works with.
const KIB_MIN: u32 = Params::MIN_M_COST;
/// RFC 7677 §4.
const SCRAM_ITERATIONS_MIN: u32 = 4096;
/// What new verifiers are made with: clients do as many at each login, some on a telephone.
const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::new(16_384).expect("not 0");

const _: () = assert!(KIB == 19 * 1024 && PASSES == 2, "the doc says so");
const _: () = assert!(KIB <= PASSWORD_HASH_KIB_MAX && PASSES <= PASSWORD_HASH_PASSES_MAX);
const _: () = assert!(SCRAM_ITERATIONS.get() <= SCRAM_ITERATIONS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_that_knows_its_password_alone() {
        let text = make_secret("geh\u{e9}im");
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert!(text.contains(" SCRAM-SHA-256$16384:") && !text.contains('\n'));
        let secret = Secret::parse(&text).expect("what was made");
        assert_eq!(secret.to_text(), text);
        assert!(secret.password.is_of("geh\u{e9}im".as_bytes()));
        assert!(!secret.password.is_of(b"geheim"));
        assert_ne!(make_secret("geh\u{e9}im"), text, "salts differ");
    }

    #[test]
    fn the_hash_of_the_reference_implementation() {
        // `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`, of its test.c.
        let text = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ\
                    $CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let hash = PasswordHash::parse(text).expect("a hash");
        assert!(hash.is_of(b"password"));
    }

    #[test]
    fn the_verifier_of_the_standard() {
        // RFC 7677 §3.
        let salt = base64::decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let iterations = NonZeroU32::new(4096).expect("not 0");
        let salted = pbkdf2_hmac_sha256(b"pencil", &salt, iterations);
        let verifier = Verifier::from_salted_password(&salted, salt, iterations, HASHES);
        let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==\
                    $WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=\
                    :wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert_eq!(parse_scram(text), Some(verifier));
    }

    #[test]
    fn what_is_no_secret_or_too_much_work_is_refused() {
        let text = make_secret("x");
        for end in 0..text.len() {
            assert_eq!(Secret::parse(&text[..end]), None, "cut at {end}");
        }
        for (from, to) in [
            ("m=19456", "m=99999999"),
            ("m=19456", "m=0"),
            ("t=2", "t=0"),
            ("t=2", "t=1000"),
            ("p=1", "p=2"),
            ("p=1", "p=1,x=1"),
            ("$v=19$", "$v=16$"),
            ("argon2id", "argon2i"),
            ("$16384:", "$4095:"),
            ("$16384:", "$99999999:"),
            ("SCRAM-SHA-256", "SCRAM-SHA-1"),
        ] {
            assert!(text.contains(from));
            assert_eq!(Secret::parse(&text.replace(from, to)), None, "{to}");
        }
        let nobody = Secret::of_nobody();
        assert_eq!(Secret::parse(&nobody.to_text()).as_ref(), Some(&nobody));
        assert_ne!(Secret::of_nobody(), nobody);
        assert!(!format!("{nobody:?}").contains("digest"));
    }
}
