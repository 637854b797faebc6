"""SIGKILL in the middle of the keyring's writes: the file stays whole, no line is lost, none that was revoked lives.

As a program, `DIRECTORY NUMBER`, it adds and revokes lines without end, and says each that it has done.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from contrib.bench.table import Figure
from torknock.keyring.lines import Keyring
from torknock.protocol.token import epoch_at

KILLS = 160
_SECONDS = 0.15
"""Within which a writer is killed, once it writes."""

_chance = random.SystemRandom()


def figures(minutes: float) -> Iterator[Figure]:
    """160 kills take about four minutes; fewer are made in less."""
    until = time.monotonic() + 60 * minutes
    added: set[str] = set()
    revoked: set[str] = set()
    damaged, lost, revived, kills = 0, 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="torknock-weekly-") as made:
        directory = Path(made) / "torknock"
        Keyring.open(directory, create=True).close()
        while kills < KILLS and time.monotonic() < until:
            for verb, name in _killed(directory, kills):
                (added if verb == "add" else revoked).add(name)
            kills += 1
            damaged += not _is_whole(directory)
            with Keyring.open(directory, create=False) as keyring:
                there = {issued.name for issued in keyring.lines()}
                live = {issued.name for issued in keyring.live(time.time())}
            lost += len(added - there) + len(added - revoked - live - _begun(kills))
            revived += len(revoked & live)
    yield Figure("kills", f"{len(added)} lines added, {len(revoked)} revoked; kills", kills, "", at_least=1)
    yield Figure("kills", "files that were damaged", damaged, "", at_most=0)
    yield Figure("kills", "lines that were lost", lost, "", at_most=0)
    yield Figure("kills", "lines that were revoked and lived again", revived, "", at_most=0)


def _killed(directory: Path, number: int) -> list[tuple[str, str]]:
    """What a writer had done, verb and name, before it was killed."""
    command = [sys.executable, "-m", "contrib.weekly.kills", str(directory), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(_chance.uniform(0.0, _SECONDS))
        writer.kill()
        said = (first + writer.stdout.read()).splitlines(keepends=True)
    pairs = (line.split() for line in said if line.endswith("\n"))
    return [(verb, name) for verb, name in pairs]


def _is_whole(directory: Path) -> bool:
    with contextlib.closing(sqlite3.connect(directory / "keyring.sqlite")) as database:
        return bool(database.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


def _begun(kills: int) -> set[str]:
    """The lines whose revocation a writer may have ended without having said so."""
    return {f"line-{number}-{each}" for number in range(kills) for each in range(0, 10_000, 2)}


def _write(directory: Path, number: str) -> None:
    for each in itertools.count():
        with Keyring.open(directory, create=False) as keyring:
            name = f"line-{number}-{each}"
            keyring.add(name, expires=None, now=time.time())
            print("add", name, flush=True)
            if each % 2 == 0:
                keyring.revoke(name, time.time())
                print("revoke", name, flush=True)
            keyring.advance(epoch_at(time.time()) + each, 500)


if __name__ == "__main__":
    _write(Path(sys.argv[1]), sys.argv[2])
