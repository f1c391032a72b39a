//! APPEND (RFC 9051 §6.3.12): a message goes into its draft as it comes.

use super::selected::Expunges;
use super::session::{Ending, Session};
use crate::limits::APPENDS_AT_ONCE_MAX;
use crate::mailbox::codec::MailboxId;
use crate::mailbox::{Delivered, Delivery, Draft, InternalDate, Refusal, Target};
use crate::proto::imap::append::{Append, MessageForm, NewMessage};
use crate::proto::imap::command::Tag;
use crate::proto::imap::response::{Code, Condition, PlainCode};
use crate::proto::imap::set::NumberSet;
use crate::proto::mime::date::DateTime;
use crate::runtime::clock;

/// An APPEND under way.
pub struct Upload {
    tag: Tag,
    mailbox: MailboxId,
    /// Messages that are whole, and their octets.
    whole: Vec<(Draft, Delivery)>,
    whole_bytes: u64,
    delivery: Delivery,
    draft: Result<Draft, Failure>,
    /// What the draft had no room for.
    overflow: Vec<u8>,
}

/// Why a message is not taken, known while it comes.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Store(Refusal),
    /// BODY[] could not tell it again (RFC 9051 §4.3, RFC 3516 §4.4).
    HasNul,
}

impl Upload {
    /// Takes octets of the message; returns whether room must be made before more come.
    pub fn take(&mut self, octets: &[u8]) -> bool {
        let Ok(draft) = &mut self.draft else { return false };
        if memchr::memchr(0, octets).is_some() {
            self.draft = Err(Failure::HasNul);
            return false;
        }
        let taken = draft.append(octets);
        self.overflow.extend_from_slice(&octets[taken..]);
        !self.overflow.is_empty()
    }
}

impl Session {
    pub async fn on_append(&mut self, append: Append) -> Result<(), Ending> {
        let Append { tag, mailbox, message } = append;
        let Some(mailbox) = self.find_mailbox(&mailbox).await else {
            let text = "There is no such mailbox";
            self.refuse_append(&tag, Some(PlainCode::TryCreate), text);
            return Ok(());
        };
        if let Some((code, text)) = self.fault_of(&message) {
            self.refuse_append(&tag, code, text);
            return Ok(());
        }
        match self.begin(0, &message) {
            Ok(draft) => {
                let upload = Upload {
                    tag,
                    mailbox,
                    whole: Vec::new(),
                    whole_bytes: message.bytes,
                    delivery: delivery(mailbox, message),
                    draft: Ok(draft),
                    overflow: Vec::new(),
                };
                self.upload = Some(Box::new(upload));
                self.reader.accept_message(self.wire.out());
            }
            Err(refusal) => {
                self.reader.refuse_append();
                self.refuse_for(&tag, refusal);
            }
        }
        Ok(())
    }

    /// Another message in the same APPEND (RFC 3502): all of them are taken, or none.
    pub async fn on_append_next(&mut self, message: NewMessage) -> Result<(), Ending> {
        let mut upload = *self.upload.take().expect("a first message came");
        if let Some((code, text)) = self.fault_of(&message) {
            self.refuse_append(&upload.tag, code, text);
            return Ok(());
        }
        if upload.whole.len() + 2 > APPENDS_AT_ONCE_MAX {
            let text = "Too many messages at once";
            self.refuse_append(&upload.tag, Some(PlainCode::Limit), text);
            return Ok(());
        }
        let sealed = match upload.draft {
            Ok(mut draft) => draft.seal().await.map(|()| draft).map_err(Failure::Store),
            Err(failure) => Err(failure),
        };
        let next = match sealed {
            Ok(draft) => {
                let begun = self.begin(upload.whole_bytes, &message);
                begun.map(|next| (draft, next)).map_err(Failure::Store)
            }
            Err(failure) => Err(failure),
        };
        match next {
            Ok((draft, next)) => {
                upload.whole_bytes += message.bytes;
                let next_delivery = delivery(upload.mailbox, message);
                let delivery = std::mem::replace(&mut upload.delivery, next_delivery);
                upload.whole.push((draft, delivery));
                upload.draft = Ok(next);
                self.upload = Some(Box::new(upload));
                self.reader.accept_message(self.wire.out());
            }
            Err(failure) => {
                self.reader.refuse_append();
                self.refuse_as(&upload.tag, failure);
            }
        }
        Ok(())
    }

