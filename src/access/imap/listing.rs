//! Which names LIST and LSUB tell, and what they say of each. `Pure.`

use std::collections::BTreeMap;

use super::pattern::Pattern;
use crate::mailbox::codec::{MailboxId, SpecialUses};
use crate::mailbox::{Account, Partition};
use crate::proto::imap::list::{List, ListSelection};
use crate::proto::imap::mailbox::{HIERARCHY_SEPARATOR, NameForm, SpecialUse};
use crate::proto::imap::string::write_astring;
use crate::proto::imap::utf7;

/// Every name that an account has: mailboxes, what is subscribed, and the superiors of either.
#[derive(Default)]
pub struct Names {
    by_name: BTreeMap<Box<str>, Name>,
}

#[derive(Clone, Copy, Default)]
struct Name {
    /// `None` for what is no mailbox.
    mailbox: Option<MailboxId>,
    special_uses: SpecialUses,
    is_subscribed: bool,
    /// Some mailbox is below.
    has_children: bool,
    /// Something that is subscribed is below.
    has_subscribed: bool,
}

/// A name that LIST tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: Box<str>,
    pub mailbox: Option<MailboxId>,
    special_uses: SpecialUses,
    /// Told of as such.
    is_subscribed: bool,
    has_children: bool,
    /// Something below is subscribed that the patterns do not name (RFC 5258 §4).
    child_info: bool,
}

impl Names {
    pub fn of(partition: &Partition, account: &Account) -> Names {
        let mut names = Names::default();
        for (name, id) in &account.mailboxes {
            let special_uses = partition.mailbox(*id).map(|mailbox| mailbox.special_uses);
            let known = names.by_name.entry(name.clone()).or_default();
            known.mailbox = Some(*id);
            known.special_uses = special_uses.unwrap_or_default();
            names.each_superior(name, |superior| superior.has_children = true);
        }
        for name in &account.subscriptions {
            names.by_name.entry(name.clone()).or_default().is_subscribed = true;
            names.each_superior(name, |superior| superior.has_subscribed = true);
        }
        names
    }

    fn each_superior(&mut self, name: &str, change: impl Fn(&mut Name)) {
        for (at, _) in name.match_indices(HIERARCHY_SEPARATOR).filter(|(at, _)| *at > 0) {
            match self.by_name.get_mut(&name[..at]) {
                Some(superior) => change(superior),
                None => change(self.by_name.entry(name[..at].into()).or_default()),
            }
        }
    }

    /// Names that are subscribed and that no pattern names.
    pub fn subscribed_elsewhere(&self, patterns: &[Pattern]) -> Vec<Box<str>> {
        let subscribed = self.by_name.iter().filter(|(_, name)| name.is_subscribed);
        let elsewhere = |name: &str| !patterns.iter().any(|pattern| pattern.matches(name));
        let names = subscribed.map(|(text, _)| text).filter(|text| elsewhere(text));
        names.cloned().collect()
    }

    /// All names, for `row` to choose from.
    pub fn into_candidates(self) -> impl Iterator<Item = Candidate> {
        self.by_name.into_iter().map(|(text, name)| Candidate { text, name })
    }
}

/// A name that may be told.
pub struct Candidate {
    text: Box<str>,
    name: Name,
}

impl Candidate {
    /// What LIST says of the name, if it says anything. `elsewhere` is `subscribed_elsewhere`.
    pub fn row(self, list: &List, patterns: &[Pattern], elsewhere: &[Box<str>]) -> Option<Row> {
        let Candidate { text, name } = self;
        let ListSelection { subscribed, special_use, recursive_match, .. } = list.selection;
        let mut matching = patterns.iter().filter(|pattern| pattern.matches(&text)).peekable();
        matching.peek()?;
        // Clients that know nothing extended make no tree from names without their superiors; the
        // others are told of those where they ask for levels (RFC 5258 §3).
        let is_level = !list.is_extended || matching.any(Pattern::ends_in_level);
        let has_use = name.special_uses != SpecialUses::default();
        let is_selected = (!subscribed || name.is_subscribed) && (!special_use || has_use);
        let is_there = name.mailbox.is_some() || (is_level && name.has_children);
        let is_below = |other: &str| {
            let rest = other.strip_prefix(&*text);
            rest.is_some_and(|rest| rest.starts_with(HIERARCHY_SEPARATOR))
        };
        let child_info = recursive_match
            && subscribed
            && name.has_subscribed
            && elsewhere.iter().any(|other| is_below(other));
        let is_told = match subscribed {
            // What is subscribed need not be there.
            true => is_selected,
            false => is_selected && is_there,
        };
        (is_told || child_info).then_some(Row {
            name: text,
            mailbox: name.mailbox,
            special_uses: name.special_uses,
            is_subscribed: name.is_subscribed && (subscribed || list.returns.subscribed),
            has_children: name.has_children,
            child_info,
        })
    }

