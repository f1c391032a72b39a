"""Synchronises a mailbox with a Maildir, both ways, while both change and all is interrupted.

    sync.py CLIENT HOST:PORT USER PASSWORD DIRECTORY MESSAGES ROUNDS SEED

CLIENT is mbsync or offlineimap. In each round both sides change at random, then the client is run a
few times and interrupted: it is killed, or whoever runs this is asked to kill the server, by a line
`kill` on standard output; a line on standard input says that it serves again. After the last round
the client runs to its end, and then both sides have to be the same: messages, octets and flags, and
no message missing or there that should not be.
"""

import collections
import hashlib
import imaplib
import os
import random
import re
import subprocess
import sys
import time

CLIENT, ADDRESS, USER, PASSWORD, DIRECTORY = sys.argv[1:6]
MESSAGES, ROUNDS, SEED = (int(word) for word in sys.argv[6:9])
HOST, PORT = ADDRESS.rsplit(":", 1)
RANDOM = random.Random(SEED)
MAILDIR = os.path.join(DIRECTORY, "mail", "INBOX")
FLAGS = {"\\Seen": "S", "\\Flagged": "F", "\\Answered": "R", "\\Draft": "D"}
# What the clients themselves put into messages that they upload.
OWN_FIELDS = re.compile(rb"(?im)^(X-TUID|X-OfflineIMAP[^:]*):.*\n")
INTERRUPTIONS = 3
CLIENT_SECONDS_MAX = 600
# Longer than a client waits for a server that does not answer.
STUCK_SECONDS = 90

imaplib._MAXLINE = 64 << 20
imaplib.Debug = 0


def content(number):
    lines = [
        f"X-Id: {number}",
        f"From: Writer {number % 7} <writer{number % 7}@from.test>",
        "To: reader@to.test",
        f"Subject: letter {number}",
        f"Date: Mon, {1 + number % 28:02} Nov 2026 10:00:00 +0000",
        f"Message-ID: <{number}@from.test>",
        "",
        f"This is letter {number}.",
        ".",
    ]
    lines += ["All work and no play makes a dull letter."] * (number % 40)
    return "\n".join(lines) + "\n"


class Far:
    """The server's side."""

    def __init__(self):
        self.imap = imaplib.IMAP4(HOST, int(PORT))
        self.imap.login(USER, PASSWORD)
        status, data = self.imap.select("INBOX")
        assert status == "OK", data
        self.exists = int(data[0])

    def close(self):
        self.imap.logout()

    def add(self, number, flags):
        octets = content(number).replace("\n", "\r\n").encode()
        flags, now = "(" + " ".join(flags) + ")", imaplib.Time2Internaldate(time.time())
        status, data = self.imap.append("INBOX", flags, now, octets)
        assert status == "OK", data

    def uids(self):
        """UIDs by the number of the message."""
        if self.exists == 0:
            return {}
        uids = collections.defaultdict(list)
        status, data = self.imap.uid("FETCH", "1:*", "(BODY.PEEK[HEADER.FIELDS (X-Id)])")
        assert status == "OK", data
        for part in data:
            # The UID may stand before the literal or behind it.
            if isinstance(part, tuple):
                number = int(part[1].split(b":")[1])
                uid = re.search(rb"UID (\d+)", part[0])
            else:
                uid = uid or re.search(rb"UID (\d+)", part)
                uids[number].append(int(uid.group(1)))
        return uids

    def change(self, action, uids):
        for at in range(0, len(uids), 500):
            batch = ",".join(str(uid) for uid in uids[at : at + 500])
            status, data = self.imap.uid("STORE", batch, *action)
            assert status == "OK", data

    def expunge(self):
        status, data = self.imap.expunge()
        assert status == "OK", data

    def all(self):
        """Number, digest and flags of each message."""
        found = []
        if self.exists == 0:
            return found
        status, data = self.imap.fetch("1:*", "(FLAGS BODY.PEEK[])")
        assert status == "OK", data
        for part in data:
            if isinstance(part, tuple):
                head, octets = part
            else:
                flags = re.search(rb"FLAGS \(([^)]*)\)", head + part).group(1).decode().split()
                letters = "".join(sorted(FLAGS[flag] for flag in flags if flag in FLAGS))
                found.append(described(octets, letters))
        return found


