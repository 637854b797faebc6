"""Octets that have come of a stream, until a step of a handshake takes them. Pure."""

from __future__ import annotations


class Inbox(bytearray):
    """What has come and was not taken yet; add what comes with ``+=``."""

    def take(self, size: int) -> bytes | None:
        """The first *size* octets, which are then gone; None, and nothing changes, as long as fewer have come."""
        if len(self) < size:
            return None
        taken = bytes(self[:size])
        del self[:size]
        return taken
