//! `ringpost account`: who has mailboxes here, through a running server.

use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};

use super::client::{Place, ask, json_line, print, printable, size};
use super::exit::{Exit, Failure};
use crate::auth;
use crate::config::parse_size;
use crate::control::wire::{AccountQuota, Line, Request};
use crate::runtime::{clock, terminal};
use crate::shard::mail_order::AccountView;

#[derive(Subcommand)]
pub enum Command {
    /// Begins an account with its INBOX. Its name is its address.
    Add(Add),
    /// Ends an account with its mailboxes and all that is in them.
    Remove(Named),
    /// Lists accounts with what they hold.
    List(List),
    /// Gives an account another password.
    Password(Password),
    /// Says how much an account may hold.
    Quota(Quota),
}

#[derive(Args)]
pub struct Add {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    secret: SecretOptions,
    /// Nobody logs in so far; mail is kept.
    #[arg(long, conflicts_with = "generate")]
    no_password: bool,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Args)]
pub struct Password {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    secret: SecretOptions,
}

#[derive(Args)]
pub struct Quota {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Args)]
pub struct Named {
    #[command(flatten)]
    place: Place,
    /// user@domain, of a local domain.
    #[arg(value_name = "ADDRESS")]
    name: String,
}

#[derive(Args)]
pub struct List {
    #[command(flatten)]
    place: Place,
    /// Prints a line of JSON for each account.
    #[arg(long)]
    json: bool,
}

/// Where a password comes from: the terminal, or the first line of standard input.
#[derive(Args)]
struct SecretOptions {
    /// Makes a password and prints it, instead of reading one.
    #[arg(long)]
    generate: bool,
}

#[derive(Args)]
struct Limits {
    /// Most octets, such as 2GiB; 0B for the common limit.
    #[arg(long, value_name = "SIZE")]
    bytes: Option<String>,
    /// Most messages; 0 for no limit.
    #[arg(long, value_name = "COUNT")]
    messages: Option<u32>,
}

pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Add(options) => add(options),
        Command::Remove(named) => {
            say_done(&named.place, &Request::AccountRemove { name: named.name.clone() })
        }
        Command::List(options) => list(options),
        Command::Password(options) => {
            let (secret, generated) = options.secret.read()?;
            let name = options.named.name.clone();
            say_done(&options.named.place, &Request::AccountPassword { name, secret })?;
            say_generated(generated)
        }
        Command::Quota(options) => {
            if options.limits.bytes.is_none() && options.limits.messages.is_none() {
                return Err(Failure::new(Exit::Usage, "say --bytes, --messages or both"));
            }
            let (name, quota) = (options.named.name.clone(), options.limits.quota()?);
            say_done(&options.named.place, &Request::AccountQuota { name, quota })
        }
    }
}

fn add(options: &Add) -> Result<(), Failure> {
    let quota = options.limits.quota()?;
    let (secret, generated) = match options.no_password {
        true => (None, None),
        false => {
            let (secret, generated) = options.secret.read()?;
            (Some(secret), generated)
        }
    };
    let name = options.named.name.clone();
    say_done(&options.named.place, &Request::AccountAdd { name, secret, quota })?;
    say_generated(generated)
}

/// Has a request carried out that answers nothing.
pub(super) fn say_done(place: &Place, request: &Request) -> Result<(), Failure> {
    ask(place, request, &mut |_| Ok(()))
}

fn say_generated(password: Option<String>) -> Result<(), Failure> {
    match password {
        Some(password) => print(&format!("{password}\n")),
        None => Ok(()),
    }
}

