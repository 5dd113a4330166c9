"""A real mail server for tests, which behaves as badly as the recipient's address asks it to.

Usage: mail_server.py FOLDER

It makes certificates in FOLDER, listens on 127.0.0.1, and says on its output, one JSON object a line:
  {"ports": {...}}       where: see PORTS
  {"connected": NAME}    somebody came to that port
  {"said": COMMAND}      what a client said, once per command, without what is secret
  {"mail": {...}}        it took a mail; this is what Python's own parser makes of it

What stands before the @ of a recipient chooses (see `Server.smtp_RCPT`); a word with "first-" in front is for the first time only.
The user is "asha", her password "geheim".
"""

import asyncio
import email
import email.policy
import json
import ssl
import subprocess
import sys
from collections import Counter
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult

# What there is: the way to TLS, whether one has to log in, whether SMTPUTF8 is offered, for which host the certificate is.
PORTS = {
    "starttls": dict(tls="starttls", login=True, utf8=True, host="localhost"),
    "implicit": dict(tls="implicit", login=True, utf8=True, host="localhost"),
    "plain": dict(tls=None, login=False, utf8=True, host="localhost"),
    "ascii": dict(tls=None, login=False, utf8=False, host="localhost"),
    "open": dict(tls="starttls", login=False, utf8=True, host="localhost"),
    "wrong_host": dict(tls="starttls", login=True, utf8=True, host="elsewhere.example"),
    # Answers STARTTLS, and says more in the same breath.
    "injecting": dict(tls="starttls", login=True, utf8=True, host="localhost"),
    "wrong_host_implicit": dict(tls="implicit", login=True, utf8=True, host="elsewhere.example"),
}
NEVER = 3600

REFUSALS = {
    "unknown": "550 5.1.1 <{address}>: Recipient address rejected: User unknown",
    "bare": "550 No such user here",
    "full": "452 4.2.2 <{address}> mailbox full",
    "grey": "451 4.7.1 <{address}>: Greylisted, come back later",
    "policy": "554 5.7.1 <{address}>: refused by policy",
    "relay": "554 5.7.1 <{address}>: Relay access denied",
    "many": "552 too many recipients",
    "limit": "550 5.4.5 Daily user sending limit exceeded",
    "helo": "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname",
    "verify": "550 Verification failed for <hello@tarishi.example>: Sender verify failed",
    "blocked": "554 5.7.1 Service unavailable; Client host [127.0.0.1] blocked using zen.spamhaus.org",
}
VERDICTS = {
    "spam": "554 5.7.1 This is spam, <{address}>",
    "big": "552 5.3.4 Message too big",
    "later": "451 4.3.0 Try again later",
    "late-unknown": "550 5.1.1 <{address}>: User unknown",
}


def tell(**what):
    print(json.dumps(what), flush=True)


def make_certificate(folder, host):
    run = lambda *arguments: subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
    if not (folder / "ca.pem").exists():
        run("req", "-x509", *key, "-subj", "/CN=ca of these tests", "-keyout", "ca.key", "-out", "ca.pem",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    run("req", *key, "-subj", f"/CN={host}", "-keyout", f"{host}.key", "-out", f"{host}.csr")
    (folder / f"{host}.ext").write_text(f"basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:{host}\n")
    run("x509", "-req", "-in", f"{host}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
        "-out", f"{host}.pem", "-extfile", f"{host}.ext")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / f"{host}.pem", folder / f"{host}.key")
    return context


def described(server, envelope):
    """What the mail says, to somebody who reads it with Python."""
    message = email.message_from_bytes(envelope.content, policy=email.policy.SMTPUTF8)
    part = lambda kind: message.get_body((kind,))
    content = lambda found: found.get_content() if found is not None else None
    return {
        "port": server.port_name,
        "tls": server.transport.get_extra_info("sslcontext") is not None,
        "from": envelope.mail_from,
        "to": envelope.rcpt_tos,
        "options": envelope.mail_options,
        "hello": server.session.host_name,
        "headers": {name.lower(): [str(value) for value in message.get_all(name)] for name in message.keys()},
        "text": content(part("plain")),
        "html": content(part("html")),
        "kinds": [found.get_content_type() for found in message.walk()],
        "defects": [repr(defect) for found in message.walk() for defect in found.defects],
        "longest_line": max(len(line) for line in envelope.content.split(b"\r\n")),
        "bare": envelope.content.replace(b"\r\n", b"").count(b"\r") + envelope.content.replace(b"\r\n", b"").count(b"\n"),
        "date": int(message["date"].datetime.timestamp()),
        "raw": envelope.content.decode("latin-1"),
    }


