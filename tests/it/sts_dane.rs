//! DANE and MTA-STS: whoever stands in the middle gets no mail, and who is whom he should be does.
//! A real name server that signs, a real validator, MX hosts and web servers of the tests' own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::dns::{Knot, Unbound};
use crate::harness::{Server, free_address, wait_until};
use crate::mx::{outcome_of, send};
use crate::tls::Authority;
use crate::tls_reports::wait_for_reports;

/// How a server shows itself, from the files of a certificate.
fn server_config(authority: &Authority, name: &str) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key")));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder = ServerConfig::builder_with_provider(provider.into());
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    // An MX host shows its CA too, by which TLSA records may go.
    let ca = rustls::pki_types::CertificateDer::from_pem_file(authority.ca()).expect("a CA");
    let chain = vec![authority.chain(name), ca];
    let config = builder.with_no_client_auth().with_single_cert(chain, key.expect("a key"));
    Arc::new(config.expect("they belong together"))
}

/// MX hosts, all at one port: what each of them got.
#[derive(Clone)]
struct Hosts {
    port: u16,
    /// Last number of its address, recipient, whether under TLS.
    got: Arc<Mutex<Vec<(u8, String, bool)>>>,
}

impl Hosts {
    fn new() -> Hosts {
        Hosts { port: free_address().port(), got: Arc::default() }
    }

    /// Starts one at `127.0.0.NUMBER`; without a configuration STARTTLS is stripped.
    fn start(&self, number: u8, tls: Option<Arc<ServerConfig>>) {
        let listener =
            TcpListener::bind(SocketAddr::from(([127, 0, 0, number], self.port))).expect("a port");
        let hosts = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hosts, tls) = (hosts.clone(), tls.clone());
                std::thread::spawn(move || hosts.serve(number, stream, tls));
            }
        });
    }

    fn serve(&self, number: u8, mut stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
        let _ = stream.write_all(b"220 mx\r\n");
        let offer = tls.is_some();
        if !self.talk(number, &mut BufReader::new(&mut stream), offer, false) {
            return;
        }
        let session = ServerConnection::new(tls.expect("offered")).expect("a session");
        let mut stream = StreamOwned::new(session, stream);
        self.talk(number, &mut BufReader::new(&mut stream), false, true);
    }

    /// True where TLS is to begin.
    fn talk<S: Read + Write>(
        &self,
        number: u8,
        stream: &mut BufReader<S>,
        offer: bool,
        is_protected: bool,
    ) -> bool {
        loop {
            let mut line = String::new();
            // The server under test may have given up on this connection.
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return false;
            }
            let upper = line.to_ascii_uppercase();
            let reply: &[u8] = match upper.get(..4) {
                Some("EHLO") if offer => b"250-mx\r\n250 STARTTLS\r\n",
                Some("STAR") if offer => {
                    let _ = stream.get_mut().write_all(b"220 go\r\n");
                    return true;
                }
                Some("RCPT") => {
                    let path = line.split(['<', '>']).nth(1).expect("a path").to_owned();
                    let mut got = self.got.lock().expect("not poisoned");
                    got.push((number, path, is_protected));
                    b"250 ok\r\n"
                }
                Some("DATA") => {
                    let _ = stream.get_mut().write_all(b"354 go\r\n");
                    let mut line = String::new();
                    while line != ".\r\n" {
                        line.clear();
                        if stream.read_line(&mut line).unwrap_or(0) == 0 {
                            return false;
                        }
                    }
                    b"250 taken\r\n"
                }
                Some("QUIT") => return false,
                _ => b"250 ok\r\n",
            };
            let _ = stream.get_mut().write_all(reply);
        }
    }

    /// Where a recipient was named, and whether under TLS each time.
    fn of(&self, recipient: &str) -> Vec<(u8, bool)> {
        let got = self.got.lock().expect("not poisoned");
        let named = got.iter().filter(|(_, to, _)| to == recipient);
        named.map(|(number, _, tls)| (*number, *tls)).collect()
    }
}

