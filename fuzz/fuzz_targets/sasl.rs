//! Messages of SASL clients: none is taken for what it is not.
#![no_main]

use std::num::NonZeroU32;

use libfuzzer_sys::fuzz_target;
use ringpost::proto::sasl::digest::Hashes;
use ringpost::proto::sasl::login::Login;
use ringpost::proto::sasl::scram::{ClientFirst, Verifier};
use ringpost::proto::sasl::{base64, plain};

fuzz_target!(|input: &[u8]| {
    if let Some(octets) = base64::decode(input) {
        let mut text = String::new();
        base64::encode(&octets, &mut text);
        assert_eq!(text.as_bytes(), input);
    }
    if let Some(credentials) = plain::parse(input) {
        let fields = [credentials.authorization_id, credentials.name, credentials.password];
        assert_eq!(fields.join("\0").as_bytes(), input);
    }
    let mut login = Login::default();
    let cut = input.len() / 2;
    login.step(&input[..cut]);
    login.step(&input[cut..]);

    let newline = input.iter().position(|octet| *octet == b'\n').unwrap_or(input.len());
    let (first, last) = input.split_at(newline);
    if let Ok(first) = ClientFirst::parse(first) {
        assert!(!first.name.is_empty());
        let iterations = NonZeroU32::MIN;
        let verifier =
            Verifier { salt: vec![1], iterations, stored_key: [2; 32], server_key: [3; 32] };
        let exchange = first.challenge(verifier, "0123456789abcdefghijklmn");
        // With hashes that are no hashes: nothing becomes the stored key.
        let hashes = Hashes { sha256: |_| [0; 32], hmac_sha256: |_, _| [0; 32] };
        assert!(exchange.finish(last.get(1..).unwrap_or_default(), hashes).is_err());
    }
});
