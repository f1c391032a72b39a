//! What each record should say, and what it says. Pure.

use std::net::IpAddr;
use std::rc::Rc;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::admin::finding::{Finding, Verdict};
use crate::delivery::sts::StsFailure;
use crate::proto::dns::{Answer, LookupError, Name, Record};
use crate::proto::mta_sts::{Mode, Policy, announced_id};
use crate::routing::dane::usable;
use crate::tls::dane::{Association, Associations};

/// What the DNS said to one question.
pub type Found = Result<Rc<Answer>, LookupError>;

/// Mail of the domain comes to this host.
pub fn mx(domain: &Name, hostname: &Name, found: &Found) -> Finding {
    const SUBJECT: &str = "MX";
    let wanted = add(format!("{domain}. MX 10 {hostname}."));
    let answer = match found {
        Ok(answer) => answer,
        Err(error) if error.is_denial() => {
            return Finding::fail(SUBJECT, format!("{domain}: {error}"), wanted);
        }
        Err(error) => return unknown(SUBJECT, domain, *error),
    };
    let is_ours = |record: &Record| matches!(record, Record::Mx(mx) if mx.exchange == *hostname);
    let shown = show(answer);
    if answer.records.iter().any(is_ours) {
        Finding::ok(SUBJECT, shown)
    } else {
        Finding::fail(SUBJECT, format!("{shown}: not {hostname}"), wanted)
    }
}

/// This host has an address, and is no alias (RFC 5321 §5.1). `found` is one answer for each
/// family.
pub fn addresses(hostname: &Name, found: &[Found]) -> Finding {
    const SUBJECT: &str = "address";
    let alias = found.iter().flatten().find_map(|answer| answer.canonical.as_ref());
    if let Some(target) = alias {
        let advice = "give it address records of its own: an MX host must not be an alias";
        return Finding::fail(SUBJECT, format!("{hostname} is an alias for {target}"), advice);
    }
    let shown: Vec<String> = found.iter().flatten().map(|answer| show(answer)).collect();
    let failure = found.iter().find_map(|it| it.as_ref().err().filter(|it| !it.is_denial()));
    match (shown.is_empty(), failure) {
        (false, _) => Finding::ok(SUBJECT, format!("{hostname}: {}", shown.join(", "))),
        (true, Some(error)) => unknown(SUBJECT, hostname, *error),
        (true, None) => {
            let advice = add(format!("{hostname}. A or AAAA with the public address of this host"));
            Finding::fail(SUBJECT, format!("{hostname}: none"), advice)
        }
    }
}

/// The address leads back to the name: many servers refuse mail otherwise (RFC 8601 §2.7.3).
pub fn pointer(address: IpAddr, hostname: &Name, found: &Found) -> Finding {
    const SUBJECT: &str = "PTR";
    let name = Name::reverse(address);
    let wanted = add(format!("{name}. PTR {hostname}. (whoever gave you the address does it)"));
    match found {
        Ok(answer) if answer.records.contains(&Record::Name(hostname.clone())) => {
            Finding::ok(SUBJECT, format!("{address}: {hostname}"))
        }
        Ok(answer) => {
            Finding::warn(SUBJECT, format!("{address}: {}, not {hostname}", show(answer)), wanted)
        }
        Err(error) if error.is_denial() => {
            Finding::warn(SUBJECT, format!("{address}: none"), wanted)
        }
        Err(error) => unknown(SUBJECT, &name, *error),
    }
}

/// Who may send in the domain's name (RFC 7208).
pub fn spf(domain: &Name, found: &Found) -> Finding {
    let wanted = add(format!("{domain}. TXT \"v=spf1 mx -all\""));
    text("SPF", "v=spf1", found, &wanted)
}

/// What to do with mail that only claims to be from the domain (RFC 7489).
pub fn dmarc(domain: &Name, found: &Found) -> Finding {
    let record = format!("v=DMARC1; p=none; rua=mailto:postmaster@{domain}");
    text("DMARC", "v=DMARC1", found, &add(format!("_dmarc.{domain}. TXT \"{record}\"")))
}

