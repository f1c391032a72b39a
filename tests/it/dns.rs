//! The resolver against real servers on loopback, and against a few that misbehave.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringpost::config::{self, Families};
use ringpost::delivery::discovery::discover;
use ringpost::dns::{Found, ResolvConf, Resolver, Settings};
use ringpost::metrics::Metrics;
use ringpost::proto::dns::{Kind, Name};
use ringpost::routing::mx::Policy;
use ringpost::runtime::sync::join_all;
use ringpost::runtime::{executor, task};
use tempfile::TempDir;

use crate::harness::{free_address, wait_until};

/// Zones as an authoritative server reads them, each with SOA and name server in front.
const ZONES: &[(&str, &str)] = &[
    (
        "a.test",
        "@ MX 20 mx2\n@ MX 10 mx1\nmx1 A 192.0.2.1\nmx1 AAAA 2001:db8::1\nmx2 A 192.0.2.2\n\
         equal MX 10 mx1\nequal MX 10 mx2\n\
         null MX 0 .\n\
         dead MX 10 gone\ndead MX 20 mx2\n\
         none MX 10 gone\n\
         implicit A 192.0.2.3\nsix AAAA 2001:db8::6\nempty TXT nothing\n\
         us MX 10 mx1\nus MX 20 us\nonlyus MX 10 us\n\
         toalias MX 10 alias\nalias CNAME mx2\n\
         alias1 CNAME alias2\nalias2 CNAME alias3\nalias3 CNAME mx1\n\
         away CNAME host.b.test.\nloop1 CNAME loop2\nloop2 CNAME loop1\ndangling CNAME gone\n\
         far CNAME far.b.test.\n\
         xn--bcher-kva MX 10 mx1\n\
         LONG\nMANY\n\
         _25._tcp.mx1 TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n\
         _sip._tcp SRV 1 2 5060 mx1\n",
    ),
    ("b.test", "host A 192.0.2.8\nfar CNAME far.a.test.\n"),
    ("2.0.192.in-addr.arpa", "1 PTR mx1.a.test.\n"),
    ("signed.test", "@ MX 10 mx\nmx A 192.0.2.5\n_25._tcp.mx TLSA 3 1 1 00ff\n"),
];

/// A program that ends with the test.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Knot with zones of a test.
pub struct Knot {
    pub address: SocketAddr,
    directory: TempDir,
    _running: Running,
}

impl Knot {
    /// With the zones above. `None`, and a line that says so, where it is not installed.
    fn start() -> Option<Knot> {
        Knot::start_signed(ZONES)
    }

    /// With these zones; a zone `signed.test` is signed.
    pub fn start_with(zones: &[(&str, &str)]) -> Option<Knot> {
        Knot::start_at(free_address(), zones)
    }

    /// With these zones, of which `signed.test` is signed and is waited for.
    pub fn start_signed(zones: &[(&str, &str)]) -> Option<Knot> {
        let knot = Knot::start_with(zones)?;
        wait_until("Knot has signed", || answers(knot.address, "signed.test"));
        Some(knot)
    }

    /// The same at an address.
    pub fn start_at(address: SocketAddr, zones: &[(&str, &str)]) -> Option<Knot> {
        let program = find("knotd")?;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let mut conf = format!(
            "server:\n    rundir: {path:?}\n    listen: \"127.0.0.1@{}\"\n\
             log:\n  - target: stderr\n    any: warning\ndatabase:\n    storage: {path:?}\nzone:\n",
            address.port()
        );
        for (name, records) in zones {
            let file = path.join(format!("{name}.zone"));
            conf += &format!("  - domain: {name}\n    file: {file:?}\n    zonefile-sync: -1\n");
            if *name == "signed.test" {
                conf += "    dnssec-signing: on\n";
            }
            let strings = format!("long TXT {}", format!("\"{}\" ", "x".repeat(200)).repeat(4));
            let many: String = (0..200).map(|it| format!("many A 198.51.100.{it}\n")).collect();
            let records = records.replace("LONG", &strings).replace("MANY", &many);
            let text = format!(
                "$ORIGIN {name}.\n$TTL 300\n@ SOA ns root 1 3600 900 604800 60\n@ NS ns\n\
                 ns A 127.0.0.1\n{records}"
            );
            std::fs::write(file, text).expect("written");
        }
        std::fs::write(path.join("knot.conf"), conf).expect("written");
        let running = start(Command::new(program).arg("-c").arg(path.join("knot.conf")));
        let knot = Knot { address, directory, _running: running };
        wait_until("Knot answers", || answers(address, zones[0].0));
        Some(knot)
    }

