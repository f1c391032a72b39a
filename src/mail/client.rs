//! A client, as far as the system tells clients apart.

use std::net::IpAddr;

/// A client: an IPv4 address, or the /64 of an IPv6 one, which one subscriber has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey(u64, bool);

impl ClientKey {
    pub fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_bits().into(), false),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64, true),
        }
    }

    /// The same octets for the same client.
    pub fn to_bytes(self) -> [u8; 9] {
        let mut bytes = [u8::from(self.1); 9];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes
    }

    /// A number to spread clients by; the same in every process.
    pub fn spread(self) -> u32 {
        // Fibonacci hashing: neighbouring addresses go to different places.
        let mixed = (self.0 ^ u64::from(self.1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_is_its_network() {
        let key = |text: &str| ClientKey::new(text.parse().expect("an address"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("0:0:0:1::"), key("0.0.0.1"));
    }
}
