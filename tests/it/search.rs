//! SEARCH over messages in a journal on a real disk.

use std::cell::RefCell;

use ringpost::access::imap::search::{self, Found, Scope, SearchError};
use ringpost::access::imap::selected::Selected;
use ringpost::access::imap::{sort, thread};
use ringpost::limits::CHUNK_BYTES_MAX;
use ringpost::mailbox::codec::MailboxId;
use ringpost::mailbox::{InternalDate, Store};
use ringpost::proto::imap::command::{Command, Tag};
use ringpost::proto::imap::flag::{Flags, SystemFlags};
use ringpost::proto::imap::reader::{Event, Reader};
use ringpost::proto::imap::set::NumberSet;
use ringpost::proto::imap::store::FlagChange;

use crate::fetch::{command, select, store_with_inbox};
use crate::mailbox::{deliver, run, to};

fn tag() -> Tag {
    match Reader::default().next(b"a7 NOOP\r\n", &mut Vec::new()).1 {
        Event::Command { tag, .. } => tag,
        event => panic!("{event:?}"),
    }
}

async fn find(
    store: &Store,
    mailbox: MailboxId,
    selected: &RefCell<Selected>,
    text: &str,
) -> Result<(Found, String), SearchError> {
    let Command::Search(command) = command(text) else { panic!("{text}") };
    let saved = [(2, 3)].into_iter().collect();
    let scope = Scope { store, mailbox, selected, saved: &saved };
    let found = search::run(&scope, &command.criteria).await?;
    let mut out = Vec::new();
    search::write(&tag(), &command, false, &scope, &found, &mut out).await?;
    Ok((found, String::from_utf8(out).expect("ASCII")))
}

/// The messages of `store_to_search`, by UID from 1 on.
fn messages() -> Vec<Vec<u8>> {
    let long_text = b"Nothing is here but words.\r\n".repeat(CHUNK_BYTES_MAX / 20);
    let middle = long_text.len() / 2;
    let long = [
        b"Subject: long\r\nTo: odd (x) @ (y) example . test\r\n\r\n",
        &long_text[..middle],
        b"a needle in",
        &long_text[middle..],
    ];
    vec![
        b"From: Ann <ann@example.test>\r\nTo: Bob <bob@example.test>\r\nSubject: One\r\n\
          Date: Mon, 2 Jan 2006 23:30:00 -0500\r\nX-Tag: red\r\n\r\nThe first text.\r\n"
            .to_vec(),
        b"From: =?iso-8859-1?q?J=FCrgen?= <j@example.test>\r\nCc: ann@example.test\r\n\
          Subject: =?utf-8?b?R3LDvMOfZQ==?=\r\nDate: Tue, 3 Jan 2006 10:00:00 +0100\r\n\
          Content-Type: text/plain; charset=windows-1251\r\n\
          Content-Transfer-Encoding: quoted-printable\r\n\r\n=CF=F0=E8=E2=E5=F2 the =\r\nworld\r\n"
            .to_vec(),
        b"From: c@example.test\r\nBcc: d@example.test\r\nMessage-ID: <3@x>\r\nX-Tag:\r\n\
          Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n\
          --b\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n\
          PGI+Qm9sZDwvYj4=\r\n\
          --b\r\nContent-Type: application/x-y; name=report.bin\r\n\r\ntext of no text\r\n\
          --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner thing\r\n\r\ninner body\r\n\
          --b--\r\n"
            .to_vec(),
        long.concat(),
    ]
}

async fn store_to_search(directory: &std::path::Path) -> (Store, MailboxId, RefCell<Selected>) {
    let (store, inbox) = store_with_inbox(directory).await;
    for (index, message) in messages().iter().enumerate() {
        let mut delivery = to(inbox, "Received: by the server\r\n", None);
        delivery.date = InternalDate::utc(86_400 * (10 + index as u32));
        deliver(&store, message, &[delivery]).await.expect("room");
    }
    let mut flags = Flags { system: SystemFlags::SEEN, keywords: Vec::new() };
    flags.add_keyword("$Junk");
    let uids: NumberSet = [(2, 2)].into_iter().collect();
    store.store_flags(inbox, &uids, FlagChange::Add, &flags, None).await.expect("there");
    let selected = select(&store, inbox).await;
    (store, inbox, selected)
}

