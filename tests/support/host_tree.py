"""A directory in the place of a host: what a set-up writes is below it, and a real tor has its torrc there."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.own_tor import TORKNOCK, OwnTor
from torknock.operate.setup import (
    apply,
    debian_tor,
    doors,
    place,
    planned_changes,
    shipped_files,
    site_directory,
    site_include,
    this_host,
)


class HostTreeCase(SynchronousTestCase):
    """The paths of a host, moved to a new directory, where the command is installed."""

    def setUp(self) -> None:
        self.host = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.host, ignore_errors=True)
        self.torrc, self.snippet = self.host / "tor" / "torrc", self.host / "torrc.d" / "torknock.conf"
        self.record_path = self.host / "lib" / "setup.json"
        self.access = self.host / "etc" / "gate.toml"
        for module, names in {
            place: {"SNIPPET": self.snippet, "RECORD": self.record_path, "TORRC": self.torrc},
            debian_tor: {
                "TORRC": self.torrc, "HOLD": self.host / "hold" / "torknock.conf", "DEFAULTS": Path("/dev/null"),
                "SYSTEMD_RUNS": self.host / "no-systemd",
            },
            this_host: {"TORRC": self.torrc, "SYSTEMD_RUNS": self.host / "no-systemd"},
            doors: {"ACCESS": self.access, "FILTERED": self.access.with_name("filtered.nft")},
            apply: {"ACCESS": self.access},
            site_directory: {"_RUN": self.host / "run", "_AT_BOOT": self.host / "tmpfiles.d"},
            site_include: {"_SNIPPETS": self.host / "snippets", "SYSTEMD_RUNS": self.host / "no-systemd"},
            shipped_files: {"UNITS": self.host / "units"},
            planned_changes: {"APPARMOR_TOR": self.host / "apparmor.d" / "local" / "system_tor"},
        }.items():  # fmt: skip
            for name, path in names.items():
                self.patch(module, name, path)

        self.program = self.host / "bin" / "torknock"
        self.program.parent.mkdir()
        self.program.write_text(f'#!/bin/sh\nexec {TORKNOCK} "$@"\n')
        self.program.chmod(0o755)
        self.patch(sys, "argv", [str(self.program)])

    def own_tor(self, *lines: str) -> OwnTor:
        """A tor whose torrc is the host's, not started yet."""
        tor = OwnTor(self.torrc.parent, *lines)
        self.addCleanup(tor.stop)
        return tor

    def files(self) -> dict[str, bytes]:
        """Every file on the host but tor's own."""
        return {
            str(path.relative_to(self.host)): path.read_bytes()
            for path in self.host.rglob("*")
            if path.is_file() and (path.parent != self.torrc.parent or path == self.torrc) and "data" not in path.parts
        }

    @property
    def group(self) -> int:
        """The one that new files have."""
        return os.getegid()
