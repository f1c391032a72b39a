//! Reports on TLS (RFC 8460): from sessions that fail to files, messages and web servers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use flate2::read::GzDecoder;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::dns::Knot;
use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};
use crate::mx::send;
use crate::tls::Authority;

/// Head and body of a request.
type Posted = (String, Vec<u8>);

/// A web server that takes everything.
struct WebServer {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Posted>>>,
}

impl WebServer {
    fn start(config: Arc<ServerConfig>) -> WebServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let got = Arc::new(Mutex::new(Vec::new()));
        let server = WebServer { address, got: got.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let request = take(stream, config.clone());
                got.lock().expect("not poisoned").extend(request);
            }
        });
        server
    }

    fn got(&self) -> Vec<Posted> {
        self.got.lock().expect("not poisoned").clone()
    }
}

fn take(stream: TcpStream, config: Arc<ServerConfig>) -> Option<Posted> {
    let connection = ServerConnection::new(config).expect("a server");
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let response = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stream.get_mut().write_all(response).ok()?;
    stream.get_mut().flush().ok()?;
    Some((head, body))
}

fn unzipped(octets: &[u8]) -> Value {
    let mut text = String::new();
    GzDecoder::new(octets).read_to_string(&mut text).expect("gzip");
    serde_json::from_str(&text).expect("JSON")
}

/// The report in a message.
fn attached(content: &[u8]) -> Value {
    let text = String::from_utf8_lossy(content).into_owned();
    let at = text.find("Content-Type: application/tlsrpt+gzip").expect("an attachment");
    let encoded = text[at..].split("\r\n\r\n").nth(1).expect("a body").replace("\r\n", "");
    let octets = ringpost::proto::sasl::base64::decode(encoded.as_bytes()).expect("base64");
    unzipped(&octets)
}

fn files(directory: &Path) -> Vec<(String, Value)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let reports = paths.filter(|path| path.extension().is_some_and(|it| it == "json"));
    reports
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("a report");
            (name, serde_json::from_str(&text).expect("JSON"))
        })
        .collect()
}

/// Waits until reports of `server` say all this: domain, kind of policy, result.
pub fn wait_for_reports(server: &Server, expected: &[(&str, &str, &str)]) {
    let directory = server.directory.path().join("data/tls-reports");
    for (domain, kind, result) in expected {
        wait_until(&format!("{kind} of {domain} is reported: {result}"), || {
            let reports = files(&directory).into_iter().map(|(_, report)| report);
            let policies = reports.flat_map(|it| it["policies"].as_array().cloned().expect("some"));
            policies.into_iter().any(|it| {
                let of_domain = &it["policy"];
                of_domain["policy-domain"] == *domain
                    && of_domain["policy-type"] == *kind
                    && it["failure-details"].as_array().is_some_and(|details| {
                        details.iter().any(|detail| detail["result-type"] == *result)
                    })
            })
        });
    }
}

/// The one failure that there was.
fn check(report: &Value) {
    assert_eq!(report["organization-name"], "Us");
    assert_eq!(report["contact-info"], "c@us.test");
    let policies = report["policies"].as_array().expect("policies");
    assert_eq!(policies.len(), 1, "{report:#}");
    let policy = &policies[0];
    assert_eq!(policy["policy"]["policy-domain"], "d.v.test");
    assert_eq!(policy["summary"]["total-failure-session-count"], 1, "{report:#}");
    assert_eq!(policy["summary"]["total-successful-session-count"], 0);
    let detail = &policy["failure-details"][0];
    assert_eq!(detail["result-type"], "starttls-not-supported");
    assert_eq!(detail["receiving-mx-hostname"], "host.v.test");
    assert_eq!(detail["receiving-ip"], "127.0.0.1");
    assert_eq!(detail["failed-session-count"], 1);
}

const WHO: &str = "organization = \"Us\"\ncontact = \"c@us.test\"\nfrom = \"tls@us.test\"\n";

struct Bench {
    knot: Knot,
    host: NextHop,
    sink: NextHop,
    web: WebServer,
    authority: Authority,
}

impl Bench {
    /// A domain whose host has lost its STARTTLS, and that wants reports by mail and by HTTPS.
    /// `None` where there is no name server.
    fn start() -> Option<Bench> {
        let authority = Authority::new();
        authority.sign("web", &["web.v.test"]);
        let web = WebServer::start(authority.server_config("web"));
        let zone = format!(
            "d MX 10 host\nhost A 127.0.0.1\nweb A 127.0.0.1\n_smtp._tls.d TXT \
             \"v=TLSRPTv1; rua=mailto:reports@r.test,https://web.v.test:{}/tls?x=y\"\n",
            web.address.port()
        );
        let knot = Knot::start_with(&[("v.test", &zone)])?;
        let (host, sink) =
            (NextHop::start(Behaviour::default()), NextHop::start(Behaviour::default()));
        Some(Bench { knot, host, sink, web, authority })
    }

