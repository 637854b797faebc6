"""Tests of torknock.channel.key_log: what stays of it in this process."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.channel.key_log import KeyLog

LINES = "CLIENT_TRAFFIC_SECRET_0 aa bb\nEXPORTER_SECRET aa 0102\nEARLY_EXPORTER_SECRET aa 03\n"


class KeyLogTests(SynchronousTestCase):
    """A log that another library has opened by its path."""

    def setUp(self) -> None:
        self.log = KeyLog()
        self.other = os.open(self.log.path, os.O_RDWR | os.O_APPEND)
        self.addCleanup(os.close, self.other)

    def test_the_secret_is_taken_once(self) -> None:
        """And no other than the exporter's."""
        os.write(self.other, LINES.encode())
        self.assertEqual(self.log.take_exporter_secret(), b"\1\2")
        self.assertIsNone(self.log.take_exporter_secret())

    def test_the_other_descriptor_is_of_nothing(self) -> None:
        """Its number stays open, for who opened it; what was written is gone, and what is written goes nowhere."""
        os.write(self.other, LINES.encode())
        third = os.dup(self.other)
        self.addCleanup(os.close, third)
        self.log.close()
        for descriptor in (self.other, third):
            self.assertEqual(os.readlink(f"/proc/self/fd/{descriptor}"), os.devnull)
            self.assertFalse(os.get_inheritable(descriptor))
            os.write(descriptor, b"more")

    def test_other_files_are_left_alone(self) -> None:
        """Also another connection's log."""
        another = KeyLog()
        path = Path(self.mktemp())
        with path.open("w") as file:
            self.log.close()
            file.write("text")
        self.assertEqual(path.read_text(), "text")
        os.close(os.open(another.path, os.O_RDONLY))
        another.close()

    def test_a_log_that_says_nothing(self) -> None:
        """As of a handshake that did not end, or of TLS 1.2; and lines that are none."""
        os.write(self.other, b"CLIENT_RANDOM aa bb\nEXPORTER_SECRET\n\xff\n")
        self.assertIsNone(self.log.take_exporter_secret())
