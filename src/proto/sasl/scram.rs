//! SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.
//!
//! The server's half; `client` is the other one. The client's first message names somebody; the
//! caller finds the verifier of that name, or makes one up, so that names cannot be probed; the
//! client's second message is a proof.

pub mod client;

use std::num::NonZeroU32;

use super::base64;
use super::digest::{Digest, Hashes, is_equal};

/// What a server keeps in the place of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub salt: Vec<u8>,
    pub iterations: NonZeroU32,
    pub stored_key: Digest,
    pub server_key: Digest,
}

impl Verifier {
    /// The verifier of a password, given what PBKDF2 with HMAC-SHA-256 makes of the prepared
    /// password (RFC 4013), the salt and the count of iterations; that takes its time, as it
    /// should, and is never done on a shard.
    pub fn from_salted_password(
        salted: &Digest,
        salt: Vec<u8>,
        iterations: NonZeroU32,
        hashes: Hashes,
    ) -> Self {
        let client_key = (hashes.hmac_sha256)(salted, b"Client Key");
        let stored_key = (hashes.sha256)(&client_key);
        let server_key = (hashes.hmac_sha256)(salted, b"Server Key");
        Self { salt, iterations, stored_key, server_key }
    }
}

impl std::fmt::Debug for Verifier {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// Whom to act as; empty: the one who authenticates.
    pub authorization_id: String,
    pub name: String,
    /// With its commas: what the second message repeats.
    gs2_header: String,
    /// The message without the header.
    bare: String,
    nonce: String,
}

/// Why an exchange ends without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not by the grammar, too long, or an extension that must be understood.
    Malformed,
    /// The client wants channel binding, which was not offered.
    ChannelBinding,
    /// The second message does not belong to the first.
    Mismatch,
    /// The proof is wrong.
    Proof,
    /// The password would be hashed too few times, or more often than anybody should be made to.
    Iterations,
}

impl ClientFirst {
    /// Reads `n,,n=user,r=nonce`.
    pub fn parse(message: &[u8]) -> Result<Self, Fault> {
        let text = text(message)?;
        let (flag, rest) = text.split_once(',').ok_or(Fault::Malformed)?;
        let (authorization_id, bare) = rest.split_once(',').ok_or(Fault::Malformed)?;
        match flag {
            // `y`: the client could, and believes that we cannot; it is right.
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(Fault::ChannelBinding),
            _ => return Err(Fault::Malformed),
        }
        let authorization_id = match authorization_id {
            "" => String::new(),
            id => sasl_name(id.strip_prefix("a=").ok_or(Fault::Malformed)?)?,
        };
        let mut attributes = bare.split(',');
        let name = sasl_name(attribute(attributes.next(), "n=")?)?;
        let nonce = attribute(attributes.next(), "r=")?;
        if name.is_empty() || !is_nonce(nonce) {
            return Err(Fault::Malformed);
        }
        Ok(Self {
            authorization_id,
            name,
            gs2_header: text[..text.len() - bare.len()].into(),
            bare: bare.into(),
            nonce: nonce.into(),
        })
    }

    /// Goes on with the verifier of the name and a nonce of our own: at least 18 random octets in
    /// base64 or the like, without commas.
    pub fn challenge(self, verifier: Verifier, server_nonce: &str) -> Exchange {
        assert!(is_nonce(server_nonce) && server_nonce.len() >= 24);
        let nonce = [&self.nonce, server_nonce].concat();
        let mut salt = String::new();
        base64::encode(&verifier.salt, &mut salt);
        let challenge = format!("r={nonce},s={salt},i={}", verifier.iterations);
        Exchange { first: self, verifier, nonce, challenge }
    }
}

/// An exchange whose challenge is on its way.
#[derive(Debug)]
pub struct Exchange {
    first: ClientFirst,
    verifier: Verifier,
    nonce: String,
    challenge: String,
}

impl Exchange {
    /// What to send.
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// Reads `c=biws,r=nonce,p=proof`; with success comes what proves to the client that we know
    /// the verifier.
    pub fn finish(self, message: &[u8], hashes: Hashes) -> Result<String, Fault> {
        let text = text(message)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Fault::Malformed)?;
        let proof = base64::decode(proof.as_bytes()).ok_or(Fault::Malformed)?;
        let mut proof = Digest::try_from(proof).map_err(|_| Fault::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attribute(attributes.next(), "c=")?;
        let binding = base64::decode(binding.as_bytes()).ok_or(Fault::Malformed)?;
        let nonce = attribute(attributes.next(), "r=")?;
        if binding != self.first.gs2_header.as_bytes() || nonce != self.nonce {
            return Err(Fault::Mismatch);
        }
        let signed = [self.first.bare.as_str(), &self.challenge, without_proof].join(",");
        let signature = (hashes.hmac_sha256)(&self.verifier.stored_key, signed.as_bytes());
        // The proof is the client's key under the signature.
        proof.iter_mut().zip(signature).for_each(|(octet, mask)| *octet ^= mask);
        if !is_equal(&(hashes.sha256)(&proof), &self.verifier.stored_key) {
            return Err(Fault::Proof);
        }
        let mut answer = "v=".to_owned();
        let signature = (hashes.hmac_sha256)(&self.verifier.server_key, signed.as_bytes());
        base64::encode(&signature, &mut answer);
        Ok(answer)
    }
}