class Near:
    """The Maildir."""

    def __init__(self):
        for part in ["cur", "new", "tmp"]:
            os.makedirs(os.path.join(MAILDIR, part), exist_ok=True)

    def files(self):
        """Paths by the number of the message."""
        files = collections.defaultdict(list)
        for part in ["cur", "new"]:
            for name in os.listdir(os.path.join(MAILDIR, part)):
                path = os.path.join(MAILDIR, part, name)
                with open(path, "rb") as file:
                    number = re.search(rb"(?m)^X-Id: (\d+)", file.read(4096)).group(1)
                files[int(number)].append(path)
        return files

    def add(self, number, flags):
        letters = "".join(sorted(FLAGS[flag] for flag in flags))
        name = f"{int(time.time())}.M{number}P{os.getpid()}.near"
        draft = os.path.join(MAILDIR, "tmp", name)
        with open(draft, "w", encoding="ascii") as file:
            file.write(content(number))
        os.rename(draft, os.path.join(MAILDIR, "cur", f"{name}:2,{letters}"))

    def flag(self, path, letters):
        directory, name = os.path.split(path)
        base, _, now = name.partition(":2,")
        now = "".join(sorted(set(now) ^ set(letters)))
        directory = os.path.join(os.path.dirname(directory), "cur")
        os.rename(path, os.path.join(directory, f"{base}:2,{now}"))

    def all(self):
        found = []
        for part in ["cur", "new"]:
            for name in os.listdir(os.path.join(MAILDIR, part)):
                with open(os.path.join(MAILDIR, part, name), "rb") as file:
                    octets = file.read()
                letters = name.partition(":2,")[2] if ":2," in name else ""
                letters = "".join(sorted(set(letters) & set(FLAGS.values())))
                found.append(described(octets, letters))
        return found


def described(octets, letters):
    octets = OWN_FIELDS.sub(b"", octets.replace(b"\r\n", b"\n"))
    number = int(re.search(rb"(?m)^X-Id: (\d+)", octets).group(1))
    return number, hashlib.sha256(octets).hexdigest()[:16], letters


def write_configuration():
    path = os.path.join(DIRECTORY, "configuration")
    if CLIENT == "mbsync":
        text = f"""
IMAPAccount far
Host {HOST}
Port {PORT}
User {USER}
Pass {PASSWORD}
SSLType None
AuthMechs LOGIN
Timeout 60

IMAPStore far
Account far

MaildirStore near
Path {os.path.dirname(MAILDIR)}/
Inbox {MAILDIR}
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns INBOX
Create Near
Expunge Both
CopyArrivalDate yes
SyncState {DIRECTORY}/state-
"""
        command = ["mbsync", "-q", "-c", path, "all"]
    else:
        text = f"""
[general]
metadata = {DIRECTORY}/metadata
accounts = all
maxsyncaccounts = 1
socktimeout = 60

[Account all]
localrepository = near
remoterepository = far

[Repository near]
type = Maildir
localfolders = {os.path.dirname(MAILDIR)}

[Repository far]
type = IMAP
remotehost = {HOST}
remoteport = {PORT}
remoteuser = {USER}
remotepass = {PASSWORD}
ssl = no
starttls = no
maxconnections = 1
createfolders = False
folderfilter = lambda name: name == "INBOX"
"""
        command = ["offlineimap", "-o", "-u", "quiet", "-c", path]
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return command


COMMAND = write_configuration()


def start():
    log = open(os.path.join(DIRECTORY, "client.log"), "ab")
    output = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
    return subprocess.Popen(COMMAND, env=dict(os.environ, HOME=DIRECTORY), **output)


def run():
    """To its end; how long that took."""
    since = time.monotonic()
    status = start().wait(CLIENT_SECONDS_MAX)
    assert status == 0, f"{CLIENT} ended with {status}: " + client_log()
    return time.monotonic() - since


def client_log():
    with open(os.path.join(DIRECTORY, "client.log"), "rb") as file:
        return file.read()[-2000:].decode(errors="replace")


def kill_server():
    print("kill", flush=True)
    assert sys.stdin.readline(), "nobody starts the server again"


