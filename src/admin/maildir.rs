//! Maildir++ as Dovecot and Courier have it: `cur`, `new`, `tmp`, inferiors as `.A.B`, keywords in
//! `dovecot-keywords`, UIDs in `dovecot-uidlist`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::exit::Failure;
use super::transfer::{Letters, Source, to_crlf, to_lf, uid_validity_of, unreadable};
use crate::proto::imap::mailbox::MailboxName;
use crate::proto::imap::utf7;
use crate::shard::mail_order::Letter;

/// A letter in a file.
pub struct Entry {
    pub uid: u32,
    path: PathBuf,
    flags: Vec<String>,
}

impl Entry {
    pub fn read(self) -> Result<Letter, Failure> {
        let failure = |error| unreadable(&self.path, error);
        let content = to_crlf(&fs::read(&self.path).map_err(failure)?);
        let modified = fs::metadata(&self.path).and_then(|it| it.modified()).map_err(failure)?;
        let date_s = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32);
        let Entry { uid, flags, .. } = self;
        Ok(Letter { uid, date_s, flags, content, ..Letter::default() })
    }
}

/// The mailboxes of a Maildir++, INBOX first.
pub fn mailboxes(root: &Path) -> Result<Vec<Source>, Failure> {
    let mut sources = vec![mailbox(root, "INBOX".to_owned())?];
    let failure = |error| unreadable(root, error);
    let mut inferiors = Vec::new();
    for entry in fs::read_dir(root).map_err(failure)? {
        let path = entry.map_err(failure)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(name_of);
        if let Some(name) = name.filter(|_| path.join("cur").is_dir()) {
            inferiors.push((name, path));
        }
    }
    inferiors.sort();
    for (name, path) in inferiors {
        sources.push(mailbox(&path, name)?);
    }
    Ok(sources)
}

/// The mailbox that a directory `.A.B` holds.
pub fn name_of(directory: &str) -> Option<String> {
    let name = directory.strip_prefix('.').filter(|name| !name.is_empty())?;
    let name = MailboxName::parse(name.replace('.', "/").as_bytes())?;
    (!name.as_str().starts_with('/')).then(|| name.as_str().to_owned())
}

/// The directory of a mailbox, below the one of INBOX. A dot in a name, which there would be
/// another mailbox, becomes `_`.
pub fn directory_of(name: &str) -> String {
    if name == "INBOX" {
        return String::new();
    }
    let mut encoded = Vec::new();
    utf7::encode(&name.replace('.', "_"), &mut encoded);
    format!(".{}", String::from_utf8_lossy(&encoded).replace('/', "."))
}

fn mailbox(path: &Path, name: String) -> Result<Source, Failure> {
    let keywords = read_or_empty(&path.join(KEYWORDS))?;
    let keywords = parse_keywords(&keywords);
    let uid_list = parse_uid_list(&read_or_empty(&path.join(UID_LIST))?);
    let mut found = Vec::new();
    for part in ["cur", "new"] {
        let directory = path.join(part);
        let failure = |error| unreadable(&directory, error);
        for entry in fs::read_dir(&directory).map_err(failure)? {
            let path = entry.map_err(failure)?.path();
            let file = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            if let Some(file) = file.filter(|file| !file.starts_with('.')) {
                found.push((file, path));
            }
        }
    }
    let letters = number(found, &uid_list.uids, &keywords);
    let uid_validity = uid_list.uid_validity.unwrap_or_else(|| uid_validity_of(path));
    Ok(Source { name, uid_validity, letters: Letters::Maildir(letters) })
}

