//! The server under test: ringpost, or the peer, behind one face.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::accounting::Group;
use super::child::{self, Process};
use crate::failure::Failure;
use crate::units::Cores;

/// A running server with its own directory, on a port of its own.
pub struct Server {
    pub address: SocketAddr,
    pub group: Group,
    cores: Option<String>,
    directory: PathBuf,
    kind: Running,
}

/// How it is run.
enum Running {
    Ringpost { program: PathBuf, config: PathBuf, metrics: SocketAddr, process: Option<Process> },
    Postfix { config_directory: PathBuf, running: bool },
}

/// Where the server stands in the run.
pub struct Place<'a> {
    /// Empty and ours; on the disk that is measured.
    pub directory: &'a Path,
    pub sink: SocketAddr,
    pub cores: Option<&'a Cores>,
    pub name: &'a str,
    /// A Delayed recipient is tried again within seconds.
    pub retry_soon: bool,
}

impl Server {
    /// Starts ringpost with a configuration made for the run, or with the user's.
    pub fn ringpost(
        place: &Place<'_>,
        program: &Path,
        own_config: Option<(&Path, SocketAddr)>,
    ) -> Result<Self, Failure> {
        let metrics = child::free_address()?;
        let (config, address) = match own_config {
            Some((config, address)) => (config.to_owned(), address),
            None => {
                let address = child::free_address()?;
                let path = place.directory.join("ringpost.toml");
                write(&path, &ringpost_config(place, address, metrics))?;
                (path, address)
            }
        };
        let program = program.to_owned();
        let kind = Running::Ringpost { program, config, metrics, process: None };
        Self::start(place, address, kind)
    }

    /// Starts an instance of Postfix with queue and configuration of its own.
    pub fn postfix(place: &Place<'_>) -> Result<Self, Failure> {
        if !Path::new(POSTFIX).exists() {
            return Err(Failure::unavailable(
                "Postfix is not installed: apt-get install postfix, then run this again as root",
            ));
        }
        let address = child::free_address()?;
        let config_directory = place.directory.join("etc");
        make_postfix(place, &config_directory, address)?;
        Self::start(place, address, Running::Postfix { config_directory, running: false })
    }

    fn start(place: &Place<'_>, address: SocketAddr, kind: Running) -> Result<Self, Failure> {
        let mut server = Self {
            address,
            group: Group::new(place.name),
            cores: place.cores.map(Cores::to_string),
            directory: place.directory.to_owned(),
            kind,
        };
        server.run()?;
        Ok(server)
    }

    /// Starts the process, or starts it again after `kill`, and waits until it greets.
    pub fn run(&mut self) -> Result<(), Failure> {
        let log = self.directory.join("server.log");
        let cores = self.cores.as_deref();
        match &mut self.kind {
            Running::Ringpost { program, config, process, .. } => {
                let mut command = self.group.command(program, cores);
                command.arg("serve").arg("--config").arg(config);
                let mut started = Process::start("ringpost", command, &log)?;
                self.group.add_root(started.pid());
                started.wait_ready(self.address, START_PATIENCE)?;
                *process = Some(started);
            }
            Running::Postfix { config_directory, running } => {
                let mut command = self.group.command(Path::new(POSTFIX), cores);
                command.arg("-c").arg(&*config_directory).arg("start");
                let mut starter = Process::start("postfix", command, &log)?;
                *running = true;
                let deadline = Instant::now() + START_PATIENCE;
                while !child::greets(self.address) {
                    if Instant::now() > deadline {
                        let words = starter.last_words();
                        return Err(Failure::unavailable(format!(
                            "Postfix did not start: {words}"
                        )));
                    }
                    std::thread::sleep(POLL);
                }
                // The starter ends by itself; the master goes on.
                while starter.ended().is_none() && Instant::now() < deadline {
                    std::thread::sleep(POLL);
                }
                let pid_file = self.directory.join("queue/pid/master.pid");
                let pid = fs::read_to_string(pid_file).unwrap_or_default();
                if let Ok(pid) = pid.trim().parse() {
                    self.group.add_root(pid);
                }
            }
        }
        Ok(())
    }

    /// Ends the process as a crash would. For ringpost only.
    pub fn kill(&mut self) -> Result<(), Failure> {
        let Running::Ringpost { process, .. } = &mut self.kind else {
            return Err(Failure::usage("--kill is for ringpost, not for a peer"));
        };
        if let Some(mut process) = process.take() {
            if let Some(status) = process.ended() {
                return Err(Failure::broken_promise(format!(
                    "ringpost ended by itself ({status}): {}",
                    process.last_words()
                )));
            }
            self.group.root_ends(process.pid());
            process.kill();
        }
        Ok(())
    }

