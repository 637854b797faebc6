"""The programs that the gate is made with."""

from __future__ import annotations

import shutil
from typing import Any

from twisted.internet.utils import getProcessOutputAndValue

from torknock.gate.interfaces import GateFailed


async def command(reactor: Any, name: str, arguments: list[str], stdin: bytes = b"", *, package: str) -> str:
    """What the program *name* writes. Raises `GateFailed` if it is missing, or ends with anything but 0."""
    path = shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise GateFailed(f"the command {name} is missing; apt-get install {package}")
    out, err, code = await getProcessOutputAndValue(path, arguments, env={}, reactor=reactor, stdinBytes=stdin)
    if code != 0:
        told = err.decode("utf-8", "replace").strip().partition("\n")[0]
        raise GateFailed(f"{name} {' '.join(arguments)} ended with {code}: {told or 'nothing said'}")
    return str(out, "utf-8", "replace")
