"""What a service says to one peer, whichever service it is."""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from zope.interface import Interface


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service answers: a line, and sockets that go with it, which the room closes once they are sent."""

    text: str
    descriptors: tuple[socket.socket, ...] = ()
    last: bool = False
    """The service ends the connection behind it."""


class IConversation(Interface):
    """The service's side of a conversation with one peer, called by `torknock.service.conversation.PeerConnection`."""

    def answer(line: str) -> Awaitable[Reply]:
        """The reply to a request; they come one at a time. Cancelled if the peer goes meanwhile.

        If it fails with `Malformed` the peer hears `no bad TEXT`, and the connection ends.
        """

    def ended() -> Deferred[None] | None:
        """The peer is gone or was sent away: nothing that it asked for may stay. Called once."""