    /// The DS record that leads to the keys of the signed zone.
    fn trust_anchor(&self) -> String {
        let output = Command::new(find("keymgr").expect("it comes with knotd"))
            .arg("-c")
            .arg(self.directory.path().join("knot.conf"))
            .args(["signed.test", "ds"])
            .output()
            .expect("keymgr runs");
        let text = String::from_utf8(output.stdout).expect("ASCII");
        text.lines().next().expect("a record").to_owned()
    }
}

/// A validating resolver over the zones of a Knot.
pub struct Unbound {
    pub address: SocketAddr,
    _directory: TempDir,
    _running: Running,
}

impl Unbound {
    /// It knows the keys of `signed.test`, and expects signatures in `b.test` that are not there:
    /// whatever is of `b.test` is bogus. `None`, and a line that says so, where it is not
    /// installed.
    pub fn start(knot: &Knot, zones: &[&str]) -> Option<Unbound> {
        let program = find("unbound")?;
        let address = free_address();
        let directory = tempfile::tempdir().expect("a directory");
        let anchor = knot.trust_anchor();
        let bogus = anchor.replace("signed.test", "b.test");
        let mut conf = format!(
            "server:\n interface: 127.0.0.1\n port: {}\n do-not-query-localhost: no\n \
             username: \"\"\n chroot: \"\"\n directory: {:?}\n pidfile: \"\"\n use-syslog: no\n \
             do-daemonize: no\n local-zone: \"test.\" nodefault\n \
             module-config: \"validator iterator\"\n \
             trust-anchor: \"{anchor}\"\n trust-anchor: \"{bogus}\"\n",
            address.port(),
            directory.path()
        );
        for zone in zones {
            let port = knot.address.port();
            conf += &format!("stub-zone:\n name: \"{zone}\"\n stub-addr: 127.0.0.1@{port}\n");
        }
        conf += "remote-control:\n control-enable: no\n";
        let path = directory.path().join("unbound.conf");
        std::fs::write(&path, conf).expect("written");
        let running = start(Command::new(program).arg("-d").arg("-c").arg(&path));
        wait_until("Unbound answers", || answers(address, "signed.test"));
        Some(Unbound { address, _directory: directory, _running: running })
    }
}

/// Where a server program is, or a line that says it is not there.
fn find(program: &str) -> Option<String> {
    let places = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"];
    let found = places.iter().map(|it| format!("{it}/{program}")).find(|it| Path::new(it).exists());
    if found.is_none() {
        println!("{program}: not installed, skipped");
    }
    found
}

fn start(command: &mut Command) -> Running {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(quiet.spawn().expect("it starts"))
}

/// Whether a server has something to say to a question for the SOA of `zone`.
fn answers(address: SocketAddr, zone: &str) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in zone.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(b"\0\0\x06\0\x01");
    let mut answer = [0; 512];
    // A port that nobody has yet gives an error, here or below.
    let _ = socket.send_to(&query, address);
    socket.recv(&mut answer).is_ok_and(|bytes| bytes > 12 && answer[3] & 15 == 0)
}

/// Runs `body` with a resolver of its own. What it finds out is judged outside: a panic in an
/// executor ends the process.
fn resolve<T, F>(
    dns: config::Dns,
    body: impl FnOnce(Resolver, Rc<Metrics>) -> F + Send + 'static,
) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (sender, receiver) = std::sync::mpsc::channel();
    let run = move || async move {
        let metrics = Rc::new(Metrics::default());
        let settings = Settings::new(&dns, &ResolvConf::default());
        let found = body(Resolver::new(settings, metrics.clone()), metrics).await;
        sender.send(found).expect("the test waits");
    };
    let thread = executor::spawn("dns", None, run).expect("an executor");
    thread.join().expect("no panic").expect("io_uring");
    receiver.recv().expect("a value")
}

