"""Conditions of the host: the kernel, the programs, privilege, the clock, confinement."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torknock.interfaces import GateFailed
from torknock.kernel.capability import may_administer_network
from torknock.kernel.interfaces import IReactor
from torknock.kernel.ipv6 import has_ipv6
from torknock.kernel.nftables_state import ruleset_generation
from torknock.kernel.places import APPARMOR_TOR, PROGRAMS, SYSCTLS_IPV4, profile_of
from torknock.kernel.proc import Process, answers, may_open
from torknock.kernel.program import command
from torknock.kernel.socket_options import TCP_SAVE_SYN
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.operate.setup.daemons import is_outdated
from torknock.operate.sides import Side
from torknock.protocol.door import Door, Posture
from torknock.service import ruleset
from torknock.service.ruleset import Judging

_NFT = (0, 9, 8)
"""The oldest nft that is known to load the ruleset: Debian 11's."""

_VERBS = tuple(verb for side in Side for verb in (side.verb, side.service))

AS_ROOT = "run torknock doctor as root"


@dataclass(frozen=True, slots=True)
class Power:
    """How a transport gets what needs CAP_NET_ADMIN."""

    finding: Finding
    filtering: bool = False
    """Not at all: the bridge filters at its own port."""


def power(side: Side, helper: str, transport: Process | None, tor: Process | None, posture: str | None) -> Power:
    """How the *transport* of *side* gets it: itself, or by the service at the socket *helper*.

    Where the transport does not run, what holds for *tor* holds for it; where neither is seen, a client's transport is
    taken for a process like this one.
    """
    name, user = "privilege", transport or tor
    if user is not None and user.may_administer_network:
        return Power(ok(name, "the transport has CAP_NET_ADMIN itself"))
    if user is None and side is Side.CLIENT and may_administer_network():
        return Power(ok(name, "this process has CAP_NET_ADMIN, and so has a transport that is started like it"))
    service = f"torknock-{side.service}"
    error = answers(helper)
    if error is None and user is not None and not may_open(helper, user):
        why = f"a service answers at {helper}, which tor's user may not open"
        return Power(not_ok(name, why, f"as root: systemctl restart {service}.socket, with the unit as it was shipped"))
    if error is None:
        return Power(ok(name, f"the service at {helper} answers{_is_held_back(user)}"))
    if error.errno in (errno.EACCES, errno.EPERM):
        remedy = "as root: adduser NAME torknock, and log in again" if side is Side.CLIENT else AS_ROOT
        return Power(unknown(name, f"{helper} is there, and this user may not connect", remedy))
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    what = "there is no service" if missing else "no service answers"
    start = f"as root: systemctl enable --now {service}.socket"
    if user is None and side is Side.BRIDGE:
        why = f"no transport of tor was seen that could have CAP_NET_ADMIN, and {what} at {helper}"
        return Power(unknown(name, why, f"start tor, and {AS_ROOT}; or {start}"))
    what = f"the transport lacks CAP_NET_ADMIN{_is_held_back(user)}, and {what} at {helper}"
    if side is Side.BRIDGE and posture in (None, Posture.FILTERED.value):
        return Power(ok(name, f"{what}: torknock filters at its own port, which needs none"), filtering=True)
    return Power(not_ok(name, what, start))


def _is_held_back(user: Process | None) -> str:
    return " (tor's unit has NoNewPrivileges)" if user is not None and user.no_new_privileges else ""


def nf_tables() -> Finding:
    """Whether the kernel has nftables."""
    try:
        ruleset_generation()
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return unknown("nf_tables", "this process may not ask the kernel", AS_ROOT)
        why = f"the kernel has no nftables: {error.strerror}"
        return not_ok("nf_tables", why, "use a kernel of 5.10 or newer with CONFIG_NF_TABLES")
    return ok("nf_tables", "the kernel has nftables")


def kernel() -> list[Finding]:
    """What the kernel of a bridge must have and must not do, whatever its gate is."""
    findings = []
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
            findings.append(ok("TCP_SAVE_SYN", "the kernel saves the SYN of a connection"))
        except OSError as error:
            remedy = "use Linux 4.3 or newer, and no emulation of it"
            findings.append(not_ok("TCP_SAVE_SYN", f"the kernel does not save SYNs: {error.strerror}", remedy))
    match _sysctl("tcp_syncookies"):
        case None:
            findings.append(unknown("SYN cookies", "net.ipv4.tcp_syncookies cannot be read", AS_ROOT))
        case 2:
            why = "net.ipv4.tcp_syncookies is 2: the kernel saves no SYN, and no client gets in"
            findings.append(not_ok("SYN cookies", why, "as root: sysctl -w net.ipv4.tcp_syncookies=1"))
        case value:
            findings.append(ok("SYN cookies", f"net.ipv4.tcp_syncookies is {value}"))
    return findings


def choosing() -> Finding:
    """Whether a process with CAP_NET_ADMIN can choose the ISN of a SYN (TCP_REPAIR)."""
    try:
        may = may_administer_network()
    except OSError as error:
        why = f"the kernel has no TCP_REPAIR: {error.strerror}"
        return not_ok("TCP_REPAIR", why, "use a Linux kernel with CONFIG_CHECKPOINT_RESTORE")
    return ok("TCP_REPAIR", "the kernel lets a process choose an ISN" + ("" if may else ", with CAP_NET_ADMIN"))


def timestamps() -> Finding:
    """Whether SYNs have timestamps, without which a knock line always sends the same SYN."""
    value = _sysctl("tcp_timestamps")
    if value == 0:
        why = "net.ipv4.tcp_timestamps is 0: a line of scheme knock opens one connection at most"
        return not_ok("timestamps", why, "as root: sysctl -w net.ipv4.tcp_timestamps=1")
    return ok("timestamps", "SYNs have timestamps, as lines of scheme knock need them")


