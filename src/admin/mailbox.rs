//! `ringpost mailbox`: the mailboxes of an account, through a running server.

use clap::{Args, Subcommand};

use super::account::say_done;
use super::client::{Place, age, ask, json_line, print, printable, size, unix_ms};
use super::exit::Failure;
use super::transfer;
use crate::control::wire::{Line, Request};
use crate::shard::mail_order::MailboxView;

#[derive(Subcommand)]
pub enum Command {
    /// Lists the mailboxes of an account.
    List(List),
    /// Makes a mailbox; `/` stands between it and its superiors.
    Create(Create),
    /// Gives a mailbox and its inferiors another name.
    Rename(Rename),
    /// Deletes a mailbox with all that is in it; inferiors stay.
    Delete(Named),
    /// Lists what can be brought back: deleted mailboxes, and mailboxes with expunged messages.
    Deleted(List),
    /// Brings back a deleted mailbox, or else the messages that were expunged from a mailbox.
    Undelete(Undelete),
    /// Brings mail of a Maildir++, an mbox, or a directory of them into an account.
    Import(transfer::Import),
    /// Writes the mailboxes of an account into a Maildir++, or into mboxes.
    Export(transfer::Export),
    /// Says what a mailbox is for: Archive, Drafts, Junk, Sent, Trash, Flagged, Important, All.
    SpecialUse(SpecialUse),
}

#[derive(Args)]
pub struct List {
    #[command(flatten)]
    place: Place,
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// Prints a line of JSON for each mailbox.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Named {
    #[command(flatten)]
    place: Place,
    #[arg(value_name = "ACCOUNT")]
    account: String,
    #[arg(value_name = "MAILBOX")]
    mailbox: String,
}

#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    named: Named,
    /// What it is for (RFC 6154), such as Sent.
    #[arg(long, value_name = "USE")]
    special_use: Vec<String>,
}

#[derive(Args)]
pub struct Rename {
    #[command(flatten)]
    named: Named,
    #[arg(value_name = "NAME")]
    to: String,
}

#[derive(Args)]
pub struct Undelete {
    #[command(flatten)]
    named: Named,
    /// The mailbox that it comes into instead of the one of its name.
    #[arg(long, value_name = "MAILBOX")]
    to: Option<String>,
}

#[derive(Args)]
pub struct SpecialUse {
    #[command(flatten)]
    named: Named,
    /// None takes them all away.
    #[arg(value_name = "USE")]
    special_uses: Vec<String>,
}

pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => list(options),
        Command::Create(Create { named, special_use }) => {
            let (account, mailbox) = (named.account.clone(), named.mailbox.clone());
            let special_uses = special_use.clone();
            let request = Request::MailboxCreate { account, mailbox, special_uses };
            say_done(&named.place, &request)
        }
        Command::Rename(Rename { named, to }) => {
            let (account, mailbox) = (named.account.clone(), named.mailbox.clone());
            let request = Request::MailboxRename { account, mailbox, to: to.clone() };
            say_done(&named.place, &request)
        }
        Command::Delete(named) => {
            let (account, mailbox) = (named.account.clone(), named.mailbox.clone());
            say_done(&named.place, &Request::MailboxDelete { account, mailbox })
        }
        Command::Deleted(options) => list_deleted(options),
        Command::Undelete(Undelete { named, to }) => {
            let (account, mailbox) = (named.account.clone(), named.mailbox.clone());
            let request = Request::MailboxUndelete { account, mailbox, to: to.clone() };
            ask(&named.place, &request, &mut |line| match line {
                Line::Note(text) => print(&format!("{text}\n")),
                _ => Ok(()),
            })
        }
        Command::Import(options) => transfer::import(options),
        Command::Export(options) => transfer::export(options),
        Command::SpecialUse(SpecialUse { named, special_uses }) => {
            let (account, mailbox) = (named.account.clone(), named.mailbox.clone());
            let special_uses = special_uses.clone();
            let request = Request::MailboxSpecialUses { account, mailbox, special_uses };
            say_done(&named.place, &request)
        }
    }
}

fn list(options: &List) -> Result<(), Failure> {
    let mut count = 0;
    let request = Request::MailboxList { account: options.account.clone() };
    ask(&options.place, &request, &mut |line| {
        let Line::Mailbox(mailbox) = line else { return Ok(()) };
        count += 1;
        if options.json {
            return print(&json_line(&mailbox));
        }
        if count == 1 {
            print(&row("MAILBOX", "MESSAGES", "UNSEEN", "SIZE", ""))?;
        }
        print(&shown(&mailbox))
    })
}

fn list_deleted(options: &List) -> Result<(), Failure> {
    let mut count = 0;
    let request = Request::MailboxDeleted { account: options.account.clone() };
    ask(&options.place, &request, &mut |line| {
        let Line::Deleted(deleted) = line else { return Ok(()) };
        count += 1;
        if options.json {
            return print(&json_line(&deleted));
        }
        if count == 1 {
            print(&row("MAILBOX", "MESSAGES", "AGE", "SIZE", ""))?;
        }
        let is_deleted = if deleted.is_deleted { "deleted" } else { "" };
        let age = age(unix_ms().saturating_sub(u64::from(deleted.at_s) * 1000));
        let messages = deleted.messages.to_string();
        print(&row(&printable(&deleted.name), &messages, &age, &size(deleted.bytes), is_deleted))
    })
}

fn shown(mailbox: &MailboxView) -> String {
    let (messages, unseen) = (mailbox.messages.to_string(), mailbox.unseen.to_string());
    let uses = mailbox.special_uses.join(" ");
    row(&printable(&mailbox.name), &messages, &unseen, &size(mailbox.bytes), &uses)
}

fn row(name: &str, messages: &str, unseen: &str, size: &str, uses: &str) -> String {
    let text = format!("{name:<40} {messages:>9} {unseen:>9} {size:>9}  {uses}");
    format!("{}\n", text.trim_end())
}