impl SecretOptions {
    /// The secret of a password, and the password where it was made here.
    fn read(&self) -> Result<(String, Option<String>), Failure> {
        if self.generate {
            let password = generate_password();
            return Ok((auth::make_secret(&password), Some(password)));
        }
        let failure = |error| Failure::new(Exit::InputOutput, format!("no password: {error}"));
        let password = match io::stdin().is_terminal() {
            true => {
                let password = terminal::read_hidden("Password: ").map_err(failure)?;
                if password != terminal::read_hidden("Again: ").map_err(failure)? {
                    return Err(Failure::new(Exit::Usage, "the two passwords are not the same"));
                }
                password
            }
            false => terminal::read_first_line(&mut io::stdin().lock()).map_err(failure)?,
        };
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX || password.contains('\0') {
            let text = format!("a password has 1 to {PASSWORD_BYTES_MAX} octets and no NUL");
            return Err(Failure::new(Exit::Usage, text));
        }
        Ok((auth::make_secret(&password), None))
    }
}

impl Limits {
    fn quota(&self) -> Result<AccountQuota, Failure> {
        let wrong = |text: &String| {
            Failure::new(Exit::Usage, format!("--bytes {text}: expected a size such as 2GiB"))
        };
        let bytes = self.bytes.as_ref().map(|text| parse_size(text).ok_or_else(|| wrong(text)));
        let bytes = bytes.transpose()?.unwrap_or(0);
        Ok(AccountQuota { bytes, messages: self.messages.unwrap_or(0) })
    }
}

/// 80 random bits in four groups, without letters and digits that look alike.
pub(super) fn generate_password() -> String {
    let mut random = [0; 16];
    clock::fill_random(&mut random);
    let letters = random.iter().map(|octet| LETTERS[usize::from(octet % 32)] as char);
    let letters: Vec<char> = letters.collect();
    let groups: Vec<String> = letters.chunks(4).map(|group| group.iter().collect()).collect();
    groups.join("-")
}

fn list(options: &List) -> Result<(), Failure> {
    let mut count = 0;
    ask(&options.place, &Request::AccountList, &mut |line| {
        let Line::Account(account) = line else { return Ok(()) };
        count += 1;
        if options.json {
            return print(&json_line(&account));
        }
        if count == 1 {
            print(&row("ADDRESS", "MESSAGES", "SIZE", "LIMIT", ""))?;
        }
        print(&shown(&account))
    })
}

fn shown(account: &AccountView) -> String {
    let mut limits = Vec::new();
    if account.quota_bytes > 0 {
        limits.push(size(account.quota_bytes));
    }
    if account.quota_messages > 0 {
        limits.push(format!("{} messages", account.quota_messages));
    }
    let limit = if limits.is_empty() { "-".to_owned() } else { limits.join(", ") };
    let note = if account.has_password { "" } else { "no password" };
    let (name, messages) = (printable(&account.name), account.messages.to_string());
    row(&name, &messages, &size(account.bytes), &limit, note)
}

fn row(name: &str, messages: &str, size: &str, limit: &str, note: &str) -> String {
    let text = format!("{name:<40} {messages:>9} {size:>9} {limit:>9}  {note}");
    format!("{}\n", text.trim_end())
}

/// What SASL and the caches of verified passwords take.
const PASSWORD_BYTES_MAX: usize = 255;
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_password_has_four_groups_and_comes_once() {
        let passwords = [generate_password(), generate_password()];
        assert_ne!(passwords[0], passwords[1]);
        for password in passwords {
            assert_eq!(password.len(), 19, "{password}");
            assert!(password.split('-').all(|group| group.len() == 4), "{password}");
        }
        let mut letters = LETTERS.to_vec();
        letters.dedup();
        assert_eq!(letters.len(), 32);
    }

    #[test]
    fn a_row_says_limits_and_what_is_missing() {
        let mut account = AccountView { name: "jo@a.test".to_owned(), ..Default::default() };
        assert!(shown(&account).ends_with("       0        0B         -  no password\n"));
        (account.quota_bytes, account.quota_messages) = (1 << 34, 7);
        account.has_password = true;
        assert!(shown(&account).ends_with(" 16GiB, 7 messages\n"), "{}", shown(&account));
    }
}