def _sysctl(name: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int((SYSCTLS_IPV4 / name).read_text())
    return None


async def gate_programs(reactor: IReactor, posture: Posture, knocks: bool) -> list[Finding]:
    """Whether nft is there and new enough, and loads the ruleset, which is tried where it touches nothing."""
    try:
        output = await command(reactor, "nft", ["--version"], package="nftables")
    except GateFailed as error:
        return [not_ok("nft", error.what, error.remedy or "see why it does not run: nft --version")]
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", output)
    version = tuple(map(int, found.groups())) if found else ()
    shown_version = ".".join(map(str, version)) or "of an unknown version"
    if version < _NFT:
        return [not_ok("nft", f"nft is {shown_version}", f"install nftables {'.'.join(map(str, _NFT))} or newer")]
    findings = [ok("nft", f"nft is {shown_version}")]
    try:
        await _loads(reactor, posture, None)
    except GateFailed as error:
        if os.geteuid() != 0:
            return [*findings, unknown("ruleset", "only root can try whether the ruleset can be loaded", AS_ROOT)]
        why = f"the ruleset cannot be loaded: {error}"
        remedy = "use a kernel with nft_tproxy, nft_socket, nft_fib_inet, nft_numgen and nft_limit"
        return [*findings, not_ok("ruleset", why, remedy)]
    findings.append(ok("ruleset", f"the kernel takes the ruleset of posture {posture.value}"))
    if knocks:
        findings.append(await _queue(reactor, posture))
    return findings


async def _queue(reactor: IReactor, posture: Posture) -> Finding:
    try:
        await _loads(reactor, posture, Judging.QUEUE)
    except GateFailed:
        try:
            await command(reactor, "iptables-nft", ["--version"], package="iptables")
        except GateFailed:
            why = "there are lines of scheme knock, and neither nftables' queue nor iptables"
            return not_ok("packet queue", why, "apt-get install iptables")
        return ok("packet queue", "iptables queues SYNs for lines of scheme knock")
    return ok("packet queue", "nftables queues SYNs for lines of scheme knock")


async def _loads(reactor: IReactor, posture: Posture, judging: Judging | None) -> None:
    """Load the ruleset in a network namespace that is gone when nft ends."""
    hidden = ruleset.HiddenPorts(1, 2 if has_ipv6() else None)
    text = ruleset.load(Door("0.0.0.0", 443, posture), hidden, judging)  # noqa: S104  a text, not a socket
    nft = shutil.which("nft", path=PROGRAMS)
    if nft is None:
        raise GateFailed("the command nft is missing", "apt-get install nftables")
    await command(reactor, "unshare", ["--net", nft, "-f", "-"], text.encode("ascii"), package="util-linux")


async def clock(reactor: IReactor, now: Callable[[], float], consensus: tuple[str, str] | None) -> Finding:
    """Whether the clock is right within 5 minutes, as far as this host knows."""
    with contextlib.suppress(GateFailed):
        shown = await command(
            reactor, "timedatectl", ["show", "--property=NTPSynchronized", "--value"], package="systemd"
        )
        if shown.strip() == "yes":
            return ok("clock", "NTP sets it")
    return dated(now(), consensus)


def dated(now: float, consensus: tuple[str, str] | None) -> Finding:
    """What tor's consensus, valid between two times, says of a clock that shows *now*."""
    name, remedy = "clock", "compare `date -u` with a clock that is right, and install systemd-timesyncd or chrony"
    if consensus is not None and all(consensus):
        first, last = (datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() for moment in consensus)
        if not first <= now <= last:
            why = "tor's consensus is not valid at the time that the clock shows"
            return not_ok(name, f"{why}: it is wrong, or tor cannot get a new one", remedy)
        return ok(name, "it agrees with tor's consensus, which shows errors of hours only; NTP does not set it")
    return unknown(name, "NTP does not set it, and tor has no consensus to compare it with", remedy)


def apparmor(label: str | None, local: Path = APPARMOR_TOR) -> Finding:
    """Whether AppArmor, where it confines tor, lets it start torknock; *label* is tor's, None if it is not known."""
    name = "AppArmor"
    if label is None:
        return unknown(name, "no process of tor was found", "start tor, and run torknock doctor as root")
    if not label or not label.endswith("(enforce)"):
        return ok(name, "tor is not confined" if not label else f"tor's profile only complains: {label}")
    try:
        rules = [line for line in local.read_text("utf-8", "replace").splitlines() if not line.lstrip().startswith("#")]
    except OSError:
        rules = []
    if any("torknock" in rule for rule in rules):
        return ok(name, f"tor is confined by {label.partition(' ')[0]}, which has lines for torknock")
    remedy = f"add the lines of contrib/apparmor to {local}; as root: apparmor_parser -r {profile_of(local)}"
    return not_ok(name, f"tor is confined by {label.partition(' ')[0]}, whose rules do not allow torknock", remedy)


def versions(side: Side, *running: Process | None) -> Finding:
    """Whether what is *running*, a transport and a service of *side*, is what is installed now."""
    old = [process for process in running if process is not None and is_outdated(process.pid)]
    if old:
        words = ", ".join(f"torknock {next(verb for verb in _VERBS if verb in process.words)}" for process in old)
        why = f"processes of an older version run: {words}"
        return not_ok("version", why, f"as root: torknock setup {side}, which restarts them")
    return ok("version", "the running processes are of the installed version")
