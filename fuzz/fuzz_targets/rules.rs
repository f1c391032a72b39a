//! Rules for replies, and a reply they judge: no panic, and the same answer twice. The rules end at
//! the first octet 0; code, reply text and nothing else follow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::config::{Config, parse_rules};
use ringpost::mail::{EnhancedStatusCode, Reply};
use ringpost::proto::classify::ReplyContext;

fuzz_target!(|input: &str| {
    let (rules, reply) = input.split_once('\0').unwrap_or((input, "550 5.1.1 no such user"));
    let code = reply.get(..3).and_then(|code| code.parse().ok());
    let code = code.filter(|code| (300..600).contains(code)).unwrap_or(550);
    let text = reply.get(4..).unwrap_or_default();
    let status = EnhancedStatusCode::parse_prefix(text.as_bytes()).map(|(status, _)| status);
    let reply = Reply::remote(code, status, text.to_owned());
    let context =
        ReplyContext { reply: &reply, site: "mx.test", domain: "a.test", source: "", tenant: text };
    let shipped = Config::embedded().delivery.rules;
    assert_eq!(shipped.judge(&context), shipped.judge(&context));
    if let Ok(rules) = parse_rules(rules, "fuzz.toml") {
        assert_eq!(rules.judge(&context), rules.judge(&context));
    }
});