    /// Fails when the server has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), Failure> {
        if let Running::Ringpost { process: Some(process), .. } = &mut self.kind
            && let Some(status) = process.ended()
        {
            return Err(Failure::broken_promise(format!(
                "ringpost ended by itself ({status}): {}",
                process.last_words()
            )));
        }
        Ok(())
    }

    /// The server's own count of its journal flushes, where it has one.
    pub fn journal_flushes(&self) -> Option<u64> {
        let Running::Ringpost { metrics, .. } = &self.kind else {
            return None;
        };
        let page = scrape(*metrics).ok()?;
        let values: Vec<f64> = metric_values(&page, "ringpost_journal_flushes_total").collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
    }

    /// Ends the server in order.
    pub fn stop(&mut self) {
        match &mut self.kind {
            Running::Ringpost { process, .. } => {
                if let Some(mut process) = process.take()
                    && !process.stop(STOP_PATIENCE)
                {
                    eprintln!("ringpost did not stop within {STOP_PATIENCE:?} and was killed");
                }
            }
            Running::Postfix { config_directory, running } => {
                if std::mem::take(running) {
                    let mut command = Command::new(POSTFIX);
                    command.arg("-c").arg(&*config_directory).arg("stop");
                    // What it says was said at the start as well.
                    let _ = command.output();
                    let deadline = Instant::now() + STOP_PATIENCE;
                    while !self.group.pids().is_empty() && Instant::now() < deadline {
                        std::thread::sleep(POLL);
                    }
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A configuration for throughput: limits out of the way, durability as shipped.
fn ringpost_config(place: &Place<'_>, address: SocketAddr, metrics: SocketAddr) -> String {
    let cores = match place.cores {
        Some(cores) => format!("{:?}", cores.0),
        None => "\"auto\"".to_owned(),
    };
    let directory = place.directory.display();
    let sink = place.sink;
    let queue = match place.retry_soon {
        true => "[queue]\nretry_wait_min = \"1s\"\nretry_wait_max = \"2s\"\n",
        false => "",
    };
    format!(
        "hostname = \"ringpost.test\"\n\
         data_dir = \"{directory}/data\"\n\
         smarthost = \"smtp://{sink}\"\n\
         [shards]\n\
         cores = {cores}\n\
         [[listener]]\n\
         address = \"{address}\"\n\
         [reception]\n\
         relay_networks = [\"127.0.0.0/8\"]\n\
         message_bytes_max = \"1GiB\"\n\
         sessions_max = 60000\n\
         sessions_per_client_max = 60000\n\
         messages_per_session_max = 1000000000\n\
         [metrics]\n\
         listen = \"{metrics}\"\n\
         [log]\n\
         path = \"{directory}/outcomes.log\"\n\
         {queue}"
    )
}

/// Writes queue, data and configuration directories of a Postfix instance.
fn make_postfix(place: &Place<'_>, config: &Path, address: SocketAddr) -> Result<(), Failure> {
    let (queue, data) = (place.directory.join("queue"), place.directory.join("data"));
    for directory in [config, &queue, &data] {
        fs::create_dir_all(directory).map_err(|error| cannot_write(directory, &error))?;
    }
    let user = postfix_user().ok_or_else(|| {
        Failure::unavailable("there is no user `postfix`: install the distribution's package")
    })?;
    std::os::unix::fs::chown(&data, Some(user), None).map_err(|error| {
        Failure::system(format!("cannot give {} to Postfix: {error}; run as root", data.display()))
    })?;
    let retry = match place.retry_soon {
        true => "minimal_backoff_time = 1s\nmaximal_backoff_time = 2s\nqueue_run_delay = 1s\n",
        false => "",
    };
    let main = format!(
        "{MAIN_CF}\n# Of this run.\n{retry}\
         queue_directory = {}\n\
         data_directory = {}\n\
         mynetworks = 127.0.0.0/8\n\
         relayhost = [{}]:{}\n\
         smtp_connection_cache_destinations = {}\n",
        queue.display(),
        data.display(),
        place.sink.ip(),
        place.sink.port(),
        place.sink.ip(),
    );
    write(&config.join("main.cf"), &main)?;
    write(&config.join("master.cf"), &MASTER_CF.replace("@LISTEN@", &address.to_string()))
}

fn postfix_user() -> Option<u32> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find_map(|line| line.strip_prefix("postfix:"))?;
    line.split(':').nth(1)?.parse().ok()
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::cannot_create(format!("cannot write {}: {error}", path.display()))
}

/// The metrics page of a server.
pub fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// Values of a metric in the Prometheus text format, over its label sets.
pub fn metric_values<'a>(page: &'a str, name: &'a str) -> impl Iterator<Item = f64> + 'a {
    page.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.as_bytes().first()? {
            b' ' => rest.trim(),
            b'{' => rest.rsplit_once("} ")?.1.trim(),
            _ => return None,
        };
        value.split(' ').next()?.parse().ok()
    })
}

const MAIN_CF: &str = include_str!("../../../tuning/peers/postfix/main.cf");
const MASTER_CF: &str = include_str!("../../../tuning/peers/postfix/master.cf");
const POSTFIX: &str = "/usr/sbin/postfix";
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_read_with_and_without_labels() {
        let page = "# HELP a_total x\na_total{shard=\"0\"} 12\na_total{shard=\"1\"} 30\n\
                    a_total_created 99\nb 1.5\n";
        assert_eq!(metric_values(page, "a_total").collect::<Vec<_>>(), [12.0, 30.0]);
        assert_eq!(metric_values(page, "b").collect::<Vec<_>>(), [1.5]);
        assert_eq!(metric_values(page, "c").count(), 0);
    }
}
