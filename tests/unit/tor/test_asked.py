"""Tests of the time limit for tor's answers, against sockets that say nothing, or not enough."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.tor import asked
from torknock.tor.asked import TorSilent, within
from torknock.tor.inspect import TorUnreachable, ask_tor


class WithinTests(SynchronousTestCase):
    """One call."""

    def test_in_time(self) -> None:
        """What is returned, and what is raised."""
        self.assertEqual(within(5, int, "7"), 7)
        self.assertRaises(ValueError, within, 5, int, "seven")

    def test_too_late(self) -> None:
        """It is left behind."""
        forever = threading.Event()
        self.addCleanup(forever.set)
        self.assertRaises(TorSilent, within, 0.05, forever.wait)


class SilentTests(SynchronousTestCase):
    """A control port that takes connections and hangs at one point or another."""

    timeout = 30

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, directory)
        self.patch(asked, "ANSWERS_WITHIN", 0.3)
        self.path = str(directory / "control")
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen()
        self.addCleanup(self.listening.close)

    def answer(self, *answers: bytes) -> None:
        """Give *answers*, one for each line, and then nothing more."""

        def serve() -> None:
            connected, _ = self.listening.accept()
            self.addCleanup(connected.close)
            for each in answers:
                connected.recv(4096)
                connected.sendall(each)

        threading.Thread(target=serve, daemon=True).start()

    def asks_in_vain(self) -> None:
        begun = time.monotonic()
        error = self.assertRaises(TorUnreachable, ask_tor, self.path)
        self.assertIn("does not answer", str(error))
        self.assertFalse(error.missing)
        self.assertLess(time.monotonic() - begun, 10)  # a bound, where it was none

    def test_nothing(self) -> None:
        """As a tor that was stopped."""
        self.asks_in_vain()

    def test_half_an_answer(self) -> None:
        """It never ends."""
        self.answer(b"250-PROTOCOLINFO 1\r\n")
        self.asks_in_vain()

    def test_after_the_password(self) -> None:
        """It hangs later."""
        first = b'250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor="0.4.8.1"\r\n250 OK\r\n'
        self.answer(first, b"250 OK\r\n")
        self.asks_in_vain()
