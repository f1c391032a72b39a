//! The shipped rules against replies that other people have sorted.
//!
//! Their classes are not ours: each of theirs stands for one or several of ours here. Cases outside
//! the project are skipped with a line where they are not there.

use std::path::Path;

use ringpost::config::Config;
use ringpost::mail::{EnhancedStatusCode, Reply, ReplyClass};
use ringpost::proto::classify::{Effect, Expression, Judgement, ReplyContext, Rules};

use ReplyClass::*;

use crate::harness::{Behaviour, NextHop, Server, testdata, wait_until};

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).expect("a file")).replace("\r\n", "\n")
}

fn judge(rules: &Rules, reply: &Reply) -> Judgement {
    let (site, domain) = ("smtp://192.0.2.1:25", "example.test");
    rules.judge(&ReplyContext { reply, site, domain, source: "", tenant: "" })
}

/// `550 5.1.1 text` as the SMTP client would have read it; a code of its own where it has none.
fn reply_of(line: &str) -> Reply {
    let digits = line.as_bytes().iter().take_while(|octet| octet.is_ascii_digit()).count();
    let (code, rest) = match line[..digits].parse() {
        Ok(code @ 200..=599) if digits == 3 => {
            (code, line[3..].trim_start_matches(['-', ' ', ':']))
        }
        _ if line.starts_with("4.") => (450, line),
        _ => (550, line),
    };
    let rest = rest.trim_start();
    let (status, text) = match EnhancedStatusCode::parse_prefix(rest.as_bytes()) {
        Some((status, taken)) => (Some(status), rest[taken..].trim_start()),
        None => (None, rest),
    };
    Reply::remote(code, status, text.to_owned())
}

/// Counts agreements and shows the rest.
#[derive(Default)]
struct Tally {
    ran: usize,
    agreed: usize,
    disagreed: Vec<String>,
}

impl Tally {
    fn count(&mut self, expected: &[ReplyClass], theirs: &str, judged: ReplyClass, case: &str) {
        self.ran += 1;
        if expected.contains(&judged) {
            self.agreed += 1;
        } else {
            let judged = judged.as_str();
            self.disagreed.push(format!("{case}: {theirs} there, {judged} here"));
        }
    }

    fn finish(&self, name: &str, percent_min: usize) {
        for case in &self.disagreed {
            println!("  {case}");
        }
        let Self { ran, agreed, .. } = self;
        println!("{name}: {agreed} of {ran} cases agree ({:.1} %)", percent(*agreed, *ran));
        assert!(*ran > 0);
        assert!(agreed * 100 >= ran * percent_min, "{name}: below {percent_min} %");
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole as f64
}

#[test]
fn a_rule_decides_over_the_reply_code_and_its_class_is_logged_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rules.toml");
    let rule = "[[rule]]\nclass = \"reputation\"\ndomain = \"to.test\"\ntext = \"not today\"\n\
                action = \"temporary\"\n[[rule]]\nclass = \"policy\"\ncode = \"5xx\"\n";
    std::fs::write(&path, rule).expect("written");
    let next_hop = NextHop::start(Behaviour {
        on_rcpt: Box::new(|_, _| Some("550 5.7.1 Not today".into())),
        ..Behaviour::default()
    });
    let extra = format!("[delivery]\nrules = \"{}\"\n", path.display());
    let server = Server::start(next_hop.address, &extra);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let reply = client.message("", &["b@to.test", "b@other.test"], b"x: y\r\n\r\n");
    assert!(reply.starts_with("250"), "{reply}");
    wait_until("both are logged", || {
        let log = server.log();
        log.contains("outcome=delayed") && log.contains("outcome=failed")
    });
    let log = server.log();
    let line = |recipient: &str| log.lines().find(|it| it.contains(recipient)).expect("logged");
    assert!(line("<b@to.test>").contains(" class=reputation "), "{log}");
    assert!(line("<b@other.test>").contains(" class=policy "), "{log}");
    let count =
        |class| server.metric(&format!("ringpost_delivery_replies_total{{class=\"{class}\""));
    assert_eq!((count("reputation"), count("policy"), count("spam")), (1.0, 1.0, 0.0));
}

/// Each file of `tests/data/replies`: a class, then the reply as a server sends it. An action
/// stands behind the class where the rule has one.
#[test]
fn replies_of_large_providers_get_their_class_and_action() {
    let config = Config::embedded();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/replies");
    let (mut count, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        for line in read(&path).lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (expected, reply) = line.split_once(" | ").expect("CLASS | REPLY");
            let reply = reply_of(&reply.replace("\\n", "\n"));
            let judged = judge(&config.delivery.rules, &reply);
            let mut words = vec![judged.class.as_str()];
            words.extend(judged.outcome.map(|outcome| outcome.as_str()));
            words.extend(judged.effect.map(|effect| match effect {
                Effect::Slow { .. } => "slow",
                Effect::Suspend { .. } => "suspend",
                Effect::Dead => "dead",
            }));
            if words.join(" ") != expected.trim_end() {
                wrong.push(format!("{line}\n  is {} here", words.join(" ")));
            }
            count += 1;
        }
    }
    println!("tests/data/replies: {count} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100);
}

