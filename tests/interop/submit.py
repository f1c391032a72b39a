"""Submits as Python's smtplib does: submit.py STARTTLS-PORT IMPLICIT-PORT CA NAME PASSWORD TO."""

import smtplib
import ssl
import sys

starttls, implicit, ca, name, password, to = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
with smtplib.SMTP("localhost", int(starttls)) as client:
    client.starttls(context=context)
    try:
        client.sendmail(name, [to], b"Subject: too early\r\n\r\n")
        raise SystemExit("taken without a login")
    except smtplib.SMTPSenderRefused as refused:
        assert refused.smtp_code == 530, refused
    client.rset()
    client.login(name, password)
    client.sendmail(name, [to], b"Subject: by smtplib\r\n\r\nhi\r\n")
with smtplib.SMTP_SSL("localhost", int(implicit), context=context) as client:
    try:
        client.login(name, "wrong")
        raise SystemExit("let in")
    except smtplib.SMTPAuthenticationError as refused:
        assert refused.smtp_code == 535, refused
    client.login(name, password)
    client.sendmail(name, [to], b"Subject: by smtplib\r\n\r\nhi\r\n")
