"""The directory of the sockets of a bridge's site: made now, and at each boot, since it is below `/run`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from attrs import define, evolve

from torknock.kernel.places import PROGRAMS, SITE_SOCKET
from torknock.operate.setup.changes import CannotChange, CannotSetUp, Change
from torknock.operate.setup.file_changes import File
from torknock.operate.setup.programs import run

_RUN = Path("/run")
_AT_BOOT = Path("/etc/tmpfiles.d")
_MODE = 0o755
_OLDEST = (1, 13)
"""The first version of nginx that has TLS 1.3."""


@define
class SiteDirectory:
    """The directory at *path*, which *user*, tor's, owns: the transport and the web server make sockets in it."""

    path: str
    user: str
    made: bool = False
    """Whether it was not there before."""

    @property
    def key(self) -> tuple[str, ...]:
        """Its path."""
        return (self.path,)

    def describe(self) -> str:
        """Where it is, and whose."""
        return f"make the directory {self.path}, owned by {self.user}"

    def is_needed(self) -> bool:
        """Whether it is missing or another user's."""
        path = Path(self.path)
        return not path.is_dir() or path.owner() != self.user

    def inspect(self, earlier: Sequence[SiteDirectory]) -> None:
        """Whether there is something else in its place."""
        if os.path.lexists(self.path) and (not Path(self.path).is_dir() or Path(self.path).is_symlink()):
            raise CannotChange(f"{self.path} is no directory", "move it away")
        self.made = not Path(self.path).exists()

    def make(self) -> None:
        """Make it."""
        Path(self.path).mkdir(mode=_MODE, exist_ok=True)
        os.chmod(self.path, _MODE)  # whatever the umask is
        shutil.chown(self.path, self.user)

    def undo(self) -> str:
        """Remove it, unless something is in it, such as the web server's sockets."""
        path = Path(self.path)
        if not self.made or not path.is_dir():
            return ""
        if os.path.lexists(path / SITE_SOCKET):
            return f"the web server uses {path}: take torknock's lines out of its configuration before it is restarted"
        shutil.rmtree(path)
        return ""

    def merged_with(self, earlier: SiteDirectory) -> SiteDirectory:
        """Made by either."""
        return evolve(self, made=self.made or earlier.made)


def check_web_server() -> None:
    """Raise `CannotSetUp` unless this host has nginx, of a version that can be a site."""
    if shutil.which("nginx", path=PROGRAMS) is None:
        raise CannotSetUp(
            "a site needs nginx, and this host has none", "apt install nginx, make your web site, and try again"
        )
    check_version(run("nginx", "-v", check=False).errors)


def check_version(said: str) -> None:
    """Raise `CannotSetUp` if what nginx *said* of its version is one that is too old; one that is not known is tried.

    TLS 1.3 (`ssl_protocols`) is there from 1.13 on.
    """
    found = re.search(r"nginx version: \S+?/(\d+)\.(\d+)", said)
    if found is not None and (int(found[1]), int(found[2])) < _OLDEST:
        raise CannotSetUp(
            f"a site needs nginx 1.13 or newer, and this host has {found[1]}.{found[2]}", "upgrade it, and try again"
        )


def site_directory(suffix: str) -> Path:
    """The directory of the site of the bridge whose tor's `Place` has this *suffix*."""
    return _RUN / f"torknock-site{suffix}"


def site_changes(options: str, suffix: str, user: str) -> list[Change]:
    """What has the directory in *options*, lines of torrc, be there for *user*; nothing if it is the operator's own."""
    directory = site_directory(suffix)
    found = re.search(r"(?m)^ServerTransportOptions torknock .*\bsite=(\S+)", options)
    if found is None or found[1] != str(directory):
        return []
    text = f"# Written by torknock setup; torknock setup --undo removes it.\nd {directory} 0755 {user} root -\n"
    return [File(str(_AT_BOOT / f"{directory.name}.conf"), text), SiteDirectory(str(directory), user)]
