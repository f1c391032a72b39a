//! The server under test: ringpost, or Dovecot, behind one face.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::clients::PASSWORD;
use crate::failure::Failure;
use crate::relay::accounting::Group;
use crate::relay::child::{self, Process};
use crate::scenario::handshakes::Certificate;

/// A server that keeps mailboxes, with a directory and ports of its own.
pub struct Host {
    pub name: &'static str,
    pub lmtp: SocketAddr,
    pub imap: SocketAddr,
    /// IMAP that begins with TLS.
    pub imaps: SocketAddr,
    pub pop3: SocketAddr,
    pub group: Group,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

/// How Dovecot is set up.
#[derive(Clone, Debug)]
pub struct Peering {
    /// `mdbox`, `sdbox` or `maildir`.
    pub storage: String,
    /// Sessions in IDLE are given to one process after a few seconds.
    pub hibernates: bool,
}

impl Host {
    /// Starts ringpost over an empty directory, and makes the accounts.
    pub fn ringpost(
        program: &Path,
        directory: &Path,
        certificate: &Certificate,
        accounts: &[String],
    ) -> Result<Self, Failure> {
        let mut host = Self::new(OURS, program, directory, "ringpost.toml")?;
        let metrics = child::free_address()?;
        write(&host.config, &host.ringpost_config(directory, certificate, metrics)?)?;
        host.start()?;
        for account in accounts {
            host.add_account(account)?;
        }
        Ok(host)
    }

    /// Starts an instance of Dovecot over an empty directory; it takes any account.
    pub fn dovecot(
        directory: &Path,
        certificate: &Certificate,
        peering: &Peering,
    ) -> Result<Self, Failure> {
        if !Path::new(DOVECOT).exists() || !Path::new(DOVECOT_LMTP).exists() {
            return Err(Failure::unavailable(
                "Dovecot is not installed: apt-get install dovecot-imapd dovecot-pop3d \
                 dovecot-lmtpd, then run this again as root",
            ));
        }
        let mut host = Self::new("dovecot", Path::new(DOVECOT), directory, "dovecot.conf")?;
        write(&host.config, &host.dovecot_config(directory, certificate, peering))?;
        let mail = directory.join("mail");
        let unusable = |error| {
            Failure::cannot_create(format!("cannot give {} to Dovecot: {error}", mail.display()))
        };
        fs::create_dir_all(&mail).map_err(unusable)?;
        // Its processes for mail run as a user of their own.
        let of_all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&mail, of_all).map_err(unusable)?;
        host.start()?;
        Ok(host)
    }

    fn new(
        name: &'static str,
        program: &Path,
        directory: &Path,
        config: &str,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(directory).map_err(|error| {
            Failure::cannot_create(format!("cannot make {}: {error}", directory.display()))
        })?;
        Ok(Self {
            name,
            lmtp: child::free_address()?,
            imap: child::free_address()?,
            imaps: child::free_address()?,
            pop3: child::free_address()?,
            group: Group::new(name),
            program: program.to_owned(),
            config: directory.join(config),
            log: directory.join("server.log"),
            process: None,
        })
    }

    /// Starts it over what it has; returns the time from exec to the first greeting by IMAP.
    pub fn start(&mut self) -> Result<Duration, Failure> {
        assert!(self.process.is_none());
        let mut command = self.group.command(&self.program, None);
        match self.name {
            OURS => command.arg("serve").arg("--config").arg(&self.config),
            _ => command.arg("-F").arg("-c").arg(&self.config),
        };
        let started = Instant::now();
        let mut process = Process::start(self.name, command, &self.log)?;
        self.group.add_root(process.pid());
        let (imap, lmtp) = (self.imap, self.lmtp);
        process.wait_until("does not greet", START_TIME_MAX, || greets(imap, b"* OK"))?;
        let taken = started.elapsed();
        process.wait_until("has no LMTP", START_TIME_MAX, || greets(lmtp, b"220 "))?;
        self.process = Some(process);
        Ok(taken)
    }

