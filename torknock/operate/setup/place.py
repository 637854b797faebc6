"""Where what a set-up writes for one tor is: each tor of a host has a record, a snippet, units and sockets of its own.

The first tor that is set up, usually that of `/etc/tor/torrc`, has the names without an addition. Another has its own:
an instance of Debian's (`tor-instance-create NAME`) its NAME, any other a number made of the path of its torrc.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from torknock.operate.setup.changes import CannotChange, Reader
from torknock.operate.setup.config_files import read
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.record import Record
from torknock.service import DIAL_SOCKET, GATE_SOCKET
from torknock.tor import CONTROL
from torknock.tor.control import tor_at
from torknock.tor.inspect import TorUnreachable

SNIPPET = Path("/etc/tor/torrc.d/torknock.conf")
"""torknock's part of the first tor's configuration."""

RECORD = Path("/var/lib/torknock/setup.json")
"""What was changed for the first tor."""

TORRC = Path("/etc/tor/torrc")
INSTANCES = Path("/etc/tor/instances")
"""The directories of Debian's instances."""

_SOCKETS = {"gate": GATE_SOCKET, "dial": DIAL_SOCKET}


@frozen
class Place:
    """The names for the tor whose torrc is *config_file*; *name* is empty for the first."""

    config_file: Path
    name: str

    @classmethod
    def of(cls, config_file: Path) -> Place:
        """The place of the tor with this torrc. Raises `CannotChange` if the first tor's record is damaged."""
        if config_file == first():
            return cls(config_file, "")
        if config_file.parent.parent == INSTANCES and config_file.name == "torrc":
            return cls(config_file, config_file.parent.name)
        return cls(config_file, "torrc-" + hashlib.sha256(bytes(config_file)).hexdigest()[:8])

    @property
    def snippet(self) -> Path:
        """torknock's part of this tor's configuration."""
        return self.config_file.with_name(f"torknock-{self.name}.conf") if self.name else SNIPPET

    @property
    def record(self) -> Record:
        """What was changed for this tor."""
        return Record(RECORD.with_name(f"setup-{self.name}.json") if self.name else RECORD)

    @property
    def suffix(self) -> str:
        """What the names of units and sockets have behind the service's."""
        return f"-{self.name}" if self.name else ""

    def socket(self, service: str) -> str:
        """Where the *service*, "gate" or "dial", of this tor listens."""
        return _SOCKETS[service].replace(f"{service}.sock", f"{service}{self.suffix}.sock")

    def helper(self, service: str) -> str:
        """What the command of a transport says, so that it finds this tor's *service*."""
        return f" --helper {self.socket(service)}" if self.name else ""

    def owner(self, user: str) -> str:
        """What the access list calls this tor, which runs as *user*."""
        return f"{user}, {self.config_file}" if self.name else user


def place_at(control: str, password: str | None) -> Place:
    """The place of the tor at *control*, whose set-up is to be undone, whether it runs or not.

    Raises `CannotChange` if that is not known.
    """
    usual = Place.of(first())
    others = usual.record.other_records()
    if control == CONTROL and usual.record.changes():
        return usual
    with suppress(TorUnreachable), tor_at(control, password) as tor:
        return Place.of(tor.config_file)
    if found := re.fullmatch(r"/run/tor-instances/([A-Za-z0-9]+)/control", control):
        return Place.of(INSTANCES / found[1] / "torrc")
    if others and control != CONTROL:
        raise CannotChange(f"no tor answers at {control}, and several are set up here", "start it, and try again")
    return usual


def first() -> Path:
    """The torrc of the first tor that is set up here; Debian's while none is."""
    changes = [each for each in Record(RECORD).changes() if isinstance(each, (File, Block))]
    configured = [each for each in changes if each.reader is Reader.TOR]
    blocks = [Path(each.path) for each in configured if isinstance(each, Block)]
    return blocks[0] if blocks else TORRC


def includes(config_file: Path, snippet: Path) -> bool:
    """Whether *config_file* includes what stands at *snippet* (tor's manual, `%include`)."""
    for line in (read(str(config_file)) or "").splitlines():
        word, _, pattern = line.strip().partition(" ")
        if word == "%include":
            pattern = pattern.strip().strip('"')
            if fnmatch.fnmatch(str(snippet), pattern) or Path(pattern) == snippet.parent:
                return True
    return False
