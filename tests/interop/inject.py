"""Sends message files, as they are, with smtplib: inject.py HOST:PORT FILE..."""

import smtplib
import sys

host, port = sys.argv[1].rsplit(":", 1)
with smtplib.SMTP(host, int(port), timeout=20) as client:
    client.ehlo()
    for path in sys.argv[2:]:
        with open(path, "rb") as file:
            client.sendmail("a@from.test", ["b@to.test"], file.read())
