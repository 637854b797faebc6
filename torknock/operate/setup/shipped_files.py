"""The units and AppArmor rules of contrib, as they are installed on one host."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from pathlib import Path

from torknock.kernel.places import TORKNOCK, UNITS
from torknock.operate.setup.changes import Reader
from torknock.operate.setup.config_files import read_or_empty
from torknock.operate.setup.file_changes import File
from torknock.operate.setup.this_host import TOR_USER, Host


def shipped(name: str) -> str:
    """A file of contrib that is installed with the package."""
    installed = files("torknock") / "contrib" / name
    if installed.is_file():
        return installed.read_text("utf-8")
    return (Path(__file__).parents[3] / "contrib" / name).read_text("utf-8")


def unit_file(name: str, host: Host, suffix: str = "") -> File:
    """The unit *name* of contrib/systemd, as it is for one tor: with *suffix* in its name, and in what it refers to."""
    stem, _, kind = name.partition(".")
    text = re.sub(rf"\b{stem}\.(service|socket)", rf"{stem}{suffix}.\1", _unit(name, host))
    text = re.sub(r"(?m)^(ListenStream=.*)\.sock$", rf"\1{suffix}.sock", text)
    replaces = None if suffix else _earlier(name)
    return File(str(UNITS / f"{stem}{suffix}.{kind}"), text, reader=Reader.SYSTEMD, replaces=replaces)


def _unit(name: str, host: Host) -> str:
    text = shipped(f"systemd/{name}").replace(str(TORKNOCK), str(host.program))
    return text.replace(TOR_USER, host.tor_user)


def _earlier(name: str) -> str | None:
    """The unit that stands there, if an earlier version of torknock has it like that (contrib/systemd/earlier)."""
    there = read_or_empty(UNITS / name)
    as_shipped = re.sub(r"(?m)^ExecStart=\S+/torknock\b", f"ExecStart={TORKNOCK}", there)
    as_shipped = re.sub(r"(?m)(^SocketGroup=|--user )\S+", rf"\g<1>{TOR_USER}", as_shipped)
    digest = hashlib.sha256(as_shipped.encode("utf-8")).hexdigest()
    return there if f"{digest}  {name}" in shipped("systemd/earlier").splitlines() else None


def profile(name: str, program: Path) -> str:
    """What the AppArmor profile *name* needs for *program*, wherever it is installed."""
    installed = program.resolve()
    text = shipped(f"apparmor/{name}").replace("/opt/torknock/bin/torknock", str(installed))
    return text.replace("/opt/torknock", str(installed.parents[1]))
