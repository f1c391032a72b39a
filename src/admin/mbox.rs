//! mbox files, in the mboxrd form: a line that begins with any number of `>` and `From ` has one
//! `>` more in the file than in the letter.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use super::maildir::directory_of;
use super::transfer::{to_crlf, to_lf, unreadable};
use crate::shard::mail_order::Letter;

/// The letters of a file, as they come; their UIDs are their positions.
pub fn read(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Letter, Failure>> + 'static, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    letters(BufReader::new(file), path)
}

/// The same of what stands in `path`.
pub fn letters(
    input: impl BufRead + 'static,
    path: &Path,
) -> Result<impl Iterator<Item = Result<Letter, Failure>> + 'static, Failure> {
    let mut reader = Reader { input, path: path.to_owned(), next: None, count: 0 };
    match reader.line()? {
        Some(line) if line.starts_with(SEPARATOR) => reader.next = Some(line),
        Some(_) => {
            let text = format!("{}: not an mbox: does not begin with \"From \"", path.display());
            return Err(Failure::new(Exit::Data, text));
        }
        None => {}
    }
    Ok(std::iter::from_fn(move || reader.letter().transpose()))
}

struct Reader<R> {
    input: R,
    path: PathBuf,
    /// The separator of the next letter.
    next: Option<Vec<u8>>,
    count: u32,
}

impl<R: BufRead> Reader<R> {
    fn line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut line = Vec::new();
        let count = self.input.read_until(b'\n', &mut line);
        let count = count.map_err(|error| unreadable(&self.path, error))?;
        Ok((count > 0).then_some(line))
    }

    fn letter(&mut self) -> Result<Option<Letter>, Failure> {
        let Some(separator) = self.next.take() else { return Ok(None) };
        let mut lines = Vec::new();
        let mut is_behind_blank = false;
        while let Some(line) = self.line()? {
            if is_behind_blank && line.starts_with(SEPARATOR) {
                self.next = Some(line);
                break;
            }
            is_behind_blank = is_blank(&line);
            lines.push(line);
        }
        // The last blank line belongs to the separator.
        if lines.last().is_some_and(|line| is_blank(line)) {
            lines.pop();
        }
        self.count += 1;
        let date_s = date_of(&separator).unwrap_or(0);
        let mut letter = Letter { uid: self.count, date_s, ..Letter::default() };
        let (mut is_header, mut content) = (true, Vec::new());
        for line in &lines {
            is_header &= !is_blank(line);
            if is_header && take_status(line, &mut letter.flags) {
                continue;
            }
            let quotes = line.iter().take_while(|octet| **octet == b'>').count();
            let is_quoted = quotes > 0 && line[quotes..].starts_with(SEPARATOR);
            content.extend_from_slice(&line[usize::from(is_quoted)..]);
        }
        letter.content = to_crlf(&content);
        Ok(Some(letter))
    }
}

fn is_blank(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r\n")
}

/// Whether a line is a field by which mail readers keep flags in the file; it is none of the
/// letter then.
fn take_status(line: &[u8], flags: &mut Vec<String>) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let Some((name, value)) = text.split_once(':') else { return false };
    let mut add = |letters: &[(char, &str)]| {
        let known = letters.iter().filter(|(letter, _)| value.contains(*letter));
        flags.extend(known.map(|(_, flag)| (*flag).to_owned()));
    };
    match name.to_ascii_lowercase().as_str() {
        "status" => add(&[('R', "\\Seen")]),
        "x-status" => add(&X_STATUS),
        "x-keywords" => flags.extend(value.split_whitespace().map(str::to_owned)),
        _ => return false,
    }
    true
}

/// Writes letters into a file of its own.
pub struct Writer {
    path: PathBuf,
    unfinished: PathBuf,
    out: BufWriter<File>,
}

impl Writer {
    pub fn open(directory: &Path, name: &str) -> Result<Writer, Failure> {
        let stem = directory_of(name);
        let stem = if stem.is_empty() { "INBOX" } else { &stem[1..] };
        let path = directory.join(format!("{stem}.mbox"));
        if path.exists() {
            let text = format!("{} is there already; move it away", path.display());
            return Err(Failure::new(Exit::CannotCreate, text));
        }
        let unfinished = directory.join(format!("{stem}.mbox.new"));
        let file = File::create(&unfinished).map_err(|error| unreadable(&unfinished, error))?;
        Ok(Writer { path, unfinished, out: BufWriter::new(file) })
    }

    pub fn write(&mut self, letter: &Letter) -> Result<(), Failure> {
        let text = to_text(letter);
        self.out.write_all(&text).map_err(|error| unreadable(&self.unfinished, error))
    }

    /// Puts the file in its place; how many letters are in it.
    pub fn end(mut self) -> Result<usize, Failure> {
        let failure = |error| unreadable(&self.unfinished, error);
        self.out.flush().map_err(failure)?;
        self.out.get_ref().sync_all().map_err(failure)?;
        let mut count = 0;
        for letter in read(&self.unfinished)? {
            letter?;
            count += 1;
        }
        fs::rename(&self.unfinished, &self.path).map_err(failure)?;
        Ok(count)
    }
}

