//! `ringpost serve`: from the command line to running shards, and to their end.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Source;
use super::account::generate_password;
use super::exit::{Exit, Failure};
use crate::acme;
use crate::auth;
use crate::config::{Acme, Config, Durability, ListenAddress};
use crate::control::{self, Control, Directory, StandingError};
use crate::entrance::socket;
use crate::event::{LogWriter, notice};
use crate::journal::OpenError;
use crate::mailbox::PartitionError;
use crate::mailbox::codec::Quota;
use crate::queue::StandingOrders;
use crate::runtime::net::BoundListener;
use crate::runtime::privilege::{self, Identity, PrivilegeError};
use crate::runtime::rlimit::{self, LOCKED_MEMORY_BYTES_MIN, Resource};
use crate::runtime::{probe, signal, thread, whole_file};
use crate::shard::{self, Bound, Shards, StartError};
use crate::tls::identity::self_signed_pem;

/// Runs the server until it has drained after SIGTERM.
pub fn serve(source: Source) -> Result<(), Failure> {
    let config = source.load()?;
    // Before any thread is there that would inherit the signals.
    signal::block().map_err(|error| Failure::new(Exit::System, error))?;
    notice::start().map_err(|error| Failure::new(Exit::System, error))?;
    for warning in config.warnings() {
        notice!("ringpost: warning: {warning}");
    }
    ready_the_machine(&config)?;
    let identity = identity(&config)?;
    make_data_dir(&config.data_dir, identity.as_ref())?;
    let config = keep_certificate(config, identity.as_ref())?;
    let (bound, metrics) = bind(&config, identity.as_ref(), PREDECESSOR_WAIT_MAX)?;
    let socket_files = bound.socket_files();
    let acme = config.acme.as_ref().map(bind_acme).transpose()?;
    drop_privileges(identity.as_ref())?;
    let suspensions = Arc::new(load_suspensions(&config.data_dir)?);
    let (writer, log) = LogWriter::start(config.log.path.clone()).map_err(|error| {
        let path = config.log.path.as_deref().unwrap_or(Path::new("standard output"));
        Failure::new(Exit::CannotCreate, format!("cannot open log {}: {error}", path.display()))
    })?;
    let cores = bound.cores();
    let shards = bound.start(&log, &suspensions).map_err(start_failure)?;
    let socket = control::bind_socket(&config.data_dir)
        .map_err(|error| Failure::new(Exit::CannotCreate, error))?;
    let inboxes = Box::new(shards.senders());
    let directory = Directory::new(shards.accounts(), shards.partitions());
    let file = source.config.clone();
    let control = Control::new(inboxes, config.clone(), file, log, suspensions, directory);
    control.start(metrics, socket).map_err(|error| Failure::new(Exit::System, error))?;
    if let Some(listener) = acme {
        let (asked, told) = (control.clone(), control.clone());
        let renew = move || told.renew_certificates().map_err(|error| error.to_string());
        let started = acme::start(listener, move || asked.config(), renew);
        started.map_err(|error| Failure::new(Exit::System, error))?;
    }
    say_ready(&config, &cores, &shards, source.config.as_deref());
    if source.config.is_none() && control.accounts().is_empty() {
        let added = thread::spawn("first-account", None, move || add_first_account(&control));
        added.map_err(|error| Failure::new(Exit::System, error))?;
    }
    let result = shards.join();
    // Files of sockets that nobody listens on; the next start would replace them.
    let _ = fs::remove_file(control::socket_path(&config.data_dir));
    for file in socket_files {
        if let Err(error) = file.remove() {
            notice!("ringpost: {} stays: {error}", file.path().display());
        }
    }
    writer.stop();
    result.map_err(|error| Failure::new(Exit::Software, error))?;
    notice!("ringpost: stopped");
    Ok(())
}

