"""Every condition that must hold for a bridge, or for a client, each looked at once."""

from __future__ import annotations

import contextlib
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twisted.internet.threads import deferToThread

from torknock.bridge.status_report import StatusError
from torknock.errors import TorknockError
from torknock.kernel.blocking_program import ProgramFailed
from torknock.kernel.interfaces import IReactor
from torknock.kernel.ipv6 import has_ipv6
from torknock.kernel.places import keyring_within
from torknock.kernel.proc import (
    Listening,
    Process,
    confinement,
    listening,
    process,
    same_network,
    service_here,
    sockets_of,
    transport_of,
)
from torknock.operate import tor_log
from torknock.operate.doctor import bridge_keyring, host, permissions, port, tor, torrc_file
from torknock.operate.doctor.open_files import files
from torknock.operate.doctor.own import own_tor
from torknock.operate.doctor.site_conditions import site
from torknock.operate.doctor.tls_hello import tls_hello
from torknock.operate.finding import Finding, not_ok, unknown
from torknock.operate.firewall.fate import SYN
from torknock.operate.firewall.look import Firewall, look, routed
from torknock.operate.sides import Side
from torknock.operate.status_view import BridgeUnreachable, ask
from torknock.privileged.gate.translation import taken
from torknock.protocol.bridge_line import LineError, parse_address
from torknock.protocol.door import Door, Posture
from torknock.service import DIAL_SOCKET, GATE_SOCKET
from torknock.service.access import Entry, canonical
from torknock.tor import CONTROL
from torknock.tor.inspect import TorFacts, TorUnreachable, ask_tor


