//! A TOML table under reading: typed accessors that remember which keys are known, so that
//! whatever is left over or wrong is reported with its place.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values;

/// A table under reading: every key that was asked for is known, the rest is not.
pub(super) struct Table<'t, 'i> {
    /// Empty for the root, else with a dot at the end.
    prefix: String,
    offset: usize,
    entries: Vec<Entry<'t, 'i>>,
    /// Every key that was asked for, there or not.
    asked: RefCell<Vec<String>>,
}

struct Entry<'t, 'i> {
    key: &'t str,
    offset: usize,
    value: &'t DeValue<'i>,
    value_offset: usize,
    known: Cell<bool>,
}

impl<'t, 'i> Table<'t, 'i> {
    pub fn new(prefix: &str, offset: usize, table: &'t DeTable<'i>) -> Self {
        let entries = table.iter().map(|(key, value)| Entry {
            key: key.get_ref().as_ref(),
            offset: key.span().start,
            value: value.get_ref(),
            value_offset: value.span().start,
            known: Cell::new(false),
        });
        let entries = entries.collect();
        Self { prefix: prefix.to_owned(), offset, entries, asked: RefCell::default() }
    }

    fn entry(&self, key: &str) -> Option<&Entry<'t, 'i>> {
        self.asked.borrow_mut().push(key.to_owned());
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        entry.known.set(true);
        Some(entry)
    }

    pub fn holds(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Refuses what nobody asked for.
    pub fn finish(&self) -> Checked<()> {
        match self.entries.iter().find(|entry| !entry.known.get()) {
            Some(entry) => Err(Wrong {
                offset: entry.offset,
                message: format!(
                    "{}{}: unknown key; known here: {}",
                    self.prefix,
                    entry.key,
                    self.asked.borrow().join(", ")
                ),
            }),
            None => Ok(()),
        }
    }

    /// Points at the first of `paths` that the text holds; when it holds none, at the last step of
    /// the first path that it does hold. A path is keys, and positions in lists.
    pub fn wrong_at(&self, paths: &[&[&str]], message: String) -> Wrong {
        let mut offset = self.offset;
        for (index, path) in paths.iter().enumerate() {
            let (place, step_count) = self.place(path);
            if step_count == path.len() {
                return Wrong { offset: place, message };
            }
            if index == 0 {
                offset = place;
            }
        }
        Wrong { offset, message }
    }

    /// Where the last step of `path` that the text holds stands, and how many steps led there.
    fn place(&self, path: &[&str]) -> (usize, usize) {
        let Some(entry) =
            path.first().and_then(|key| self.entries.iter().find(|entry| entry.key == *key))
        else {
            return (self.offset, 0);
        };
        let (mut offset, mut value) = (entry.offset, entry.value);
        for (index, step) in path.iter().enumerate().skip(1) {
            let inner = match value {
                DeValue::Table(table) => table
                    .iter()
                    .find(|it| it.0.get_ref() == step)
                    .map(|(key, value)| (key.span().start, value.get_ref())),
                DeValue::Array(array) => step
                    .parse()
                    .ok()
                    .and_then(|index: usize| array.get(index))
                    .map(|value| (value.span().start, value.get_ref())),
                _ => None,
            };
            let Some(inner) = inner else { return (offset, index) };
            (offset, value) = inner;
        }
        (offset, path.len())
    }

    /// The value of `key` cannot be, as the text says without showing it.
    pub fn refused(&self, key: &str, text: &str) -> Wrong {
        self.wrong_at(&[&[key]], format!("{}{key}: {text}", self.prefix))
    }

    pub fn missing(&self, key: &str) -> Wrong {
        let message = format!("{}{key}: missing", self.prefix);
        Wrong { offset: self.offset, message }
    }

    fn wrong(&self, entry: &Entry<'_, '_>, right: &str) -> Wrong {
        let found = describe(entry.value);
        let message = format!("{}{}: found {found}; expected {right}", self.prefix, entry.key);
        Wrong { offset: entry.value_offset, message }
    }

    pub fn table(
        &self,
        key: &str,
        read: impl FnOnce(&Table<'_, '_>) -> Checked<()>,
    ) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let path = format!("{}{key}", self.prefix);
        let DeValue::Table(table) = entry.value else {
            return Err(self.wrong(entry, &format!("a table [{path}]")));
        };
        let table = Table::new(&format!("{path}."), entry.offset, table);
        read(&table)?;
        table.finish()
    }

