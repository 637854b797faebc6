"""The lines of a bridge's site in the operator's own nginx: included in its `server` block, tested, and loaded."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, evolve

from torknock.kernel.places import PROGRAMS, SITE_SOCKET, SYSTEMD_RUNS
from torknock.operate.setup import server_block
from torknock.operate.setup.changes import CannotChange, CannotSetUp, Change
from torknock.operate.setup.config_files import read, rewrite
from torknock.operate.setup.file_changes import File
from torknock.operate.setup.programs import run
from torknock.operate.setup.server_block import ServerBlock
from torknock.operate.site_lines import nginx_lines, without_path

_SNIPPETS = Path("/etc/nginx/snippets")
_NGINX = ("nginx",)
_RELOADED_WITHIN = 10.0
_POLLED_EVERY = 0.05


@define
class SiteInclude:
    """The line that includes *snippet* in the one `server` block with TLS of the file at *path*."""

    path: str
    snippet: str
    socket: str
    """Where nginx listens once it has loaded the snippet."""
    added: str = ""
    """What was added to the file."""
    former: bool = False
    """Whether the snippet was included before."""

    @property
    def key(self) -> tuple[str, ...]:
        """The file."""
        return (self.path,)

    def describe(self) -> str:
        """The file and the line."""
        return f"include {self.snippet} in the server block with TLS of {self.path}; test it, and reload nginx"

    def is_needed(self) -> bool:
        """Whether the file does not include the snippet."""
        return not server_block.includes(read(self.path) or "", self.snippet)

    def inspect(self, earlier: Sequence[SiteInclude]) -> None:
        """Find the block, unless the snippet is included."""
        self.former = not self.is_needed()
        if not self.former:
            text, block = _block_of(self.path)
            self.added = server_block.addition(text, block.at, self.snippet)

    def make(self) -> None:
        """Add the line, have nginx test it, and reload nginx; what nginx refuses is taken out at once."""
        if not self.former:
            text, block = _block_of(self.path)
            rewrite(self.path, text[: block.at] + self.added + text[block.at :])
        if reason := _refused():
            if not self.former:
                rewrite(self.path, text)
            raise CannotChange(f"nginx would not take the site's lines, which are taken out again: {reason}")
        if not _reload():
            raise CannotChange("nginx cannot be reloaded", "start it, and try again")
        if not _waited(lambda: os.path.exists(self.socket)):
            raise CannotChange(f"nginx has not listened at {self.socket} after its reload", "see its error log")

    def undo(self) -> str:
        """Take the line out, and reload nginx. Raises `CannotChange` if nginx would miss the snippet afterwards."""
        there = read(self.path)
        if self.former or shutil.which(_NGINX[0], path=PROGRAMS) is None:
            return ""
        if there is not None and (less := server_block.without(there, self.added, self.snippet)) != there:
            rewrite(self.path, less)
        shown = run(*_NGINX, "-T", check=False)
        if f"# configuration file {self.snippet}:" in shown.output:
            raise CannotChange(
                f"nginx's configuration still includes {self.snippet}", "take that line out, and try again"
            )
        if shown.status:
            return f"nginx would not take its configuration, and was not reloaded: {_reason(shown.errors)}"
        if os.path.lexists(self.socket) and not (_reload() and _waited(lambda: not os.path.lexists(self.socket))):
            return f"nginx was not reloaded, and listens at {self.socket}: reload it, then remove that directory"
        return ""

    def merged_with(self, earlier: SiteInclude) -> SiteInclude:
        """What the earlier one added, if that is still there."""
        return evolve(self, added=earlier.added, former=earlier.former) if self.former else self


def include_changes(config: Path, suffix: str, site: Path, path: str) -> list[Change]:
    """What has the `server` block in *config* be the site in the directory *site*, with this secret *path*.

    *suffix* is that of the tor's `Place`. Nothing if all is there. Raises `CannotSetUp`.
    """
    _, block = _block_of(str(config))
    snippet = _SNIPPETS / f"torknock{suffix}.conf"
    file = File(str(snippet), nginx_lines(site, path, block.http2), 0o600)
    include = SiteInclude(str(config), str(snippet), str(site / SITE_SOCKET))
    if file.is_needed():
        return [file, include]
    return [include] if include.is_needed() else []


def check_config(config: Path) -> None:
    """Raise `CannotSetUp` unless nginx takes its configuration and *config* has one `server` block with TLS."""
    _block_of(str(config))
    if reason := _refused():
        raise CannotSetUp(f"nginx does not take its configuration as it is: {reason}", "mend that first")


def _block_of(config: str) -> tuple[str, ServerBlock]:
    """The text of the file, and its block. Raises `CannotSetUp` unless there is exactly one."""
    if (text := read(config)) is None:
        raise CannotSetUp(f"there is no file {config}", "name the file of your site's server block")
    blocks = server_block.blocks_with_tls(text)
    if len(blocks) != 1:
        count = len(blocks) or "no"
        raise CannotSetUp(
            f"{config} has {count} server blocks with TLS, and one is needed",
            "name another file; or leave out --site-config, and follow the steps that are printed",
        )
    return text, blocks[0]


def _refused() -> str:
    """Why nginx refuses its configuration as it is on disk; "" if it takes it."""
    tested = run(*_NGINX, "-t", check=False)
    return _reason(tested.errors) if tested.status else ""


def _reason(said: str) -> str:
    """nginx's own line, without the site's secret path."""
    lines = re.findall(r"(?m)^.*\[emerg\].*$", said) or said.strip().splitlines()[-1:] or ["nothing said"]
    return without_path(lines[0])


def _reload() -> bool:
    """Whether nginx was told to read its configuration again."""
    if SYSTEMD_RUNS.is_dir() and not run("systemctl", "reload", "nginx", check=False).status:
        return True
    return not run(*_NGINX, "-s", "reload", check=False).status


def _waited(condition: Callable[[], bool]) -> bool:
    """Whether *condition* becomes true soon."""
    gives_up = time.monotonic() + _RELOADED_WITHIN
    while not condition():
        if time.monotonic() > gives_up:
            return False
        time.sleep(_POLLED_EVERY)  # noqa: TID251  a command of root's, which has no reactor
    return True