class RoleUnknown(TorknockError):
    """Nothing shows whether this host has a bridge or a client."""

    def __init__(self) -> None:
        super().__init__(
            "neither tor nor a keyring shows whether this host has a bridge or a client",
            "run torknock doctor bridge, or torknock doctor client",
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Which tor is examined, and how it is reached."""

    keyring: Path
    """Where a bridge's keyring is, unless tor's configuration names another."""
    side: Side | None = None
    """Which side it is examined as; None if that is to be found out."""
    control: str = CONTROL
    password: str | None = None
    user: str | None = None
    """Whose own tor it is, as in `torknock.operate.doctor.own`; None for this host's."""


async def examine(reactor: IReactor, target: Target, now: Callable[[], float]) -> list[Finding]:
    """What holds and what does not. Raises `RoleUnknown`."""
    if target.user is not None:
        return [*own_tor(target.user), tls_hello(now()), await host.clock(reactor, now, None)]
    facts: TorFacts | None = None
    findings: list[Finding] = []
    try:
        facts = await deferToThread(ask_tor, target.control, target.password)
        findings.append(tor.version(facts))
    except TorUnreachable as error:
        findings.append(_unreachable(error, target))
    side = target.side or _guess_side(target, facts)
    if facts is not None and target.control == CONTROL:
        findings += torrc_file.included(side)
    tor_process = _process(facts)
    if tor_process is not None and not _is_here(tor_process):
        why = "tor is in another network namespace than this command: what follows is about this one"
        findings.append(unknown("network", why, f"nsenter --net=/proc/{tor_process.pid}/ns/net torknock doctor"))
    if side is Side.CLIENT:
        return findings + await _client(reactor, facts, tor_process, now)
    return findings + await _bridge(reactor, target, facts, tor_process, now)


def _unreachable(error: TorUnreachable, target: Target) -> Finding:
    held = torrc_file.held(target.side) if error.missing and target.control == CONTROL else None
    start = "start tor, as root: systemctl start tor@default; or name its control socket with --control"
    return held or (not_ok if error.missing else unknown)("tor", error.what, error.remedy or start)


def _guess_side(target: Target, facts: TorFacts | None) -> Side:
    if facts is not None and facts.of_torknock(Side.BRIDGE.plugin) is not None:
        return Side.BRIDGE
    if facts is not None and facts.of_torknock(Side.CLIENT.plugin) is not None:
        return Side.CLIENT
    try:
        if target.keyring.exists():
            return Side.BRIDGE
    except OSError:
        pass
    raise RoleUnknown


async def _client(
    reactor: IReactor, facts: TorFacts | None, tor_process: Process | None, now: Callable[[], float]
) -> list[Finding]:
    if facts is not None and facts.of_torknock(Side.CLIENT.plugin) is None:
        return [host.choosing(), await host.clock(reactor, now, facts.consensus), tor.not_set_up(Side.CLIENT)]
    transport = _transport(tor_process, Side.CLIENT)
    powered = host.power(Side.CLIENT, _helper(facts, Side.CLIENT, DIAL_SOCKET), transport, tor_process, None)
    findings = [powered.finding, host.choosing()]
    findings.append(await host.clock(reactor, now, facts.consensus if facts else None))
    findings.append(host.apparmor(None if tor_process is None else confinement(tor_process.pid)))
    findings += _programs(Side.CLIENT, transport)
    findings.append(tls_hello(now()))
    if facts is None:
        return findings
    if tor.uses_knocks(facts):
        findings.append(host.timestamps())
    findings += tor.client_options(facts)
    findings.append(tor.bootstrapped(facts))
    findings.append(await tor_log.log(reactor, facts.options.get("Log", ())))
    return findings


async def _bridge(
    reactor: IReactor, target: Target, facts: TorFacts | None, tor_process: Process | None, now: Callable[[], float]
) -> list[Finding]:
    if facts is not None and facts.of_torknock(Side.BRIDGE.plugin) is None:
        findings = [*host.kernel(), host.nf_tables(), *await host.gate_programs(reactor, Posture.CLOSED, False)]
        exposed = [tor.or_port(facts, None)] if tor.is_exposed(facts) else []
        return [*findings, await host.clock(reactor, now, facts.consensus), *exposed, tor.not_set_up(Side.BRIDGE)]
    options = _options(facts)
    directory = Path(options["keyring"]) if "keyring" in options else _keyring(target, facts)
    transport = _transport(tor_process, Side.BRIDGE)
    knocks = bridge_keyring.has_knocks(directory, now())
    powered = host.power(
        Side.BRIDGE, _helper(facts, Side.BRIDGE, GATE_SOCKET), transport, tor_process, options.get("posture")
    )
    filtering = powered.filtering
    posture = Posture.read(options.get("posture"))
    posture = posture or (Posture.FILTERED if filtering else Posture.CLOSED)
    findings = [powered.finding, *_access(facts, posture, filtering, transport or tor_process), *host.kernel()]
    if not filtering:
        findings.append(host.nf_tables())
        findings += await host.gate_programs(reactor, posture, knocks and posture.hides_judging)
    if knocks:
        findings += [bridge_keyring.knock_lines(posture, filtering), host.timestamps()]
    findings.append(await host.clock(reactor, now, facts.consensus if facts else None))
    findings.append(host.apparmor(None if tor_process is None else confinement(tor_process.pid)))
    findings += _programs(Side.BRIDGE, transport)
    findings += bridge_keyring.keyring(directory, tor_process, now())
    findings += await deferToThread(site, directory, now())
    if facts is not None:
        findings += tor.bridge_options(facts)
        findings += [tor.or_port(facts, _listening_of(tor_process)), tor.takes_clients(facts)]
        if tor_process is not None:
            findings.append(tor.running(Side.BRIDGE, transport, facts.refusing))
        findings += [tor.registered(facts), tor.bootstrapped(facts)]
        findings.append(await tor_log.log(reactor, facts.options.get("Log", ())))
    with contextlib.suppress(BridgeUnreachable, StatusError):  # whether it runs is another condition
        findings.append(port.opens((await ask(reactor, directory)).warnings))
    findings += await _door(reactor, facts, posture, transport, filtering)
    return findings


def _access(facts: TorFacts | None, posture: Posture, filtering: bool, user: Process | None) -> list[Finding]:
    """What concerns the gate service, for a bridge of *user* that needs it."""
    if facts is None or user is None or filtering or user.may_administer_network:
        return []
    try:
        address, number = parse_address(facts.of_torknock("ServerTransportListenAddr") or "")
        door = Entry(canonical(str(address)), number, posture, pwd.getpwuid(user.uid).pw_name)
    except (LineError, KeyError):
        return []
    return [permissions.listed(door), *([permissions.silent_from_boot(door)] if posture is Posture.FILTERED else [])]


async def _door(
    reactor: IReactor, facts: TorFacts | None, posture: Posture, transport: Process | None, filtering: bool
) -> list[Finding]:
    seen: Firewall | ProgramFailed
    try:
        seen = await deferToThread(look)
    except ProgramFailed as error:
        seen = error
    where = facts.of_torknock("ServerTransportListenAddr") if facts is not None else None
    try:
        address, number = parse_address(where or "")
    except LineError:
        why = "the protected port is not known, so it cannot be examined"
        return [unknown("port", why, "torrc: ServerTransportListenAddr torknock 0.0.0.0:443")]
    door = Door(str(address), number, posture)
    found = listening()
    findings = [port.listeners(number, posture, found, _sockets(transport))]
    findings.append(port.gate(door.table, None if isinstance(seen, ProgramFailed) else seen, filtering))
    if isinstance(seen, ProgramFailed):
        remedy = seen.remedy or host.AS_ROOT
        findings.append(unknown("firewall", f"its rules cannot be listed: {seen.what}", remedy))
        findings.append(unknown("posture", f"{posture.value}: {port.UNSEEN}", remedy))
        return findings
    versions = routed(door.versions(has_ipv6()))
    own = None if door.everywhere else door.host
    taking = await deferToThread(taken, number, versions, own)
    judged = await deferToThread(seen.judge_all, [SYN(number, version, own) for version in versions])
    findings.append(port.let_in(number, list(zip(versions, judged, strict=True)), taking))
    unused = await deferToThread(seen.judge_unused, {number, *(each.port for each in found)}, versions)
    findings.append(port.fits(posture, unused))
    return findings


def _options(facts: TorFacts | None) -> dict[str, str]:
    line = (facts.of_torknock("ServerTransportOptions") or "") if facts is not None else ""
    return {name: value for name, _, value in (word.partition("=") for word in line.split())}


def _helper(facts: TorFacts | None, side: Side, usual: str) -> str:
    """The socket of the privileged service, as the transport's command line in torrc names it."""
    words = ((facts.of_torknock(side.plugin) or "") if facts is not None else "").split()
    return words[words.index("--helper") + 1] if "--helper" in words[:-1] else usual


def _keyring(target: Target, facts: TorFacts | None) -> Path:
    data = facts.data_directory if facts is not None else None
    return target.keyring if data is None else keyring_within(data)


def _process(facts: TorFacts | None) -> Process | None:
    try:
        return None if facts is None or facts.pid is None else process(facts.pid)
    except OSError:
        return None


def _transport(tor_process: Process | None, side: Side) -> Process | None:
    return None if tor_process is None else transport_of(tor_process.pid, side.verb)


def _programs(side: Side, transport: Process | None) -> list[Finding]:
    """What concerns the running programs of *side* as programs."""
    service = service_here(side.service)
    return [host.versions(side, transport, service), *files([(side.verb, transport), (side.service, service)])]


def _is_here(found: Process) -> bool:
    try:
        return same_network(found.pid)
    except OSError:
        return True


def _sockets(found: Process | None) -> frozenset[int] | None:
    """The inodes of the process' sockets; None if this user may not see them: its memory is private (prctl(2))."""
    try:
        return frozenset() if found is None else sockets_of(found.pid)
    except PermissionError:
        return None
    except OSError:
        return frozenset()


def _listening_of(found: Process | None) -> list[Listening] | None:
    """What the process listens on; None if that cannot be seen."""
    try:
        return None if found is None else [each for each in listening() if each.inode in sockets_of(found.pid)]
    except OSError:
        return None
