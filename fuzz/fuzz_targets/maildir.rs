//! The lists of a Maildir and the names in it: each letter gets a UID of its own, in order, and a
//! mailbox the directory that is known by its name.
#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use ringpost::admin::maildir::{directory_of, name_of, number, parse_keywords, parse_uid_list};

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let keywords = parse_keywords(&text);
    assert!(keywords.iter().all(|(letter, name)| letter.is_ascii_lowercase() && !name.is_empty()));
    let list = parse_uid_list(&text);
    assert!(list.uid_validity.is_some() || list.uids.is_empty());
    // Files of the list, and others.
    let files = text.split(['\n', ' ']).map(|name| name.trim_start_matches(':'));
    let files = files.filter(|name| !name.is_empty());
    let found: Vec<(String, PathBuf)> = files.map(|it| (it.to_owned(), PathBuf::new())).collect();
    let count = found.len();
    let letters = number(found, &list.uids, &keywords);
    assert_eq!(letters.len(), count);
    assert!(letters.iter().all(|letter| letter.uid > 0));
    assert!(letters.is_sorted_by(|one, next| one.uid < next.uid));
    for directory in text.lines() {
        if let Some(name) = name_of(directory).filter(|name| name != "INBOX") {
            assert_eq!(name_of(&directory_of(&name)).as_ref(), Some(&name));
        }
    }
});