    pub fn tables<T>(
        &self,
        key: &str,
        mut read: impl FnMut(&Table<'_, '_>) -> Checked<T>,
    ) -> Checked<Vec<T>> {
        let Some(entry) = self.entry(key) else { return Ok(Vec::new()) };
        let right = format!("tables [[{key}]]");
        let DeValue::Array(array) = entry.value else {
            return Err(self.wrong(entry, &right));
        };
        let mut values = Vec::new();
        for value in array.iter() {
            let DeValue::Table(table) = value.get_ref() else {
                return Err(self.wrong_item(entry, value, &right));
            };
            let table = Table::new(&format!("{key}."), value.span().start, table);
            values.push(read(&table)?);
            table.finish()?;
        }
        Ok(values)
    }

    /// A string that `parse` understands.
    pub fn parsed(
        &self,
        key: &str,
        right: &str,
        mut parse: impl FnMut(&str) -> Option<()>,
    ) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        match entry.value {
            DeValue::String(text) if parse(text).is_some() => Ok(()),
            _ => Err(self.wrong(entry, right)),
        }
    }

    pub fn text(
        &self,
        key: &str,
        field: &mut String,
        right: &str,
        is_valid: impl Fn(&str) -> bool,
    ) -> Checked<()> {
        self.parsed(key, right, |text| is_valid(text).then(|| text.clone_into(field)))
    }

    pub fn optional_text(&self, key: &str, field: &mut Option<String>) -> Checked<()> {
        self.parsed(key, "a text that is not empty", |text| {
            (!text.is_empty()).then(|| *field = Some(text.to_owned()))
        })
    }

    /// A text that no message shows.
    pub fn secret(&self, key: &str, field: &mut Option<String>) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let DeValue::String(text) = entry.value else {
            let message = format!("{}{key}: no text; expected one in quotes", self.prefix);
            return Err(Wrong { offset: entry.value_offset, message });
        };
        *field = Some(text.clone().into_owned());
        Ok(())
    }

    pub fn path(&self, key: &str, field: &mut PathBuf) -> Checked<()> {
        self.parsed(key, "a path", |text| (!text.is_empty()).then(|| *field = text.into()))
    }

    pub fn optional_path(&self, key: &str, field: &mut Option<PathBuf>) -> Checked<()> {
        self.parsed(key, "a path", |text| (!text.is_empty()).then(|| *field = Some(text.into())))
    }

    pub fn address(&self, key: &str, field: &mut Option<SocketAddr>) -> Checked<()> {
        self.parsed(key, "\"ADDRESS:PORT\" such as \"127.0.0.1:2525\" or \"[::1]:25\"", |text| {
            *field = Some(text.parse().ok()?);
            Some(())
        })
    }

    pub fn duration(&self, key: &str, field: &mut Duration, min: Duration) -> Checked<()> {
        let right = format!(
            "a duration such as \"30s\", \"5m\", \"2h\" or \"5d\", at least {}",
            values::write_duration(min)
        );
        self.parsed(key, &right, |text| {
            let duration = values::parse_duration(text)?;
            (duration >= min && duration <= DURATION_MAX).then(|| *field = duration)
        })
    }

    pub fn optional_duration(
        &self,
        key: &str,
        field: &mut Option<Duration>,
        min: Duration,
    ) -> Checked<()> {
        let mut duration = field.unwrap_or_default();
        if self.holds(key) {
            self.duration(key, &mut duration, min)?;
            *field = Some(duration);
        }
        Ok(())
    }

    pub fn size(&self, key: &str, field: &mut u64, min: u64, max: u64) -> Checked<()> {
        let (least, most) = (values::write_size(min), values::write_size(max));
        let right = format!("a size such as \"25MiB\", from {least} to {most}");
        self.parsed(key, &right, |text| {
            let size = values::parse_size(text)?;
            (min..=max).contains(&size).then(|| *field = size)
        })
    }

    pub fn number<T>(&self, key: &str, field: &mut T, min: T, max: T) -> Checked<()>
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<u64>,
    {
        let mut value = None;
        self.optional_number(key, &mut value, min, max)?;
        if let Some(value) = value {
            *field = value;
        }
        Ok(())
    }

    pub fn optional_number<T>(
        &self,
        key: &str,
        field: &mut Option<T>,
        min: T,
        max: T,
    ) -> Checked<()>
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<u64>,
    {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let number = integer(entry.value).and_then(|it| T::try_from(it).ok());
        match number {
            Some(number) if number >= min && number <= max => {
                *field = Some(number);
                Ok(())
            }
            _ => Err(self.wrong(entry, &format!("a whole number from {min} to {max}"))),
        }
    }

    /// A number that may have a fraction.
    pub fn fraction(&self, key: &str, field: &mut f64, min: f64, max: f64) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let number = match entry.value {
            DeValue::Float(text) => text.as_str().parse().ok(),
            value => integer(value).map(|it| it as f64),
        };
        match number {
            Some(number) if number >= min && number <= max => {
                *field = number;
                Ok(())
            }
            _ => Err(self.wrong(entry, &format!("a number from {min} to {max}"))),
        }
    }

    pub fn boolean(&self, key: &str, field: &mut bool) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        match entry.value {
            DeValue::Boolean(value) => {
                *field = *value;
                Ok(())
            }
            _ => Err(self.wrong(entry, "true or false")),
        }
    }

    pub fn choice<T: Copy>(&self, key: &str, field: &mut T, choices: &[(&str, T)]) -> Checked<()> {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        self.parsed(key, &names.join(" or "), |text| {
            let (_, value) = choices.iter().find(|(name, _)| *name == text)?;
            *field = *value;
            Some(())
        })
    }

    pub fn list<T>(
        &self,
        key: &str,
        field: &mut Vec<T>,
        example: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let right = format!("a list of texts such as [{example}]");
        let DeValue::Array(array) = entry.value else {
            return Err(self.wrong(entry, &right));
        };
        field.clear();
        for item in array.iter() {
            let value = match item.get_ref() {
                DeValue::String(text) => parse(text),
                _ => None,
            };
            match value {
                Some(value) => field.push(value),
                None => return Err(self.wrong_item(entry, item, &right)),
            }
        }
        Ok(())
    }

    /// One text or a list of them, each of which `parse` understands or says what would be right.
    pub fn one_or_more<T>(
        &self,
        key: &str,
        field: &mut Vec<T>,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        if let DeValue::String(text) = entry.value {
            field.push(parse(text).map_err(|right| self.wrong(entry, &right))?);
            return Ok(());
        }
        let DeValue::Array(array) = entry.value else {
            return Err(self.wrong(entry, "a text or a list of texts"));
        };
        if array.is_empty() {
            return Err(self.wrong(entry, "at least one text"));
        }
        for item in array.iter() {
            let value = match item.get_ref() {
                DeValue::String(text) => parse(text),
                _ => Err("a text".to_owned()),
            };
            field.push(value.map_err(|right| self.wrong_item(entry, item, &right))?);
        }
        Ok(())
    }

    pub fn cores(&self, key: &str, field: &mut Option<Vec<usize>>) -> Checked<()> {
        let Some(entry) = self.entry(key) else { return Ok(()) };
        let right = "\"auto\", a set such as \"0-3,8\", or a list such as [0, 1]";
        *field = match entry.value {
            DeValue::String(text) if text.as_ref() == "auto" => None,
            DeValue::String(text) => {
                Some(values::parse_core_set(text).ok_or_else(|| self.wrong(entry, right))?)
            }
            DeValue::Array(array) => {
                let numbers = array.iter().map(|item| integer(item.get_ref()));
                let listed: Option<Vec<String>> =
                    numbers.map(|number| number.map(|it| it.to_string())).collect();
                let set = listed.and_then(|it| values::parse_core_set(&it.join(",")));
                Some(set.ok_or_else(|| self.wrong(entry, right))?)
            }
            _ => return Err(self.wrong(entry, right)),
        };
        Ok(())
    }

    fn wrong_item(&self, entry: &Entry<'_, '_>, item: &Spanned<DeValue<'_>>, right: &str) -> Wrong {
        let found = describe(item.get_ref());
        let message = format!("{}{}: found {found}; expected {right}", self.prefix, entry.key);
        Wrong { offset: item.span().start, message }
    }
}

/// What is wrong, at an offset of the text.
pub(super) struct Wrong {
    pub offset: usize,
    pub message: String,
}

pub(super) type Checked<T> = Result<T, Wrong>;

fn integer(value: &DeValue<'_>) -> Option<u64> {
    match value {
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
        _ => None,
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", text.as_ref()),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(_) => "a fraction".to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A year: what is longer is a mistake, and sums of durations stay far from overflow.
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);
