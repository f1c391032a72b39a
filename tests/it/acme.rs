//! Certificates that the server gets by itself, from the CA that Caddy has in it.
//!
//! A CA asks at port 443 of the names: each test has a network and a table of hosts of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::disk::{own_mounts, run};
use crate::harness::{Server, free_address, wait_until};
use crate::interop::{Running, is_installed};

const HOSTS: &str = "127.0.0.1 localhost ca.test mx.test other.test\n";
const CA_PORT: u16 = 14_000;

/// A CA in a network of this thread and of what it starts.
struct Caddy {
    directory: TempDir,
    _running: Running,
}

impl Caddy {
    /// `None`, and a line that says so, where it is not installed or nobody may have a network.
    fn start() -> Option<Caddy> {
        if !is_installed("caddy") {
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        own_network(directory.path())
            .map_err(|why| println!("SKIPPED, a network needs root: {why}"))
            .ok()?;
        let path = directory.path();
        let text = format!(
            "{{\n admin off\n skip_install_trust\n auto_https disable_redirects\n \
             storage file_system {}\n}}\nhttps://ca.test:{CA_PORT} {{\n tls internal\n \
             acme_server\n}}\n",
            path.join("storage").display()
        );
        fs::write(path.join("Caddyfile"), text).expect("written");
        let log = fs::File::create(path.join("caddy.log")).expect("created");
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(path.join("Caddyfile"));
        command.env("HOME", path).env("XDG_DATA_HOME", path).env("XDG_CONFIG_HOME", path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let running = Running(command.spawn().expect("caddy starts"));
        let caddy = Caddy { directory, _running: running };
        wait_until("the CA listens", || {
            caddy.root().exists() && std::net::TcpStream::connect(("127.0.0.1", CA_PORT)).is_ok()
        });
        Some(caddy)
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("storage/pki/authorities/local/root.crt")
    }

    /// `[acme]` for these names.
    fn table(&self, names: &[&str]) -> String {
        format!(
            "[acme]\ndirectory = \"https://ca.test:{CA_PORT}/acme/local/directory\"\n\
             names = {names:?}\naccept_terms = true\nlisten = \"127.0.0.1:443\"\nca = {:?}\n",
            self.root()
        )
    }

    /// Whether a client that knows this CA alone believes the server to be `name`.
    fn vouches_for(&self, server: &Server, name: &str) -> bool {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-starttls", "smtp", "-verify_return_error", "-CAfile"]);
        client.arg(self.root()).args(["-servername", name, "-verify_hostname", name]);
        client.args(["-connect", &server.address.to_string()]);
        let output = client.stdin(Stdio::null()).output().expect("openssl runs");
        output.status.success()
    }
}

/// A network with nothing but loopback, for this thread and what it starts: each port is free.
pub fn own_loopback() -> Result<(), String> {
    // SAFETY: no memory is passed.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("no network: {}", std::io::Error::last_os_error()));
    }
    run(Command::new("ip").args(["link", "set", "lo", "up"])).map(drop)
}

/// The same with a table of hosts.
fn own_network(directory: &Path) -> Result<(), String> {
    own_mounts()?;
    own_loopback()?;
    let hosts = directory.join("hosts");
    fs::write(&hosts, HOSTS).map_err(|error| error.to_string())?;
    run(Command::new("mount").arg("--bind").arg(hosts).arg("/etc/hosts")).map(drop)
}

fn reload(server: &Server, extra: &str) {
    server.write_config(free_address(), extra);
    server.signal("HUP");
}

#[test]
fn a_certificate_comes_is_kept_and_is_replaced_when_names_change() {
    let Some(caddy) = Caddy::start() else { return };
    let mut server = Server::start(free_address(), &caddy.table(&["mx.test"]));
    // Until it has come there is TLS all the same, and nobody to vouch for it.
    let mut client = server.client();
    assert!(client.expect("EHLO client.test", "250").contains("STARTTLS"));
    wait_until("it is in force", || server.stderr().contains("acme: a certificate for mx.test"));
    assert!(caddy.vouches_for(&server, "mx.test"), "{}", server.stderr());
    assert!(!caddy.vouches_for(&server, "other.test"));
    let files = server.directory.path().join("data/acme");
    for name in ["account.json", "identity.pem"] {
        let mode = fs::metadata(files.join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    let (account, first) = (fs::read(files.join("account.json")), files.join("identity.pem"));
    let certificate = fs::read(&first).expect("a certificate");
    assert!(server.stop().success());
    server.start_again();
    assert!(caddy.vouches_for(&server, "mx.test"), "it is kept over a restart");
    reload(&server, &caddy.table(&["mx.test", "other.test"]));
    wait_until("another one came", || fs::read(&first).expect("there") != certificate);
    wait_until("it is in force", || caddy.vouches_for(&server, "other.test"));
    assert!(caddy.vouches_for(&server, "mx.test"));
    assert_eq!(fs::read(files.join("account.json")).ok(), account.ok(), "the same account");
    assert_eq!(server.stderr().matches("acme: a certificate for").count(), 2);
}

#[test]
fn what_a_ca_refuses_is_said_and_leaves_what_is_there() {
    let Some(caddy) = Caddy::start() else { return };
    let server = Server::start(free_address(), &caddy.table(&["mx.test"]));
    wait_until("it is in force", || caddy.vouches_for(&server, "mx.test"));
    // Nobody knows where this host is.
    reload(&server, &caddy.table(&["mx.test", "nowhere.test"]));
    wait_until("it is said", || server.stderr().contains("acme: no certificate: "));
    assert!(caddy.vouches_for(&server, "mx.test"));
    let said = server.stderr();
    let line = said.lines().find(|it| it.contains("acme: no certificate: ")).expect("said");
    assert!(line.contains("nowhere.test: ") && line.ends_with(" s"), "{line}");
    // Nobody answers for a name that no CA is asking for.
    let mut stranger = std::net::TcpStream::connect("127.0.0.1:443").expect("it listens");
    assert_eq!(std::io::Read::read(&mut stranger, &mut [0; 8]).expect("closed"), 0);
}
