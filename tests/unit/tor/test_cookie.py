"""Tests of what a control port that is not tor's can learn: it names some file of root's as its cookie."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from torknock.tor.inspect import TorUnreachable, ask_tor
from torknock.tor.watch import TorUnseen, Watch

reactor: Any = _reactor


class CookieTests(TestCase):
    """An impostor at tor's control socket, asked by both libraries."""

    timeout = 60

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.secret = self.directory / "secret"
        self.secret.write_bytes(b"thirty-two octets of a secret...")
        self.path = str(self.directory / "control")
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen()
        self.addCleanup(self.listening.close)
        self.heard = b""

    def pretend(self, methods: str, cookie: Path) -> None:
        """Be a tor that offers *methods* and names *cookie*; challenges are answered with nonsense."""

        def serve() -> None:
            connected, _ = self.listening.accept()
            with connected, connected.makefile("rwb", buffering=0) as lines:
                for line in lines:
                    self.heard += line
                    if line.startswith(b"PROTOCOLINFO"):
                        told = f'250-PROTOCOLINFO 1\r\n250-AUTH METHODS={methods} COOKIEFILE="{cookie}"\r\n'
                        lines.write(told.encode() + b'250-VERSION Tor="0.4.8.1"\r\n250 OK\r\n')
                    elif line.startswith(b"AUTHCHALLENGE"):
                        lines.write(b"250 AUTHCHALLENGE SERVERHASH=%s SERVERNONCE=%s\r\n" % (b"00" * 32, b"11" * 32))
                    else:
                        lines.write(b"515 no\r\n")

        threading.Thread(target=serve, daemon=True).start()

    async def test_the_cookie_is_never_sent(self) -> None:
        """Whatever is offered: the file's content stays here."""
        for methods in ("COOKIE", "COOKIE,SAFECOOKIE", "COOKIE,HASHEDPASSWORD"):
            self.pretend(methods, self.secret)
            self.assertIsInstance(await Watch(reactor, self.path).look(), TorUnseen)
            self.pretend(methods, self.secret)
            with self.assertRaises(TorUnreachable):
                await deferToThread(ask_tor, self.path)
            self.assertNotIn(self.secret.read_bytes().hex().encode(), self.heard.lower())
        self.assertIn(b"AUTHCHALLENGE", self.heard)

    async def test_a_cookie_that_is_no_file(self) -> None:
        """Neither a pipe nor a device without an end is waited for."""
        pipe = self.directory / "pipe"
        os.mkfifo(pipe)
        for cookie in (pipe, Path("/dev/zero")):
            self.pretend("COOKIE,SAFECOOKIE", cookie)
            self.assertIsInstance(await Watch(reactor, self.path).look(), TorUnseen)
            self.pretend("COOKIE,SAFECOOKIE", cookie)
            with self.assertRaises(TorUnreachable):
                await deferToThread(ask_tor, self.path)
