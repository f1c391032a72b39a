//! MTA-STS: what is read of a policy, of its announcement and of the file of policies is within
//! bounds and reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::delivery::sts::{read_file, write_file};
use ringpost::proto::dns::Record;
use ringpost::proto::mta_sts::{Mode, Policy, announced_id};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(policy) = Policy::parse(bytes) {
        assert!(!policy.mx.is_empty() || policy.mode == Mode::None);
        assert!(policy.max_age_s <= 31_557_600);
        let text = policy.lines().join("\r\n");
        assert_eq!(Policy::parse(text.as_bytes()).as_ref(), Ok(&policy));
        for pattern in &policy.mx {
            let text = pattern.to_string();
            let host = text.strip_prefix("*").map_or(text.clone(), |rest| format!("x{rest}"));
            assert!(policy.allows(&host));
        }
    }
    let records = [Record::Txt(bytes.into())];
    if let Some(id) = announced_id(&records) {
        assert!((1..=32).contains(&id.len()) && id.bytes().all(|it| it.is_ascii_alphanumeric()));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(kept) = read_file(text)
    {
        let mut again = read_file(&write_file(kept.iter())).expect("what we wrote");
        let mut kept = kept;
        kept.sort_by(|a, b| a.policy.domain.cmp(&b.policy.domain));
        again.sort_by(|a, b| a.policy.domain.cmp(&b.policy.domain));
        assert_eq!(again, kept);
    }
});