#[test]
fn every_key_finds_what_it_means() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    run(move || async move {
        let (store, inbox, selected) = store_to_search(&path).await;
        let email_id = {
            let body = store.read(|partition| partition.body_of(inbox, 3)).await.expect("there");
            format!("EMAILID M{:032x}", store.email_id(body.id))
        };
        for (keys, expected) in [
            ("ALL", &[1, 2, 3, 4][..]),
            ("SEEN", &[2]),
            ("UNSEEN NOT DELETED", &[1, 3, 4]),
            ("KEYWORD $junk", &[2]),
            ("UNKEYWORD $Junk UNKEYWORD other", &[1, 3, 4]),
            ("RECENT", &[]),
            ("OLD", &[1, 2, 3, 4]),
            ("2:3,*", &[2, 3, 4]),
            ("UID 3:99", &[3, 4]),
            ("$", &[2, 3]),
            ("NOT $ SMALLER 100000", &[1]),
            ("BEFORE 12-Jan-1970", &[1]),
            ("ON 12-Jan-1970", &[2]),
            ("SINCE 13-Jan-1970", &[3, 4]),
            ("OLDER 1", &[1, 2, 3, 4]),
            ("YOUNGER 1000", &[]),
            ("SENTBEFORE 3-Jan-2006", &[1]),
            ("SENTON 3-Jan-2006", &[2]),
            ("SENTSINCE 2-Jan-2006", &[1, 2]),
            ("SAVEDSINCE 1-Jan-2020 SAVEDATESUPPORTED", &[1, 2, 3, 4]),
            ("SAVEDBEFORE 1-Jan-2020", &[]),
            ("LARGER 100000", &[4]),
            ("MODSEQ 3", &[2, 3, 4]),
            ("MODSEQ \"/flags/\\\\seen\" all 6", &[2]),
            (&email_id, &[3]),
            ("EMAILID M00", &[]),
            ("THREADID x", &[]),
            ("FROM ANN", &[1]),
            ("FROM example.TEST", &[1, 2, 3]),
            ("CHARSET UTF-8 FROM {7+}\r\njürGEN", &[2]),
            ("TO bob", &[1]),
            ("CC ann BCC \"\"", &[]),
            ("BCC d@", &[3]),
            ("CHARSET utf-8 SUBJECT {7+}\r\ngrüße", &[2]),
            ("SUBJECT \"\"", &[1, 2, 4]),
            ("HEADER Message-ID 3@", &[3]),
            ("HEADER X-Tag \"\"", &[1, 3]),
            ("HEADER X-Tag RED", &[1]),
            ("HEADER Received server", &[1, 2, 3, 4]),
            ("BODY \"first text\"", &[1]),
            ("CHARSET UTF-8 BODY {14+}\r\nпривет w", &[]),
            ("CHARSET UTF-8 BODY {14+}\r\nпривет T", &[2]),
            ("BODY \"the world\"", &[2]),
            ("BODY <b>bold", &[3]),
            ("BODY \"no text\"", &[]),
            ("BODY report.bin", &[]),
            ("TEXT report.bin", &[3]),
            ("BODY \"inner thing\"", &[]),
            ("TEXT \"inner thing\"", &[3]),
            ("BODY \"inner body\"", &[3]),
            ("BODY preamble", &[]),
            ("BODY bob", &[]),
            ("TEXT bob", &[1]),
            ("TEXT \"subject: one\"", &[1]),
            ("BODY NEEDLE", &[4]),
            ("BODY \"words.a needle in\"", &[]),
            ("BODY \"\" TEXT \"\"", &[1, 2, 3, 4]),
            ("OR BODY needle (SUBJECT one TEXT red)", &[1, 4]),
            ("NOT TEXT example.test", &[4]),
            ("TO odd@example.test", &[4]),
            ("HEADER TO odd@example.test", &[]),
            ("OR (BODY bold BODY inner) OR NOT TEXT the HEADER X-Tag red", &[1, 3]),
        ] {
            let (found, _) =
                find(&store, inbox, &selected, &format!("UID SEARCH {keys}")).await.unwrap();
            assert_eq!(found.uids.iter().collect::<Vec<u32>>(), expected, "{keys}");
            assert_eq!(found.unreadable, 0);
        }
        store.close().await;
    });
}

#[test]
fn responses_tell_what_was_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    run(move || async move {
        let (store, inbox, _) = store_to_search(&path).await;
        let first: NumberSet = [(1, 1)].into_iter().collect();
        let gone = ringpost::mailbox::Expunging::All(&first);
        store.expunge(inbox, gone).await.expect("there");
        let selected = select(&store, inbox).await;
        for (text, expected) in [
            ("SEARCH ALL", "* SEARCH 1 2 3\r\n"),
            ("UID SEARCH ALL", "* SEARCH 2 3 4\r\n"),
            ("SEARCH DELETED", "* SEARCH\r\n"),
            ("SEARCH MODSEQ 1", "* SEARCH 1 2 3 (MODSEQ 6)\r\n"),
            ("SEARCH DELETED MODSEQ 1", "* SEARCH\r\n"),
            ("SEARCH 4:9,7", "* SEARCH\r\n"),
            ("SEARCH RETURN () ALL", "* ESEARCH (TAG \"a7\") ALL 1:3\r\n"),
            ("UID SEARCH RETURN (MIN MAX) ALL", "* ESEARCH (TAG \"a7\") UID MIN 2 MAX 4\r\n"),
            ("SEARCH RETURN (COUNT SAVE) ALL", "* ESEARCH (TAG \"a7\") COUNT 3\r\n"),
            ("SEARCH RETURN (SAVE) ALL", ""),
            ("SEARCH RETURN (ALL COUNT MIN) DELETED", "* ESEARCH (TAG \"a7\") COUNT 0\r\n"),
            ("SEARCH RETURN (MIN) MODSEQ 1", "* ESEARCH (TAG \"a7\") MIN 1 MODSEQ 6\r\n"),
            ("UID SEARCH RETURN (MAX) MODSEQ 1", "* ESEARCH (TAG \"a7\") UID MAX 4 MODSEQ 5\r\n"),
        ] {
            let (_, out) = find(&store, inbox, &selected, text).await.expect("searched");
            assert_eq!(out, expected, "{text}");
        }
        for (text, error) in [("SEARCH CHARSET KOI8-R ALL", SearchError::BadCharset)] {
            assert_eq!(find(&store, inbox, &selected, text).await.expect_err(text), error);
        }
        store.close().await;
    });
}