    /// What LSUB says of the name: `\Noselect` where only something below it is subscribed.
    pub fn lsub_row(self, pattern: &Pattern) -> Option<Row> {
        let Candidate { text, name } = self;
        let is_level = pattern.ends_in_level() && name.has_subscribed;
        if !(name.is_subscribed || is_level) || !pattern.matches(&text) {
            return None;
        }
        Some(Row {
            name: text,
            mailbox: name.mailbox.filter(|_| name.is_subscribed),
            special_uses: SpecialUses::default(),
            is_subscribed: name.is_subscribed,
            has_children: name.has_children,
            child_info: false,
        })
    }
}

impl Row {
    /// Appends the LIST response. Who does not know what is extended does not know `\NonExistent`.
    pub fn write_list(&self, form: NameForm, is_extended: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"* LIST (");
        if self.is_subscribed {
            out.extend_from_slice(b"\\Subscribed ");
        }
        if self.mailbox.is_none() {
            out.extend_from_slice(b"\\NonExistent ");
            if !is_extended {
                out.extend_from_slice(b"\\Noselect ");
            }
        }
        let children: &[u8] = if self.has_children { b"\\HasChildren" } else { b"\\HasNoChildren" };
        out.extend_from_slice(children);
        for special_use in SPECIAL_USES.into_iter().filter(|it| self.special_uses.has(*it)) {
            out.push(b' ');
            out.extend_from_slice(special_use.as_str().as_bytes());
        }
        self.write_name(form, out);
        if self.child_info {
            out.extend_from_slice(b" (\"CHILDINFO\" (\"SUBSCRIBED\"))");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the LSUB response.
    pub fn write_lsub(&self, form: NameForm, out: &mut Vec<u8>) {
        let flags = if self.is_subscribed { "" } else { "\\Noselect" };
        out.extend_from_slice(b"* LSUB (");
        out.extend_from_slice(flags.as_bytes());
        self.write_name(form, out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_name(&self, form: NameForm, out: &mut Vec<u8>) {
        out.extend_from_slice(b") \"/\" ");
        write_name(&self.name, form, out);
    }
}

/// Appends the name of a mailbox as the client reads it.
pub fn write_name(name: &str, form: NameForm, out: &mut Vec<u8>) {
    match form {
        NameForm::ModifiedUtf7 => {
            let mut encoded = Vec::new();
            utf7::encode(name, &mut encoded);
            write_astring(&encoded, out);
        }
        NameForm::Utf8 if name.is_ascii() => write_astring(name.as_bytes(), out),
        // Names have no control characters: all others may stand in quotes (RFC 6855 §3).
        NameForm::Utf8 => {
            out.push(b'"');
            for octet in name.bytes() {
                if matches!(octet, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(octet);
            }
            out.push(b'"');
        }
    }
}

const SPECIAL_USES: [SpecialUse; 8] = [
    SpecialUse::All,
    SpecialUse::Archive,
    SpecialUse::Drafts,
    SpecialUse::Flagged,
    SpecialUse::Important,
    SpecialUse::Junk,
    SpecialUse::Sent,
    SpecialUse::Trash,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::codec::{AccountId, Operation};
    use crate::proto::imap::command::Command;
    use crate::proto::imap::reader::{Event, Reader};

    /// Mailboxes, and what is subscribed.
    fn names(mailboxes: &[(&str, &[SpecialUse])], subscribed: &[&str]) -> Names {
        let account = AccountId(1);
        let mut partition = Partition::default();
        partition.apply(&Operation::AccountAdded { account, name: "jo".into() });
        for (index, (name, uses)) in mailboxes.iter().enumerate() {
            partition.apply(&Operation::MailboxCreated {
                mailbox: MailboxId(index as u64 + 2),
                account,
                name: (*name).into(),
                uid_validity: 1,
                special_uses: uses.iter().copied().collect(),
            });
        }
        for name in subscribed {
            let (name, is_subscribed) = ((*name).into(), true);
            partition.apply(&Operation::Subscribed { account, name, is_subscribed });
        }
        Names::of(&partition, partition.account(account).expect("there"))
    }

    fn command(line: &str) -> Command {
        let line = format!("a {line}\r\n");
        match Reader::default().next(line.as_bytes(), &mut Vec::new()).1 {
            Event::Command { command, .. } => command,
            other => panic!("{other:?}"),
        }
    }

    fn check(names: Names, line: &str, expected: &[&str]) {
        let mut out = Vec::new();
        match command(line) {
            Command::List(list) => {
                let patterns = list.patterns.iter().map(|it| Pattern::new(&list.reference, it));
                let patterns: Vec<Pattern> = patterns.collect();
                let elsewhere = names.subscribed_elsewhere(&patterns);
                let rows = names.into_candidates();
                for row in rows.filter_map(|it| it.row(&list, &patterns, &elsewhere)) {
                    row.write_list(NameForm::ModifiedUtf7, list.is_extended, &mut out);
                }
            }
            Command::Lsub { reference, pattern } => {
                let pattern = Pattern::new(&reference, &pattern);
                for row in names.into_candidates().filter_map(|it| it.lsub_row(&pattern)) {
                    row.write_lsub(NameForm::ModifiedUtf7, &mut out);
                }
            }
            other => panic!("{other:?}"),
        }
        let text = String::from_utf8(out).expect("ASCII");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, expected, "{line}");
    }

    #[test]
    fn list_tells_mailboxes_and_the_levels_between_them() {
        let mailboxes: [(&str, &[SpecialUse]); 4] =
            [("INBOX", &[]), ("Gesendet", &[SpecialUse::Sent]), ("a/b", &[]), ("ü", &[])];
        let names = || names(&mailboxes, &[]);
        check(
            names(),
            "LIST \"\" *",
            &[
                "* LIST (\\HasNoChildren \\Sent) \"/\" Gesendet",
                "* LIST (\\HasNoChildren) \"/\" INBOX",
                "* LIST (\\NonExistent \\Noselect \\HasChildren) \"/\" a",
                "* LIST (\\HasNoChildren) \"/\" a/b",
                "* LIST (\\HasNoChildren) \"/\" &APw-",
            ],
        );
        check(
            names(),
            "LIST \"\" (% inbox)",
            &[
                "* LIST (\\HasNoChildren \\Sent) \"/\" Gesendet",
                "* LIST (\\HasNoChildren) \"/\" INBOX",
                "* LIST (\\NonExistent \\HasChildren) \"/\" a",
                "* LIST (\\HasNoChildren) \"/\" &APw-",
            ],
        );
        check(names(), "LIST () \"\" a", &[]);
        check(names(), "LIST \"\" b", &[]);
        check(
            names(),
            "LIST (SPECIAL-USE) \"\" *",
            &["* LIST (\\HasNoChildren \\Sent) \"/\" Gesendet"],
        );
    }

    #[test]
    fn what_is_subscribed_need_not_be_there() {
        let mailboxes: [(&str, &[SpecialUse]); 3] = [("INBOX", &[]), ("a", &[]), ("a/b", &[])];
        let names = || names(&mailboxes, &["INBOX", "a/b", "gone", "c/d"]);
        check(
            names(),
            "LIST (SUBSCRIBED) \"\" *",
            &[
                "* LIST (\\Subscribed \\HasNoChildren) \"/\" INBOX",
                "* LIST (\\Subscribed \\HasNoChildren) \"/\" a/b",
                "* LIST (\\Subscribed \\NonExistent \\HasNoChildren) \"/\" c/d",
                "* LIST (\\Subscribed \\NonExistent \\HasNoChildren) \"/\" gone",
            ],
        );
        check(
            names(),
            "LIST (SUBSCRIBED RECURSIVEMATCH) \"\" %",
            &[
                "* LIST (\\Subscribed \\HasNoChildren) \"/\" INBOX",
                "* LIST (\\HasChildren) \"/\" a (\"CHILDINFO\" (\"SUBSCRIBED\"))",
                "* LIST (\\NonExistent \\HasNoChildren) \"/\" c \
                 (\"CHILDINFO\" (\"SUBSCRIBED\"))",
                "* LIST (\\Subscribed \\NonExistent \\HasNoChildren) \"/\" gone",
            ],
        );
        check(
            names(),
            "LIST \"\" a* RETURN (SUBSCRIBED)",
            &["* LIST (\\HasChildren) \"/\" a", "* LIST (\\Subscribed \\HasNoChildren) \"/\" a/b"],
        );
        check(
            names(),
            "LSUB \"\" %",
            &[
                "* LSUB () \"/\" INBOX",
                "* LSUB (\\Noselect) \"/\" a",
                "* LSUB (\\Noselect) \"/\" c",
                "* LSUB () \"/\" gone",
            ],
        );
        check(names(), "LSUB a/ *", &["* LSUB () \"/\" a/b"]);
    }
}