fn text(message: &[u8]) -> Result<&str, Fault> {
    match std::str::from_utf8(message) {
        Ok(text) if text.len() <= MESSAGE_BYTES_MAX && !text.contains('\0') => Ok(text),
        _ => Err(Fault::Malformed),
    }
}

fn attribute<'m>(attribute: Option<&'m str>, name: &str) -> Result<&'m str, Fault> {
    attribute.and_then(|attribute| attribute.strip_prefix(name)).ok_or(Fault::Malformed)
}

/// A name in which `,` and `=` are written `=2C` and `=3D`.
fn sasl_name(text: &str) -> Result<String, Fault> {
    let mut parts = text.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (octet, rest) = match part.get(..2) {
            Some("2C") => (',', &part[2..]),
            Some("3D") => ('=', &part[2..]),
            _ => return Err(Fault::Malformed),
        };
        name.push(octet);
        name.push_str(rest);
    }
    Ok(name)
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b',')
}

const MESSAGE_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::sasl::digest::reference::{HASHES, hmac_sha256};

    /// The exchange of RFC 7677 §3.
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn exchange(first: &str) -> Exchange {
        let salt = base64::decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let iterations = NonZeroU32::new(4096).expect("not 0");
        let salted = salted_password(b"pencil", &salt, iterations);
        let verifier = Verifier::from_salted_password(&salted, salt, iterations, HASHES);
        let first = ClientFirst::parse(first.as_bytes()).expect("a first message");
        first.challenge(verifier, SERVER_NONCE)
    }

    /// `Hi` of RFC 5802 §2.2.
    fn salted_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Digest {
        let mut last = hmac_sha256(password, &[salt, &[0, 0, 0, 1]].concat());
        let mut salted = last;
        for _ in 1..iterations.get() {
            last = hmac_sha256(password, &last);
            salted.iter_mut().zip(last).for_each(|(all, octet)| *all ^= octet);
        }
        salted
    }

    #[test]
    fn the_exchange_of_the_standard() {
        let exchange = exchange(FIRST);
        assert_eq!(exchange.first.name, "user");
        assert_eq!(
            exchange.challenge(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let answer = exchange.finish(FINAL.as_bytes(), HASHES);
        assert_eq!(answer.as_deref(), Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn every_changed_octet_of_the_proof_is_refused() {
        let Exchange { first, verifier, .. } = exchange(FIRST);
        for index in 0..FINAL.len() {
            let exchange = first.clone().challenge(verifier.clone(), SERVER_NONCE);
            let mut message = FINAL.as_bytes().to_vec();
            message[index] = if message[index] == b'A' { b'B' } else { b'A' };
            assert!(exchange.finish(&message, HASHES).is_err(), "changed at {index}");
        }
    }

    #[test]
    fn the_header_is_bound() {
        let other = exchange(&FIRST.replace("n,,", "y,,"));
        assert_eq!(other.finish(FINAL.as_bytes(), HASHES), Err(Fault::Mismatch));
    }

    #[test]
    fn first_messages() {
        let check = |message: &str, expected: Result<(&str, &str), Fault>| {
            let parsed = ClientFirst::parse(message.as_bytes());
            let parsed = parsed.as_ref().map(|it| (it.authorization_id.as_str(), it.name.as_str()));
            assert_eq!(parsed, expected.as_ref().copied(), "{message:?}");
        };
        check("n,,n=a=2Cb=3Dc,r=x", Ok(("", "a,b=c")));
        check("y,a=other,n=a,r=x,ext=1", Ok(("other", "a")));
        check("p=tls-unique,,n=a,r=x", Err(Fault::ChannelBinding));
        for bad in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=a",
            "n,,n=,r=x",
            "n,,n=a,r=",
            "n,,m=1,n=a,r=x",
            "x,,n=a,r=x",
            "n,b,n=a,r=x",
            "n,,n=a=2c,r=x",
            "n,,n=a=,r=x",
            "n,,r=x,n=a",
            "n,,n=a,r=\u{e9}",
        ] {
            check(bad, Err(Fault::Malformed));
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let shown = format!("{:?}", exchange(FIRST).verifier);
        assert_eq!(shown, "Verifier { iterations: 4096, .. }");
    }
}
