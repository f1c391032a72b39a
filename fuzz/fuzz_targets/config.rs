//! A configuration file: no panic, and what is valid explains itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::config::Config;

fuzz_target!(|text: &str| {
    if let Ok(config) = Config::parse(text, "fuzz.toml") {
        assert_eq!(Config::parse(&config.explain(), "fuzz.toml"), Ok(config));
    }
});