#[test]
fn messages_are_sorted_and_threaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    run(move || async move {
        let (store, inbox) = store_with_inbox(&path).await;
        for (date, header) in [
            (
                3,
                "From: Zed <b@x>\r\nTo: \"Q\" <z@x>\r\nSubject: Re: beta\r\n\
                 Date: Mon, 2 Jan 2006 10:00:00 +0000\r\nMessage-ID: <1@x>\r\n\
                 In-Reply-To: <2@x>\r\n",
            ),
            (
                2,
                "From: a@x\r\nCc: m@x\r\nSubject: [list] Beta\r\n\
                 Date: Mon, 2 Jan 2006 10:00:00 +0100\r\nMessage-ID: <2@x>\r\n",
            ),
            (
                1,
                "From: =?utf-8?q?=C3=84nne?= <c@x>\r\nTo: g: y@x;\r\nSubject: alpha\r\n\
                 Message-ID: <3@x>\r\nX-Long: some more text\r\n",
            ),
        ] {
            let mut delivery = to(inbox, "", None);
            delivery.date = InternalDate::utc(1_000_000 * date);
            deliver(&store, header.as_bytes(), &[delivery]).await.expect("room");
        }
        let selected = select(&store, inbox).await;
        let saved = NumberSet::default();
        let scope = Scope { store: &store, mailbox: inbox, selected: &selected, saved: &saved };
        for (keys, expected) in [
            ("(ARRIVAL)", "* SORT 3 2 1\r\n"),
            ("(REVERSE ARRIVAL)", "* SORT 1 2 3\r\n"),
            ("(SIZE)", "* SORT 2 3 1\r\n"),
            ("(DATE)", "* SORT 3 2 1\r\n"),
            ("(SUBJECT DATE)", "* SORT 3 2 1\r\n"),
            ("(SUBJECT REVERSE DATE)", "* SORT 3 1 2\r\n"),
            ("(FROM)", "* SORT 2 1 3\r\n"),
            ("(TO)", "* SORT 2 3 1\r\n"),
            ("(CC REVERSE FROM)", "* SORT 3 1 2\r\n"),
            ("(DISPLAYFROM)", "* SORT 2 3 1\r\n"),
            ("(DISPLAYTO)", "* SORT 2 3 1\r\n"),
            ("RETURN () (REVERSE ARRIVAL)", "* ESEARCH (TAG \"a7\") ALL 1:3\r\n"),
            ("RETURN (ALL MIN) (FROM)", "* ESEARCH (TAG \"a7\") MIN 2 ALL 2,1,3\r\n"),
        ] {
            let Command::Sort(command) = command(&format!("SORT {keys} UTF-8 ALL")) else {
                panic!("{keys}")
            };
            let sorted = sort::run(&scope, &command).await.expect("sorted");
            let mut out = Vec::new();
            sort::write(&tag(), &command, &scope, &sorted, &mut out).await.expect("there");
            assert_eq!(String::from_utf8_lossy(&out), expected, "{keys}");
        }
        for (text, expected) in [
            ("THREAD REFERENCES UTF-8 ALL", "* THREAD (3)(2 1)\r\n"),
            ("UID THREAD ORDEREDSUBJECT UTF-8 ALL", "* THREAD (3)(2 1)\r\n"),
            ("THREAD REFERENCES UTF-8 UID 1", "* THREAD (1)\r\n"),
            ("THREAD REFERENCES UTF-8 DELETED", "* THREAD\r\n"),
        ] {
            let Command::Thread(command) = command(text) else { panic!("{text}") };
            let mut out = Vec::new();
            thread::run(&scope, &command, &mut out).await.expect("threaded");
            assert_eq!(String::from_utf8_lossy(&out), expected, "{text}");
        }
        store.close().await;
    });
}
