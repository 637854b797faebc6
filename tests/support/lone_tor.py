"""A real tor without a network, for what it says to its transports."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 60.0
"""Seconds until a tor that says nothing counts as hung; no test passes sooner or later for it."""

_RECORDER = """
import json, os, sys
path, kind, port = sys.argv[1:]
with open(path, "w") as file:
    json.dump({name: value for name, value in os.environ.items() if name.startswith("TOR_PT_")}, file)
method = f"{kind} rot {'socks5 ' * (kind == 'CMETHOD')}127.0.0.1:{port}"
proxy = ["PROXY DONE"] if "TOR_PT_PROXY" in os.environ else []
print("VERSION 1", *proxy, method, f"{kind}S DONE", sep="\\n", flush=True)
sys.stdin.read()
"""
"""A transport that writes its environment to a file, and names the port of another program as its own."""


class LoneTor:
    """A tor with these *lines* in its torrc. It finds no relay, and starts its transports all the same.

    `RECORDER CMETHOD PORT` in a line is a transport that writes what tor has set to `environ`, and says that PORT of
    loopback is its own; `RECORDER SMETHOD PORT` is one for a server.
    """

    def __init__(self, *lines: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tor-"))
        self.data_directory = self.directory / "data"
        program = self.directory / "recorder.py"
        program.write_text(_RECORDER)
        recorder = f"exec {sys.executable} {program} {self.directory}/environ"
        (self.directory / "torrc").write_text("\n".join([
            "TestingTorNetwork 1", "AssumeReachable 1", f"DataDirectory {self.data_directory}", "Log notice stdout",
            f"DirAuthority test orport=1 no-v2 v3ident={'A' * 40} 127.0.0.1:1 {'B' * 40}",
            *(line.replace("RECORDER", recorder) for line in lines), "",
        ]))  # fmt: skip
        command = ["tor", "-f", f"{self.directory}/torrc", "--defaults-torrc", "/dev/null"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._hung = threading.Timer(PATIENCE, self._process.kill)
        self._hung.start()

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a line of the log that has *pattern*; a complaint about a transport before it is an error."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(pattern, line):
                return found
            if "managed proxy" in line.lower():
                raise AssertionError(line)
        raise AssertionError(f"tor ended without {pattern}")

    def environ(self) -> dict[str, str]:
        """What the transport `RECORDER` has found in its environment, once tor's log shows that it has started."""
        environ: dict[str, str] = json.loads((self.directory / "environ").read_text())
        return environ

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()
        self._hung.cancel()
        shutil.rmtree(self.directory, ignore_errors=True)
