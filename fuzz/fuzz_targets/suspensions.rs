//! The file of suspensions: what is understood is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::queue::StandingOrders;

fuzz_target!(|text: &[u8]| {
    if let Ok(orders) = StandingOrders::parse(text) {
        assert_eq!(StandingOrders::parse(&orders.write()), Ok(orders));
    }
});
