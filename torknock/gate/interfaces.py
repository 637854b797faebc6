"""What every gate does, however it does it."""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.defer import Deferred
from zope.interface import Interface

from torknock.errors import TorknockError


class GateFailed(TorknockError):
    """The gate could not be made what it should be. A port without a gate is closed."""


class DoorTaken(GateFailed):
    """Another process guards this door."""


class IGate(Interface):
    """Who gets past the SYN. Calls are made one after the other; each may fail with `GateFailed`."""

    def open(judging: bool) -> Deferred[None]:
        """Stand at the door with no token admitted, whatever stood there before.

        With *judging* a SYN without a token is asked about, one by one.
        """

    def admit(tokens: Collection[int], seconds: int) -> Deferred[None]:
        """Let each of *tokens* open one connection within *seconds*."""

    def withdraw(tokens: Collection[int]) -> Deferred[None]:
        """Let none of *tokens* open a connection any more, whether it did before or not."""

    def intact() -> Deferred[bool]:
        """Whether the gate still is what `open` made, or somebody changed or removed it."""

    def refused() -> Deferred[int | None]:
        """About how many SYNs without a token came since `open`; None if nobody counts them.

        A gate may count some of them, picked by chance, and multiply.
        """

    def close() -> Deferred[None]:
        """Leave the door: no token opens it, and nothing of the gate remains but what its posture needs.

        A port that was filtered stays silent.
        """
