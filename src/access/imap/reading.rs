//! FETCH, SEARCH, SORT and THREAD: what a session does around them (RFC 9051 §6.4, RFC 5182,
//! RFC 5256, RFC 7162).

use std::cell::RefCell;

use super::fetch::{Fetched, Fetcher, Options};
use super::messages::expunges_of;
use super::search::{self, Scope, SearchError};
use super::selected::Selected;
use super::session::{Ending, MAILBOX_IS_GONE, Session};
use super::{sort, thread};
use crate::proto::imap::command::{Messages, Numbering, Tag};
use crate::proto::imap::fetch::{Fetch, FetchItem};
use crate::proto::imap::response::Condition;
use crate::proto::imap::search::{Search, SearchReturn, Sort, Thread};
use crate::proto::imap::select::Access;
use crate::proto::imap::set::NumberSet;

impl Session {
    pub async fn on_fetch(&mut self, tag: &Tag, command: &Fetch) -> Result<(), Ending> {
        if command.vanished && !self.enabled.qresync {
            self.refuse(tag, Condition::Bad, None, "QRESYNC is not enabled");
            return Ok(());
        }
        if command.changed_since.is_some() || command.items.contains(&FetchItem::ModSeq) {
            self.enable_condstore().await?;
        }
        let Ok(uids) = self.resolve(tag, command.numbering, &command.messages).await? else {
            return Ok(());
        };
        if let (true, Some(since)) = (command.vanished, command.changed_since) {
            self.tell_vanished(&command.messages, since).await?;
        }
        self.look(|selected, mailbox, out| selected.write_keywords(mailbox, out)).await?;
        let fetched = self.fetch(command, &uids).await?;
        let (condition, code, text) = fetched.condition();
        let answer = (condition, code.as_ref(), text);
        self.finish_as(tag, expunges_of(command.numbering), answer).await
    }

    /// UIDs of a set that are gone since a mod-sequence (RFC 7162 §3.2.6).
    async fn tell_vanished(&mut self, messages: &Messages, since: u64) -> Result<(), Ending> {
        let gone = self.look(|selected, mailbox, _| {
            let asked = match messages {
                // What is gone need not be known.
                Messages::Set(set) => set.resolve(selected.view.uid_end().saturating_sub(1)),
                Messages::Saved => selected.saved.clone(),
            };
            selected.vanished_earlier(mailbox, since).intersection(&asked)
        });
        let gone = gone.await?;
        self.tell_vanished_earlier(&gone).await
    }

    async fn fetch(&mut self, command: &Fetch, uids: &NumberSet) -> Result<Fetched, Ending> {
        let selected = self.take_selected();
        let (id, may_set_seen) = {
            let selected = selected.borrow();
            (selected.id, selected.access == Access::ReadWrite)
        };
        let options = Options { may_set_seen, tells_modseq: self.enabled.condstore };
        let fetcher = Fetcher::new(&self.store, id, command, options);
        // Whatever the error: a response may have been cut short.
        let fetched = fetcher.run(&selected, uids, &mut self.wire).await;
        self.put_selected(selected);
        fetched.map_err(|_| Ending::Broken)
    }

    pub async fn on_search(&mut self, tag: &Tag, command: &Search) -> Result<(), Ending> {
        if self.enabled.utf8 && command.criteria.charset.is_some() {
            // RFC 6855 §3.
            self.refuse(tag, Condition::Bad, None, "Everything is UTF-8");
            return Ok(());
        }
        let (selected, saved) = self.take_selected_and_saved();
        let mailbox = selected.borrow().id;
        let scope = Scope { store: &self.store, mailbox, selected: &selected, saved: &saved };
        let (is_rev2, out) = (self.enabled.rev2, self.wire.out());
        let searched = async {
            let found = search::run(&scope, &command.criteria).await?;
            search::write(tag, command, is_rev2, &scope, &found, out).await?;
            Ok(found)
        };
        let searched = searched.await;
        self.put_selected(selected);
        let has_modseq = searched.as_ref().is_ok_and(|found| found.modseqs.is_some());
        let outcome = searched.map(|found| found.uids);
        self.save(command.returns, saved, outcome.as_ref());
        self.finish_search(tag, command.numbering, has_modseq, outcome.map(drop)).await
    }

    pub async fn on_sort(&mut self, tag: &Tag, command: &Sort) -> Result<(), Ending> {
        let (selected, saved) = self.take_selected_and_saved();
        let mailbox = selected.borrow().id;
        let scope = Scope { store: &self.store, mailbox, selected: &selected, saved: &saved };
        let out = self.wire.out();
        let sorted = async {
            let sorted = sort::run(&scope, command).await?;
            sort::write(tag, command, &scope, &sorted, out).await?;
            Ok(sorted.found)
        };
        let sorted = sorted.await;
        self.put_selected(selected);
        let has_modseq = sorted.as_ref().is_ok_and(|found| found.modseqs.is_some());
        let outcome = sorted.map(|found| found.uids);
        self.save(command.returns, saved, outcome.as_ref());
        self.finish_search(tag, command.numbering, has_modseq, outcome.map(drop)).await
    }

    pub async fn on_thread(&mut self, tag: &Tag, command: &Thread) -> Result<(), Ending> {
        let (selected, saved) = self.take_selected_and_saved();
        let mailbox = selected.borrow().id;
        let scope = Scope { store: &self.store, mailbox, selected: &selected, saved: &saved };
        let outcome = thread::run(&scope, command, self.wire.out()).await;
        self.put_selected(selected);
        self.save(None, saved, Ok(&NumberSet::default()));
        self.finish_search(tag, command.numbering, false, outcome).await
    }

    async fn finish_search(
        &mut self,
        tag: &Tag,
        numbering: Numbering,
        has_modseq: bool,
        outcome: Result<(), SearchError>,
    ) -> Result<(), Ending> {
        let (condition, code, text) = match outcome {
            Ok(()) => (Condition::Ok, None, "Search completed"),
            Err(SearchError::NoMailbox) => return Err(MAILBOX_IS_GONE),
            Err(error) => error.condition(),
        };
        if has_modseq {
            self.enable_condstore().await?;
        }
        let answer = (condition, code.as_ref(), text);
        self.finish_as(tag, expunges_of(numbering), answer).await
    }

    /// What `$` means from now on (RFC 5182 §2.1): a failure leaves nothing of it.
    fn save(
        &mut self,
        returns: Option<SearchReturn>,
        saved: NumberSet,
        found: Result<&NumberSet, &SearchError>,
    ) {
        let selected = self.selected.as_mut().expect("checked");
        let Some(SearchReturn { min, max, all, count, .. }) = returns.filter(|it| it.save) else {
            selected.saved = saved;
            return;
        };
        selected.saved = match found {
            Err(_) => NumberSet::default(),
            Ok(found) if all || count || !(min || max) => found.clone(),
            Ok(found) => {
                let ends = [found.first().filter(|_| min), found.last().filter(|_| max)];
                ends.into_iter().flatten().map(|uid| (uid, uid)).collect()
            }
        };
    }

    /// What goes over the mailbox keeps the view up to date while it waits.
    fn take_selected(&mut self) -> RefCell<Selected> {
        RefCell::new(*self.selected.take().expect("checked"))
    }

    fn take_selected_and_saved(&mut self) -> (RefCell<Selected>, NumberSet) {
        let mut selected = self.take_selected();
        let saved = std::mem::take(&mut selected.get_mut().saved);
        (selected, saved)
    }

    fn put_selected(&mut self, selected: RefCell<Selected>) {
        self.selected = Some(Box::new(selected.into_inner()));
    }
}