fn ask(upstreams: &[SocketAddr]) -> config::Dns {
    config::Dns {
        upstreams: upstreams.to_vec(),
        timeout: Some(Duration::from_secs(30)),
        attempts: Some(1),
        ..config::Dns::default()
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn show(found: &Found) -> String {
    match &found.result {
        Ok(answer) => {
            let records: Vec<String> = answer.records.iter().map(|it| it.to_string()).collect();
            let canonical = answer.canonical.iter().map(|it| format!(" of {it}"));
            let canonical: String = canonical.collect();
            let marks = [(answer.authenticated, " authenticated"), (found.stale, " stale")];
            let marks: String = marks.iter().filter(|it| it.0).map(|it| it.1).collect();
            records.join(" | ") + &canonical + &marks
        }
        Err(error) => error.to_string(),
    }
}

/// Asks for each name and type in turn.
fn show_all(dns: config::Dns, questions: &[(&str, Kind)]) -> Vec<String> {
    let questions: Vec<_> = questions.iter().map(|(text, kind)| (name(text), *kind)).collect();
    resolve(dns, |resolver, _| async move {
        let mut shown = Vec::new();
        for (name, kind) in questions {
            shown.push(show(&resolver.lookup(&name, kind).await));
        }
        shown
    })
}

#[test]
fn a_real_server_is_understood() {
    let Some(knot) = Knot::start() else { return };
    let tlsa = "3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let long = "x".repeat(800);
    let cases: &[(&str, Kind, &str)] = &[
        ("A.Test", Kind::Mx, "10 mx1.a.test | 20 mx2.a.test"),
        ("null.a.test", Kind::Mx, "0 ."),
        ("mx1.a.test", Kind::A, "192.0.2.1"),
        ("mx1.a.test", Kind::Aaaa, "2001:db8::1"),
        ("six.a.test", Kind::A, "no such records"),
        ("gone.a.test", Kind::A, "no such domain"),
        ("long.a.test", Kind::Txt, &long),
        ("_25._tcp.mx1.a.test", Kind::Tlsa, tlsa),
        ("_sip._tcp.a.test", Kind::Other(33), "1 2 5060 mx1.a.test."),
        ("1.2.0.192.in-addr.arpa", Kind::Ptr, "mx1.a.test"),
        ("alias1.a.test", Kind::A, "192.0.2.1 of mx1.a.test"),
        ("alias1.a.test", Kind::Cname, "alias2.a.test"),
        ("away.a.test", Kind::A, "192.0.2.8 of host.b.test"),
        ("away.a.test", Kind::Aaaa, "no such records"),
        ("dangling.a.test", Kind::A, "no such domain"),
        ("loop1.a.test", Kind::A, "malformed DNS answer"),
        ("far.a.test", Kind::A, "malformed DNS answer"),
        ("elsewhere.example", Kind::A, "DNS query refused"),
    ];
    let questions: Vec<_> = cases.iter().map(|(name, kind, _)| (*name, *kind)).collect();
    let shown = show_all(ask(&[knot.address]), &questions);
    for ((name, kind, expected), shown) in cases.iter().zip(shown) {
        assert_eq!(sorted(&shown), sorted(expected), "{name} {kind}");
    }
}

/// A server may rotate the records of an answer.
fn sorted(shown: &str) -> Vec<&str> {
    let mut records: Vec<&str> = shown.split(" | ").collect();
    records.sort_unstable();
    records
}

#[test]
fn what_does_not_fit_a_datagram_comes_over_tcp_and_then_from_the_cache() {
    let Some(knot) = Knot::start() else { return };
    let (counts, tcp_queries, queries, cache_hits, ttl) =
        resolve(ask(&[knot.address]), |resolver, metrics| async move {
            let mut counts = Vec::new();
            for _ in 0..3 {
                let found = resolver.lookup(&name("many.a.test"), Kind::A).await;
                counts.push(found.result.map_or(0, |answer| answer.records.len()));
            }
            let denied = resolver.lookup(&name("gone.a.test"), Kind::A).await;
            let dns = &metrics.dns;
            let (tcp, all) = (dns.tcp_queries.value(), dns.queries.value());
            (counts, tcp, all, dns.cache_hits.value(), denied.ttl)
        });
    assert_eq!(counts, [200, 200, 200]);
    assert_eq!((tcp_queries, queries, cache_hits), (1, 3, 2));
    assert_eq!(ttl, Duration::from_secs(60), "the SOA's minimum");
}

#[test]
fn one_question_is_asked_once_and_survives_who_asked_first() {
    let Some(knot) = Knot::start() else { return };
    let (found, queries) = resolve(ask(&[knot.address]), |resolver, metrics| async move {
        let leader = resolver.clone();
        let (sender, receiver) = ringpost::runtime::sync::oneshot();
        task::spawn(async move {
            // Polled once, then dropped.
            let name = name("a.test");
            let lookup = leader.lookup(&name, Kind::Mx);
            let mut lookup = std::pin::pin!(lookup);
            std::future::poll_fn(|context| {
                let _ = lookup.as_mut().poll(context);
                std::task::Poll::Ready(())
            })
            .await;
            sender.send(());
        });
        receiver.await.expect("the leader has asked");
        let name = name("a.test");
        let lookups = (0..50).map(|_| resolver.lookup(&name, Kind::Mx));
        let found = join_all(lookups.collect()).await;
        (found.iter().filter(|it| it.result.is_ok()).count(), metrics.dns.queries.value())
    });
    assert_eq!((found, queries), (50, 1));
}

#[test]
fn every_kind_of_domain_leads_where_rfc_5321_says() {
    let Some(knot) = Knot::start() else { return };
    let cases: &[(&str, &str)] = &[
        ("a.test", "mx1.a.test 2001:db8::1 192.0.2.1; mx2.a.test 192.0.2.2"),
        ("null.a.test", "556 5.1.10 Domain takes no mail (null MX)"),
        ("dead.a.test", "mx2.a.test 192.0.2.2"),
        ("none.a.test", "550 5.4.4 No MX host of none.a.test has an address"),
        ("implicit.a.test", "implicit.a.test 192.0.2.3"),
        ("six.a.test", "six.a.test 2001:db8::6"),
        ("empty.a.test", "550 5.4.4 empty.a.test has neither MX nor address records"),
        ("us.a.test", "mx1.a.test 2001:db8::1 192.0.2.1"),
        ("onlyus.a.test", "554 5.4.6 MX records lead back to this server"),
        ("toalias.a.test", "alias.a.test 192.0.2.2"),
        ("alias1.a.test", "alias1.a.test 2001:db8::1 192.0.2.1"),
        ("bücher.a.test", "mx1.a.test 2001:db8::1 192.0.2.1"),
        ("gone.a.test", "550 5.1.2 No such domain"),
        ("elsewhere.example", "451 4.4.3 DNS query refused"),
        ("loop1.a.test", "451 4.4.3 malformed DNS answer"),
        ("[192.0.2.7]", "[192.0.2.7] 192.0.2.7"),
    ];
    let domains: Vec<_> = cases.iter().map(|(domain, _)| *domain).collect();
    let (shown, first_hosts) = resolve(ask(&[knot.address]), |resolver, _| async move {
        let policy = Policy {
            families: Families::Ipv6First,
            port: 25,
            own_names: vec!["us.a.test".to_owned()],
            own_addresses: Vec::new(),
            asks_tlsa: true,
        };
        let mut shown = Vec::new();
        for domain in domains {
            shown.push(match discover(&resolver, domain, &policy).await.result {
                Ok(plan) => {
                    let hosts = plan.hosts.iter().map(|host| {
                        let addresses = host.addresses.iter().map(|it| it.ip().to_string());
                        format!("{} {}", host.name, addresses.collect::<Vec<_>>().join(" "))
                    });
                    hosts.collect::<Vec<_>>().join("; ")
                }
                Err(reply) => reply.to_string(),
            });
        }
        let mut first_hosts = std::collections::HashSet::new();
        for _ in 0..100 {
            let plan = discover(&resolver, "equal.a.test", &policy).await.result;
            first_hosts.insert(plan.map(|plan| plan.hosts[0].name.clone()).unwrap_or_default());
        }
        (shown, first_hosts)
    });
    for ((domain, expected), shown) in cases.iter().zip(shown) {
        assert_eq!(shown, *expected, "{domain}");
    }
    assert_eq!(first_hosts.len(), 2, "equal hosts share the load: {first_hosts:?}");
}

#[test]
fn a_validator_on_loopback_is_believed_where_the_configuration_says_so() {
    let Some(knot) = Knot::start() else { return };
    let Some(unbound) = Unbound::start(&knot, &["a.test", "b.test", "signed.test"]) else { return };
    let address = unbound.address;
    let questions = [
        ("signed.test", Kind::Mx),
        ("_25._tcp.mx.signed.test", Kind::Tlsa),
        ("mx1.a.test", Kind::A),
        ("host.b.test", Kind::A),
    ];
    let mut dns = ask(&[address]);
    let shown = show_all(dns.clone(), &questions);
    assert_eq!(shown, ["10 mx.signed.test", "3 1 1 00ff", "192.0.2.1", "DNS server failure"]);
    dns.trust_ad = true;
    let shown = show_all(dns, &questions);
    let expected = ["10 mx.signed.test authenticated", "3 1 1 00ff authenticated", "192.0.2.1"];
    assert_eq!(shown[..3], expected);
    assert_eq!(shown[3], "DNS server failure", "bogus");
}

/// An upstream of ours: what it answers to a query, and how often it was asked.
struct Fake {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
}

/// Answers, in order, to the query with this number.
type Behaviour = fn(&[u8], usize) -> Vec<Vec<u8>>;

impl Fake {
    /// `over_tcp` answers connections; a query is counted however it comes. It ends with the
    /// process.
    fn start(over_udp: Behaviour, over_tcp: Behaviour) -> Fake {
        let listener = TcpListener::bind(free_address()).expect("a listener");
        let address = listener.local_addr().expect("bound");
        let socket = UdpSocket::bind(address).expect("a socket");
        let count = Arc::new(AtomicUsize::new(0));
        let udp_count = count.clone();
        std::thread::spawn(move || {
            let mut query = [0; 4096];
            while let Ok((bytes, peer)) = socket.recv_from(&mut query) {
                let number = udp_count.fetch_add(1, Ordering::SeqCst);
                for answer in over_udp(&query[..bytes], number) {
                    // Whoever has what it wants does not listen any more.
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        let tcp_count = count.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let number = tcp_count.fetch_add(1, Ordering::SeqCst);
                let mut query = [0; 4096];
                let bytes = stream.read(&mut query).unwrap_or(0);
                for answer in over_tcp(query.get(2..bytes).unwrap_or(&[]), number) {
                    // As above.
                    let _ = stream.write_all(&(answer.len() as u16).to_be_bytes());
                    let _ = stream.write_all(&answer);
                }
            }
        });
        Fake { address, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

fn silence(_: &[u8], _: usize) -> Vec<Vec<u8>> {
    Vec::new()
}

/// Octets of the question of a query.
fn question(query: &[u8]) -> &[u8] {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    &query[12..end + 5]
}

/// An answer with this response code, and one address that holds for `ttl` seconds where the code
/// is zero.
fn answer(query: &[u8], code: u8, ttl: u8) -> Vec<u8> {
    let mut answer = query[..2].to_vec();
    answer.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, u8::from(code == 0), 0, 0, 0, 0]);
    answer.extend_from_slice(question(query));
    if code == 0 {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 192, 0, 2, 1]);
    }
    answer
}

fn good(query: &[u8], _: usize) -> Vec<Vec<u8>> {
    vec![answer(query, 0, 60)]
}

/// Asks for the address of `a.test`. No answer that comes is too late: where silence is the point,
/// the others are asked again and again.
fn check_fakes(upstreams: &[&Fake], silence: Silence, expected: &str) {
    let (timeout, attempts) = match silence {
        Silence::IsWaitedFor => (Duration::from_millis(100), 10),
        Silence::IsNot => (Duration::from_secs(30), 1),
    };
    let addresses: Vec<SocketAddr> = upstreams.iter().map(|it| it.address).collect();
    let dns = config::Dns { timeout: Some(timeout), attempts: Some(attempts), ..ask(&addresses) };
    assert_eq!(show_all(dns, &[("a.test", Kind::A)]), [expected]);
}

/// Whether an upstream of a test says nothing.
#[derive(Clone, Copy)]
enum Silence {
    IsWaitedFor,
    IsNot,
}

#[test]
fn an_upstream_that_fails_is_stood_in_for_by_the_next() {
    let well = Fake::start(good, good);
    let dead = Fake::start(silence, silence);
    check_fakes(&[&dead, &well], Silence::IsWaitedFor, "192.0.2.1");
    check_fakes(&[&dead], Silence::IsWaitedFor, "DNS server does not answer");
    assert!(dead.count() >= 11, "asked first, and then as often as allowed");
    let failing = Fake::start(|query, _| vec![answer(query, 2, 0)], silence);
    check_fakes(&[&failing, &well], Silence::IsNot, "192.0.2.1");
    check_fakes(&[&failing], Silence::IsNot, "DNS server failure");
    let refusing = Fake::start(|query, _| vec![answer(query, 5, 0)], silence);
    check_fakes(&[&refusing, &failing, &well], Silence::IsNot, "192.0.2.1");
    check_fakes(&[&refusing], Silence::IsNot, "DNS query refused");
    // Nobody listens: known at once.
    let nobody = Fake { address: free_address(), count: Arc::default() };
    check_fakes(&[&nobody, &well], Silence::IsNot, "192.0.2.1");
    // The question is right, the rest is not.
    let broken = Fake::start(
        |query, _| {
            let mut broken = answer(query, 0, 60);
            broken.truncate(broken.len() - 2);
            vec![broken]
        },
        silence,
    );
    check_fakes(&[&broken, &well], Silence::IsNot, "192.0.2.1");
    check_fakes(&[&broken], Silence::IsNot, "malformed DNS answer");
}

#[test]
fn only_an_answer_to_the_question_is_believed() {
    // Garbage, another id, another name: then the answer.
    let guessed = Fake::start(
        |query, _| {
            let mut other_id = answer(query, 0, 60);
            other_id[1] ^= 1;
            let mut other_name = answer(query, 0, 60);
            other_name[13] = b'z';
            let evil = |mut bytes: Vec<u8>| {
                let last = bytes.len() - 1;
                bytes[last] = 66;
                bytes
            };
            vec![b"?".to_vec(), evil(other_id), evil(other_name), answer(query, 0, 60)]
        },
        silence,
    );
    check_fakes(&[&guessed], Silence::IsNot, "192.0.2.1");
    // One who guesses all the time does not keep the answer away: it comes over TCP.
    let flooded = Fake::start(
        |query, _| {
            let mut other_id = answer(query, 0, 60);
            other_id[0] ^= 1;
            vec![other_id; 50]
        },
        good,
    );
    check_fakes(&[&flooded], Silence::IsNot, "192.0.2.1");
    // An upstream that answers in lower case proves itself over TCP.
    let lower = Fake::start(
        |query, _| {
            let mut lower = answer(query, 0, 60);
            // Both cases are sent, or the answer is as it should be.
            lower[12..19].make_ascii_lowercase();
            vec![lower]
        },
        good,
    );
    for _ in 0..4 {
        check_fakes(&[&lower], Silence::IsNot, "192.0.2.1");
    }
    // One that knows no EDNS is asked without, one answer at once with.
    let old = Fake::start(
        |query, _| {
            let with_edns = query[11] == 1;
            vec![if with_edns { answer(query, 1, 0) } else { answer(query, 0, 60) }]
        },
        silence,
    );
    check_fakes(&[&old], Silence::IsNot, "192.0.2.1");
    assert_eq!(old.count(), 2);
}

#[test]
fn an_answer_past_its_time_is_given_while_the_upstreams_fail() {
    let first_only = Fake::start(
        |query, number| vec![answer(query, if number == 0 { 0 } else { 2 }, 0)],
        silence,
    );
    let ask_thrice = |stale_max: Duration| {
        let mut dns = ask(&[first_only.address]);
        (dns.ttl_min, dns.stale_max) = (Duration::ZERO, stale_max);
        first_only.count.store(0, Ordering::SeqCst);
        show_all(dns, &[("a.test", Kind::A); 3])
    };
    let shown = ask_thrice(Duration::from_secs(3600));
    assert_eq!(shown, ["192.0.2.1", "192.0.2.1 stale", "192.0.2.1 stale"]);
    assert_eq!(first_only.count(), 2, "the third question met what stands in");
    let shown = ask_thrice(Duration::ZERO);
    assert_eq!(shown[..2], ["192.0.2.1", "DNS server failure"]);
}

/// `ringpost dns` with these arguments, this server's name and upstream: its exit code, what it
/// prints, and what it says went wrong.
fn command(hostname: &str, upstream: SocketAddr, arguments: &[&str]) -> (i32, String, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ringpost.toml");
    let config = format!(
        "hostname = \"{hostname}\"\n[[listener]]\naddress = \"{}\"\n\
         [dns]\nupstreams = [\"{upstream}\"]\ntimeout = \"10s\"\nattempts = 1\n",
        free_address()
    );
    std::fs::write(&path, config).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .arg("dns")
        .args(arguments)
        .arg("--config")
        .arg(path)
        .output()
        .expect("ringpost runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_asks_one_question() {
    let Some(knot) = Knot::start() else { return };
    let ask = |arguments: &[&str]| command("mx1.a.test", knot.address, arguments);
    let (code, output, _) = ask(&["null.A.test", "--type", "mx"]);
    assert_eq!((code, output.as_str()), (0, "null.a.test 300 MX 0 .\n"));
    let (code, output, _) = ask(&["192.0.2.1", "--type", "PTR"]);
    assert_eq!((code, output.as_str()), (0, "1.2.0.192.in-addr.arpa 300 PTR mx1.a.test\n"));
    let (code, output, _) = ask(&["alias1.a.test", "--type", "A", "--json"]);
    for part in ["\"canonical\": \"mx1.a.test\"", "\"192.0.2.1\"", "\"ttl\": 300"] {
        assert!(code == 0 && output.contains(part), "{output}");
    }
    let (code, _, error) = ask(&["gone.a.test", "--type", "A"]);
    assert_eq!((code, error.as_str()), (1, "ringpost: gone.a.test A: no such domain\n"));
    let (code, _, error) = ask(&["elsewhere.example", "--type", "A"]);
    assert_eq!((code, error.as_str()), (75, "ringpost: elsewhere.example A: DNS query refused\n"));
    assert_eq!(ask(&["a..b", "--type", "A"]).0, 64);
    assert_eq!(ask(&["a.test", "--type", "X"]).0, 64);
}

#[test]
fn the_command_checks_the_records_of_a_domain() {
    let Some(knot) = Knot::start() else { return };
    let (code, output, _) = command("mx1.a.test", knot.address, &["a.test"]);
    for line in [
        "ok    MX             10 mx1.a.test, 20 mx2.a.test",
        "ok    address        mx1.a.test: 192.0.2.1, 2001:db8::1",
        "ok    PTR            192.0.2.1: mx1.a.test",
        "warn  SPF            none",
        "                     -> add: a.test. TXT \"v=spf1 mx -all\"",
        "warn  DMARC          none",
        "ok    MTA-STS        none",
        "                     -> remove them, or give this server a [[certificate]]",
    ] {
        assert!(output.lines().any(|it| it == line), "{line} in\n{output}");
    }
    assert_eq!(code, 1, "TLSA records of nobody: {output}");
    let (code, output, error) = command("mx2.a.test", knot.address, &["null.a.test"]);
    assert_eq!((code, error.as_str()), (1, "ringpost: 1 of 8 checks failed\n"), "{output}");
    let line = "-> add: null.a.test. MX 10 mx2.a.test.";
    assert!(output.lines().any(|it| it.trim() == line), "{output}");
}