/// io_uring and limits: raised where allowed, otherwise named with the fix.
fn ready_the_machine(config: &Config) -> Result<(), Failure> {
    for resource in [Resource::LockedMemory, Resource::OpenFiles] {
        // Where it stays low, what follows says what that means.
        let _ = rlimit::raise(resource);
    }
    let locked =
        rlimit::limit(Resource::LockedMemory).map_err(|error| Failure::new(Exit::System, error))?;
    if locked.soft < LOCKED_MEMORY_BYTES_MIN {
        return Err(Failure::new(
            Exit::System,
            format!(
                "memlock limit is {} KiB, an executor needs {} KiB; raise it \
                 (systemd: LimitMEMLOCK=infinity; limits.conf: ringpost - memlock unlimited)",
                locked.hard >> 10,
                LOCKED_MEMORY_BYTES_MIN >> 10,
            ),
        ));
    }
    probe::io_uring().map_err(|error| Failure::new(Exit::System, error))?;
    if let Ok(files) = rlimit::limit(Resource::OpenFiles)
        && files.soft < FILES_ADVISED_MIN
    {
        notice!(
            "ringpost: warning: nofile limit is {}: sessions beyond it wait; raise it \
             (systemd: LimitNOFILE=1048576) or lower reception.sessions_max (now {})",
            files.soft,
            config.reception.sessions_max,
        );
    }
    Ok(())
}

/// Whom to become after binding; nobody else unless the configuration says so.
fn identity(config: &Config) -> Result<Option<Identity>, Failure> {
    let Some(user) = &config.user else { return Ok(None) };
    if !privilege::is_root() {
        return Err(Failure::new(Exit::Permission, PrivilegeError::NotRoot));
    }
    let identity = privilege::look_up(user, config.group.as_deref());
    identity.map(Some).map_err(|error| Failure::new(Exit::Config, error))
}

/// Makes the directory where it is missing: nobody else may look into a queue.
fn make_data_dir(data_dir: &Path, owner: Option<&Identity>) -> Result<(), Failure> {
    let failure = |error: io::Error| {
        Failure::new(
            Exit::CannotCreate,
            format!("cannot use data_dir {}: {error}", data_dir.display()),
        )
    };
    if data_dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failure)?;
    match owner {
        Some(owner) => chown(data_dir, Some(owner.uid), Some(owner.gid)).map_err(failure),
        None => Ok(()),
    }
}

/// Makes the certificate of `tls.self_signed` where none is kept: clients see it at every start.
fn keep_certificate(config: Arc<Config>, owner: Option<&Identity>) -> Result<Arc<Config>, Failure> {
    let names = &config.tls.self_signed;
    if names.is_empty() || config.read_self_signed().is_some() {
        return Ok(config);
    }
    let path = config.self_signed_path();
    let pem = self_signed_pem(names).map_err(|error| Failure::new(Exit::Config, error))?;
    let written = whole_file::replace(&path, pem.as_bytes()).and_then(|()| match owner {
        Some(owner) => chown(&path, Some(owner.uid), Some(owner.gid)),
        None => Ok(()),
    });
    written.map_err(|error| {
        let text = format!("cannot write {}: {error}", path.display());
        Failure::new(Exit::CannotCreate, text)
    })?;
    let config = config.with_certificates_anew();
    config.map(Arc::new).map_err(|error| Failure::new(Exit::Config, error))
}

/// Takes every address while we still may, waiting at most `time_max` for one in use. Sockets of
/// this machine become `owner`'s.
fn bind(
    config: &Arc<Config>,
    owner: Option<&Identity>,
    time_max: Duration,
) -> Result<(Bound, Option<TcpListener>), Failure> {
    let end_by = Instant::now() + time_max;
    for listener in &config.listeners {
        let address = &listener.address;
        check_unused(address, end_by)
            .map_err(|error| start_failure(StartError::Bind { address: address.clone(), error }))?;
    }
    let bound = shard::bind(config.clone(), owner).map_err(start_failure)?;
    let metrics = match config.metrics.listen {
        Some(address) => Some(TcpListener::bind(address).map_err(|error| {
            let text =
                format!("cannot listen on metrics.listen {address}: {error}; choose another");
            Failure::new(bind_exit(&error), text)
        })?),
        None => None,
    };
    Ok((bound, metrics))
}

/// The place where CAs ask for our names.
fn bind_acme(acme: &Acme) -> Result<TcpListener, Failure> {
    TcpListener::bind(acme.listen).map_err(|error| {
        let text = format!("cannot listen on acme.listen {}: {error}", acme.listen);
        Failure::new(bind_exit(&error), text)
    })
}

/// Waits for an address in use: the kernel closes the sockets of a ring some time after the process
/// that had it is gone, so a quick restart would meet its own past.
fn check_unused(address: &ListenAddress, end_by: Instant) -> io::Result<()> {
    loop {
        let checked = match address {
            ListenAddress::Network(address) => BoundListener::check_unused(*address),
            ListenAddress::Socket { path, .. } => socket::check_unused(path),
        };
        match checked {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end_by => {
                std::thread::sleep(PREDECESSOR_POLL);
            }
            result => return result,
        }
    }
}

