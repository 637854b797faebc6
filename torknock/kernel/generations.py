"""Keeps Python's garbage collector from going through large collections that have just been made."""

from __future__ import annotations

import gc


def take_for_old() -> None:
    """Have the garbage collector take all that is alive for old, at once.

    Otherwise it goes through what is new twice, soon and while the reactor waits: sets of 64,000 tokens take it 2 ms
    each, whether anything in them could be garbage or not. What is old it goes through rarely. To be called after large
    collections were made, and not often: what becomes garbage in a cycle stays longer.
    """
    gc.freeze()
    gc.unfreeze()