    /// Ends it in order, with all its processes.
    pub fn stop(&mut self) -> Result<(), Failure> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        self.group.root_ends(process.pid());
        if !process.stop(STOP_TIME_MAX) {
            return Err(Failure::broken_promise(format!("{} did not stop in time", self.name)));
        }
        let deadline = Instant::now() + STOP_TIME_MAX;
        while !self.group.pids().is_empty() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Fails when it has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), Failure> {
        match self.process.as_mut().map(|process| (process.ended(), process.last_words())) {
            Some((Some(status), words)) => Err(Failure::broken_promise(format!(
                "{} ended by itself ({status}): {words}",
                self.name
            ))),
            _ => Ok(()),
        }
    }

    fn add_account(&self, account: &str) -> Result<(), Failure> {
        let failed = |words: &str| {
            Failure::broken_promise(format!("`ringpost account add {account}`: {words}"))
        };
        let mut child = Command::new(&self.program)
            .args(["account", "add", account, "--config"])
            .arg(&self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not want it says so at its end.
            let _ = stdin.write_all(format!("{PASSWORD}\n").as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed(&error.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(&String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// Bounds out of the way, durability as shipped.
    fn ringpost_config(
        &self,
        directory: &Path,
        certificate: &Certificate,
        metrics: SocketAddr,
    ) -> Result<String, Failure> {
        let smtp = child::free_address()?;
        let Self { lmtp, imap, imaps, pop3, .. } = self;
        let directory = directory.display();
        let Certificate { chain, key } = certificate;
        Ok(format!(
            "hostname = \"ringpost.test\"\n\
             data_dir = \"{directory}/data\"\n\
             [[listener]]\naddress = \"{smtp}\"\n\
             [[listener]]\nprotocol = \"lmtp\"\naddress = \"{lmtp}\"\n\
             [[listener]]\nprotocol = \"imap\"\naddress = \"{imap}\"\n\
             [[listener]]\nprotocol = \"imap\"\naddress = \"{imaps}\"\ntls = \"implicit\"\n\
             [[listener]]\nprotocol = \"pop3\"\naddress = \"{pop3}\"\n\
             [[certificate]]\nchain = {chain:?}\nkey = {key:?}\n\
             [mailboxes]\n\
             domains = [\"{DOMAIN}\"]\n\
             sessions_per_account_max = 20000\n\
             [reception]\n\
             sessions_max = 60000\n\
             sessions_per_client_max = 60000\n\
             messages_per_session_max = 1000000000\n\
             [access]\n\
             sessions_per_client_max = 60000\n\
             [journal]\n\
             bytes_max = \"1TiB\"\n\
             [metrics]\n\
             listen = \"{metrics}\"\n\
             [log]\n\
             path = \"{directory}/outcomes.log\"\n"
        ))
    }

    fn dovecot_config(
        &self,
        directory: &Path,
        certificate: &Certificate,
        peering: &Peering,
    ) -> String {
        let Self { lmtp, imap, imaps, pop3, .. } = self;
        let directory = directory.display();
        let (chain, key) = (certificate.chain.display(), certificate.key.display());
        let Peering { storage, hibernates } = peering;
        let hibernation = match hibernates {
            true => {
                "imap_hibernate_timeout = 3s\n\
                 service imap-hibernate {\n unix_listener imap-hibernate {\n  mode = 0666\n }\n}\n"
            }
            false => "",
        };
        format!(
            "{DOVECOT_CONF}\n# Of this run.\n{hibernation}\
             base_dir = {directory}/run\n\
             mail_location = {storage}:{directory}/mail/%u\n\
             ssl_cert = <{chain}\nssl_key = <{key}\n\
             service imap-login {{\n\
             inet_listener imap {{\n port = {}\n}}\n\
             inet_listener imaps {{\n port = {}\n ssl = yes\n}}\n}}\n\
             service pop3-login {{\n\
             inet_listener pop3 {{\n port = {}\n}}\n\
             inet_listener pop3s {{\n port = 0\n}}\n}}\n\
             service lmtp {{\n inet_listener lmtp {{\n address = {}\n port = {}\n}}\n}}\n\
             service imap {{\n unix_listener imap-master {{\n  mode = 0666\n }}\n}}\n\
             passdb {{\n driver = static\n args = password={PASSWORD}\n}}\n\
             userdb {{\n driver = static\n\
             args = uid=nobody gid=nogroup home={directory}/mail/%u allow_all_users=yes\n}}\n",
            imap.port(),
            imaps.port(),
            pop3.port(),
            lmtp.ip(),
            lmtp.port(),
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Whatever is wrong with its end is said where it is stopped in order.
        let _ = self.stop();
    }
}

/// What the installed Dovecot calls itself.
pub fn dovecot_version() -> Option<String> {
    let output = Command::new(DOVECOT).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| {
        Failure::cannot_create(format!("cannot write {}: {error}", path.display()))
    })
}

/// Whether a connection is greeted so.
fn greets(address: SocketAddr, greeting: &[u8; 4]) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) else {
        return false;
    };
    let mut found = [0; 4];
    stream.set_read_timeout(Some(GREETING_TIME_MAX)).is_ok()
        && stream.read_exact(&mut found).is_ok()
        && &found == greeting
}

/// Of all accounts.
pub const DOMAIN: &str = "mailbox.test";
const OURS: &str = "ringpost";
const DOVECOT: &str = "/usr/sbin/dovecot";
const DOVECOT_LMTP: &str = "/usr/lib/dovecot/lmtp";
const DOVECOT_CONF: &str = include_str!("../../../../tuning/peers/dovecot/dovecot.conf");
/// A million messages on a slow disk.
const START_TIME_MAX: Duration = Duration::from_secs(300);
const STOP_TIME_MAX: Duration = Duration::from_secs(120);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
const GREETING_TIME_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
