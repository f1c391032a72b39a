//! The hashes SCRAM is made of. They come from the caller: this room has no crypto library, and
//! there is to be one for the whole system.

/// SHA-256 of something.
pub type Digest = [u8; 32];

/// SHA-256 (FIPS 180-4) and HMAC with it (RFC 2104), key before message.
#[derive(Clone, Copy, Debug)]
pub struct Hashes {
    pub sha256: fn(&[u8]) -> Digest,
    pub hmac_sha256: fn(&[u8], &[u8]) -> Digest,
}

/// In time that does not depend on where they differ.
pub(super) fn is_equal(left: &Digest, right: &Digest) -> bool {
    let differences = left.iter().zip(right).fold(0, |all, (left, right)| all | (left ^ right));
    std::hint::black_box(differences) == 0
}

/// By the letter of the standards, for tests only.
#[cfg(test)]
pub(in crate::proto) mod reference {
    use std::sync::LazyLock;

    use super::{Digest, Hashes};

    pub const HASHES: Hashes = Hashes { sha256, hmac_sha256 };

    pub fn hmac_sha256(key: &[u8], message: &[u8]) -> Digest {
        let key = if key.len() > 64 { sha256(key).to_vec() } else { key.to_vec() };
        let padded = |pad: u8| -> Vec<u8> {
            (0..64).map(|index| key.get(index).copied().unwrap_or(0) ^ pad).collect()
        };
        let inner = sha256(&[padded(0x36), message.to_vec()].concat());
        sha256(&[padded(0x5c), inner.to_vec()].concat())
    }

    pub fn sha256(message: &[u8]) -> Digest {
        let mut state = [
            0x6a09e667,
            0xbb67ae85,
            0x3c6ef372,
            0xa54ff53a,
            0x510e527f,
            0x9b05688c,
            0x1f83d9ab,
            0x5be0cd19u32,
        ];
        let mut padded = message.to_vec();
        padded.push(0x80);
        padded.resize(padded.len().next_multiple_of(64), 0);
        if padded.len() - message.len() < 9 {
            padded.resize(padded.len() + 64, 0);
        }
        let end = padded.len() - 8;
        padded[end..].copy_from_slice(&(8 * message.len() as u64).to_be_bytes());
        padded.chunks(64).for_each(|block| compress(&mut state, block));
        let mut digest = [0; 32];
        for (octets, word) in digest.chunks_mut(4).zip(state) {
            octets.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    fn compress(state: &mut [u32; 8], block: &[u8]) {
        let mut words = [0u32; 64];
        for (word, octets) in words.iter_mut().zip(block.chunks(4)) {
            *word = u32::from_be_bytes(octets.try_into().expect("four octets"));
        }
        for index in 16..64 {
            let (two, fifteen) = (words[index - 2], words[index - 15]);
            let s0 = fifteen.rotate_right(7) ^ fifteen.rotate_right(18) ^ fifteen >> 3;
            let s1 = two.rotate_right(17) ^ two.rotate_right(19) ^ two >> 10;
            words[index] =
                words[index - 16].wrapping_add(s0).wrapping_add(words[index - 7]).wrapping_add(s1);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
        for (word, constant) in words.iter().zip(&*CONSTANTS) {
            let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = (e & f) ^ (!e & g);
            let first =
                h.wrapping_add(s1).wrapping_add(choice).wrapping_add(*constant).wrapping_add(*word);
            let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let second = s0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b, a) = (c, b, a, first.wrapping_add(second));
        }
        for (word, add) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *word = word.wrapping_add(add);
        }
    }

    /// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
    static CONSTANTS: LazyLock<Vec<u32>> = LazyLock::new(|| {
        let primes = (2u128..).filter(|n| (2..*n).all(|divisor| n % divisor != 0)).take(64);
        let roots = primes.map(|prime| {
            // The integer cube root of prime * 2^96 is that of the prime with 32 binary places.
            let target = prime << 96;
            let (mut low, mut high) = (0u128, 1 << 40);
            while high - low > 1 {
                let middle = (low + high) / 2;
                if middle * middle * middle <= target { low = middle } else { high = middle }
            }
            low as u32
        });
        roots.collect()
    });

    #[test]
    fn the_reference_is_sha256() {
        let hex = |digest: Digest| -> String {
            digest.iter().map(|octet| format!("{octet:02x}")).collect()
        };
        assert_eq!(
            hex(sha256(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            hex(sha256(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        );
        // RFC 4231 §4.3.
        assert_eq!(
            hex(hmac_sha256(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
