"""A small SMTP server that stores each message: receive.py HOST:PORT DIRECTORY [CHAIN KEY]

With a certificate chain and its key it offers STARTTLS.
"""

import asyncio
import pathlib
import ssl
import sys

HOST, PORT = sys.argv[1].rsplit(":", 1)
STORE = pathlib.Path(sys.argv[2])
COUNT = 0
TLS = None
if len(sys.argv) > 3:
    TLS = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    TLS.load_cert_chain(sys.argv[3], sys.argv[4])


async def read_content(reader):
    """The octets up to CRLF.CRLF, dot-stuffing removed."""
    content = bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        if line == b".\r\n":
            return bytes(content)
        content += line[1:] if line.startswith(b".") else line


async def serve(reader, writer):
    global COUNT
    writer.write(b"220 python.test\r\n")
    while True:
        line = await reader.readline()
        if not line:
            break
        verb = line[:4].upper()
        if verb == b"EHLO":
            writer.write(b"250-python.test\r\n250-PIPELINING\r\n")
            if TLS and not writer.get_extra_info("ssl_object"):
                writer.write(b"250-STARTTLS\r\n")
            writer.write(b"250 8BITMIME\r\n")
        elif verb == b"STAR" and TLS:
            writer.write(b"220 go\r\n")
            await writer.drain()
            await writer.start_tls(TLS)
            continue
        elif verb == b"DATA":
            writer.write(b"354 go\r\n")
            await writer.drain()
            content = await read_content(reader)
            COUNT += 1
            (STORE / f"{COUNT}.eml").write_bytes(content)
            writer.write(b"250 taken\r\n")
        elif verb == b"QUIT":
            writer.write(b"221 bye\r\n")
            break
        else:
            writer.write(b"250 ok\r\n")
        await writer.drain()
    writer.close()


async def main():
    # Lines of content may be of any length.
    server = await asyncio.start_server(serve, HOST, int(PORT), limit=1 << 26)
    async with server:
        await server.serve_forever()


asyncio.run(main())