#[test]
fn registered_codes_are_classed_as_other_people_class_them() {
    let Some(directory) = testdata("bounce-rules-iana") else { return };
    let table: toml::Table = read(&directory.join("iana.toml")).parse().expect("TOML");
    let theirs: Vec<(&str, Vec<Expression>)> = table["rules"]
        .as_table()
        .expect("a table")
        .iter()
        .map(|(class, list)| {
            let list = list.as_array().expect("a list").iter();
            let patterns = list.map(|it| Expression::parse(it.as_str().expect("a text")));
            (class.as_str(), patterns.collect::<Result<_, _>>().expect("expressions"))
        })
        .collect();
    let config = Config::embedded();
    let mut tally = Tally::default();
    for (subject, detail_max) in [(0, 0), (1, 10), (2, 4), (3, 6), (4, 7), (5, 6), (6, 10), (7, 38)]
    {
        for (class, detail) in
            [4, 5].into_iter().flat_map(|it| (0..=detail_max).map(move |d| (it, d)))
        {
            let status = EnhancedStatusCode::new(class, subject, detail);
            for code in (400..600).filter(|code| code / 100 == u16::from(class)) {
                let line = format!("{code} {status} ");
                let matching = |it: &&(&str, Vec<Expression>)| {
                    it.1.iter().any(|pattern| pattern.matches(line.as_bytes()))
                };
                let matched: Vec<&str> = theirs.iter().filter(matching).map(|it| it.0).collect();
                if matched.is_empty() {
                    continue;
                }
                let expected: Vec<ReplyClass> =
                    matched.iter().flat_map(|it| iana_class(it).iter().copied()).collect();
                let reply = Reply::remote(code, Some(status), String::new());
                let judged = judge(&config.delivery.rules, &reply).class;
                tally.count(&expected, &matched.join("/"), judged, &line);
            }
        }
    }
    tally.finish("bounce-rules-iana", 99);
}

fn iana_class(theirs: &str) -> &'static [ReplyClass] {
    match theirs {
        "InvalidRecipient" => &[InvalidMailbox],
        "BadDomain" => &[BadDomain],
        "InactiveMailbox" => &[MailboxDisabled],
        "InvalidSender" => &[InvalidSender],
        // A mailbox, a system and a message may each be too full.
        "QuotaIssues" => &[MailboxFull, TooLarge, System],
        "NoAnswerFromHost" | "BadConnection" | "DNSFailure" => &[Network],
        "RoutingErrors" => &[Routing],
        "TransientFailure" => &[Rate],
        "MessageExpired" => &[Expired],
        "ProtocolErrors" => &[Protocol, Content],
        // Everything under 7, with them: here it says what of it.
        "AuthenticationFailed" => &[Authentication, Credentials, Encryption, Policy],
        "PolicyRelated" => &[Policy, Rate],
        "TooManyRecipients" => &[TooManyRecipients],
        other => panic!("{other} is new"),
    }
}

#[test]
fn replies_in_bounces_are_classed_as_other_people_class_them() {
    let Some(directory) = testdata("bounce-sisimai") else { return };
    let text = read(&directory.join("expected.json"));
    let expected: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let config = Config::embedded();
    let mut tally = Tally::default();
    let (mut other_kind, mut without) = (0, 0);
    for (name, recipients) in expected.as_object().expect("an object") {
        let recipients = recipients.as_array().expect("a list");
        let reasons: Vec<&str> =
            recipients.iter().map(|it| it["reason"].as_str().expect("a text")).collect();
        let replies = replies_in(&read(&directory.join("maildir").join(name)));
        let is_one_reason = reasons.iter().all(|reason| *reason == reasons[0]);
        for (index, reason) in reasons.iter().enumerate() {
            let Some(classes) = sisimai_class(reason) else {
                other_kind += 1;
                continue;
            };
            let reply = match replies.get(index) {
                Some(reply) if replies.len() == reasons.len() => reply,
                _ if is_one_reason && !replies.is_empty() => &replies[0],
                _ => {
                    without += 1;
                    continue;
                }
            };
            let judged = judge(&config.delivery.rules, &reply_of(reply)).class;
            tally.count(classes, reason, judged, &format!("{name}: {reply}"));
        }
    }
    println!("bounce-sisimai: {other_kind} are no refusals, {without} quote no reply");
    tally.finish("bounce-sisimai", 91);
}

