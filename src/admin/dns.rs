//! `ringpost dns`: the records by which a domain's mail reaches this server, or the answer to one
//! question as the server itself would get it.

mod records;

use std::future::Future;
use std::io::{self, Write};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use clap::Args;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use super::Source;
use super::exit::{Exit, Failure};
use super::finding::{self, Finding, Form};
use crate::config::{Certificate, Config};
use crate::delivery::sts;
use crate::dns::{Resolver, Settings};
use crate::metrics::Metrics;
use crate::proto::dns::{Kind, LookupError, Name, Record};
use crate::proto::mta_sts::announced_id;
use crate::routing::mx::Destination;
use crate::runtime::{executor, probe};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    source: Source,
    /// Domain whose mail this server receives; with --type any name.
    #[arg(value_name = "DOMAIN")]
    domain: String,
    /// Asks for the records of this type and prints them: A, AAAA, MX, TXT, TLSA, PTR, CNAME, NS,
    /// SOA, or TYPE and a number. The name may be an address for PTR.
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_kind)]
    kind: Option<Kind>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::parse(text).ok_or_else(|| "no type of records".to_owned())
}

/// Fails with exit 1 where a check fails or the name has no such records, with 75 where the DNS
/// does not answer.
pub fn run(options: &Options) -> Result<(), Failure> {
    let config = options.source.load()?;
    let form = if options.json { Form::Json } else { Form::Text };
    match options.kind {
        Some(kind) => ask(&config, &options.domain, kind, form),
        None => check(&config, &options.domain, form),
    }
}

fn ask(config: &Config, name: &str, kind: Kind, form: Form) -> Result<(), Failure> {
    let name = match name.parse::<IpAddr>() {
        Ok(address) if kind == Kind::Ptr => Name::reverse(address),
        _ => read_name(name)?,
    };
    let question = name.clone();
    let found = resolve(config, move |resolver| async move {
        let found = resolver.lookup(&question, kind).await;
        (found.result.map(|answer| (*answer).clone()), found.ttl)
    })?;
    let (answer, ttl) = match found {
        (Ok(answer), ttl) => (answer, ttl.as_secs()),
        (Err(error), _) => {
            let exit = if error.is_denial() { Exit::Found } else { Exit::Temporary };
            return Err(Failure::new(exit, format!("{name} {kind}: {error}")));
        }
    };
    let records: Vec<String> = answer.records.iter().map(|it| it.to_string()).collect();
    let owner = answer.canonical.as_ref().unwrap_or(&name);
    let text = match form {
        Form::Json => {
            let answer = json!({
                "name": name.as_str(),
                "canonical": owner.as_str(),
                "type": kind.to_string(),
                "ttl": ttl,
                "authenticated": answer.authenticated,
                "records": records,
            });
            format!("{answer:#}\n")
        }
        Form::Text => {
            records.iter().map(|record| format!("{owner} {ttl} {kind} {record}\n")).collect()
        }
    };
    io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::new(Exit::InputOutput, error))
}

fn check(config: &Config, domain: &str, form: Form) -> Result<(), Failure> {
    let domain = read_name(domain)?;
    let hostname = read_name(&config.hostname)?;
    let own = Own {
        hostname,
        chains: config.certificates.iter().map(read_chain).collect::<Result<_, _>>()?,
        trusts_validator: config.dns.trust_ad,
        policy_port: config.delivery.tls.mta_sts_port,
        web: config.delivery.tls.contexts.web(),
    };
    let findings = resolve(config, |resolver| async move { look(&resolver, &domain, &own).await })?;
    finding::report(&findings, form)
}

/// What records are compared with.
struct Own {
    hostname: Name,
    /// Of each `[[certificate]]`.
    chains: Vec<Vec<CertificateDer<'static>>>,
    trusts_validator: bool,
    policy_port: u16,
    web: Arc<ClientConfig>,
}

fn read_chain(certificate: &Certificate) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let path = &certificate.chain;
    let failure =
        |error: String| Failure::new(Exit::Config, format!("{}: {error}", path.display()));
    let pem = std::fs::read(path).map_err(|error| failure(error.to_string()))?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>();
    chain.map_err(|error| failure(format!("not PEM: {error}")))
}

/// Asks for everything, one after the other, and judges it.
async fn look(resolver: &Resolver, domain: &Name, own: &Own) -> Vec<Finding> {
    let hostname = &own.hostname;
    let ask = async |name: &Name, kind| resolver.lookup(name, kind).await.result;
    let ask_below = async |labels: &str, name: &Name, kind| match name.prefixed(labels) {
        Some(name) => ask(&name, kind).await,
        None => Err(LookupError::NoDomain),
    };
    let mut findings = vec![records::mx(domain, hostname, &ask(domain, Kind::Mx).await)];
    let found = [ask(hostname, Kind::A).await, ask(hostname, Kind::Aaaa).await];
    findings.push(records::addresses(hostname, &found));
    for answer in found.iter().flatten() {
        for record in &answer.records {
            if let Record::Address(address) = record {
                let found = ask(&Name::reverse(*address), Kind::Ptr).await;
                findings.push(records::pointer(*address, hostname, &found));
            }
        }
    }
    findings.push(records::spf(domain, &ask(domain, Kind::Txt).await));
    findings.push(records::dmarc(domain, &ask_below("_dmarc", domain, Kind::Txt).await));
    let announced = ask_below("_mta-sts", domain, Kind::Txt).await;
    findings.push(records::mta_sts(&announced));
    if announced.is_ok_and(|answer| announced_id(&answer.records).is_some()) {
        let policy = sts::look(domain, resolver, own.policy_port, own.web.clone()).await;
        findings.push(records::mta_sts_policy(domain, hostname, policy));
    }
    findings.push(records::tls_report(&ask_below("_smtp._tls", domain, Kind::Txt).await));
    let found = ask_below("_25._tcp", hostname, Kind::Tlsa).await;
    findings.push(records::tlsa(hostname, &found, &own.chains, own.trusts_validator));
    findings
}

/// A name as an operator writes it, with U-labels or without.
fn read_name(text: &str) -> Result<Name, Failure> {
    match Destination::parse(text) {
        Ok(Destination::Domain(name)) => Ok(name),
        _ => Err(Failure::new(Exit::Usage, format!("{text}: not a domain"))),
    }
}

/// Runs `body` with a resolver on an executor of its own.
fn resolve<T, F>(
    config: &Config,
    body: impl FnOnce(Resolver) -> F + Send + 'static,
) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    probe::io_uring().map_err(|error| Failure::new(Exit::System, error))?;
    let settings = Settings::of_machine(&config.dns);
    let (sender, receiver) = std::sync::mpsc::channel();
    let run = move || async move {
        let resolver = Resolver::new(settings, Rc::new(Metrics::default()));
        sender.send(body(resolver).await).expect("the caller waits for it");
    };
    let thread = executor::spawn("dns", None, run);
    let ended = thread.map(|thread| thread.join().expect("a panic there ends the process"));
    ended.flatten().map_err(|error| Failure::new(Exit::System, error))?;
    Ok(receiver.recv().expect("sent before the executor ended"))
}
