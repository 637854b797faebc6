"""Conditions of a bridge's keyring, and of the lines in it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from torknock.bridge.status_report import odds
from torknock.kernel.proc import Process
from torknock.keyring.file import FILE, KeyringMissing, KeyringUnreadable
from torknock.keyring.lines import Keyring
from torknock.operate.doctor.host import AS_ROOT
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.protocol.bridge_line import Line, Scheme
from torknock.protocol.door import Posture
from torknock.protocol.token import NEIGHBOURS


def keyring(directory: Path, tor: Process | None, now: float) -> list[Finding]:
    """Whether there is a keyring that tor's user can use, and a live line in it."""
    try:
        found = os.stat(directory / FILE)
        with Keyring.open(directory, create=False) as opened:
            lines = opened.lines()
    except (KeyringMissing, FileNotFoundError):
        return [not_ok("keyring", "there is no keyring", "start the bridge once, or give another with --keyring")]
    except PermissionError:
        return [unknown("keyring", "this user may not read the keyring", AS_ROOT)]
    except KeyringUnreadable as error:
        return [not_ok("keyring", error.reason, error.remedy)]
    findings = [ok("keyring", "it can be read")]
    if tor is not None and tor.uid not in (0, found.st_uid):
        findings = [not_ok("keyring", "it belongs to a user other than tor's", "chown -R it to tor's user")]
    elif found.st_mode & 0o077:
        findings = [not_ok("keyring", "users other than its owner may read it", "chmod 0600 the files in it")]
    living = [issued.line for issued in lines if issued.is_live(now)]
    if not living:
        return [*findings, not_ok("lines", f"none of {len(lines)} lines is live", "torknock line add NAME")]
    tokens = sum(map(_tokens, living))
    return [
        *findings,
        ok("lines", f"{len(living)} of {len(lines)} live, with at most {tokens:,} tokens: {odds(tokens)}"),
    ]


def _tokens(line: Line) -> int:
    """How many ISNs open a connection by *line* at a time, at most: tokens of three epochs, or what a knock may be."""
    if line.scheme is Scheme.TOKEN:
        return (2 * NEIGHBOURS + 1) * line.n
    return 1 << 16 if line.integrity else 1


def knock_lines(posture: Posture, filtering: bool) -> Finding:
    """Whether lines of scheme knock, where there are any, open a port of *posture*; *filtering* as in `Power`."""
    name = "knock lines"
    if filtering:
        why = "lines of scheme knock open nothing, because judging them needs CAP_NET_ADMIN or the gate service"
        return not_ok(name, why, "as root: systemctl enable --now torknock-gate.socket")
    if posture.hides_judging:
        return ok(name, f"lines of scheme knock are judged, unseen because the port is {posture.value}")
    why = f"lines of scheme knock open nothing, because the port is {posture.value}: judging them would show by timing"
    remedy = "as root: torknock setup bridge --posture filtered; or torknock line revoke NAME"
    return not_ok(name, why, remedy)


def has_knocks(directory: Path, now: float) -> bool:
    """Whether there is a live line of scheme knock in the keyring, as far as it can be read."""
    with contextlib.suppress(OSError, KeyringMissing, KeyringUnreadable), Keyring.open(directory, create=False) as it:
        return any(issued.line.scheme is Scheme.KNOCK for issued in it.lines() if issued.is_live(now))
    return False
