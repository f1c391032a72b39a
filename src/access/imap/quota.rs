//! GETQUOTA and GETQUOTAROOT (RFC 9208): one root with an empty name, the account.

use super::listing::write_name;
use super::selected::{Expunges, write};
use super::session::{Ending, Session};
use crate::mailbox::Refusal;
use crate::proto::imap::command::Tag;
use crate::proto::imap::mailbox::MailboxName;
use crate::proto::imap::response::{Condition, PlainCode};

impl Session {
    pub async fn on_get_quota(&mut self, tag: &Tag, root: &[u8]) -> Result<(), Ending> {
        if !root.is_empty() {
            let code = Some(PlainCode::NonExistent);
            self.refuse(tag, Condition::No, code, "There is no such quota root");
            return Ok(());
        }
        self.write_quota().await;
        self.finish(tag, Expunges::Told, None, "Quota completed").await
    }

    pub async fn on_get_quota_root(&mut self, tag: &Tag, name: &MailboxName) -> Result<(), Ending> {
        if self.find_mailbox(name).await.is_none() {
            self.refuse_for(tag, Refusal::NoSuchMailbox);
            return Ok(());
        }
        let form = self.name_form();
        let out = self.wire.out();
        out.extend_from_slice(b"* QUOTAROOT ");
        write_name(name.as_str(), form, out);
        out.extend_from_slice(b" \"\"\r\n");
        self.write_quota().await;
        self.finish(tag, Expunges::Told, None, "Quota root completed").await
    }

    /// Resources without a limit are not told of.
    async fn write_quota(&mut self) {
        let account = self.account;
        let (quota, usage) =
            self.store.read(|partition| (partition.quota(account), partition.usage(account))).await;
        let out = self.wire.out();
        out.extend_from_slice(b"* QUOTA \"\" (");
        if quota.bytes > 0 {
            // In units of 1024 octets.
            let (used, limit) = (usage.bytes.div_ceil(1024), quota.bytes / 1024);
            write(out, format_args!("STORAGE {used} {limit}"));
        }
        if quota.messages > 0 {
            let space = if quota.bytes > 0 { " " } else { "" };
            write(out, format_args!("{space}MESSAGE {} {}", usage.messages, quota.messages));
        }
        out.extend_from_slice(b")\r\n");
    }
}