/// Announces a policy for TLS (RFC 8461 §3.1): there or not.
pub fn mta_sts(found: &Found) -> Finding {
    let finding = text("MTA-STS", "v=STSv1", found, "");
    let records = found.as_ref().map(|answer| answer.records.as_slice()).unwrap_or_default();
    let is_there = finding.verdict == Verdict::Ok && finding.found != "none";
    match is_there && announced_id(records).is_none() {
        true => Finding::fail(finding.subject, finding.found, "give it an id: \"v=STSv1; id=1\""),
        false => finding,
    }
}

/// The policy that is announced has to name this host (RFC 8461 §4.1).
pub fn mta_sts_policy(
    domain: &Name,
    hostname: &Name,
    policy: Result<Policy, StsFailure>,
) -> Finding {
    const SUBJECT: &str = "MTA-STS";
    match policy {
        Ok(policy) => {
            let shown = policy.lines().join(", ");
            match policy.mode == Mode::None || policy.allows(hostname.as_str()) {
                true => Finding::ok(SUBJECT, shown),
                false => Finding::fail(SUBJECT, shown, format!("add a line: mx: {hostname}")),
            }
        }
        Err(failure) => {
            let advice =
                format!("serve it at https://mta-sts.{domain}/.well-known/mta-sts.txt (RFC 8461)");
            Finding::fail(SUBJECT, format!("no policy: {}", failure.reason), advice)
        }
    }
}

/// Where reports about TLS go (RFC 8460 §3): there or not.
pub fn tls_report(found: &Found) -> Finding {
    text("TLSRPT", "v=TLSRPTv1", found, "")
}

/// Certificates by DNSSEC (RFC 7672): none, or of what this server shows. `chains` are its
/// certificates.
pub fn tlsa(
    hostname: &Name,
    found: &Found,
    chains: &[Vec<CertificateDer<'static>>],
    trusts_validator: bool,
) -> Finding {
    const SUBJECT: &str = "TLSA";
    let answer = match found {
        Ok(answer) => answer,
        Err(error) if error.is_denial() => return Finding::ok(SUBJECT, "none"),
        Err(error) => return Finding::warn(SUBJECT, error.to_string(), TRY_LATER),
    };
    let shown = show(answer);
    let (records, name) = (usable(answer), ServerName::try_from(hostname.as_str().to_owned()));
    let associations = Associations { records, names: name.into_iter().collect() };
    let is_right = |chain: &Vec<CertificateDer<'static>>| match chain.as_slice() {
        [leaf, rest @ ..] => associations.verify(leaf, rest, UnixTime::now()).is_ok(),
        [] => false,
    };
    if !chains.iter().any(is_right) {
        let leaf = chains.iter().find_map(|chain| chain.first());
        let advice = match leaf.and_then(Association::of_key) {
            Some(ours) => add(format!("_25._tcp.{hostname}. TLSA {ours}")),
            None => "remove them, or give this server a [[certificate]]".to_owned(),
        };
        return Finding::fail(SUBJECT, format!("{shown}: not the certificate shown"), advice);
    }
    if trusts_validator && !answer.authenticated {
        let advice = "sign the zone (DNSSEC): nobody goes by them otherwise";
        return Finding::warn(SUBJECT, format!("{shown}: not authentic"), advice);
    }
    Finding::ok(SUBJECT, shown)
}

/// One text that begins with this version; `wanted` is empty where its absence is as well.
fn text(subject: &'static str, version: &str, found: &Found, wanted: &str) -> Finding {
    let texts: Vec<String> = match found {
        Ok(answer) => {
            let records = answer.records.iter().filter(|record| has_version(record, version));
            records.map(|record| record.to_string()).collect()
        }
        Err(error) if error.is_denial() => Vec::new(),
        Err(error) => return Finding::warn(subject, error.to_string(), TRY_LATER),
    };
    match texts.as_slice() {
        [] if wanted.is_empty() => Finding::ok(subject, "none"),
        [] => Finding::warn(subject, "none", wanted),
        [text] => Finding::ok(subject, text),
        texts => {
            let found = texts.join(" | ");
            Finding::fail(subject, found, "keep one: several count as none, or as an error")
        }
    }
}

/// Whether a TXT record begins with this version and nothing longer.
fn has_version(record: &Record, version: &str) -> bool {
    let Record::Txt(text) = record else { return false };
    let Some((start, rest)) = text.split_at_checked(version.len()) else { return false };
    start.eq_ignore_ascii_case(version.as_bytes())
        && rest.first().is_none_or(|octet| matches!(octet, b' ' | b';' | b'\t'))
}