/// A web server with policies: what it says for each host, and how often it was asked.
#[derive(Clone)]
struct Policies {
    address: SocketAddr,
    pages: Arc<Mutex<HashMap<String, (String, usize)>>>,
}

const ENFORCE: &str = "200 OK\r\nContent-Type: text/plain\r\n\r\n\
                       version: STSv1\r\nmode: enforce\r\nmx: *.z.test\r\nmax_age: 864000\r\n";

impl Policies {
    fn start(tls: Arc<ServerConfig>) -> Policies {
        let listener = TcpListener::bind(free_address()).expect("a port");
        let address = listener.local_addr().expect("bound");
        let policies = Policies { address, pages: Arc::default() };
        let of_thread = policies.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (policies, tls) = (of_thread.clone(), tls.clone());
                std::thread::spawn(move || policies.serve(stream, tls));
            }
        });
        policies
    }

    fn serve(&self, stream: TcpStream, tls: Arc<ServerConfig>) {
        let session = ServerConnection::new(tls).expect("a session");
        let mut stream = BufReader::new(StreamOwned::new(session, stream));
        let mut host = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.strip_prefix("Host: mta-sts.") {
                host = value.split(':').next().expect("a name").trim().to_owned();
            }
            if line == "\r\n" {
                break;
            }
        }
        let answer = {
            let mut pages = self.pages.lock().expect("not poisoned");
            let missing = || ("404 Not Found\r\n\r\n".to_owned(), 0);
            let page = pages.entry(host).or_insert_with(missing);
            page.1 += 1;
            format!("HTTP/1.1 {}", page.0)
        };
        let stream = stream.get_mut();
        let _ = stream.write_all(answer.as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }

    fn put(&self, domain: &str, page: &str) {
        self.pages.lock().expect("not poisoned").insert(domain.to_owned(), (page.to_owned(), 0));
    }

    fn asked(&self, domain: &str) -> usize {
        self.pages.lock().expect("not poisoned").get(domain).map_or(0, |(_, count)| *count)
    }
}

fn config(dns: SocketAddr, hosts: &Hosts, authority: &Authority, more: &str) -> String {
    let ca = authority.ca();
    format!(
        "[delivery]\nmx_port = {}\n[dns]\nupstreams = [\"{dns}\"]\ntimeout = \"20s\"\n\
         attempts = 1\ntrust_ad = true\n[delivery.tls]\nca = {ca:?}\n{more}\
         [[route]]\ndomain = \"*.z.test\"\nnext_hop = \"mx\"\n\
         [[route]]\ndomain = \"*.signed.test\"\nnext_hop = \"mx\"\n\
         [queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n[shards]\ncount = 1\n\
         [tls_reports]\ninterval = \"2s\"\n",
        hosts.port,
    )
}

