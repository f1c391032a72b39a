//! Certificates of other people: dates are read or there are none, whatever the DER holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::tls::validity;

fuzz_target!(|input: &[u8]| {
    let Some((begin, end)) = validity::of(input) else { return };
    // Years of four digits.
    for seconds in [begin, end] {
        assert!((-62_200_000_000..253_500_000_000).contains(&seconds), "{seconds}");
    }
    // What stands behind a certificate says nothing.
    let longer = [input, b"x"].concat();
    assert_eq!(validity::of(&longer), Some((begin, end)));
});
