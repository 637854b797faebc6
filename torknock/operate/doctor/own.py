"""Conditions of a tor that a person runs, such as Tor Browser's, which this host's tor has nothing to do with."""

from __future__ import annotations

import contextlib
import errno
import grp
import pwd
from pathlib import Path

from torknock.kernel.places import APPARMOR_TOR_BROWSER
from torknock.kernel.proc import Process, answers, confinement, processes_of, service_here, transport_of
from torknock.operate.doctor import host, tor
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.operate.sides import Side
from torknock.service import DIAL_SOCKET

_GROUP = "torknock"
"""Whose members may use the dial service."""

_NAMES = {"tor", "tor.real"}


def own_tor(user: str) -> list[Finding]:
    """What holds for the tor of *user*'s own, and what does not. Its control port is not asked."""
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        return [unknown("tor", f"there is no user {user} on this host", "name another with --user")]
    theirs = _tor_of(uid)
    transport = None if theirs is None else transport_of(theirs.pid, Side.CLIENT.verb)
    findings = [_runs(user, theirs), _service(user), _member(user, uid, theirs), host.choosing()]
    findings.append(host.versions(Side.CLIENT, transport, service_here(Side.CLIENT.service)))
    if theirs is not None:
        findings.append(host.apparmor(confinement(theirs.pid), APPARMOR_TOR_BROWSER))
        findings.append(tor.running(Side.CLIENT, transport))
    return findings


def _tor_of(uid: int) -> Process | None:
    return next((each for each in processes_of(uid) if each.words and Path(each.words[0]).name in _NAMES), None)


def _runs(user: str, theirs: Process | None) -> Finding:
    if theirs is None:
        return not_ok("tor", f"no tor of {user}'s runs", "start Tor Browser, or the tor that it is about")
    return ok("tor", f"{user}'s tor runs; its control port is asked too if --control names it")


def _service(user: str) -> Finding:
    error = answers(DIAL_SOCKET)
    if error is None or error.errno in (errno.EACCES, errno.EPERM):
        return ok("privilege", f"the service at {DIAL_SOCKET} is there")
    why = f"no service answers at {DIAL_SOCKET}: {error.strerror}"
    return not_ok("privilege", why, f"as root: torknock setup client --user {user}")


def _member(user: str, uid: int, theirs: Process | None) -> Finding:
    """Whether *user* may use the dial service, and *theirs* too: a process keeps the groups of its login."""
    name, remedy = "group", f"as root: torknock setup client --user {user}; then {user} logs in again"
    with contextlib.suppress(KeyError):
        group = grp.getgrnam(_GROUP)
        if uid == 0 or user in group.gr_mem:
            if theirs is None or uid == 0 or group.gr_gid in theirs.groups:
                return ok(name, f"{user} may use the dial service")
            return not_ok(name, f"{user} may use the dial service, and {user}'s tor does not know yet", "log in again")
    return not_ok(name, f"{user} is no member of the group {_GROUP}, whose members may use the dial service", remedy)