/// Letters in the order of their UIDs, each of which is of one alone; those that have none get some
/// behind, by their names.
pub fn number(
    found: Vec<(String, PathBuf)>,
    uids: &HashMap<String, u32>,
    keywords: &HashMap<char, String>,
) -> Vec<Entry> {
    let (mut known, mut others) = (Vec::new(), Vec::new());
    let mut taken = HashSet::new();
    for (file, path) in found {
        let (base, flags) = file.split_once(":2,").unwrap_or((&file, ""));
        let flags = flags.chars().filter_map(|letter| flag_of(letter, keywords)).collect();
        match uids.get(base) {
            Some(uid) if taken.insert(*uid) => known.push(Entry { uid: *uid, path, flags }),
            _ => others.push((base.to_owned(), path, flags)),
        }
    }
    known.sort_by_key(|entry| entry.uid);
    others.sort();
    // Above all that the list has, there or not.
    let first = uids.values().max().map_or(1, |highest| highest + 1);
    let numbered = others.into_iter().zip(first..);
    known.extend(numbered.map(|((_, path, flags), uid)| Entry { uid, path, flags }));
    known
}

fn flag_of(letter: char, keywords: &HashMap<char, String>) -> Option<String> {
    let known = FLAGS.iter().find(|(it, _)| *it == letter).map(|(_, name)| (*name).to_owned());
    known.or_else(|| keywords.get(&letter).cloned())
}

/// Lines `0 $Junk`: the first is letter `a`.
pub fn parse_keywords(text: &str) -> HashMap<char, String> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let numbered = lines.filter_map(|(number, name)| {
        let number =
            number.parse().ok().filter(|number: &u8| usize::from(*number) < LETTERS_MAX)?;
        Some(((b'a' + number) as char, name.trim().to_owned()))
    });
    numbered.filter(|(_, name)| !name.is_empty()).collect()
}

/// What `dovecot-uidlist` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UidList {
    pub uid_validity: Option<u32>,
    /// By the name of the file without its flags.
    pub uids: HashMap<String, u32>,
}

/// `3 V1275660208 N25022 G...`, then lines `25006 W123 :1276528487.M364837P9451`.
pub fn parse_uid_list(text: &str) -> UidList {
    let mut lines = text.lines();
    let mut list = UidList::default();
    let Some(rest) = lines.next().and_then(|first| first.strip_prefix("3 ")) else { return list };
    let validity = rest.split(' ').find_map(|field| field.strip_prefix('V'));
    list.uid_validity = validity.and_then(|it| it.parse().ok()).filter(|it| *it > 0);
    if list.uid_validity.is_none() {
        return list;
    }
    for line in lines {
        let Some((front, file)) = line.split_once(':') else { continue };
        let uid = front.split(' ').next().and_then(|uid| uid.parse().ok());
        if let Some(uid) = uid.filter(|uid| (1..=LISTED_UID_MAX).contains(uid)) {
            let base = file.split_once(":2,").map_or(file, |(base, _)| base);
            list.uids.insert(base.to_owned(), uid);
        }
    }
    list
}

