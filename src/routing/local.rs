//! From a forward-path of a local domain to whoever gets its mail. `Pure.`
//!
//! Aliases go before accounts, both before what stands behind a separator is passed over, and the
//! catch-all of the domain comes last but for `postmaster` and `abuse`, who are always somebody
//! where anybody can be (RFC 5321 §4.5.1, RFC 2142 §4).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::mx::Destination;
use crate::config::{Alias, Config};
use crate::limits::{ALIAS_DEPTH_MAX, ALIAS_TARGETS_MAX};
use crate::mail::{Account, Accounts, Reply, status};

/// Local domains and aliases of one configuration.
#[derive(Default)]
pub struct Local {
    /// A domain as it compares, and as the configuration and names of accounts have it.
    domains: HashMap<Box<str>, Box<str>>,
    /// Of names without one.
    first_domain: Option<Box<str>>,
    /// Local domains whose mailboxes are elsewhere: a `[[route]]` says where.
    routed: HashSet<Box<str>>,
    /// What may stand between a local-part and its detail; empty where nothing may.
    separator: Box<str>,
    /// By address, or by `@domain`.
    aliases: HashMap<Box<str>, Vec<Box<str>>>,
    /// Who else is a postmaster.
    postmaster: Option<Box<str>>,
}

/// One of those who get the mail of a forward-path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Mailbox text.
    pub address: Box<str>,
    /// `None` where the mail goes on to somewhere else.
    pub account: Option<Arc<Account>>,
}

impl Local {
    pub fn new(config: &Config) -> Self {
        let mailboxes = &config.mailboxes;
        let spelled = mailboxes.domains.iter().map(|it| it.as_str().into());
        let spelled: Vec<Box<str>> = spelled.collect();
        let is_routed = |domain: &str| config.routes.iter().any(|it| it.domain == domain);
        let mut local = Self {
            routed: spelled.iter().filter(|it| is_routed(it)).cloned().collect(),
            first_domain: spelled.first().cloned(),
            domains: spelled.into_iter().map(|it| (comparable(&it), it)).collect(),
            separator: mailboxes.detail_separator.as_str().into(),
            aliases: HashMap::new(),
            postmaster: config.queue.double_bounce.as_deref().map(Box::from),
        };
        for Alias { address, to } in &config.aliases {
            let name = match address.strip_prefix('@') {
                Some(domain) => Some(["@", domain].concat().into()),
                None => local.name(address).map(|name| name.to_string().into()),
            };
            let targets = to.iter().map(|it| it.as_str().into()).collect();
            local.aliases.extend(name.map(|name| (name, targets)));
        }
        local
    }

    /// Whether mail for a domain, in any case and spelling, is for here. The empty one is that of a
    /// bare `Postmaster`.
    pub fn is_local(&self, domain: &str) -> bool {
        match domain.is_empty() {
            true => self.first_domain.is_some(),
            false => !self.domains.is_empty() && self.domains.contains_key(&comparable(domain)),
        }
    }

    /// Who gets the mail of a valid forward-path: each once, in order. `None` where its domain is
    /// not local; a reply where nobody gets it.
    ///
    /// Members of a list that are unknown go along as addresses, unless nobody else does: whoever
    /// tries to deliver to them says so.
    pub fn resolve(
        &self,
        accounts: &Accounts,
        forward_path: &str,
    ) -> Option<Result<Vec<Target>, Reply>> {
        self.name(forward_path)?;
        let mut expansion = Expansion::new(self, accounts);
        expansion.expand(forward_path, 0);
        Some(expansion.end())
    }

    /// An address as it compares; `None` where its domain is not local.
    fn name(&self, address: &str) -> Option<Name> {
        let (local_part, domain) = match address.rsplit_once('@') {
            Some((local_part, domain)) => (local_part, self.domains.get(&comparable(domain))?),
            None => (address, self.first_domain.as_ref()?),
        };
        Some(Name { local_part: unquoted(local_part).to_lowercase(), domain: domain.clone() })
    }

    /// The name without what stands behind a separator, where there is one behind something.
    fn without_detail(&self, name: &Name) -> Option<Name> {
        let is_separator = |c: char| self.separator.contains(c);
        let at = name.local_part.find(is_separator).filter(|at| *at > 0)?;
        Some(Name { local_part: name.local_part[..at].to_owned(), domain: name.domain.clone() })
    }
}

/// An address of a local domain in lower case, without quotation marks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    local_part: String,
    domain: Box<str>,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.local_part, self.domain)
    }
}

