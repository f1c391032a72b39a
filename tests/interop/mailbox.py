"""Keeps and reads message files as they are: mailbox.py imap|pop3 HOST:PORT USER PASSWORD FILE...

`imap` appends the files to INBOX, and does with imaplib what clients do; it leaves the messages in
INBOX, in this order. `pop3` finds exactly the files there with poplib, and deletes the first.
"""

import imaplib
import poplib
import re
import sys

PROTOCOL, ADDRESS, USER, PASSWORD = sys.argv[1:5]
HOST, PORT = ADDRESS.rsplit(":", 1)
FILES = []
for path in sys.argv[5:]:
    with open(path, "rb") as file:
        FILES.append(file.read())

imaplib._MAXLINE = poplib._MAXLINE = 64 << 20


def ok(answer):
    status, data = answer
    assert status == "OK", answer
    return data


def imap():
    client = imaplib.IMAP4(HOST, int(PORT))
    ok(client.login(USER, PASSWORD))
    assert "IMAP4REV1" in client.capabilities, client.capabilities
    for octets in FILES:
        appended = ok(client.append("INBOX", "(\\Seen)", '"17-Jul-2026 02:44:25 -0700"', octets))
        assert b"APPENDUID" in appended[0], appended
    assert int(ok(client.select("INBOX"))[0]) == len(FILES)
    items = "(UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE RFC822)"
    for number, octets in enumerate(FILES, 1):
        data = ok(client.fetch(str(number), items))
        literals = [part[1] for part in data if isinstance(part, tuple)]
        assert literals[-1] == octets, f"message {number} is another"
        text = b" ".join(part[0] if isinstance(part, tuple) else part for part in data)
        assert b"RFC822.SIZE %d" % len(octets) in text, text
        assert b"17-Jul-2026" in text, text
        # In pieces, as some clients do.
        pieces = b""
        while True:
            data = ok(client.fetch(str(number), f"(BODY.PEEK[]<{len(pieces)}.700>)"))
            piece = next((part[1] for part in data if isinstance(part, tuple)), b"")
            pieces += piece
            if len(piece) < 700:
                break
        assert pieces == octets, f"message {number} is another in pieces"
    # Flags, searches, copies.
    ok(client.store("1:*", "+FLAGS", "(\\Flagged $Label1)"))
    ok(client.store("1", "-FLAGS", "(\\Seen)"))
    assert ok(client.search(None, "UNSEEN")) == [b"1"]
    everything = " ".join(str(number) for number in range(1, len(FILES) + 1)).encode()
    assert ok(client.search(None, "FLAGGED", "KEYWORD", "$Label1")) == [everything]
    ok(client.create("Archive/2026"))
    ok(client.create('"A b"'))
    ok(client.subscribe("Archive/2026"))
    names = b"\n".join(ok(client.list()))
    assert b"Archive/2026" in names and b'"A b"' in names and b"INBOX" in names, names
    assert b"Archive/2026" in b"\n".join(ok(client.lsub())), "not subscribed"
    ok(client.copy("1:*", "Archive/2026"))
    status = ok(client.status("Archive/2026", "(MESSAGES UNSEEN UIDNEXT UIDVALIDITY)"))
    for item in [b"MESSAGES %d" % len(FILES), b"UNSEEN 1", b"UIDNEXT %d" % (len(FILES) + 1)]:
        assert item in status[0], status
    ok(client.rename('"A b"', "Other"))
    ok(client.select("Archive/2026"))
    ok(client.uid("MOVE", "1", "Other"))
    ok(client.store("1:*", "+FLAGS.SILENT", "(\\Deleted)"))
    ok(client.expunge())
    assert b"MESSAGES 0" in ok(client.status("Archive/2026", "(MESSAGES)"))[0]
    ok(client.close())
    assert int(ok(client.select("Other"))[0]) == 1
    assert ok(client.fetch("1", "(BODY.PEEK[])"))[0][1] == FILES[0]
    ok(client.close())
    for name in ["Other", "Archive/2026"]:
        ok(client.delete(name))
    ok(client.noop())
    client.logout()


def pop3():
    client = poplib.POP3(HOST, int(PORT))
    client.capa()
    client.user(USER)
    client.pass_(PASSWORD)
    count, octets = client.stat()
    assert count == len(FILES), count
    assert octets == sum(len(file) for file in FILES), octets
    _, listing, _ = client.list()
    assert [int(line.split()[1]) for line in listing] == [len(file) for file in FILES], listing
    _, names, _ = client.uidl()
    assert len({line.split()[1] for line in names}) == len(FILES), names
    for number, octets in enumerate(FILES, 1):
        _, lines, _ = client.retr(number)
        assert b"".join(line + b"\r\n" for line in lines) == octets, f"message {number} is another"
        _, lines, _ = client.top(number, 0)
        head = re.split(rb"(?<=\r\n)\r\n", octets, maxsplit=1)[0]
        assert b"".join(line + b"\r\n" for line in lines).startswith(head), f"top of {number}"
    client.dele(1)
    client.quit()
    client = poplib.POP3(HOST, int(PORT))
    client.user(USER)
    client.pass_(PASSWORD)
    assert client.stat()[0] == len(FILES) - 1
    client.quit()


imap() if PROTOCOL == "imap" else pop3()
