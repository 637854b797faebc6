"""Runs a program to its end and waits for it. Blocks: a running reactor calls it in a thread."""

from __future__ import annotations

import shutil
import subprocess  # noqa: TID251  in a thread, or in a command of root's, which has no reactor

from torknock.errors import TorknockError
from torknock.kernel.places import PROGRAMS

ENDS_WITHIN = 30.0
"""Seconds that a program has; then it is killed."""


class ProgramFailed(TorknockError):
    """A program is missing, cannot be started, failed, or wrote what cannot be read."""


def output_of(name: str, *arguments: str, package: str, stdin: str = "") -> str:
    """What the program *name*, of the Debian package *package*, writes when it reads *stdin*.

    Raises `ProgramFailed` if it is missing, ends with anything but 0, or not within `ENDS_WITHIN`.
    """
    words = " ".join((name, *arguments))
    path = shutil.which(name, path=PROGRAMS)
    if path is None:
        raise ProgramFailed(f"the command {name} is missing", f"apt-get install {package}")
    try:
        done = subprocess.run(  # noqa: S603  ours
            [path, *arguments], input=stdin, capture_output=True, text=True, errors="replace", check=False, env={},
            timeout=ENDS_WITHIN,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"{words} has not ended within {ENDS_WITHIN:.0f} s, and was killed") from None
    except OSError as error:  # no process can be made, or this one may not run it
        raise ProgramFailed(f"{name} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0]
        raise ProgramFailed(f"{words} ended with {done.returncode}: {said or 'nothing said'}")
    return done.stdout
