//! Flags and keywords of messages (RFC 9051 §2.3.2).

use super::string::write_separator;

/// System flags as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SystemFlags(pub u8);

impl SystemFlags {
    pub const SEEN: Self = Self(1);
    pub const ANSWERED: Self = Self(2);
    pub const FLAGGED: Self = Self(4);
    pub const DELETED: Self = Self(8);
    pub const DRAFT: Self = Self(16);
    /// Each with its name.
    pub const ALL: [(&str, Self); 5] = [
        ("\\Answered", Self::ANSWERED),
        ("\\Flagged", Self::FLAGGED),
        ("\\Deleted", Self::DELETED),
        ("\\Seen", Self::SEEN),
        ("\\Draft", Self::DRAFT),
    ];

    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    pub fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }

    /// The flag of a name like `\Seen`, in any case.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let named = |(text, _): &&(&str, Self)| name.eq_ignore_ascii_case(text.as_bytes());
        Self::ALL.iter().find(named).map(|(_, flag)| *flag)
    }
}

/// System flags and keywords.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub system: SystemFlags,
    /// Each once whatever its case, in the order they came.
    pub keywords: Vec<Box<str>>,
}

impl Flags {
    /// Adds a keyword unless it is there in another case (RFC 9051 §2.3.2: case does not matter).
    pub fn add_keyword(&mut self, keyword: &str) {
        if !self.keywords.iter().any(|known| known.eq_ignore_ascii_case(keyword)) {
            self.keywords.push(keyword.into());
        }
    }

    /// Appends `(\Seen $Junk)`.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_flags(self.system, self.keywords.iter().map(|it| &**it), out);
    }
}

/// Appends flags and keywords as `Flags::write` does.
pub fn write_flags<'k>(
    system: SystemFlags,
    keywords: impl Iterator<Item = &'k str>,
    out: &mut Vec<u8>,
) {
    let system =
        SystemFlags::ALL.iter().filter(|(_, flag)| system.has(*flag)).map(|(name, _)| *name);
    let mut is_empty = true;
    for name in system.chain(keywords) {
        write_separator(is_empty, out);
        out.extend_from_slice(name.as_bytes());
        is_empty = false;
    }
    out.extend_from_slice(if is_empty { b"()" } else { b")" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_a_list() {
        let check = |flags: &Flags, expected: &[u8]| {
            let mut out = Vec::new();
            flags.write(&mut out);
            assert_eq!(out, expected);
        };
        let mut flags = Flags::default();
        check(&flags, b"()");
        flags.system = SystemFlags::SEEN.with(SystemFlags::DELETED);
        flags.add_keyword("$Junk");
        flags.add_keyword("$JUNK");
        check(&flags, b"(\\Deleted \\Seen $Junk)");
        assert_eq!(SystemFlags::from_name(b"\\SEEN"), Some(SystemFlags::SEEN));
        assert_eq!(SystemFlags::from_name(b"Seen"), None);
    }
}