fn read_or_empty(path: &Path) -> Result<String, Failure> {
    match fs::read(path) {
        Ok(octets) => Ok(String::from_utf8_lossy(&octets).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// Writes letters into one mailbox of a Maildir++.
pub struct Writer {
    path: PathBuf,
    uid_validity: u32,
    /// Those that are there, by UID.
    files: Vec<(u32, String)>,
    /// In the order of their letters.
    keywords: Vec<String>,
}

impl Writer {
    /// Goes on where an earlier export of this mailbox was.
    pub fn open(root: &Path, name: &str, uid_validity: u32) -> Result<Writer, Failure> {
        let path = root.join(directory_of(name));
        for part in ["cur", "new", "tmp"] {
            let directory = path.join(part);
            fs::create_dir_all(&directory).map_err(|error| unreadable(&directory, error))?;
        }
        let mut keywords = vec![String::new(); LETTERS_MAX];
        for (letter, name) in parse_keywords(&read_or_empty(&path.join(KEYWORDS))?) {
            keywords[letter as usize - 'a' as usize] = name;
        }
        keywords.truncate(keywords.iter().rposition(|it| !it.is_empty()).map_or(0, |it| it + 1));
        let mut files = Vec::new();
        let current = path.join("cur");
        let failure = |error| unreadable(&current, error);
        for entry in fs::read_dir(&current).map_err(failure)? {
            let file = entry.map_err(failure)?.file_name();
            let file = file.to_str().and_then(|it| it.split(":2,").next()).unwrap_or_default();
            let ours = file.split('.').nth(1).and_then(|it| it.strip_prefix('V'));
            let numbers = ours.and_then(|it| it.split_once('U'));
            if let Some((validity, uid)) = numbers
                && validity.parse() == Ok(uid_validity)
                && let Ok(uid) = uid.parse()
            {
                files.push((uid, file.to_owned()));
            }
        }
        files.sort();
        Ok(Writer { path, uid_validity, files, keywords })
    }

    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// Keywords that there was no letter for.
    pub fn left_out(&self) -> usize {
        self.keywords.len().saturating_sub(LETTERS_MAX)
    }

    /// Behind all that are there.
    pub fn next_uid(&self) -> u32 {
        self.files.last().map_or(1, |(uid, _)| uid + 1)
    }

    /// Writes a letter, and says whether it reads back as it is.
    pub fn write(&mut self, letter: &Letter) -> Result<bool, Failure> {
        let base = format!("{}.V{}U{}.ringpost", letter.date_s, self.uid_validity, letter.uid);
        let mut flags: Vec<char> =
            letter.flags.iter().filter_map(|name| self.letter_of(name)).collect();
        flags.sort_unstable();
        let flags: String = flags.into_iter().collect();
        let (unfinished, path) = (
            self.path.join("tmp").join(&base),
            self.path.join("cur").join(format!("{base}:2,{flags}")),
        );
        let failure = |error| unreadable(&path, error);
        let content = to_lf(&letter.content);
        let mut file = fs::File::create(&unfinished).map_err(failure)?;
        file.write_all(&content).map_err(failure)?;
        let date = UNIX_EPOCH + Duration::from_secs(letter.date_s.into());
        file.set_modified(date).map_err(failure)?;
        file.sync_data().map_err(failure)?;
        fs::rename(&unfinished, &path).map_err(failure)?;
        self.files.push((letter.uid, base));
        let is_same = fs::read(&path).map_err(failure)? == content;
        // Line ends that are not those of mail are all that gets lost.
        Ok(is_same && to_crlf(&content) == to_crlf(&letter.content))
    }

    fn letter_of(&mut self, name: &str) -> Option<char> {
        let known = FLAGS.iter().find(|(_, it)| it.eq_ignore_ascii_case(name));
        if let Some((letter, _)) = known {
            return Some(*letter);
        }
        let place = self.keywords.iter().position(|it| it.eq_ignore_ascii_case(name));
        let place = place.unwrap_or_else(|| {
            self.keywords.push(name.to_owned());
            self.keywords.len() - 1
        });
        (place < LETTERS_MAX).then(|| (b'a' + place as u8) as char)
    }

    /// Writes the lists of keywords and UIDs.
    pub fn end(self, uid_next: u32) -> Result<(), Failure> {
        let keywords = self.keywords.iter().take(LETTERS_MAX).enumerate();
        let keywords = keywords.filter(|(_, name)| !name.is_empty());
        let keywords: String =
            keywords.map(|(number, name)| format!("{number} {name}\n")).collect();
        let mut list = format!("3 V{} N{uid_next}\n", self.uid_validity);
        for (uid, base) in &self.files {
            list.push_str(&format!("{uid} :{base}\n"));
        }
        for (name, text) in [(KEYWORDS, keywords), (UID_LIST, list)] {
            if !text.is_empty() {
                let path = self.path.join(name);
                fs::write(&path, text).map_err(|error| unreadable(&path, error))?;
            }
        }
        if self.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            // By which others know that it is a mailbox.
            let path = self.path.join("maildirfolder");
            fs::write(&path, "").map_err(|error| unreadable(&path, error))?;
        }
        Ok(())
    }
}

/// Highest UID that is taken from a list: behind it there is one for each other letter.
const LISTED_UID_MAX: u32 = u32::MAX / 2;
const KEYWORDS: &str = "dovecot-keywords";
const UID_LIST: &str = "dovecot-uidlist";
/// Keywords of a mailbox that have a letter, `a` to `z`.
const LETTERS_MAX: usize = 26;
/// Letters of a file's name.
const FLAGS: [(char, &str); 6] = [
    ('D', "\\Draft"),
    ('F', "\\Flagged"),
    ('P', "$Forwarded"),
    ('R', "\\Answered"),
    ('S', "\\Seen"),
    ('T', "\\Deleted"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_to_directories_and_back() {
        for (name, directory) in [
            ("INBOX", ""),
            ("a/b", ".a.b"),
            ("Entw\u{fc}rfe & mehr", ".Entw&APw-rfe &- mehr"),
            ("INBOX/x", ".INBOX.x"),
        ] {
            assert_eq!(directory_of(name), directory);
            let expected = (!directory.is_empty()).then(|| name.to_owned());
            assert_eq!(name_of(directory), expected);
        }
        assert_eq!(directory_of("a.b/c"), ".a_b.c");
        for directory in [".", "cur", "..a", ".&"] {
            assert_eq!(name_of(directory), None, "{directory}");
        }
    }

    #[test]
    fn letters_have_the_uids_of_the_list_and_others_come_behind() {
        let text = "3 V77 N12 Gx\n3 W5 :a\n9 :gone\n7 :c:2,S\nx :d\n0 :e\n";
        let list = parse_uid_list(text);
        assert_eq!(list.uid_validity, Some(77));
        let keywords = parse_keywords("0 $Junk\n1 two\n26 z\nx y\n2 \n");
        assert_eq!(keywords.len(), 2);
        let files = ["d", "c:2,SFbz", "a:2,aT", "b"].map(|it| (it.to_owned(), PathBuf::new()));
        let numbered = number(files.to_vec(), &list.uids, &keywords);
        let uids: Vec<u32> = numbered.iter().map(|entry| entry.uid).collect();
        assert_eq!(uids, [3, 7, 10, 11]);
        assert_eq!(numbered[0].flags, ["$Junk", "\\Deleted"]);
        assert_eq!(numbered[1].flags, ["\\Seen", "\\Flagged", "two"]);
        // One that stands at two places, two of one UID, and a list that has used all UIDs.
        let text = "3 V7 N1\n3 :a\n3 :b\n4294967293 :c\n";
        let uids = parse_uid_list(text).uids;
        let files = ["a", "a:2,S", "b", "c", "d"].map(|it| (it.to_owned(), PathBuf::new()));
        let numbered = number(files.to_vec(), &uids, &keywords);
        assert!(numbered.iter().map(|entry| entry.uid).eq(3..8));
        for text in ["", "1 V7", "3 N5\n1 :a\n", "3 V0 N1\n1 :a"] {
            assert_eq!(parse_uid_list(text), UidList::default(), "{text}");
        }
        for end in 0..text.len() {
            parse_uid_list(&text[..end]);
        }
        let text = "0 $Junk\n25 z\n";
        let known: Vec<usize> =
            (0..=text.len()).map(|at| parse_keywords(&text[..at]).len()).collect();
        assert_eq!(known, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn keywords_without_a_letter_are_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut writer = Writer::open(directory.path(), "INBOX", 7).expect("made");
        let keywords = |numbers: std::ops::Range<usize>| -> Vec<String> {
            numbers.map(|number| format!("key{number}")).collect()
        };
        let letter = |uid, flags| Letter { uid, flags, ..Letter::default() };
        assert!(writer.write(&letter(1, keywords(0..26))).expect("written"));
        assert_eq!(writer.left_out(), 0);
        assert!(writer.write(&letter(2, keywords(20..29))).expect("written"));
        assert!(writer.write(&letter(3, keywords(26..29))).expect("written"));
        assert_eq!(writer.left_out(), 3);
        let mut files: Vec<String> = fs::read_dir(directory.path().join("cur"))
            .expect("there")
            .map(|entry| entry.expect("a file").file_name().into_string().expect("text"))
            .collect();
        files.sort();
        let flags: Vec<&str> = files.iter().filter_map(|file| file.split(":2,").nth(1)).collect();
        assert_eq!(flags, ["abcdefghijklmnopqrstuvwxyz", "uvwxyz", ""]);
    }
}
