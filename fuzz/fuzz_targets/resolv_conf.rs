//! `/etc/resolv.conf` and names: bounds hold, and a name reads back as it is written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::dns::ResolvConf;
use ringpost::limits::DNS_UPSTREAMS_MAX;
use ringpost::proto::dns::Name;

fuzz_target!(|text: &str| {
    let conf = ResolvConf::parse(text, |name| name.len().try_into().ok());
    assert!(conf.upstreams.len() <= DNS_UPSTREAMS_MAX);
    assert!(conf.upstreams.iter().all(|it| it.port() == 53));
    assert!(conf.timeout.is_none_or(|it| (1..=30).contains(&it.as_secs())));
    assert!(conf.attempts.is_none_or(|it| (1..=5).contains(&it)));
    if let Some(name) = Name::parse(text) {
        assert_eq!(Name::parse(name.as_str()), Some(name.clone()));
        let labels = name.labels();
        assert_eq!(Name::from_labels(labels.iter().map(Vec::as_slice)), Some(name));
    }
});
