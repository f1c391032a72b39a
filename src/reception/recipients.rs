//! Whom a message goes to: forward-paths as RCPT names them, aliases followed. `Pure.`

use std::collections::HashSet;

use crate::limits::RECIPIENTS_MAX;
use crate::mail::envelope::Notify;
use crate::mail::{Recipient, Reply, status};
use crate::proto::smtp::command::Rcpt;
use crate::proto::xtext;
use crate::routing::local::Target;

/// Recipients of a mail transaction so far.
#[derive(Default)]
pub(super) struct Recipients {
    all: Vec<Recipient>,
    /// In lower case, of those that were found by way of a local domain: each is there once.
    found: HashSet<Box<str>>,
}

/// A forward-path with what RCPT says beside it.
pub(super) struct Named {
    pub forward_path: Box<str>,
    pub original_recipient: Option<Box<str>>,
    pub notify: Notify,
}

impl Named {
    pub fn new(rcpt: &Rcpt<'_>) -> Self {
        Self {
            forward_path: rcpt.forward_path.as_str().into(),
            original_recipient: rcpt.original_recipient.map(Box::from),
            notify: rcpt.notify,
        }
    }

    /// The ORCPT of somebody that it leads to.
    pub fn original_of(&self, address: &str) -> Option<Box<str>> {
        match &self.original_recipient {
            None if *address != *self.forward_path => xtext::original_recipient(&self.forward_path),
            given => given.clone(),
        }
    }
}

impl Recipients {
    /// Adds a forward-path as it is.
    pub fn add(&mut self, named: Named) -> Result<(), Reply> {
        check_room(self.all.len(), 1)?;
        let Named { forward_path, original_recipient, notify } = named;
        self.all.push(Recipient { address: forward_path, original_recipient, notify });
        Ok(())
    }

    /// Adds those that a forward-path of a local domain leads to. Whoever is reported on is told
    /// of by the name that the client knows (RFC 3461 §5.2.7).
    pub fn add_found(&mut self, named: &Named, targets: Vec<Target>) -> Result<(), Reply> {
        check_room(self.all.len(), targets.len())?;
        for Target { address, .. } in targets {
            if !self.found.insert(address.to_lowercase().into()) {
                continue;
            }
            let original_recipient = named.original_of(&address);
            self.all.push(Recipient { address, original_recipient, notify: named.notify });
        }
        Ok(())
    }

    pub fn into_all(self) -> Vec<Recipient> {
        self.all
    }

    /// The only one, where there is one.
    pub fn only(&self) -> Option<&str> {
        match self.all.as_slice() {
            [only] => Some(&only.address),
            _ => None,
        }
    }
}

/// Whether a message that goes to so many may go to `more`.
pub(super) fn check_room(count: usize, more: usize) -> Result<(), Reply> {
    if count + more > RECIPIENTS_MAX { Err(TOO_MANY_RECIPIENTS) } else { Ok(()) }
}

const TOO_MANY_RECIPIENTS: Reply =
    Reply::new(452, status::TOO_MANY_RECIPIENTS, "Too many recipients, aliases counted");

#[cfg(test)]
mod tests {
    use super::*;

    fn named(forward_path: &str, original_recipient: Option<&str>) -> Named {
        Named {
            forward_path: forward_path.into(),
            original_recipient: original_recipient.map(Box::from),
            notify: Notify(Notify::SUCCESS),
        }
    }

    fn targets(addresses: &[&str]) -> Vec<Target> {
        let target = |it: &&str| Target { address: (*it).into(), account: None };
        addresses.iter().map(target).collect()
    }

    #[test]
    fn who_is_found_is_there_once_under_the_name_that_the_client_knows() {
        let mut recipients = Recipients::default();
        let mut add = |named: &Named, addresses: &[&str]| {
            recipients.add_found(named, targets(addresses)).expect("room");
        };
        add(&named("a@b.test", None), &["a@b.test"]);
        add(&named("all+x@b.test", None), &["A@B.test", "c@d.test", "e@b.test"]);
        add(&named("c@b.test", Some("rfc822;first@far.test")), &["c@d.test", "f@d.test"]);
        recipients.add(named("far@far.test", None)).expect("room");
        let all = recipients.into_all();
        let said: Vec<(&str, Option<&str>)> =
            all.iter().map(|it| (&*it.address, it.original_recipient.as_deref())).collect();
        let expected = [
            ("a@b.test", None),
            ("c@d.test", Some("rfc822;all+2Bx@b.test")),
            ("e@b.test", Some("rfc822;all+2Bx@b.test")),
            ("f@d.test", Some("rfc822;first@far.test")),
            ("far@far.test", None),
        ];
        assert_eq!(said, expected);
        assert!(all.iter().all(|it| it.notify == Notify(Notify::SUCCESS)));
    }

    #[test]
    fn a_message_has_no_more_recipients_than_an_envelope_may() {
        let mut recipients = Recipients::default();
        let names: Vec<String> = (0..RECIPIENTS_MAX).map(|at| format!("{at}@far.test")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let list = named("list@b.test", None);
        assert_eq!(recipients.add_found(&list, targets(&names[1..])), Ok(()));
        assert_eq!(recipients.add_found(&list, targets(&["x", "y"])), Err(TOO_MANY_RECIPIENTS));
        assert_eq!(recipients.add(named("x@far.test", None)), Ok(()));
        assert_eq!(recipients.add(named("y@far.test", None)), Err(TOO_MANY_RECIPIENTS));
    }
}
