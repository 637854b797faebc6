"""What a keyring has of the bridge's site: the directory of its sockets, and the path that leads to the bridge."""

from __future__ import annotations

import secrets
from typing import Protocol

SITE = "site"
"""The setting that has the directory of the site's sockets, as the transport that ran last wrote it; "" for none."""

_PATH = "site_path"
_OCTETS = 16


class Settings(Protocol):
    """What is asked of a `torknock.keyring.lines.Keyring`."""

    def setting(self, key: str) -> str | None:
        """What was remembered under *key*."""

    def remember_first(self, key: str, value: str) -> str:
        """What is remembered under *key*, which is *value* if nothing was."""


def site_path(keyring: Settings) -> str:
    """The path of the site that leads to the bridge, which is in all its lines: drawn once (protocol.md §3a)."""
    return keyring.setting(_PATH) or keyring.remember_first(_PATH, secrets.token_urlsafe(_OCTETS))