fn add(record: String) -> String {
    format!("add: {record}")
}

fn show(answer: &Answer) -> String {
    let records: Vec<String> = answer.records.iter().map(|record| record.to_string()).collect();
    records.join(", ")
}

fn unknown(subject: &'static str, name: &Name, error: LookupError) -> Finding {
    Finding::warn(subject, format!("{name}: {error}"), TRY_LATER)
}

const TRY_LATER: &str = "look again later, or at the upstreams in [dns]";

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::mail::TlsFailure;
    use crate::proto::dns::{Mx, Tlsa};
    use crate::tls::identity::tests::certificate;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    fn found(records: Vec<Record>) -> Found {
        Ok(Rc::new(Answer { records, canonical: None, authenticated: false }))
    }

    fn txt(texts: &[&str]) -> Found {
        found(texts.iter().map(|text| Record::Txt(text.as_bytes().into())).collect())
    }

    fn mx_record(exchange: &str) -> Record {
        Record::Mx(Mx { preference: 10, exchange: name(exchange) })
    }

    #[track_caller]
    fn check(finding: Finding, verdict: Verdict, found: &str, advice: &str) {
        assert_eq!((finding.verdict, finding.found.as_str()), (verdict, found));
        assert!(finding.advice.contains(advice), "{}", finding.advice);
        assert_eq!(finding.advice.is_empty(), verdict == Verdict::Ok);
    }

    #[test]
    fn mail_has_to_come_here() {
        let (domain, host) = (name("a.test"), name("mx.test"));
        let mx = |found: &Found| mx(&domain, &host, found);
        let both = found(vec![mx_record("other.test"), mx_record("mx.test")]);
        check(mx(&both), Verdict::Ok, "10 other.test, 10 mx.test", "");
        let other = found(vec![mx_record("other.test")]);
        let wanted = "add: a.test. MX 10 mx.test.";
        check(mx(&other), Verdict::Fail, "10 other.test: not mx.test", wanted);
        let none = Err(LookupError::NoData);
        check(mx(&none), Verdict::Fail, "a.test: no such records", wanted);
        let silent = Err(LookupError::NoAnswer);
        check(mx(&silent), Verdict::Warn, "a.test: DNS server does not answer", "later");
    }

    #[test]
    fn this_host_has_an_address_that_leads_back_to_it() {
        let host = name("mx.test");
        let ip: IpAddr = [192, 0, 2, 1].into();
        let address = found(vec![Record::Address(ip)]);
        let none = Err(LookupError::NoData);
        let silent = Err(LookupError::NoAnswer);
        let of = |found: [&Found; 2]| addresses(&host, &found.map(Clone::clone));
        check(of([&address, &none]), Verdict::Ok, "mx.test: 192.0.2.1", "");
        check(of([&address, &silent]), Verdict::Ok, "mx.test: 192.0.2.1", "");
        check(of([&none, &none]), Verdict::Fail, "mx.test: none", "add: mx.test. A or AAAA");
        check(of([&none, &silent]), Verdict::Warn, "mx.test: DNS server does not answer", "later");
        let canonical = Some(name("real.test"));
        let records = vec![Record::Address(ip)];
        let alias = Ok(Rc::new(Answer { records, canonical, authenticated: false }));
        let shown = "mx.test is an alias for real.test";
        check(of([&alias, &none]), Verdict::Fail, shown, "must not be an alias");
        let pointer = |found: &Found| pointer(ip, &host, found);
        let ours = found(vec![Record::Name(name("x.test")), Record::Name(host.clone())]);
        check(pointer(&ours), Verdict::Ok, "192.0.2.1: mx.test", "");
        let other = found(vec![Record::Name(name("x.test"))]);
        let wanted = "add: 1.2.0.192.in-addr.arpa. PTR mx.test.";
        check(pointer(&other), Verdict::Warn, "192.0.2.1: x.test, not mx.test", wanted);
        check(pointer(&none), Verdict::Warn, "192.0.2.1: none", wanted);
    }

    #[test]
    fn texts_count_by_their_version() {
        let domain = name("a.test");
        let spf = |texts: &[&str]| spf(&domain, &txt(texts));
        let wanted = "add: a.test. TXT \"v=spf1 mx -all\"";
        check(spf(&["x", "v=spf1 -all"]), Verdict::Ok, "v=spf1 -all", "");
        check(spf(&["V=SPF1"]), Verdict::Ok, "V=SPF1", "");
        check(spf(&["x", "v=spf10 -all"]), Verdict::Warn, "none", wanted);
        check(spf(&["v=spf1 a", "v=spf1 b"]), Verdict::Fail, "v=spf1 a | v=spf1 b", "keep one");
        let denied = Err(LookupError::NoDomain);
        check(dmarc(&domain, &denied), Verdict::Warn, "none", "add: _dmarc.a.test. TXT \"v=DMARC1");
        let policy = txt(&["v=DMARC1; p=reject"]);
        check(dmarc(&domain, &policy), Verdict::Ok, "v=DMARC1; p=reject", "");
        for finding in [mta_sts(&denied), tls_report(&denied)] {
            check(finding, Verdict::Ok, "none", "");
        }
        let failed = Err(LookupError::ServerFailure);
        check(mta_sts(&txt(&["v=STSv1;"])), Verdict::Fail, "v=STSv1;", "give it an id");
        check(mta_sts(&txt(&["v=STSv1; id=1;"])), Verdict::Ok, "v=STSv1; id=1;", "");
        check(tls_report(&failed), Verdict::Warn, "DNS server failure", "later");
    }

    #[test]
    fn a_policy_has_to_name_this_host() {
        let (domain, host) = (name("a.test"), name("mx.test"));
        let of = |mode: &str, mx: &str| {
            let text = format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 9");
            mta_sts_policy(&domain, &host, Ok(Policy::parse(text.as_bytes()).expect("valid")))
        };
        let shown = "version: STSv1, mode: enforce, mx: mx.test, max_age: 9";
        check(of("enforce", "mx.test"), Verdict::Ok, shown, "");
        let shown = "version: STSv1, mode: testing, mx: *.mx.test, max_age: 9";
        check(of("testing", "*.mx.test"), Verdict::Fail, shown, "add a line: mx: mx.test");
        assert_eq!(of("none", "*.mx.test").verdict, Verdict::Ok);
        let failure = StsFailure {
            failure: TlsFailure::StsPolicyFetchError,
            reason: "HTTP status 404".into(),
        };
        let finding = mta_sts_policy(&domain, &host, Err(failure));
        let advice = "https://mta-sts.a.test/.well-known/mta-sts.txt";
        check(finding, Verdict::Fail, "no policy: HTTP status 404", advice);
    }

    #[test]
    fn tlsa_records_have_to_be_of_the_certificate_shown() {
        let host = name("mx.test");
        let chain = |names: &[&str]| {
            let (pem, _, _) = certificate(names);
            vec![CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")]
        };
        let (ours, other) = (chain(&["mx.test"]), chain(&["mx.test"]));
        let record = |chain: &[CertificateDer<'static>]| {
            let of_key = Association::of_key(&chain[0]).expect("a certificate");
            let Association { usage, selector, matching, data: association } = of_key;
            Record::Tlsa(Tlsa { usage, selector, matching, association })
        };
        let of = |records: Vec<Record>, chains: &[Vec<_>], trusts_validator| {
            tlsa(&host, &found(records), chains, trusts_validator)
        };
        let both = vec![record(&other), record(&ours)];
        let chains = &[chain(&["x.test"]), ours.clone()];
        assert_eq!(of(both.clone(), chains, false).verdict, Verdict::Ok);
        let finding = of(both, chains, true);
        assert_eq!((finding.verdict, finding.advice.contains("DNSSEC")), (Verdict::Warn, true));
        let finding = of(vec![record(&other)], std::slice::from_ref(&ours), false);
        let wanted = format!("add: _25._tcp.mx.test. TLSA {}", record(&ours));
        assert_eq!((finding.verdict, finding.advice), (Verdict::Fail, wanted));
        let finding = of(vec![record(&other)], &[], false);
        let advice = "remove them, or give this server a [[certificate]]";
        assert_eq!((finding.verdict, finding.advice.as_str()), (Verdict::Fail, advice));
        check(tlsa(&host, &Err(LookupError::NoData), &[], false), Verdict::Ok, "none", "");
        let failed = Err(LookupError::ServerFailure);
        let finding = tlsa(&host, &failed, &[], false);
        check(finding, Verdict::Warn, "DNS server failure", "later");
    }
}