/// What an operator suspended. Without it nothing starts: mail that is to wait would go out.
fn load_suspensions(data_dir: &Path) -> Result<StandingOrders, Failure> {
    control::load_suspensions(data_dir).map_err(|error| {
        let exit = match &error {
            StandingError::Io { .. } => Exit::InputOutput,
            StandingError::Damaged { .. } => Exit::Data,
        };
        Failure::new(exit, error)
    })
}

fn drop_privileges(identity: Option<&Identity>) -> Result<(), Failure> {
    let failure = |error| Failure::new(Exit::Permission, error);
    if let Some(identity) = identity {
        privilege::become_identity(identity).map_err(failure)?;
    }
    privilege::forbid_new_privileges().map_err(failure)
}

fn start_failure(error: StartError) -> Failure {
    let exit = match &error {
        StartError::Bind { error, .. } => bind_exit(error),
        StartError::Core { .. } => Exit::Config,
        StartError::DataDir { error, .. } => disk_exit(error),
        StartError::Journal { error, .. } => journal_exit(error),
        StartError::Partition { error, .. } => match error {
            PartitionError::Journal(error) => journal_exit(error),
            PartitionError::Degraded => Exit::Data,
        },
        StartError::Thread { .. } => Exit::System,
        StartError::Lost { .. } => Exit::Software,
    };
    Failure::new(exit, error)
}

fn journal_exit(error: &OpenError) -> Exit {
    match error {
        OpenError::Io { error, .. } => disk_exit(error),
        OpenError::Locked { .. } => Exit::Temporary,
        OpenError::Foreign { .. } | OpenError::Segment { .. } | OpenError::Version { .. } => {
            Exit::Data
        }
    }
}

fn disk_exit(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::StorageFull => Exit::CannotCreate,
        _ => Exit::InputOutput,
    }
}

fn bind_exit(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Unavailable,
    }
}

/// Somebody to try the embedded default with. Making the secret takes a moment.
fn add_first_account(control: &Control) {
    let password = generate_password();
    let added =
        control.add_account(FIRST_ACCOUNT, Some(&auth::make_secret(&password)), Quota::default());
    match added {
        Ok(()) => notice!("ringpost: account {FIRST_ACCOUNT}, password {password}, said once"),
        Err(error) => notice!("ringpost: no account {FIRST_ACCOUNT}: {error}"),
    }
}

fn say_ready(config: &Config, cores: &[usize], shards: &Shards, source: Option<&Path>) {
    for (shard, opened) in shards.opened() {
        if opened.message_count > 0 {
            let role =
                if *shard < cores.len() { "" } else { "; it delivers them and accepts none" };
            notice!("ringpost: shard {shard}: {} messages queued{role}", opened.message_count);
        }
        if opened.malformed_count > 0 || !opened.recovery.rot.is_empty() {
            notice!(
                "ringpost: shard {shard}: DAMAGED JOURNAL: {} records make no sense, unreadable: \
                 {:?}; everything else is served, keep a copy of the disk",
                opened.malformed_count,
                opened.recovery.rot,
            );
        }
    }
    for (shard, opened) in shards.opened() {
        if opened.recovery.is_degraded {
            notice!(
                "ringpost: shard {shard}: DEGRADED START: both checkpoints are unreadable; {} \
                 messages that may be delivered already are held: look at them with `ringpost \
                 queue`, then release or bounce them",
                opened.doubtful_count,
            );
        } else if opened.recovery.bad_checkpoints > 0 {
            notice!(
                "ringpost: shard {shard}: the newest checkpoint is unreadable, the start went by \
                 the one before; keep an eye on the disk",
            );
        }
    }
    say_mailboxes(shards);
    let listeners: Vec<String> =
        config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    let durability = match config.journal.durability {
        Durability::Fdatasync => "fdatasync",
        Durability::Dsync => "dsync",
        Durability::None => "NOT DURABLE",
    };
    notice!(
        "ringpost {}: ready on {}; {} shards on cores {cores:?}; journal in {}, {durability}",
        env!("CARGO_PKG_VERSION"),
        listeners.join(", "),
        cores.len(),
        config.data_dir.display(),
    );
    if let Some(address) = config.metrics.listen {
        notice!("ringpost: metrics at http://{address}/metrics");
    }
    if source.is_none() {
        notice!("{TRY_NEXT}");
    }
}

