"""What a person may have to read."""

from __future__ import annotations


class TorknockError(Exception):
    """Something a person can act on. Its text is one line: what is wrong, where, what to do.

    It never holds a secret or the address of a client.
    """