def count():
    far = Far()
    far.close()
    return far.exists


def interrupted(seconds, killed):
    """Runs the client, and ends it or the server within so many seconds."""
    process = start()
    try:
        process.wait(RANDOM.uniform(0, seconds))
        return
    except subprocess.TimeoutExpired:
        pass
    if RANDOM.random() < 0.5:
        process.kill()
        killed["client"] += 1
    else:
        kill_server()
        killed["server"] += 1
    # One whose server is gone says so, or goes on with it. offlineimap may wait for ever for a lock
    # of its own, without a connection: that run is over too.
    try:
        process.wait(STUCK_SECONDS)
    except subprocess.TimeoutExpired:
        assert CLIENT == "offlineimap", f"{CLIENT} is stuck: " + client_log()
        process.kill()
        process.wait(CLIENT_SECONDS_MAX)
        killed["client"] += 1
    # What a client had sent before it was killed is still carried out: nobody could tell the next
    # run of it in time.
    before = None
    while before != (before := count()):
        time.sleep(0.3)


def main():
    near = Near()
    # offlineimap does not survive a kill while it makes its files: here they are made.
    run()
    far = Far()
    next_number = MESSAGES
    some = lambda: RANDOM.sample(list(FLAGS), RANDOM.randrange(3))
    for number in range(MESSAGES):
        (far if number % 2 else near).add(number, some())
    far.close()
    expected = set(range(MESSAGES))
    killed = {"client": 0, "server": 0}
    # The first one has the most to do.
    seconds = MESSAGES / 1000 + 1
    for _ in range(INTERRUPTIONS):
        interrupted(seconds, killed)
    seconds = max(run(), 0.3)
    for _ in range(ROUNDS):
        if CLIENT == "offlineimap":
            # It uploads again what it uploaded before it was killed, so a message may be there more
            # often on one side than on the other, and what is deleted here comes back from there.
            run()
        changes = max(MESSAGES // 20, 8)
        far = Far()
        uids, files = far.uids(), near.files()
        for _ in range(changes):
            side = RANDOM.choice([far, near])
            side.add(next_number, some())
            expected.add(next_number)
            next_number += 1
        # Each side deletes some, and changes flags of others; what both do to one message is both.
        numbers = sorted(set(uids) & set(files))
        dead = RANDOM.sample(numbers, changes)
        flagged = RANDOM.sample([number for number in numbers if number not in dead], 2 * changes)
        half = changes // 2
        far.change(("+FLAGS.SILENT", "(\\Deleted)"), sum((uids[it] for it in dead[:half]), []))
        far.expunge()
        for number in dead[half:]:
            for path in files[number]:
                os.unlink(path)
        expected -= set(dead)
        for number in flagged[:changes]:
            action = RANDOM.choice(["+FLAGS", "-FLAGS"])
            far.change((action, f"({RANDOM.choice(list(FLAGS))})"), uids[number])
        for number in flagged[half:]:
            for path in files[number]:
                near.flag(path, RANDOM.choice(list(FLAGS.values())))
        far.close()
        for _ in range(INTERRUPTIONS):
            interrupted(seconds, killed)
    for _ in range(3):
        run()
    far = Far()
    there, here = collections.Counter(far.all()), collections.Counter(near.all())
    far.close()
    only_there, only_here = there - here, here - there
    assert not only_there and not only_here, (
        f"{sum(only_there.values())} only on the server, such as {list(only_there)[:5]}, "
        f"{sum(only_here.values())} only in the Maildir, such as {list(only_here)[:5]}"
    )
    numbers = collections.Counter(number for number, _, _ in there.elements())
    assert set(numbers) == expected, (
        f"missing: {sorted(expected - set(numbers))[:10]}, "
        f"too much: {sorted(set(numbers) - expected)[:10]}"
    )
    twice = sum(count - 1 for count in numbers.values())
    # offlineimap does not look for what it uploaded before it was killed; mbsync does.
    assert CLIENT != "mbsync" or twice == 0, f"{twice} are there twice"
    print(
        f"{CLIENT}: {len(expected)} messages are the same on both sides after {killed['client']} "
        f"kills of the client and {killed['server']} of the server; {twice} twice, on both",
        flush=True,
    )


main()
