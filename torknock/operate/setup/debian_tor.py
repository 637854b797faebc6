"""Debian's tor while it is stopped: its configuration, its first start, and what keeps it from starting.

A tor that is started without a bridge connects to the Tor network directly. So `contrib/install` lets a tor that it
installs wait: a file of systemd's has it start only where torknock's part of its configuration is (`HOLD`).
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

from torknock.kernel.places import PROGRAMS, SYSTEMD_RUNS, UNITS
from torknock.kernel.proc import process, same_network, started_at
from torknock.operate.setup.apply import wait_until
from torknock.operate.setup.changes import CannotSetUp
from torknock.operate.setup.config_files import write
from torknock.operate.setup.place import TORRC
from torknock.operate.setup.programs import run
from torknock.operate.setup.shipped_files import shipped
from torknock.operate.setup.this_host import TOR_USER
from torknock.operate.tor_log import from_journal
from torknock.tor import CONTROL
from torknock.tor.control import tor_at
from torknock.tor.inspect import TorFacts, TorUnreachable
from torknock.tor.reasons import why_refused

HOLD = UNITS / "tor@default.service.d/torknock.conf"
DEFAULTS = Path("/usr/share/tor/tor-service-defaults-torrc")

_UNIT = "tor@default.service"
_OPENS_WITHIN = 30.0
_ENDS_WITHIN = 40.0
"""Seconds; a tor that is a relay takes 30 to end."""

_LISTED = (
    "Address", "BridgeRelay", "DataDirectory", "ExtORPort", "ORPort", "ServerTransportListenAddr",
    "ServerTransportOptions", "ServerTransportPlugin",
)  # fmt: skip


def is_stopped(control: str) -> bool:
    """Whether Debian's tor, with its control socket at *control*, is installed and does not run."""
    if control != CONTROL or not TORRC.exists() or shutil.which("tor", path=PROGRAMS) is None:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(control)
        except (FileNotFoundError, ConnectionRefusedError):
            return not _runs()
        except OSError:
            return False
    return False


def _runs() -> bool:
    """Whether a tor of Debian's user runs in this network, wherever its control socket is."""
    try:
        uid = pwd.getpwnam(TOR_USER).pw_uid
    except KeyError:
        return False
    for entry in Path("/proc").iterdir():
        with suppress(OSError, KeyError, ValueError):
            found = process(int(entry.name))
            if not found.words:  # it has ended, and its parent has not noticed
                continue
            if found.uid == uid and Path(found.words[0]).name == "tor" and same_network(found.pid):
                return True
    return False


def configured_facts() -> TorFacts:
    """What Debian's tor will report once it runs, from its configuration.

    Raises `CannotSetUp` if tor would not take that.
    """
    command = ["tor", "--defaults-torrc", str(DEFAULTS), "-f", str(TORRC), "--hush", "--dump-config", "full"]
    dumped = run(*command, check=False)
    if dumped.status:
        refusal = run("tor", "--verify-config", "--defaults-torrc", str(DEFAULTS), "-f", str(TORRC), check=False)
        raise CannotSetUp(f"tor does not take its configuration ({TORRC}) as it is: {why_refused(refusal.output)}")
    listed = [line.partition(" ")[::2] for line in dumped.output.splitlines()]
    options = {name: tuple(value for each, value in listed if each == name and value) for name in _LISTED}
    version = run("tor", "--version").output.split()[2].rstrip(".")
    return TorFacts(
        version=tuple(int(part) for part in version.split("-")[0].split(".") if part.isdecimal()),
        pid=None,
        options=options,
        or_listeners=tuple(where for port in options["ORPort"] if (where := _listener(port)) is not None),
        bootstrapped=None,
        registered=None,
        consensus=None,
    )


def _listener(port: str) -> str | None:
    """Where tor will listen for `ORPort` *port*; None if nowhere."""
    where, *flags = port.split()
    if where == "0" or "NoListen" in flags:
        return None
    return where if ":" in where else f"0.0.0.0:{where}"


START_BY_HAND = "start it (service tor start), then run this command again, which checks everything"
"""What to do where no systemd starts tor."""


def start() -> bool:
    """Start Debian's tor, which is configured by now; False where there is no systemd to do it.

    Raises `CannotSetUp` if it does not start; it is stopped then, so that systemd does not start it with what it had
    before.
    """
    if not SYSTEMD_RUNS.is_dir():
        return False
    began = int(time.time())  # noqa: TID251  for the journal
    run("systemctl", "daemon-reload")
    run("systemctl", "start", _UNIT, check=False)
    if not wait_until(lambda: Path(CONTROL).exists(), _OPENS_WITHIN):
        run("systemctl", "stop", _UNIT, check=False)
        journal = run("journalctl", f"--unit={_UNIT}", f"--since=@{began}", "--no-pager", "--output=json", check=False)
        raise CannotSetUp(f"tor does not start: {why_refused(from_journal(journal.output))}. It is stopped")
    return True


def stop(control: str, password: str | None) -> bool:
    """Stop the tor at *control*, if it runs; whether systemd starts it only where it is set up (`HOLD`).

    Raises `TorUnreachable` or `CannotSetUp` if it goes on running.
    """
    if control == CONTROL and SYSTEMD_RUNS.is_dir():
        run("systemctl", "stop", _UNIT)
        write(str(HOLD), shipped("systemd/tor-waits.conf"), 0o644)
        run("systemctl", "daemon-reload", check=False)
        return True
    try:
        with tor_at(control, password) as tor:
            pid = tor.facts().pid
            tor.shut_down()
    except TorUnreachable as error:
        if error.missing:
            return False
        raise
    if pid is None or not wait_until(lambda: started_at(pid) is None, _ENDS_WITHIN):
        raise CannotSetUp("tor does not end; nothing was taken back", f"end its process, {pid}, and try again")
    return False


def release() -> bool:
    """Let tor start without torknock, and start it; False if nothing held it."""
    if not HOLD.exists():
        return False
    HOLD.unlink()
    with suppress(OSError):
        os.rmdir(HOLD.parent)
    run("systemctl", "daemon-reload", check=False)
    run("systemctl", "start", _UNIT, check=False)
    return True
