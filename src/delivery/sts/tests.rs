use super::*;

fn kept(id: &str, mode: &str, max_age_s: u32, fetched_s: u64) -> Kept {
    let text = format!("version: STSv1\nmode: {mode}\nmx: mx.a.test\nmax_age: {max_age_s}");
    let policy = Policy::parse(text.as_bytes()).expect("valid");
    let policy = StsPolicy { domain: "a.test".into(), id: id.into(), policy };
    Kept { policy: Arc::new(policy), fetched_s }
}

#[test]
fn a_policy_holds_for_its_time_whatever_becomes_of_its_announcement() {
    let day = 86_400;
    let known = kept("1", "enforce", 10 * day, 1_000);
    let step = |announced, now_s| next_step(Some(known.clone()), announced, now_s);
    let end_s = 1_000 + 10 * u64::from(day);
    assert_eq!(step(Some("1"), 1_001), Step::Use(Some(known.clone())));
    assert_eq!(step(None, end_s - 1), Step::Use(Some(known.clone())));
    assert_eq!(step(None, end_s), Step::Use(None));
    assert_eq!(step(Some("1"), 1_000 + u64::from(day)), Step::Refresh(known.clone()));
    assert_eq!(step(Some("2"), 1_001), Step::Fetch(Some(known.clone())));
    assert_eq!(step(Some("1"), end_s), Step::Fetch(None));
    assert_eq!(next_step(None, Some("1"), 1), Step::Fetch(None));
    assert_eq!(next_step(None, None, 1), Step::Use(None));
    let short = kept("1", "enforce", 100, 1_000);
    let step = |now_s| next_step(Some(short.clone()), Some("1"), now_s);
    assert_eq!(step(1_049), Step::Use(Some(short.clone())));
    assert_eq!(step(1_050), Step::Refresh(short.clone()));
    // A clock that was set back makes nothing old.
    assert_eq!(step(1), Step::Use(Some(short.clone())));
}

#[test]
fn what_is_found_holds_no_longer_than_the_policy() {
    let hour = Duration::from_secs(3600);
    let found = |kept| found(Some(kept), None, hour, 1_000);
    let enforced = found(kept("1", "enforce", 100, 950));
    assert!(enforced.policy.is_some());
    assert_eq!(enforced.ttl, Duration::from_secs(50));
    let none = found(kept("1", "none", 10_000, 1_000));
    assert_eq!((none.policy, none.ttl), (None, hour));
}

#[test]
fn a_web_server_has_to_answer_as_the_standard_says() {
    let text = "version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 9";
    let of = |status, content_type: &str, body: &str| {
        let (content_type, body) = (content_type.to_owned(), body.as_bytes().to_vec());
        let result = policy_of(Ok(Response { status, content_type, fields: Vec::new(), body }));
        result.expect("it was asked").map_err(|error| error.failure)
    };
    assert!(of(200, "text/plain", text).is_ok());
    assert!(of(200, "Text/Plain; charset=utf-8", text).is_ok());
    assert_eq!(of(200, "text/html", text), Err(TlsFailure::StsPolicyInvalid));
    assert_eq!(of(200, "", text), Err(TlsFailure::StsPolicyInvalid));
    assert_eq!(of(200, "text/plain", "x"), Err(TlsFailure::StsPolicyInvalid));
    assert_eq!(of(201, "text/plain", text), Err(TlsFailure::StsPolicyFetchError));
    assert!(policy_of(Err(Failure::Busy)).is_none());
    let failed = |error| {
        let result = policy_of(Err(error)).expect("it was asked");
        result.expect_err("no policy").failure
    };
    assert_eq!(failed(Failure::Timeout), TlsFailure::StsPolicyFetchError);
    assert_eq!(failed(Failure::Status(301)), TlsFailure::StsPolicyFetchError);
    assert_eq!(failed(Failure::TooLarge), TlsFailure::StsPolicyInvalid);
    let expired = Failure::Certificate(rustls::CertificateError::Expired);
    assert_eq!(failed(expired), TlsFailure::StsWebpkiInvalid);
}

#[test]
fn the_file_reads_back_and_damage_is_nothing() {
    let all = [kept("1", "enforce", 100, 5), kept("2", "none", 200, 6)];
    let text = write_file(all.iter());
    assert_eq!(read_file(&text).as_deref(), Ok(&all[..]));
    for end in 0..text.len() - 2 {
        assert!(read_file(&text[..end]).is_err(), "cut at {end}");
    }
    let refused = |from: &str, to: &str| read_file(&text.replace(from, to)).is_err();
    assert!(refused("\"version\": 1", "\"version\": 2"));
    assert!(refused("mode: none", "mode: nona"));
    assert!(refused("a.test\"", "a..test\""));
    assert!(refused("fetched_s", "fetched"));
}

#[test]
fn what_was_kept_is_there_after_a_restart_until_its_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(FILE_NAME);
    let now_s = clock::unix_ms() / 1000;
    let valid = kept("1", "enforce", 1_000, now_s);
    whole_file::replace(&path, write_file([&valid].into_iter()).as_bytes()).expect("written");
    let restored = restore(&path);
    assert_eq!(restored.get("a.test"), Some(&valid));
    let over = kept("1", "enforce", 10, now_s - 10);
    whole_file::replace(&path, write_file([&over].into_iter()).as_bytes()).expect("written");
    assert!(restore(&path).is_empty());
    fs::write(&path, "{").expect("written");
    assert!(restore(&path).is_empty());
    assert!(restore(&directory.path().join("none")).is_empty());
}
