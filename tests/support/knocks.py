"""What tests do with a connection that a knock has opened."""

from __future__ import annotations

from torknock.client.rounds import Knocked


async def as_it_is(knocked: Knocked) -> Knocked:
    """The connection itself: whatever answered is taken for the bridge."""
    return knocked