/// A letter with its separator in front, as it stands in a file.
pub fn to_text(letter: &Letter) -> Vec<u8> {
    let mut out = format!("From ringpost@localhost {}\n", write_date(letter.date_s)).into_bytes();
    let has = |flag: &str| letter.flags.iter().any(|it| it == flag);
    let status = if has("\\Seen") { "RO" } else { "O" };
    out.extend_from_slice(format!("Status: {status}\n").as_bytes());
    let letters = X_STATUS.iter().filter(|(_, flag)| has(flag)).map(|(letter, _)| *letter);
    let letters: String = letters.collect();
    let keywords = letter.flags.iter().filter(|flag| !flag.starts_with('\\'));
    let keywords: Vec<&str> = keywords.map(String::as_str).collect();
    for (name, value) in [("X-Status", letters), ("X-Keywords", keywords.join(" "))] {
        if !value.is_empty() {
            out.extend_from_slice(format!("{name}: {value}\n").as_bytes());
        }
    }
    let content = to_lf(&letter.content);
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        let quotes = line.iter().take_while(|octet| **octet == b'>').count();
        if line[quotes..].starts_with(SEPARATOR) {
            out.push(b'>');
        }
        out.extend_from_slice(line);
    }
    if out.last() != Some(&b'\n') {
        out.push(b'\n');
    }
    out.push(b'\n');
    out
}

/// `From jo@example.test Thu Nov 26 16:09:07 2026`, in UTC, to Unix seconds.
fn date_of(separator: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(separator).ok()?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let at = words.iter().position(|word| MONTHS.contains(word))?;
    let [month, day, time, year] = *words.get(at..at + 4)? else { return None };
    let month = MONTHS.iter().position(|it| *it == month)? as u64 + 1;
    let mut clock = time.split(':').map(|it| it.parse::<u64>().ok());
    let (hour, minute) = (clock.next()??, clock.next()??);
    let second = clock.next().flatten().unwrap_or(0);
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?);
    let is_date = (1970..2106).contains(&year) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days_before(year, month) + day - 1;
    u32::try_from(((seconds * 24 + hour) * 60 + minute) * 60 + second).ok()
}

/// Days from 1970 to the first of a month.
fn days_before(year: u64, month: u64) -> u64 {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let years = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum::<u64>();
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    years + lengths.iter().take(month as usize - 1).sum::<u64>()
}

fn write_date(date_s: u32) -> String {
    let (days, seconds) = (u64::from(date_s) / 86_400, date_s % 86_400);
    let year = (1970..).take_while(|year| days_before(*year, 1) <= days).last().unwrap_or(1970);
    let month = (1..=12).take_while(|month| days_before(year, *month) <= days).last();
    let month = month.unwrap_or(1);
    let day = days - days_before(year, month) + 1;
    let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
    format!(
        "{} {} {day:2} {hour:02}:{minute:02}:{:02} {year}",
        WEEKDAYS[(days % 7) as usize],
        MONTHS[month as usize - 1],
        seconds % 60,
    )
}

const SEPARATOR: &[u8] = b"From ";
const X_STATUS: [(char, &str); 4] =
    [('A', "\\Answered"), ('F', "\\Flagged"), ('D', "\\Deleted"), ('T', "\\Draft")];
/// The first day of 1970 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let letter = |uid, flags: &[&str], content: &str| Letter {
            uid,
            date_s: 1_795_709_347,
            flags: flags.iter().map(|it| (*it).to_owned()).collect(),
            content: content.as_bytes().to_vec(),
            ..Letter::default()
        };
        let letters = [
            letter(1, &["\\Seen", "\\Flagged", "$Junk"], "A: b\r\n\r\nFrom me\r\n>From x\r\n"),
            letter(2, &[], "A: b\r\n\r\n\r\nFrom here\r\n\r\n"),
            letter(3, &["\\Answered", "\\Draft", "one", "two"], "A: b\r\n"),
        ];
        let mut writer = Writer::open(directory.path(), "a/b").expect("a file");
        letters.iter().for_each(|letter| writer.write(letter).expect("written"));
        assert_eq!(writer.end().expect("whole"), 3);
        let path = directory.path().join("a.b.mbox");
        let found: Result<Vec<Letter>, Failure> = read(&path).expect("an mbox").collect();
        assert_eq!(found.expect("letters"), letters);
        let failure = Writer::open(directory.path(), "a/b").err().expect("there");
        assert_eq!(failure.exit, Exit::CannotCreate);
        // Cut anywhere, it says something or not; the first letters are the same.
        let whole = fs::read(&path).expect("a file");
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).expect("written");
            match read(&path) {
                Ok(letters) => assert!(letters.count() <= 3),
                Err(failure) => assert!((1..5).contains(&end), "{}", failure.text),
            }
        }
    }

    #[test]
    fn dates_of_separators_are_those_of_the_calendar() {
        for (text, date_s) in [
            ("Thu Jan  1 00:00:00 1970", 0),
            ("Thu Nov 26 16:09:07 2026", 1_795_709_347),
            ("Tue Feb 29 23:59:59 2000", 951_868_799),
            ("Sun Feb  7 06:28:15 2106", u32::MAX),
        ] {
            assert_eq!(write_date(date_s), text);
            if date_s < u32::MAX {
                assert_eq!(date_of(format!("From a@b {text}\n").as_bytes()), Some(date_s));
            }
        }
        for text in ["From a@b", "From a Jan", "From a Jan 32 00:00:00 2000", "From Jan 1 x 2000"] {
            assert_eq!(date_of(text.as_bytes()), None, "{text}");
        }
    }
}