/// What is kept for whom, and what is wrong with it.
fn say_mailboxes(shards: &Shards) {
    let partitions = shards.opened().iter().flat_map(|(_, opened)| &opened.partitions);
    let (mut partition_count, mut message_count) = (0, 0);
    for partition in partitions {
        partition_count += 1;
        message_count += partition.message_count;
        let (number, recovery) = (partition.number, &partition.recovery);
        if partition.malformed_count > 0 || partition.lost_count > 0 || !recovery.rot.is_empty() {
            notice!(
                "ringpost: partition {number} of mailboxes: DAMAGED JOURNAL: {} records make no \
                 sense, {} messages have no octets, unreadable: {:?}; everything else is served, \
                 keep a copy of the disk",
                partition.malformed_count,
                partition.lost_count,
                recovery.rot,
            );
        }
        for mend in partition.mends.iter().take(MENDS_SAID_MAX) {
            notice!("ringpost: partition {number} of mailboxes: {mend}");
        }
        if partition.mends.len() > MENDS_SAID_MAX {
            let more = partition.mends.len() - MENDS_SAID_MAX;
            notice!("ringpost: partition {number} of mailboxes: {more} more like these");
        }
        if recovery.bad_checkpoints > 0 {
            notice!(
                "ringpost: partition {number} of mailboxes: the newest checkpoint is unreadable, \
                 the start went by the one before; keep an eye on the disk",
            );
        }
    }
    if partition_count > 0 {
        let account_count = shards.accounts().len();
        notice!(
            "ringpost: {message_count} messages of {account_count} accounts in {partition_count} \
             partitions",
        );
    }
}

/// What to do with the embedded default. Its addresses are those of `Config::embedded`.
const TRY_NEXT: &str = "
Everything goes to 127.0.0.1:2526, nothing to the internet. Try in another terminal:
  cargo run --release --bin ringpost-loadtest -- sink          receives what is relayed
  cargo run --release --bin ringpost-loadtest -- source        sends 10,000 messages
  swaks --server 127.0.0.1:2525 --from a@example.test --to b@example.test
  curl smtp://127.0.0.1:2525 --mail-from a@example.test --mail-rcpt b@example.test -T message.eml
  curl -k imaps://127.0.0.1:2993/INBOX -u user@localhost.test:PASSWORD -X 'FETCH 1:* FLAGS'
  cargo run --release -- queue stats
  cargo run --release -- check > ringpost.toml                 a configuration to start from
SIGHUP reloads, SIGTERM or Ctrl-C drains and stops.
";
/// Of the embedded default, in its local domain.
const FIRST_ACCOUNT: &str = "user@localhost.test";
/// How long the sockets of a server that ended just now may take to go.
const PREDECESSOR_WAIT_MAX: Duration = Duration::from_secs(3);
const PREDECESSOR_POLL: Duration = Duration::from_millis(20);
/// Mends of a partition of mailboxes that a start says one by one.
const MENDS_SAID_MAX: usize = 20;
/// Below this many descriptors a busy server runs out.
const FILES_ADVISED_MIN: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ListenerTls, Protocol};

    #[test]
    fn the_hints_name_the_addresses_of_the_embedded_default() {
        let config = Config::embedded();
        assert!(TRY_NEXT.contains(&config.listeners[0].address.to_string()));
        let imaps = config.listeners.iter().find(|listener| {
            listener.protocol == Protocol::Imap && listener.tls == ListenerTls::Implicit
        });
        assert!(TRY_NEXT.contains(&format!("imaps://{}/", imaps.expect("one").address)));
        let smarthost = config.smarthost.expect("set").to_string();
        assert!(TRY_NEXT.contains(smarthost.trim_start_matches("smtp://")));
        let (_, domain) = FIRST_ACCOUNT.split_once('@').expect("an address");
        assert_eq!(config.mailboxes.domains, [domain]);
    }

    #[test]
    fn a_server_that_listens_there_already_is_noticed() {
        let first = BoundListener::bind("127.0.0.1:0".parse().expect("an address"));
        let first = first.expect("a free port");
        let mut config = Config::embedded();
        config.listeners[0].address = ListenAddress::Network(first.local_addr().expect("bound"));
        let failure = bind(&Arc::new(config), None, Duration::ZERO).err().expect("in use");
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.text.contains("in use"), "{}", failure.text);
    }
}