/// `None` for what is no refusal by a next hop: complaints, vacation notices, local programs.
fn sisimai_class(theirs: &str) -> Option<&'static [ReplyClass]> {
    Some(match theirs {
        "userunknown" => &[InvalidMailbox],
        "mailboxfull" => &[MailboxFull],
        "suspend" => &[MailboxDisabled],
        "hasmoved" => &[MailboxDisabled, InvalidMailbox],
        // Refused after the content: who the recipient is, or what the recipient wants.
        "filtered" => &[InvalidMailbox, MailboxDisabled, Policy, Content],
        "hostunknown" => &[BadDomain],
        "notaccept" => &[BadDomain, System],
        "expired" => &[Expired, Network],
        "networkerror" => &[Network, Routing],
        "systemerror" => &[System, Network],
        "systemfull" => &[System, MailboxFull],
        "onhold" => &[System, Other],
        // By the reverse-path.
        "rejected" => &[InvalidSender, Reputation],
        "blocked" => &[Reputation],
        "badreputation" => &[Reputation],
        "authfailure" | "requireptr" => &[Authentication],
        "policyviolation" => &[Policy, Content],
        "securityerror" => &[Policy, Credentials, Encryption],
        "norelaying" => &[RelayDenied],
        "spamdetected" => &[Spam],
        "virusdetected" => &[Virus],
        "contenterror" => &[Content],
        "exceedlimit" | "mesgtoobig" => &[TooLarge],
        "speeding" | "ratelimited" => &[Rate],
        "toomanyconn" => &[Rate, TooManyRecipients],
        "syntaxerror" => &[Protocol],
        "delivered" | "feedback" | "mailererror" | "undefined" | "vacation" => return None,
        other => panic!("{other} is new"),
    })
}

/// The replies that a bounce quotes: its Diagnostic-Code fields, or else lines of its text.
fn replies_in(message: &str) -> Vec<String> {
    let lines: Vec<&str> = message.lines().collect();
    let mut fields = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if !line.get(..16).is_some_and(|it| it.eq_ignore_ascii_case("Diagnostic-Code:")) {
            continue;
        }
        let folded = lines[index + 1..].iter().take_while(|it| it.starts_with([' ', '\t']));
        let value = folded.fold(line[16..].trim().to_owned(), |value, it| value + " " + it.trim());
        let value = value.split_once(';').map_or(value.as_str(), |(_, value)| value).trim();
        fields.push(without_repeated_code(value));
    }
    if !fields.is_empty() {
        return fields;
    }
    let body = lines.iter().position(|line| line.is_empty()).unwrap_or(0);
    let mut replies: Vec<String> = Vec::new();
    let mut next = body;
    while next < lines.len() {
        let line = lines[next];
        next += 1;
        let Some(start) = reply_start(line) else { continue };
        let mut reply = line[start..].trim().to_owned();
        // A reply may go on in the next lines, up to an empty one or another reply's.
        while let Some(more) = lines.get(next).filter(|it| !it.trim().is_empty()) {
            let more = more.trim();
            let goes_on = reply_start(more).is_none() || more.get(..4) == reply.get(..4);
            if !goes_on || reply.len() > 600 || OWN_WORDS.iter().any(|it| more.starts_with(it)) {
                break;
            }
            reply = reply + " " + more.trim();
            next += 1;
        }
        replies.push(without_repeated_code(&reply));
    }
    replies
}

/// Where a bounce goes on in the words of whoever wrote it.
const OWN_WORDS: &[&str] = &["Giving up on", "I'm not going to try again", "-----", "--- Below"];

/// Where in a line of a bounce's text a reply begins: `550 `, `550-`, `5.1.1 `, `(#5.1.1)`.
fn reply_start(line: &str) -> Option<usize> {
    let is_field = line.split_once(": ").is_some_and(|(name, _)| {
        name.contains('-') && !name.contains([' ', '<', '@']) || name == "Received"
    });
    if is_field {
        return None;
    }
    (0..line.len()).filter(|at| line.is_char_boundary(*at)).find(|at| {
        let before = line[..*at].chars().next_back();
        let bytes = &line.as_bytes()[*at..];
        let is_free = before.is_none_or(|c| !c.is_ascii_alphanumeric() && !".-:[".contains(c));
        let is_code = matches!(bytes, [b'4' | b'5', a, b, b' ' | b'-', ..]
            if a.is_ascii_digit() && b.is_ascii_digit());
        let status = line[*at..].split([' ', ')']).next().unwrap_or("");
        let is_status = EnhancedStatusCode::parse_prefix(status.as_bytes()).is_some();
        is_free && (is_code || (is_status && !status.starts_with('2')))
    })
}

/// A multi-line reply written in one line repeats its code; the SMTP client does not show that.
fn without_repeated_code(reply: &str) -> String {
    let mut text = reply.split_whitespace().collect::<Vec<_>>().join(" ");
    let code = text.get(..3).filter(|it| it.bytes().all(|octet| octet.is_ascii_digit()));
    let Some(code) = code.map(str::to_owned) else { return text };
    let first = text.get(..4).map(|it| it.replace('-', " ")).unwrap_or_default();
    let status = text.get(4..).and_then(|it| it.split(' ').next()).unwrap_or("").to_owned();
    let rest = text.split_off(first.len().min(text.len()));
    let mut rest = rest;
    if status.contains('.') {
        for separator in ["-", " "] {
            rest = rest.replace(&format!(" {code}{separator}{status} "), " ");
        }
    }
    rest = rest.replace(&format!(" {code}-"), " ");
    first + &rest
}