    /// Why a message is not taken, from what is known of it before it comes.
    fn fault_of(&self, message: &NewMessage) -> Option<(Option<PlainCode>, &'static str)> {
        if message.bytes > self.shared.message_bytes_max {
            return Some((Some(PlainCode::TooBig), "The message is too large"));
        }
        match message.form {
            _ if message.bytes == 0 => Some((None, "The message is empty")),
            MessageForm::Utf8 if !self.enabled.utf8 => {
                Some((Some(PlainCode::Cannot), "UTF8=ACCEPT is not enabled"))
            }
            MessageForm::Text | MessageForm::Binary | MessageForm::Utf8 => None,
        }
    }

    /// What would not fit in the end is refused before it comes, behind so many octets.
    fn begin(&self, bytes_before: u64, message: &NewMessage) -> Result<Draft, Refusal> {
        let bytes = bytes_before + message.bytes;
        match self.store.over_quota(self.account, bytes) {
            Some(refusal) => Err(refusal),
            None => self.store.begin(message.bytes),
        }
    }

    fn refuse_append(&mut self, tag: &Tag, code: Option<PlainCode>, text: &str) {
        self.reader.refuse_append();
        self.refuse(tag, Condition::No, code, text);
    }

    /// Lets the draft write down what it has, then gives it what it had no room for.
    pub async fn make_room(&mut self) {
        let upload = self.upload.as_mut().expect("content belongs to an APPEND");
        let Ok(draft) = &mut upload.draft else { return };
        match draft.room().await {
            Ok(()) => {
                let taken = draft.append(&upload.overflow);
                assert_eq!(taken, upload.overflow.len(), "a read is smaller than an empty buffer");
                upload.overflow = Vec::new();
            }
            Err(refusal) => upload.draft = Err(Failure::Store(refusal)),
        }
    }

    pub async fn on_append_end(&mut self) -> Result<(), Ending> {
        let Upload { tag, mut whole, delivery, draft, .. } =
            *self.upload.take().expect("a message came");
        let told = match draft {
            Ok(draft) if whole.is_empty() => {
                let told = draft.commit(&[delivery]).await;
                told.and_then(|told| told.into_iter().collect()).map_err(Failure::Store)
            }
            Ok(draft) => {
                whole.push((draft, delivery));
                self.store.commit_all(whole).await.map_err(Failure::Store)
            }
            Err(failure) => Err(failure),
        };
        let told: Vec<Delivered> = match told {
            Ok(told) => told,
            Err(failure) => {
                self.refuse_as(&tag, failure);
                return Ok(());
            }
        };
        let (mut validity, mut uids) = (0, NumberSet::default());
        for delivered in told {
            let Delivered::As { uid_validity, uid } = delivered else {
                unreachable!("it has no key");
            };
            validity = uid_validity;
            uids.insert(uid);
        }
        let code = Code::AppendUid { uid_validity: validity, uids: &uids };
        self.finish(&tag, Expunges::Told, Some(&code), "Append completed").await
    }

    fn refuse_as(&mut self, tag: &Tag, failure: Failure) {
        let (code, text) = match failure {
            Failure::HasNul => (PlainCode::UnknownCte, "The message has NUL octets"),
            Failure::Store(Refusal::NoSuchMailbox) => {
                (PlainCode::TryCreate, "The mailbox was deleted")
            }
            Failure::Store(refusal) => return self.refuse_for(tag, refusal),
        };
        self.refuse(tag, Condition::No, Some(code), text);
    }
}

fn delivery(mailbox: MailboxId, message: NewMessage) -> Delivery {
    Delivery {
        to: Target::Mailbox(mailbox),
        prefix: Vec::new(),
        date: internal_date(message.internal_date),
        flags: message.flags,
        key: None,
    }
}

/// Now where the client does not say.
fn internal_date(date: Option<DateTime>) -> InternalDate {
    date.map_or_else(|| InternalDate::utc((clock::unix_ms() / 1000) as u32), Into::into)
}
