"""A real tor in a directory of its own, run by the user who runs the tests. It has no network: nothing leaves the host.

Its transports have no CAP_NET_ADMIN, whoever runs the tests: a bridge filters at its own port.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TORKNOCK = Path(sys.executable).with_name("torknock")
"""The command, as it is installed beside this interpreter."""

_WITHOUT_CAPABILITY = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
_OPENS_WITHIN = 60.0


class OwnTor:
    """A tor with *lines* in its torrc, in the new *directory*; `start` starts it."""

    def __init__(self, directory: Path, *lines: str) -> None:
        directory.mkdir(mode=0o700, parents=True)
        self.torrc, self.log, self.data = directory / "torrc", directory / "log", directory / "data"
        self.control = str(directory / "control")
        authority = f"DirAuthority test orport=1 no-v2 v3ident={'A' * 40} 127.0.0.1:1 {'B' * 40}"
        self.torrc.write_text("\n".join([
            "TestingTorNetwork 1", "AssumeReachable 1", "SocksPort 0", "ShutdownWaitLength 1", authority,
            f"DataDirectory {self.data}", f"ControlSocket {self.control}", f"Log notice file {self.log}", *lines, "",
        ]))  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process' id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it can be asked."""
        prefix = _WITHOUT_CAPABILITY if os.geteuid() == 0 else []
        command = [*prefix, "tor", "-f", str(self.torrc), "--defaults-torrc", "/dev/null", "--hush"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        gives_up = time.monotonic() + _OPENS_WITHIN
        while not Path(self.control).exists():
            if self._process.poll() is not None or time.monotonic() > gives_up:
                raise AssertionError(f"tor does not start: {self.log.read_text() if self.log.exists() else 'no log'}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, if it runs, and its transports with it."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
