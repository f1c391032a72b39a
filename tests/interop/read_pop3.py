"""Reads a maildrop as Python's poplib does: read_pop3.py stls|implicit PORT CA NAME PASSWORD.

Prints the sizes of the messages, which are read whole, by UIDL and by TOP.
"""

import poplib
import ssl
import sys

how, port, ca, name, password = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if how == "implicit":
    client = poplib.POP3_SSL("localhost", int(port), context=context)
else:
    client = poplib.POP3("localhost", int(port))
    client.stls(context=context)
client.user(name)
client.pass_(password)
capabilities = client.capa()
assert "UIDL" in capabilities and "TOP" in capabilities, capabilities
count, octets = client.stat()
listed = [line.split() for line in client.list()[1]]
unique_ids = {line.split()[1] for line in client.uidl()[1]}
assert len(listed) == len(unique_ids) == count
sizes = []
for number in range(1, count + 1):
    _, lines, _ = client.retr(number)
    whole = b"".join(line + b"\r\n" for line in lines)
    _, top, _ = client.top(number, 1)
    assert lines[: len(top)] == top
    sizes.append(len(whole))
    assert len(whole) == int(listed[number - 1][1])
assert sum(sizes) == octets
client.rset()
client.noop()
client.quit()
print(sizes)
