//! A message into the files of a Maildir, on threads of their own.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::super::Inner;
use super::delivery_key;
use crate::limits::{LOCAL_DELIVERIES_MAX, MAILDIR_THREADS};
use crate::mail::{Reply, status};
use crate::proto::message::delivered::Delivered;
use crate::queue::{LoadError, Message, Octets};
use crate::routing::maildir;
use crate::runtime::blocking::{NotDone, Pool};

/// Why a recipient does not get a message, or cannot be given it now.
enum Undelivered {
    Refused(Reply),
    Unreadable(LoadError),
}

impl From<Reply> for Undelivered {
    fn from(reply: Reply) -> Self {
        Undelivered::Refused(reply)
    }
}

impl Inner {
    /// Gives a message to the Maildir of each of its recipients; what became of each.
    pub(super) async fn to_maildirs(
        &self,
        pattern: &str,
        message: &Rc<Message>,
    ) -> Result<Vec<Reply>, LoadError> {
        let mut replies = Vec::with_capacity(message.recipient_indexes.len());
        for index in &message.recipient_indexes {
            replies.push(match self.to_maildir(pattern, message, *index).await {
                Ok(()) => DELIVERED,
                Err(Undelivered::Refused(reply)) => reply,
                Err(Undelivered::Unreadable(error)) => return Err(error),
            });
        }
        Ok(replies)
    }

    async fn to_maildir(
        &self,
        pattern: &str,
        message: &Rc<Message>,
        recipient_index: u16,
    ) -> Result<(), Undelivered> {
        let pool = self.maildir_threads()?;
        let recipient = &message.envelope.recipients[usize::from(recipient_index)];
        let (directories, name) = {
            let config = self.config.borrow();
            let separators = &config.mailboxes.detail_separator;
            let directories = maildir::directories(pattern, &recipient.address, separators);
            let key = delivery_key(self.queue.store_id(), message.id, &recipient.address);
            (directories, file_name(message.envelope.accepted_ms, key, &config.hostname))
        };
        let mut prefix = Vec::new();
        Delivered {
            reverse_path: &message.envelope.reverse_path,
            recipient: &recipient.address,
            original_recipient: recipient.original_recipient.as_deref(),
        }
        .write(&mut prefix);
        prefix.extend_from_slice(&message.envelope.header_prefix);
        let begun =
            pool.run_for(STEP_TIME_MAX, move || Writing::begin(&directories, &name, &prefix)).await;
        let mut writing = match begun.map_err(not_done)?.map_err(|error| in_words(&error))? {
            Begun::Writing(writing) => writing,
            Begun::Before => return Ok(()),
            Begun::NoMailbox => return Err(NO_MAILBOX.into()),
        };
        for chunk_index in 0..message.content.chunk_count() {
            let octets = self.queue.load_chunk(message, chunk_index).await;
            let octets: Octets = octets.map_err(Undelivered::Unreadable)?;
            let octets = octets.to_vec();
            let written =
                pool.run_for(STEP_TIME_MAX, move || writing.write(&octets).map(|()| writing)).await;
            writing = written.map_err(not_done)?.map_err(|error| in_words(&error))?;
        }
        let ended = pool.run_for(STEP_TIME_MAX, move || writing.end()).await;
        Ok(ended.map_err(not_done)?.map_err(|error| in_words(&error))?)
    }

    fn maildir_threads(&self) -> Result<Pool, Reply> {
        let mut threads = self.maildir_threads.borrow_mut();
        if let Some(pool) = &*threads {
            return Ok(pool.clone());
        }
        let pool = Pool::start("maildir", MAILDIR_THREADS, LOCAL_DELIVERIES_MAX);
        let pool = pool.map_err(|error| in_words(&error))?;
        Ok(threads.insert(pool).clone())
    }
}

/// The same for the same message and recipient: who delivers it again replaces it.
fn file_name(accepted_ms: u64, key: u128, hostname: &str) -> String {
    format!("{}.R{key:032x}.{hostname}", accepted_ms / 1000)
}

enum Begun {
    Writing(Writing),
    /// It is there.
    Before,
    NoMailbox,
}

/// A file in `tmp` on its way into `new`.
struct Writing {
    file: File,
    directory: PathBuf,
    name: String,
    /// The octets so far end in a CR that has not been written.
    after_cr: bool,
}

impl Writing {
    /// In the first directory that is there: a stranger's address makes none.
    fn begin(directories: &[PathBuf], name: &str, prefix: &[u8]) -> io::Result<Begun> {
        let is_there = |directory: &&PathBuf| directory.is_dir();
        let Some(directory) = directories.iter().find(is_there) else {
            return Ok(Begun::NoMailbox);
        };
        for part in ["tmp", "new", "cur"] {
            match DirBuilder::new().mode(0o700).create(directory.join(part)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        if directory.join("new").join(name).exists() {
            return Ok(Begun::Before);
        }
        // What a crash left of the same message is written anew.
        let path = directory.join("tmp").join(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let (directory, name) = (directory.clone(), name.to_owned());
        let mut writing = Writing { file, directory, name, after_cr: false };
        writing.write(prefix)?;
        Ok(Begun::Writing(writing))
    }

    /// Lines end in LF in files.
    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        let mut text = Vec::with_capacity(octets.len() + 1);
        for octet in octets {
            if std::mem::take(&mut self.after_cr) && *octet != b'\n' {
                text.push(b'\r');
            }
            match octet {
                b'\r' => self.after_cr = true,
                octet => text.push(*octet),
            }
        }
        self.file.write_all(&text)
    }

    /// Durable when this returns.
    fn end(mut self) -> io::Result<()> {
        if self.after_cr {
            self.file.write_all(b"\r")?;
        }
        self.file.sync_all()?;
        let new = self.directory.join("new");
        fs::rename(self.directory.join("tmp").join(&self.name), new.join(&self.name))?;
        sync_directory(&new)
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn in_words(error: &io::Error) -> Reply {
    match error.kind() {
        io::ErrorKind::QuotaExceeded => Reply::new(452, status::MAILBOX_FULL, "Mailbox is full"),
        io::ErrorKind::StorageFull => {
            Reply::new(452, status::MAIL_SYSTEM_FULL, "No space for the files of the mailbox")
        }
        _ => {
            let text = format!("Maildir cannot be written: {error}");
            Reply::with_text(451, status::OTHER_MAIL_SYSTEM, text)
        }
    }
}

fn not_done(why: NotDone) -> Reply {
    let text = match why {
        NotDone::Busy => "Too much is being written into Maildirs",
        NotDone::Panicked => "Writing into a Maildir went wrong",
        NotDone::TooSlow => "Writing into a Maildir takes too long",
    };
    Reply::new(451, status::OTHER_MAIL_SYSTEM, text)
}

/// The longest wait for a step of a delivery; it is made again later.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
const DELIVERED: Reply = Reply::new(250, status::OK, "Delivered into a Maildir");
const NO_MAILBOX: Reply = Reply::new(550, status::BAD_MAILBOX, "No such Maildir here");