/// Aliases being followed from one forward-path.
struct Expansion<'a> {
    local: &'a Local,
    accounts: &'a Accounts,
    targets: Vec<Target>,
    /// In lower case, of `targets`.
    addresses: HashSet<Box<str>>,
    /// Members of lists that nobody has.
    unknown: Vec<Box<str>>,
    /// Aliases that were followed.
    followed: HashSet<Box<str>>,
    /// There is more than a message may go to.
    is_too_large: bool,
}

impl<'a> Expansion<'a> {
    fn new(local: &'a Local, accounts: &'a Accounts) -> Self {
        Self {
            local,
            accounts,
            targets: Vec::new(),
            addresses: HashSet::new(),
            unknown: Vec::new(),
            followed: HashSet::new(),
            is_too_large: false,
        }
    }

    fn end(mut self) -> Result<Vec<Target>, Reply> {
        if self.is_too_large {
            return Err(TOO_MANY_TARGETS);
        }
        if self.targets.is_empty() {
            return Err(UNKNOWN_USER);
        }
        for address in std::mem::take(&mut self.unknown) {
            self.push(&address, None);
        }
        Ok(self.targets)
    }

    fn push(&mut self, address: &str, account: Option<Arc<Account>>) {
        if self.targets.len() >= ALIAS_TARGETS_MAX {
            self.is_too_large = true;
        } else if self.addresses.insert(address.to_lowercase().into()) {
            self.targets.push(Target { address: address.into(), account });
        }
    }

    /// Adds whoever gets the mail of an address; returns whether somebody does.
    fn expand(&mut self, address: &str, depth: usize) -> bool {
        let Some(name) = self.local.name(address) else {
            self.push(address, None);
            return true;
        };
        if depth > ALIAS_DEPTH_MAX || self.is_too_large {
            self.is_too_large = true;
            return false;
        }
        let base = self.local.without_detail(&name);
        for name in [Some(&name), base.as_ref()].into_iter().flatten() {
            let full = name.to_string();
            if let Some(known) = self.follow(&full, depth) {
                return known;
            }
            if !self.local.routed.contains(&*name.domain)
                && let Some(account) = self.accounts.get(&full)
            {
                self.push(address, Some(account.clone()));
                return true;
            }
        }
        if self.local.routed.contains(&*name.domain) {
            self.push(address, None);
            return true;
        }
        if let Some(known) = self.follow(&format!("@{}", name.domain), depth) {
            return known;
        }
        let is_known = self.fall_back(&name, depth);
        if !is_known {
            self.unknown.push(address.into());
        }
        is_known
    }

    /// Adds whoever gets the mail of an alias. `None` where there is no such alias, or it leads to
    /// itself: then it stands for the account of that name.
    fn follow(&mut self, name: &str, depth: usize) -> Option<bool> {
        let local = self.local;
        let targets = local.aliases.get(name)?;
        if !self.followed.insert(name.into()) {
            return None;
        }
        let known_count = targets.iter().filter(|it| self.expand(it, depth + 1)).count();
        Some(known_count > 0)
    }

    /// Adds whoever stands in for somebody who has to be there.
    fn fall_back(&mut self, name: &Name, depth: usize) -> bool {
        let domains = [Some(&name.domain), self.local.first_domain.as_ref()].into_iter().flatten();
        let postmasters = domains.map(|domain| format!("postmaster@{domain}"));
        let of_host = self.local.postmaster.as_deref().map(str::to_owned);
        let own = name.to_string();
        let has_to_be = matches!(&*name.local_part, "postmaster" | "abuse");
        if !has_to_be || !self.followed.insert(own.as_str().into()) {
            return false;
        }
        let unknown_count = self.unknown.len();
        let mut others = postmasters.chain(of_host).filter(|it| *it != own);
        let is_known = others.any(|it| self.expand(&it, depth + 1));
        self.unknown.truncate(unknown_count);
        is_known
    }
}

/// A domain as it compares.
pub(super) fn comparable(domain: &str) -> Box<str> {
    if domain.is_ascii() {
        return domain.to_ascii_lowercase().into();
    }
    match Destination::parse(domain) {
        Ok(Destination::Domain(name)) => name.as_str().to_ascii_lowercase().into(),
        _ => domain.to_lowercase().into(),
    }
}

