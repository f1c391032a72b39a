"""Sends message files, as they are, with smtplib: inject.py [--tls CA] HOST:PORT FILE...

With --tls it says STARTTLS, and the server's certificate has to be for localhost.
"""

import smtplib
import ssl
import sys

arguments = sys.argv[1:]
tls = None
if arguments[0] == "--tls":
    tls = ssl.create_default_context(cafile=arguments[1])
    arguments = arguments[2:]
host, port = arguments[0].rsplit(":", 1)
with smtplib.SMTP("localhost" if tls else host, int(port), timeout=20) as client:
    client.ehlo()
    if tls:
        client.starttls(context=tls)
        client.ehlo()
    for path in arguments[1:]:
        with open(path, "rb") as file:
            client.sendmail("a@from.test", ["b@to.test"], file.read())
