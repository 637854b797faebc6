"""What `torknock gate` and `torknock dial` share on the command line; loads only what a privileged process needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import click


def without_openssl() -> None:
    """Keep OpenSSL and `cryptography` out of this process. Call it before anything of `twisted.internet` is imported.

    The services speak no TLS, but Twisted loads both wherever they are installed, and does without where they are not.
    """
    modules = cast(dict[str, Any], sys.modules)
    modules["OpenSSL"] = None  # an import of it fails as if it were not installed


def socket_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`--socket`: where a service listens."""
    text = "Where to listen, unless systemd passes a socket."
    return click.option("--socket", "path", default=default, show_default=True, metavar="PATH", help=text)


def guests_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--user` and `--group`: which peers a service answers."""
    user, group = "A user who may ask; may be repeated.", "A group whose members may; may be repeated."
    command = click.option("--group", "groups", multiple=True, metavar="NAME", help=group)(command)
    return click.option("--user", "users", multiple=True, metavar="NAME", help=user)(command)