/// A local-part without quotation marks and backslashes, which are not part of what it says
/// (RFC 5321 §4.1.2).
fn unquoted(local_part: &str) -> String {
    let Some(inner) = local_part.strip_prefix('"').and_then(|it| it.strip_suffix('"')) else {
        return local_part.to_owned();
    };
    let mut is_quoted = false;
    inner
        .chars()
        .filter(|c| {
            is_quoted = *c == '\\' && !is_quoted;
            !is_quoted
        })
        .collect()
}

const UNKNOWN_USER: Reply = Reply::new(550, status::BAD_MAILBOX, "No such mailbox here");
const TOO_MANY_TARGETS: Reply =
    Reply::new(451, status::BAD_CONFIGURATION, "Aliases lead too far, or to too many addresses");

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        let names = ["ann@a.test", "bob@a.test", "bob+list@a.test", "cat@b.test", "o'k d@a.test"];
        let account = |(index, name): (usize, &&str)| Account {
            name: (*name).into(),
            id: index as u64,
            partition: 0,
            secret: None,
            revision: 0,
        };
        names.iter().enumerate().map(account).collect()
    }

    fn local(aliases: &[(&str, &[&str])]) -> Local {
        let mut config = Config::embedded();
        let text = |it: &&str| (*it).to_owned();
        config.mailboxes.domains =
            ["a.test", "b.test", "b\u{fc}cher.test"].map(str::to_owned).into();
        let aliases = aliases.iter().map(|(address, to)| Alias {
            address: text(address),
            to: to.iter().map(text).collect(),
        });
        config.aliases = aliases.collect();
        Local::new(&config)
    }

    /// Addresses, with `>` and the name of the account behind those that have one.
    fn check(local: &Local, forward_path: &str, expected: &[&str]) {
        let found = local.resolve(&accounts(), forward_path).expect("a local domain");
        let said = match found {
            Ok(targets) => targets.iter().map(in_words).collect(),
            Err(reply) => vec![reply.to_string()],
        };
        assert_eq!(said, expected, "{forward_path}");
    }

    fn in_words(target: &Target) -> String {
        match &target.account {
            Some(account) => format!("{}>{}", target.address, account.name),
            None => target.address.to_string(),
        }
    }

    const UNKNOWN: &[&str] = &["550 5.1.1 No such mailbox here"];
    const TOO_FAR: &[&str] = &["451 4.3.5 Aliases lead too far, or to too many addresses"];

    #[test]
    fn accounts_are_found_in_any_case_quoted_or_with_a_detail() {
        let local = local(&[]);
        check(&local, "ann@a.test", &["ann@a.test>ann@a.test"]);
        check(&local, "Ann@A.TEST", &["Ann@A.TEST>ann@a.test"]);
        check(&local, "ann+x+y@a.test", &["ann+x+y@a.test>ann@a.test"]);
        check(&local, "bob+list@a.test", &["bob+list@a.test>bob+list@a.test"]);
        check(&local, "bob+other@a.test", &["bob+other@a.test>bob@a.test"]);
        check(&local, "\"ann\"@a.test", &["\"ann\"@a.test>ann@a.test"]);
        check(&local, "\"o'k\\ d\"@a.test", &["\"o'k\\ d\"@a.test>o'k d@a.test"]);
        for unknown in ["cat@a.test", "+ann@a.test", "ann@b.test", "ann-x@a.test", "\"\"@a.test"] {
            check(&local, unknown, UNKNOWN);
        }
        assert_eq!(local.resolve(&accounts(), "ann@c.test"), None);
        assert_eq!(local.resolve(&accounts(), "ann@x.a.test"), None);
        assert_eq!(Local::default().resolve(&accounts(), "Postmaster"), None);
    }

    #[test]
    fn a_domain_is_local_in_every_spelling() {
        let local = local(&[]);
        for domain in ["a.test", "A.Test", "b\u{fc}cher.test", "B\u{dc}CHER.test"] {
            assert!(local.is_local(domain), "{domain}");
        }
        assert!(local.is_local("xn--bcher-kva.test") && local.is_local(""));
        assert!(!local.is_local("test") && !Local::default().is_local(""));
    }

    #[test]
    fn aliases_lead_to_each_of_theirs_once() {
        let local = local(&[
            ("all@a.test", &["ann@a.test", "Others@a.test", "x@far.test", "ANN@a.test"]),
            ("others@a.test", &["bob+all@a.test", "cat@b.test", "x@FAR.test"]),
            ("cat@b.test", &["cat@b.test", "x@far.test"]),
            ("ann+sub@a.test", &["cat@b.test"]),
        ]);
        let all = [
            "ann@a.test>ann@a.test",
            "bob+all@a.test>bob@a.test",
            "cat@b.test>cat@b.test",
            "x@far.test",
        ];
        check(&local, "ALL@a.test", &all);
        check(&local, "all+detail@a.test", &all);
        check(&local, "cat@b.test", &all[2..]);
        check(&local, "ann+sub@a.test", &all[2..]);
        check(&local, "ann+other@a.test", &["ann+other@a.test>ann@a.test"]);
    }

    #[test]
    fn who_is_unknown_goes_along_with_those_who_are_not() {
        let local = local(&[
            ("some@a.test", &["nobody@a.test", "ann@a.test"]),
            ("none@a.test", &["nobody@a.test", "none@b.test"]),
        ]);
        check(&local, "some@a.test", &["ann@a.test>ann@a.test", "nobody@a.test"]);
        check(&local, "none@a.test", UNKNOWN);
    }

    #[test]
    fn loops_and_what_leads_too_far_end() {
        let local_loop = local(&[
            ("x@a.test", &["y@a.test"]),
            ("y@a.test", &["x@a.test"]),
            ("z@a.test", &["x@a.test", "ann@a.test"]),
        ]);
        check(&local_loop, "x@a.test", UNKNOWN);
        check(&local_loop, "z@a.test", &["ann@a.test>ann@a.test", "x@a.test"]);
        let steps: Vec<(String, Vec<String>)> = (0..=ALIAS_DEPTH_MAX)
            .map(|at| (format!("s{at}@a.test"), vec![format!("s{}@a.test", at + 1)]))
            .chain([(format!("s{}@a.test", ALIAS_DEPTH_MAX + 1), vec!["ann@a.test".into()])])
            .chain([(
                "many@a.test".into(),
                (0..=ALIAS_TARGETS_MAX).map(|at| format!("{at}@far.test")).collect(),
            )])
            .collect();
        let steps: Vec<(&str, Vec<&str>)> = steps
            .iter()
            .map(|(from, to)| (from.as_str(), to.iter().map(String::as_str).collect()))
            .collect();
        let steps: Vec<(&str, &[&str])> = steps.iter().map(|(from, to)| (*from, &**to)).collect();
        let far = local(&steps);
        check(&far, "s0@a.test", TOO_FAR);
        check(&far, "s2@a.test", &["ann@a.test>ann@a.test"]);
        check(&far, "many@a.test", TOO_FAR);
    }

    #[test]
    fn a_catch_all_gets_what_nobody_has() {
        let local = local(&[("@a.test", &["ann@a.test"]), ("@b.test", &["nobody@b.test"])]);
        check(&local, "who@a.test", &["ann@a.test>ann@a.test"]);
        check(&local, "bob+x@a.test", &["bob+x@a.test>bob@a.test"]);
        check(&local, "postmaster@a.test", &["ann@a.test>ann@a.test"]);
        check(&local, "who@b.test", UNKNOWN);
    }

    #[test]
    fn postmaster_and_abuse_are_somebody_where_anybody_can_be() {
        let check_all = |local: &Local, expected: &[&str]| {
            for local_part in ["postmaster", "Abuse", "POSTMASTER"] {
                check(local, &format!("{local_part}@b.test"), expected);
            }
        };
        check_all(&local(&[]), UNKNOWN);
        let alias: (&str, &[&str]) = ("postmaster@a.test", &["ann@a.test"]);
        check_all(&local(&[alias]), &["ann@a.test>ann@a.test"]);
        check(&local(&[alias]), "Postmaster", &["ann@a.test>ann@a.test"]);
        let own: (&str, &[&str]) = ("postmaster@b.test", &["cat@b.test"]);
        check_all(&local(&[alias, own]), &["cat@b.test>cat@b.test"]);
        check(&local(&[alias]), "postmaster+x@b.test", UNKNOWN);
        let mut with_host = local(&[]);
        with_host.postmaster = Some("root@far.test".into());
        check_all(&with_host, &["root@far.test"]);
        with_host.postmaster = Some("postmaster@b.test".into());
        check_all(&with_host, UNKNOWN);
    }

    #[test]
    fn mailboxes_of_a_routed_domain_are_known_elsewhere() {
        let mut local = local(&[("list@b.test", &["ann@a.test", "dan@b.test"])]);
        local.routed.insert("b.test".into());
        check(&local, "Who@b.test", &["Who@b.test"]);
        check(&local, "cat@b.test", &["cat@b.test"]);
        check(&local, "list+x@b.test", &["ann@a.test>ann@a.test", "dan@b.test"]);
    }
}