class Handler:
    """Takes whatever gets as far."""

    async def handle_RCPT(self, server, session, envelope, address, options):
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        word = server.word
        if word == "cut-lost":
            server.drop()
        if word in VERDICTS:
            return VERDICTS[word].format(address=envelope.rcpt_tos[0])
        tell(mail=described(server, envelope))
        soon = asyncio.get_running_loop().call_soon
        match word:
            case "cut-kept":
                server.drop()
            case "slow-dot":
                await asyncio.sleep(NEVER)
            case "nonsense-dot":
                return "Habari ya asubuhi"
            case "dot-354":
                return "354 Go on"
            # It is gone when the next mail comes.
            case "leave":
                soon(lambda: soon(server.transport.close))
            case "leave-rudely":
                soon(lambda: soon(server.transport.abort))
            case "leave-with-421":
                soon(lambda: soon(server.take_leave))
        return "250 2.0.0 Ok: queued as 4ZxYb21k3Lz"

    async def handle_RSET(self, server, session, envelope):
        tell(said="RSET")
        return "250 2.0.0 OK"


class Server(SMTP):
    seen = Counter()

    def __init__(self, port_name, tls, login, utf8, context):
        self.port_name = port_name
        super().__init__(
            Handler(),
            hostname="mail.test",
            ident="ready",
            enable_SMTPUTF8=utf8,
            tls_context=context if tls == "starttls" else None,
            require_starttls=tls == "starttls",
            auth_required=login,
            auth_require_tls=tls == "starttls",
            auth_exclude_mechanism=(),
            authenticator=self.authenticate if login else None,
        )

    def connection_made(self, transport):
        # Once more when STARTTLS has made another of it.
        if self._original_transport is None:
            tell(connected=self.port_name)
        super().connection_made(transport)

    async def smtp_STARTTLS(self, arg):
        if self.port_name == "injecting":
            self.push = self.push_and_inject
        await super().smtp_STARTTLS(arg)

    async def push_and_inject(self, status):
        del self.push
        # In one packet: whoever reads ahead takes the second line for an answer from inside.
        self.transport.write(status.encode() + b"\r\n250 injected\r\n")

    @staticmethod
    def authenticate(server, session, envelope, mechanism, data):
        tell(said=f"AUTH {mechanism}")
        good = (data.login, data.password) == (b"asha", b"geheim")
        return AuthResult(success=good, handled=False, message=None if good else "535 5.7.8 Authentication credentials invalid")

    def behaviour(self, address):
        """The word the address has for us; for "first-" words, once."""
        word = address.split("@")[0].split("+")[0]
        if not word.startswith("first-"):
            return word
        self.seen[address] += 1
        return word.removeprefix("first-") if self.seen[address] == 1 else ""

    def drop(self):
        self.transport.abort()
        # Whatever called us has no connection to go on with.
        raise asyncio.CancelledError

    def take_leave(self):
        self.transport.write(b"421 4.4.2 You were silent for too long\r\n")
        self.transport.close()

    async def smtp_MAIL(self, arg):
        tell(said=f"MAIL {arg}")
        if arg and "stranger@" in arg:
            return await self.push("553 5.7.1 <stranger@example.com>: Sender address rejected: not owned by user asha")
        await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg):
        tell(said=f"RCPT {arg}")
        address = arg.removeprefix("TO:").strip().split(">")[0].removeprefix("<")
        self.word = word = self.behaviour(address)
        if word in REFUSALS:
            return await self.push(REFUSALS[word].format(address=address))
        match word:
            case "cut-rcpt":
                self.drop()
            case "closing":
                await self.push("421 4.3.2 Closing")
                self.drop()
            case "slow-rcpt":
                await asyncio.sleep(NEVER)
            case "nonsense-rcpt":
                return await self.push("Habari ya asubuhi")
            case "long-rcpt":
                return await self.push("250 " + "x" * 50_000)
            case "huge-rcpt":
                for _ in range(400):
                    self._writer.write(b"250-" + b"x" * 500 + b"\r\n")
                return await self.push("250 2.1.5 OK")
            case "drip-rcpt":
                for byte in b"250-2.1.5 so\r\n250-2.1.5 slow\r\n":
                    self._writer.write(bytes([byte]))
                    await self._writer.drain()
                    await asyncio.sleep(0.005)
            case "latin-rcpt":
                self._writer.write(b"550 5.1.1 \xe9\r\n")
                return await self._writer.drain()
        await super().smtp_RCPT(arg)

    async def smtp_DATA(self, arg):
        tell(said="DATA")
        match self.word:
            case "cut-data":
                self.drop()
            case "no-354":
                return await self.push("250 2.0.0 OK")
            case "data-421":
                await self.push("421 4.3.2 Closing")
                self.drop()
        await super().smtp_DATA(arg)

    async def smtp_QUIT(self, arg):
        tell(said="QUIT")
        await super().smtp_QUIT(arg)


async def main(folder):
    loop = asyncio.get_running_loop()
    contexts = {host: make_certificate(folder, host) for host in sorted({port["host"] for port in PORTS.values()})}
    listening = {}
    for name, port in PORTS.items():
        context = contexts[port["host"]]
        make = lambda name=name, port=port, context=context: Server(name, port["tls"], port["login"], port["utf8"], context)
        server = await loop.create_server(make, "127.0.0.1", 0, ssl=context if port["tls"] == "implicit" else None)
        listening[name] = server.sockets[0].getsockname()[1]
    tell(ports=listening)
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1])))