/// Waits for the first outcome of a recipient's message: as `outcome_of`, and its line.
fn outcome(server: &Server, recipient: &str) -> (String, String) {
    wait_until(&format!("{recipient} has an outcome"), || outcome_of(server, recipient).is_some());
    let log = server.log();
    let line = log.lines().find(|line| line.contains(&format!("recipient=<{recipient}> ")));
    (outcome_of(server, recipient).expect("there is one"), line.expect("a line").to_owned())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// `3 0 0`: the certificate itself, or that of the CA.
fn whole(usage: u8, certificate: &[u8]) -> String {
    format!("{usage} 0 0 {}", hex(certificate))
}

#[test]
fn mail_goes_to_whom_tlsa_records_name_and_to_nobody_in_between() {
    let authority = Authority::new();
    let hosts = Hosts::new();
    authority.sign_until("own", &["elsewhere.test"], 2001);
    authority.sign("m3", &["m3.signed.test"]);
    authority.sign("other", &["other.test"]);
    let ca = rustls::pki_types::CertificateDer::from_pem_file(authority.ca()).expect("a CA");
    let by_ca = whole(2, &ca);
    let own = whole(3, &authority.chain("own"));
    let tls = |name| Some(server_config(&authority, name));
    hosts.start(2, tls("own"));
    hosts.start(3, tls("m3"));
    hosts.start(4, tls("other"));
    hosts.start(5, None);
    hosts.start(6, tls("other"));
    hosts.start(7, None);
    hosts.start(8, tls("own"));
    hosts.start(9, tls("m3"));
    hosts.start(10, tls("other"));
    let port = hosts.port;
    let nobody = format!("3 1 1 {}", "00".repeat(32));
    let pkix = format!("1 1 1 {}", "00".repeat(32));
    let mut zone = String::new();
    for number in 2..=9 {
        zone += &format!("m{number} A 127.0.0.{number}\nd{number} MX 10 m{number}\n");
    }
    for (number, record) in
        [(2, &own), (3, &by_ca), (4, &nobody), (5, &own), (6, &pkix), (7, &pkix), (9, &by_ca)]
    {
        zone += &format!("_{port}._tcp.m{number} TLSA {record}\n");
    }
    // What is of b.test is bogus.
    zone += &format!("_{port}._tcp.m8 CNAME x.b.test.\n");
    // Behind a host that is not whom he should be stands one that is.
    zone += "m10 A 127.0.0.10\nboth MX 10 m10\nboth MX 20 m2\n";
    zone += &format!("_{port}._tcp.m10 TLSA {nobody}\n");
    zone += "alias CNAME m2\ntoalias MX 10 alias\n";
    let insecure = "d MX 10 m4.signed.test.\n";
    let zones = [("signed.test", &*zone), ("b.test", "x TLSA 3 1 1 00\n"), ("z.test", insecure)];
    let Some(knot) = Knot::start_signed(&zones) else { return };
    let Some(dns) = Unbound::start(&knot, &["signed.test", "b.test", "z.test"]) else { return };
    let server = Server::start(free_address(), &config(dns.address, &hosts, &authority, ""));
    let by_dane = " verified=true verified_by=dane ";
    let not_verified = " verified=false ";
    let cases = [
        // A certificate that is named by itself, though it is over and for another name.
        ("d2.signed.test", "relayed", by_dane),
        ("d3.signed.test", "relayed", by_dane),
        ("d4.signed.test", "delayed 451 4.7.5", "no TLSA record is of this certificate"),
        ("d5.signed.test", "delayed 451 4.7.4", "DANE demands TLS, and the next hop does not"),
        ("d6.signed.test", "relayed", not_verified),
        ("d7.signed.test", "delayed 451 4.7.4", "DANE demands TLS"),
        ("d8.signed.test", "delayed 451 4.7.5", "TLSA records of m8.signed.test cannot be had"),
        ("d9.signed.test", "delayed 451 4.7.5", "the certificate is for another name"),
        ("both.signed.test", "relayed", by_dane),
        ("toalias.signed.test", "relayed", by_dane),
        // The MX records are not authentic: whoever put them there needs no TLSA records.
        ("d.z.test", "relayed", not_verified),
    ];
    for (domain, _, _) in cases {
        send(&server, &format!("a@{domain}"));
    }
    for (domain, expected, in_line) in cases {
        let recipient = format!("a@{domain}");
        let (found, line) = outcome(&server, &recipient);
        assert!(found.starts_with(expected), "{domain}: {line}");
        assert!(line.contains(in_line), "{domain}: {line}");
        let got = hosts.of(&recipient);
        assert!(got.iter().all(|(_, is_protected)| *is_protected), "{domain}: {got:?}");
        assert_eq!(got.is_empty(), expected.starts_with("delayed"), "{domain}: {got:?}");
    }
    assert_eq!(hosts.of("a@both.signed.test"), [(2, true)], "the wrong host heard of it");
    let counted = |name: &str| server.metric(&format!("ringpost_delivery_tls_policies_{name}"));
    let (broken, kept) = (counted("broken_total"), counted("kept_total"));
    assert!(broken >= 6.0 && kept >= 6.0, "{broken} broken, {kept} kept");
    wait_for_reports(
        &server,
        &[
            ("d4.signed.test", "tlsa", "certificate-not-trusted"),
            ("d5.signed.test", "tlsa", "starttls-not-supported"),
            ("d7.signed.test", "tlsa", "starttls-not-supported"),
            ("d8.signed.test", "tlsa", "dnssec-invalid"),
            ("d9.signed.test", "tlsa", "certificate-host-mismatch"),
        ],
    );
    let explained = server.run(&["explain", "d2.signed.test"]);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(text.contains(&format!("  dane: TLSA {own}")), "{text}");

    // Where the operator says so, nobody asks for more than he does.
    let off = "dane = false\n";
    let server = Server::start(free_address(), &config(dns.address, &hosts, &authority, off));
    for domain in ["d4.signed.test", "d5.signed.test"] {
        let recipient = format!("off@{domain}");
        send(&server, &recipient);
        assert!(outcome(&server, &recipient).0.starts_with("relayed"), "{domain}");
    }
}

#[test]
fn mail_goes_to_hosts_that_a_policy_allows_and_that_show_a_certificate() {
    let authority = Authority::new();
    let others = Authority::new();
    let hosts = Hosts::new();
    authority.sign("right", &["m2.z.test"]);
    authority.sign("name", &["elsewhere.z.test"]);
    authority.sign_until("over", &["m4.z.test"], 2001);
    others.sign("stranger", &["m5.z.test"]);
    authority.sign("outside", &["m7.y.test"]);
    hosts.start(2, Some(server_config(&authority, "right")));
    hosts.start(3, Some(server_config(&authority, "name")));
    hosts.start(4, Some(server_config(&authority, "over")));
    hosts.start(5, Some(server_config(&others, "stranger")));
    hosts.start(6, None);
    hosts.start(7, Some(server_config(&authority, "outside")));
    let enforced = ["right", "name", "over", "stranger", "stripped", "outside", "both"];
    let others = ["testing", "none", "missing", "nonsense", "html", "moved"];
    let all = enforced.iter().chain(&others);
    let domains: Vec<String> = all.map(|domain| format!("{domain}.z.test")).collect();
    let mut names: Vec<String> = domains.iter().map(|it| format!("mta-sts.{it}")).collect();
    names.push("mta-sts.badweb.z.test".into());
    authority.sign("web", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let web = Policies::start(server_config(&authority, "web"));
    let mut zone = String::new();
    for number in 2..=6 {
        zone += &format!("m{number} A 127.0.0.{number}\n");
    }
    for (domain, host) in [
        ("right", "m2"),
        ("name", "m3"),
        ("over", "m4"),
        ("stranger", "m5"),
        ("stripped", "m6"),
        ("outside", "m7.y.test."),
        ("testing", "m6"),
        ("none", "m6"),
        ("missing", "m6"),
        ("nonsense", "m6"),
        ("html", "m6"),
        ("moved", "m6"),
        ("several", "m6"),
        ("unannounced", "m6"),
    ] {
        zone += &format!("{domain} MX 10 {host}\nmta-sts.{domain} A 127.0.0.1\n");
        if domain != "unannounced" {
            zone += &format!("_mta-sts.{domain} TXT \"v=STSv1; id=1\"\n");
        }
    }
    zone += "both MX 10 m6\nboth MX 20 m2\nmta-sts.both A 127.0.0.1\n";
    zone += "_mta-sts.both TXT \"v=STSv1; id=1\"\n_mta-sts.several TXT \"v=STSv1; id=2\"\n";
    let Some(knot) = Knot::start_with(&[("z.test", &zone), ("y.test", "m7 A 127.0.0.7\n")]) else {
        return;
    };
    for domain in enforced {
        web.put(&format!("{domain}.z.test"), ENFORCE);
    }
    for domain in ["several.z.test", "unannounced.z.test"] {
        web.put(domain, ENFORCE);
    }
    web.put("testing.z.test", &ENFORCE.replace("enforce", "testing"));
    web.put("none.z.test", &ENFORCE.replace("enforce", "none"));
    web.put("nonsense.z.test", &ENFORCE.replace("max_age", "min_age"));
    web.put("html.z.test", &ENFORCE.replace("text/plain", "text/html"));
    web.put("moved.z.test", &ENFORCE.replace("200 OK", "301 Moved\r\nLocation: https://a.test/"));
    let more = format!("mta_sts_port = {}\n", web.address.port());
    let server = Server::start(free_address(), &config(knot.address, &hosts, &authority, &more));
    let by_policy = " verified=true verified_by=mta-sts ";
    let plain = "outcome=relayed";
    let cases = [
        ("right", "relayed", by_policy),
        ("name", "delayed 451 4.7.5", "The MTA-STS policy of name.z.test demands TLS"),
        ("over", "delayed 451 4.7.5", "expired"),
        ("stranger", "delayed 451 4.7.5", "The MTA-STS policy of stranger.z.test"),
        ("stripped", "delayed 451 4.7.4", "The MTA-STS policy of stripped.z.test demands TLS"),
        ("outside", "delayed 451 4.7.5", "does not name its MX host m7.y.test"),
        ("both", "relayed", by_policy),
        ("testing", "relayed", plain),
        ("none", "relayed", plain),
        // Nobody knows better than to go on as without a policy.
        ("missing", "relayed", plain),
        ("nonsense", "relayed", plain),
        ("html", "relayed", plain),
        ("moved", "relayed", plain),
        ("several", "relayed", plain),
        ("unannounced", "relayed", plain),
    ];
    for (domain, _, _) in cases {
        send(&server, &format!("a@{domain}.z.test"));
    }
    for (domain, expected, in_line) in cases {
        let recipient = format!("a@{domain}.z.test");
        let (found, line) = outcome(&server, &recipient);
        assert!(found.starts_with(expected), "{domain}: {line}");
        assert!(line.contains(in_line), "{domain}: {line}");
        let got = hosts.of(&recipient);
        let is_enforced = enforced.contains(&domain);
        assert!(!is_enforced || got.iter().all(|(_, tls)| *tls), "{domain}: {got:?}");
        assert_eq!(got.is_empty(), expected.starts_with("delayed"), "{domain}: {got:?}");
    }
    // A message that would rather arrive than be protected (RFC 8689).
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let content = b"TLS-Required: No\r\n\r\n";
    client.message("a@from.test", &["rather@stripped.z.test"], content);
    assert!(outcome(&server, "rather@stripped.z.test").0.starts_with("relayed"));
    assert_eq!(web.asked("right.z.test"), 1);
    assert_eq!((web.asked("several.z.test"), web.asked("unannounced.z.test")), (0, 0));
    // Five enforced and one tested policy, four that could not be had; what was tried again counts.
    assert!(server.metric("ringpost_delivery_tls_policies_broken_total") >= 10.0);
    wait_for_reports(
        &server,
        &[
            ("name.z.test", "sts", "certificate-host-mismatch"),
            ("over.z.test", "sts", "certificate-expired"),
            ("stranger.z.test", "sts", "certificate-not-trusted"),
            ("stripped.z.test", "sts", "starttls-not-supported"),
            ("outside.z.test", "sts", "validation-failure"),
            ("testing.z.test", "sts", "starttls-not-supported"),
            ("missing.z.test", "sts", "sts-policy-fetch-error"),
            ("nonsense.z.test", "sts", "sts-policy-invalid"),
        ],
    );
    let explain = |domain: &str| {
        let output = server.run(&["explain", domain]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = explain("right.z.test");
    assert!(text.contains("mta-sts       enforce, hosts *.z.test, id 1\n"), "{text}");
    let text = explain("missing.z.test");
    assert!(text.contains("the policy announced cannot be had: HTTP status 404"), "{text}");
    let check = |domain: &str| {
        let output = server.run(&["dns", domain]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = check("right.z.test");
    assert!(text.contains("add a line: mx: mx.test\n"), "{text}");
    let text = check("moved.z.test");
    assert!(text.contains("no policy: HTTP status 301\n"), "{text}");
}

#[test]
fn a_policy_outlives_its_web_server_its_announcement_and_the_process_but_not_its_successor() {
    let authority = Authority::new();
    let hosts = Hosts::new();
    hosts.start(2, None);
    authority.sign("web", &["mta-sts.a.z.test"]);
    let web = Policies::start(server_config(&authority, "web"));
    let zone = |id: &str| {
        let record = match id {
            "" => String::new(),
            id => format!("_mta-sts.a TXT \"v=STSv1; id={id}\"\n"),
        };
        format!("m2 A 127.0.0.2\na MX 10 m2\nmta-sts.a A 127.0.0.1\n{record}")
    };
    let Some(knot) = Knot::start_with(&[("z.test", &zone("1"))]) else { return };
    let dns = knot.address;
    web.put("a.z.test", ENFORCE);
    let more = format!("mta_sts_port = {}\n", web.address.port());
    let mut server = Server::start(free_address(), &config(dns, &hosts, &authority, &more));
    let count = std::cell::Cell::new(0);
    // How the next message ends; one that waits is told of before it is tried again.
    let next = |server: &Server| {
        count.set(count.get() + 1);
        let recipient = format!("a{}@a.z.test", count.get());
        send(server, &recipient);
        let (found, line) = outcome(server, &recipient);
        assert_eq!(hosts.of(&recipient).is_empty(), found.starts_with("delayed"), "{line}");
        found.split(' ').next().expect("a word").to_owned()
    };
    assert_eq!(next(&server), "delayed");
    let path = server.directory.path().join("data/mta-sts.json");
    wait_until("the policy is kept", || path.exists());
    // Another id, and nobody has the policy: the one that is known holds.
    web.put("a.z.test", "503 Unavailable\r\n\r\n");
    drop(knot);
    let knot = Knot::start_at(dns, &[("z.test", &zone("2"))]).expect("it was there");
    server.signal("HUP");
    wait_until("the configuration is taken", || server.stderr().contains("reloaded"));
    assert_eq!(next(&server), "delayed");
    wait_until("it was asked for", || web.asked("a.z.test") == 1);
    // No announcement, and another process.
    drop(knot);
    let knot = Knot::start_at(dns, &[("z.test", &zone(""))]).expect("it was there");
    server.kill();
    server.start_again();
    assert_eq!(next(&server), "delayed");
    assert_eq!(web.asked("a.z.test"), 1, "nothing was announced");
    // Its successor asks for nothing.
    web.put("a.z.test", &ENFORCE.replace("enforce", "none"));
    drop(knot);
    let knot = Knot::start_at(dns, &[("z.test", &zone("3"))]).expect("it was there");
    server.kill();
    server.start_again();
    assert_eq!(next(&server), "relayed");
    drop(knot);
    // Damage is no policy, and is told of.
    server.kill();
    std::fs::write(&path, "{").expect("written");
    let _knot = Knot::start_at(dns, &[("z.test", &zone(""))]).expect("it was there");
    server.start_again();
    assert!(server.stderr().contains("no MTA-STS policy is remembered"), "{}", server.stderr());
    assert_eq!(next(&server), "relayed");
}