    fn config(&self, reports: &str) -> String {
        format!(
            "[delivery]\nmx_port = {}\n[delivery.tls]\nca = {:?}\n[dns]\nupstreams = [\"{}\"]\n\
             [[tls_policy]]\ndomain = \"d.v.test\"\nlevel = \"required\"\n[[route]]\n\
             domain = \"*.v.test\"\nnext_hop = \"mx\"\n[[route]]\ndomain = \"r.test\"\n\
             next_hop = \"smtp://{}\"\n[tls_reports]\n{reports}",
            self.host.address.port(),
            self.authority.ca(),
            self.knot.address,
            self.sink.address,
        )
    }
}

#[test]
fn a_host_without_tls_is_reported_to_its_domain_by_every_way_it_names() {
    let Some(bench) = Bench::start() else { return };
    let directory = bench.authority.path("reports");
    let reports = format!("{WHO}send = true\ndirectory = {directory:?}\ninterval = \"3s\"\n");
    let server = Server::start(free_address(), &bench.config(&reports));
    send(&server, "b@d.v.test");
    let mail = bench.sink.wait_for(1).remove(0);
    assert_eq!((mail.from.as_str(), mail.to[0].as_str()), ("", "reports@r.test"));
    let text = String::from_utf8_lossy(&mail.content).into_owned();
    for field in [
        "From: <tls@us.test>\r\nTo: <reports@r.test>\r\n",
        "Subject: Report Domain: d.v.test\r\n\tSubmitter: mx.test\r\n\tReport-ID: <",
        "\r\nTLS-Report-Domain: d.v.test\r\nTLS-Report-Submitter: mx.test\r\n",
        "\r\nTLS-Required: No\r\n",
        "report-type=\"tlsrpt\"",
    ] {
        assert!(text.contains(field), "{field}\n{text}");
    }
    let report = attached(&mail.content);
    check(&report);
    wait_until("it is posted", || !bench.web.got().is_empty());
    let (head, body) = bench.web.got().remove(0);
    assert!(head.starts_with("POST /tls?x=y HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: application/tlsrpt+gzip"), "{head}");
    assert_eq!(unzipped(&body), report, "the same for all receivers");
    wait_until("it is a file", || !files(&directory).is_empty());
    let (name, written) = files(&directory).remove(0);
    assert!(name.starts_with("mx.test!d.v.test!") && name.ends_with(".json"), "{name}");
    assert_eq!(written, report);
    // It is counted once the web server's response has come.
    wait_until("both are counted", || {
        server.metric("ringpost_delivery_tls_reports_sent_total") == 2.0
    });
    assert!(bench.host.got().is_empty());
}

#[test]
fn what_was_counted_outlives_a_kill_and_nothing_is_sent_unasked() {
    let Some(bench) = Bench::start() else { return };
    let reports = "organization = \"Us\"\ncontact = \"c@us.test\"\n";
    let slow = bench.config(&format!("{reports}interval = \"20s\"\n"));
    let mut server = Server::start(free_address(), &slow);
    send(&server, "b@d.v.test");
    let data_dir = server.directory.path().join("data");
    let state = || std::fs::read_to_string(data_dir.join("tls-reports.state")).unwrap_or_default();
    wait_until("it is saved", || state().contains("starttls-not-supported"));
    server.kill();
    // The message is not tried again in this time.
    let quick = bench.config(&format!("{reports}interval = \"2s\"\n"));
    server.write_config(free_address(), &quick);
    server.start_again();
    let directory = data_dir.join("tls-reports");
    wait_until("it is a file", || {
        files(&directory).iter().any(|(name, _)| name.starts_with("mx.test!d.v.test!"))
    });
    let failures = files(&directory)
        .into_iter()
        .filter(|(_, report)| report["policies"][0]["summary"]["total-failure-session-count"] != 0);
    check(&failures.map(|(_, report)| report).next().expect("one"));
    assert!(bench.sink.got().is_empty() && bench.web.got().is_empty());

    // A damaged state is set aside, and the server starts.
    assert!(server.stop().success());
    std::fs::write(data_dir.join("tls-reports.state"), "nonsense").expect("written");
    server.start_again();
    assert!(server.stderr().contains("tls-reports.state: damaged, set aside as"));
    assert!(data_dir.join("tls-reports.damaged").exists());
}
