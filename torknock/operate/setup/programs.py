"""Programs of the host that a set-up runs, such as systemctl and useradd."""

from __future__ import annotations

import shutil
import subprocess  # noqa: TID251  a command of root's, which has no reactor

from attrs import define

from torknock.kernel.places import PROGRAMS
from torknock.operate.setup.changes import CannotChange

_ENDS_WITHIN = 90.0
"""Seconds after which a program is killed; systemd gives a service as long to stop."""


@define
class Ended:
    """A program of this host that has ended."""

    status: int
    output: str
    errors: str = ""
    """What it wrote to its standard error."""


def run(*command: str, check: bool = True) -> Ended:
    """Run a program of this host. Raises `CannotChange` if it hangs, or fails and *check* says so."""
    path = shutil.which(command[0], path=PROGRAMS)
    if path is None:
        raise CannotChange(f"the command {command[0]} is missing")
    try:
        done = subprocess.run(  # noqa: S603  ours
            [path, *command[1:]], capture_output=True, text=True, check=False, timeout=_ENDS_WITHIN,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CannotChange(f"{' '.join(command)} has not ended within {_ENDS_WITHIN:.0f} s, and was killed") from None
    if check and done.returncode:
        reason = (done.stderr or done.stdout).strip().rpartition("\n")[2] or "nothing said"
        raise CannotChange(f"{' '.join(command)} ended with {done.returncode}: {reason}")
    return Ended(done.returncode, done.stdout, done.stderr)
