"""Tests of torknock.channel.raw."""

from __future__ import annotations

from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import verify

from torknock.channel.interfaces import IClientChannel, IServerChannel
from torknock.channel.raw import Raw
from torknock.protocol.bridge_line import Channel, Line

LINE = Line(b"s" * 32, b"p" * 32, channel=Channel.RAW)


class RawTests(SynchronousTestCase):
    """The channel that is none."""

    def test_interfaces(self) -> None:
        """It is both ends."""
        verify.verifyObject(IClientChannel, Raw())
        verify.verifyObject(IServerChannel, Raw())

    def test_client(self) -> None:
        """The upper protocol stands on TCP itself, at once."""
        upper = Protocol()
        lower, opened = Raw().open(LINE, 1, "192.0.2.7", upper)
        self.successResultOf(opened)
        self.assertIs(lower, upper)

    def test_server(self) -> None:
        """The connection is the first line's."""
        upper = Protocol()
        lower, proved = Raw().accept([LINE, LINE], 1, upper)
        self.assertIs(lower, upper)
        self.assertEqual(self.successResultOf(proved), 0)
