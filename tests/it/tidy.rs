//! The shape of the sources: ranks of rooms, what may be named where, lines that can be read.

use std::path::{Path, PathBuf};

/// Rooms by rank: a room uses rooms of lower rank only.
const RANKS: &[(&str, u32)] = &[
    ("limits", 0),
    ("mail", 1),
    ("proto", 2),
    ("tls", 2),
    ("config", 3),
    ("metrics", 3),
    ("event", 3),
    ("runtime", 4),
    ("auth", 5),
    ("entrance", 5),
    ("routing", 5),
    ("journal", 5),
    ("fsck", 5),
    ("dns", 5),
    ("web", 5),
    ("acme", 6),
    ("queue", 6),
    ("mailbox", 6),
    ("access", 7),
    ("reception", 7),
    ("delivery", 7),
    ("access", 7),
    ("shard", 8),
    ("control", 9),
    ("admin", 10),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `directory` with this ending.
fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|it| it == ending) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a source")
}

fn rank(room: &str) -> Option<u32> {
    RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

/// The room a file of `src` stands in; `None` for `lib.rs` and `main.rs`.
fn room_of(path: &Path) -> Option<String> {
    let below = path.strip_prefix(root().join("src")).expect("a file of src");
    let first = below.components().next()?.as_os_str().to_str()?;
    let room = first.trim_end_matches(".rs");
    rank(room).is_some().then(|| room.to_owned())
}

#[test]
fn rooms_use_rooms_of_lower_rank_only() {
    let mut uses = 0;
    for path in files("src", "rs") {
        let Some(room) = room_of(&path) else { continue };
        let text = read(&path);
        let own_rank = rank(&room).expect("a room");
        for (at, _) in text.match_indices("crate::") {
            let rest = &text[at + "crate::".len()..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            let used = &rest[..end.unwrap_or(rest.len())];
            let Some(used_rank) = rank(used) else { continue };
            uses += 1;
            let allowed = used == room || used_rank < own_rank;
            let name = path.display();
            assert!(allowed, "{name}: {room} (rank {own_rank}) uses {used} (rank {used_rank})");
        }
    }
    assert!(uses > 100, "the search still finds what it looks for");
}

#[test]
fn every_room_is_ranked_and_begins_with_its_card() {
    for entry in std::fs::read_dir(root().join("src")).expect("src") {
        let path = entry.expect("an entry").path();
        if !path.is_dir() {
            continue;
        }
        let room = path.file_name().and_then(|it| it.to_str()).expect("a name").to_owned();
        assert!(rank(&room).is_some(), "{room} has no rank");
        let card: String =
            read(&path.join("mod.rs")).lines().take_while(|line| line.starts_with("//!")).collect();
        for part in ["**Owns**", "**Uses**", "**Holds**", "**Start reading**"] {
            assert!(card.contains(part), "the card of {room} lacks {part}");
        }
    }
}

#[test]
fn nobody_waits_for_who_reads_standard_error() {
    for path in files("src", "rs") {
        // Commands that run no server may wait, and a line before there is one.
        let may_wait = ["src/lib.rs", "src/event/notice.rs"].iter().any(|it| path.ends_with(it));
        let serves = path.ends_with("admin/serve.rs") || room_of(&path).as_deref() != Some("admin");
        if may_wait || !serves {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            assert!(!line.contains("eprint"), "{place}: say it by event::notice");
        }
    }
}

#[test]
fn only_the_runtime_touches_the_kernel() {
    for path in files("src", "rs") {
        if room_of(&path).as_deref() == Some("runtime") {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for word in ["glommio", "io_uring::", "libc::", "unsafe {", "unsafe fn"] {
                let place = format!("{}:{}", path.display(), number + 1);
                assert!(!code.contains(word), "{place}: {word} outside the runtime");
            }
        }
    }
}

#[test]
fn pure_rooms_see_no_socket_no_file_no_clock_and_no_task() {
    for directory in ["src/mail", "src/proto"] {
        for path in files(directory, "rs") {
            let text = read(&path);
            let code = text.split("#[cfg(test)]").next().expect("a part");
            if path.file_name().is_some_and(|name| name == "tests.rs") {
                continue;
            }
            for word in [
                "std::fs",
                "TcpStream",
                "SystemTime",
                "Instant::now",
                ".await;",
                ".await?",
                "crate::runtime",
            ] {
                assert!(!code.contains(word), "{}: {word}", path.display());
            }
        }
    }
}

#[test]
fn sources_can_be_read() {
    let mut all = Vec::new();
    for directory in ["src", "loadtest/src", "tests", "benches", "fuzz/fuzz_targets"] {
        if root().join(directory).is_dir() {
            all.extend(files(directory, "rs"));
        }
    }
    for path in &all {
        let text = read(path);
        let name = path.strip_prefix(root()).expect("a file of ours").display();
        for (number, line) in text.lines().enumerate() {
            let width = line.chars().count();
            assert!(width <= 100, "{name}:{}: {width} columns", number + 1);
        }
        let is_test = path.starts_with(root().join("tests"));
        let elsewhere = text.replace("../shared/testdata", "").contains("../shared");
        assert!(!elsewhere || is_test, "{name} refers outside the project");
        for word in ["todo!(", "unimplemented!(", "dbg!("] {
            assert!(is_test || !text.contains(word), "{name}: {word}");
        }
    }
    assert!(all.len() > 60);
}

#[test]
fn documents_name_what_exists() {
    for document in
        ["README.md", "docs/ARCHITECTURE.md", "docs/QUEUE.md", "docs/MAILBOX.md", "CHANGELOG.md"]
    {
        let text = read(&root().join(document));
        let quoted = text.split('`').skip(1).step_by(2);
        for name in quoted.filter(|name| {
            ["src/", "docs/", "tests/", "tuning/", "loadtest/", "benches/", "fuzz/", ".ci/"]
                .iter()
                .any(|start| name.starts_with(start))
        }) {
            let path = name.split([' ', ':', '*']).next().expect("a path");
            assert!(root().join(path).exists(), "{document} names {path}, which is not there");
        }
    }
}
