"""Opens the keyring for a command, and reports on stderr if that has to wait."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from torknock.keyring.file import TIMEOUT
from torknock.keyring.lines import Keyring


def open_keyring(directory: Path, create: bool = False) -> Keyring:
    """The keyring in *directory*, as `Keyring.open`; reports on stderr once it has waited for a moment."""
    waiting = (
        f"torknock: waiting for the keyring {click.format_filename(directory)}: the disk is slow, or another program, "
        f"such as a backup, holds it; a program is waited for at most {TIMEOUT:.0f} s"
    )
    return Keyring.open(directory, create, TIMEOUT, functools.cache(lambda: click.echo(waiting, err=True)))
