"""From an installed tor to a hidden bridge, or to a client of one: what must be changed for it (pure), and doing it."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import signal
import subprocess  # noqa: TID251  a command of root's, which has no reactor
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from attrs import define, frozen

from torknock.errors import TorknockError
from torknock.gate.ruleset import table_name
from torknock.helper import DIAL_SOCKET, GATE_SOCKET
from torknock.keyring import Keyring, LineUnknown
from torknock.line import BridgeLine, parse_fingerprint, write_address, write_bridge_line
from torknock.linux import is_served
from torknock.operate.changes import Block, Change, File, Process, Record, Unit, User
from torknock.operate.doctor.processes import Process as Running
from torknock.operate.doctor.processes import transport_of
from torknock.tor.control import RunningTor, tor_at
from torknock.tor.inspect import TorFacts, TorUnreachable

RECORD = Path("/var/lib/torknock/setup.json")
"""What was changed."""

SNIPPET = Path("/etc/tor/torrc.d/torknock.conf")
"""Our part of tor's configuration."""

_OR_PORT, _EXT_OR_PORT = "ORPort 127.0.0.1:auto", "ExtORPort auto"

OLDEST_TOR = (0, 4, 5)
_UNITS = Path("/etc/systemd/system")
_APPARMOR = Path("/etc/apparmor.d/local/system_tor")
_APPARMOR_IN_KERNEL = Path("/sys/module/apparmor/parameters/enabled")
_SYSTEMD = Path("/run/systemd/system")
_PROGRAM = Path("/usr/local/bin/torknock")
_SERVICE_USER = "torknock"
_REGISTERED_WITHIN = 30.0
_STARTS_WITHIN = 5.0
_LEFT_WITHIN = 5.0
_BOOTSTRAPS_WITHIN = 60.0
_POLLED_EVERY = 0.25
_HEAD = "# Written by torknock setup; torknock setup --undo takes it away.\n"


class CannotSetUp(TorknockError):
    """Something stands in the way; nothing was changed, or what was changed is taken back."""


@frozen
class Host:
    """What of this host a plan depends on."""

    config_file: Path
    tor_user: str
    program: Path
    systemd: bool
    apparmor: bool

    @classmethod
    def of(cls, tor: RunningTor, program: Path) -> Host:
        """The one where this runs as *program*. Raises `CannotSetUp`."""
        if os.geteuid() != 0:
            raise CannotSetUp("setup changes files of this host; run it as root")
        if " " in str(program):
            raise CannotSetUp(f"tor cannot start {program}, because of the space in it; install torknock elsewhere")
        apparmor = _APPARMOR.parent.is_dir() and _read_or_empty(_APPARMOR_IN_KERNEL).strip() == "Y"
        return cls(tor.config_file, tor.user, program, _SYSTEMD.is_dir(), apparmor)


@frozen
class BridgeWishes:
    """What an operator wants."""

    address: IPv4Address | IPv6Address
    port: int
    posture: str
    name: str
    """Of the first line."""


def bridge_options(facts: TorFacts, wishes: BridgeWishes, known: str, host: Host) -> str:
    """The lines of torrc that hide the bridge; *known* are those of a former set-up. Raises `CannotSetUp`. Pure."""
    _check_version(facts)
    exposed = [where for where in facts.or_listeners if not _is_loopback(where)]
    if exposed:
        ports = ", ".join(f"ORPort {value}" for value in facts.options.get("ORPort", ()))
        raise CannotSetUp(
            f"tor's ORPort listens on {', '.join(exposed)}, which gives a hidden bridge away; take {ports or 'it'} "
            f"out of {host.config_file}, reload tor, and try again"
        )
    wanted = {
        "BridgeRelay": "1",
        "AssumeReachable": "1",
        "Address": str(wishes.address),
        "PublishServerDescriptor": "0",
        "BridgeDistribution": "none",
    }
    lines = [f"{name} {value}" for name, value in wanted.items()]
    if not facts.or_listeners or _OR_PORT in known.splitlines():
        lines.append(_OR_PORT)
    if facts.option("ExtORPort") in (None, "0") or _EXT_OR_PORT in known.splitlines():
        lines.append(_EXT_OR_PORT)
    lines += [
        f"ServerTransportPlugin torknock exec {host.program} server",
        f"ServerTransportListenAddr torknock 0.0.0.0:{wishes.port}",
        f"ServerTransportOptions torknock posture={wishes.posture}",
    ]
    return "".join(f"{line}\n" for line in lines)


def client_options(facts: TorFacts, bridge_line: BridgeLine, known: str, host: Host) -> str:
    """The lines of torrc that make a client of the bridge, and of those in *known*, its former lines. Pure."""
    _check_version(facts)
    if facts.option("BridgeRelay") == "1":
        raise CannotSetUp("this tor is a bridge itself, and cannot use one; use another tor as the client")
    written = write_bridge_line(bridge_line)
    bridges = [line for line in known.splitlines() if line.startswith("Bridge torknock ") and line != written]
    plugin = f"ClientTransportPlugin torknock exec {host.program} client"
    return "".join(f"{line}\n" for line in ("UseBridges 1", plugin, *bridges, written))


def plan(side: str, options: str, host: Host, group: int) -> list[Change]:
    """What must be changed on *host* for *options* in torrc; *side* is "bridge" or "client".

    *group* is tor's, who alone may read the options besides root.
    """
    service, path = ("gate", GATE_SOCKET) if side == "bridge" else ("dial", DIAL_SOCKET)
    changes: list[Change] = [User(_SERVICE_USER)]
    if host.systemd:
        for kind in ("service", "socket"):
            name = f"torknock-{service}.{kind}"
            changes.append(File(str(_UNITS / name), _unit(name, host)))
        changes.append(Unit(f"torknock-{service}.socket"))
    else:
        changes.append(_process(service, path, host, group))
    if host.apparmor:
        changes.append(Block(str(_APPARMOR), _profile(host.program)))
    changes.append(File(str(SNIPPET), _HEAD + options, 0o640, group, known_options() or None))
    if not _includes(host.config_file, SNIPPET):
        changes.append(Block(str(host.config_file), f"%include {SNIPPET}\n"))
    return [change for change in changes if change.wanted()]


def known_options() -> str:
    """Our part of tor's configuration, as a former set-up has written it; "" if there is none."""
    there = _read_or_empty(SNIPPET)
    return there if there.startswith(_HEAD) else ""


def apply(changes: list[Change], tor: RunningTor, record: Record, side: str) -> None:
    """Make *changes*, and have *tor* take them up. Raises `CannotSetUp`; tor's configuration is then as before."""
    before = _configuration(changes)
    try:
        record.make(changes)
        if any(isinstance(change, Block) and change.path == str(_APPARMOR) for change in changes):
            subprocess.run(["/usr/sbin/apparmor_parser", "-r", "/etc/apparmor.d/system_tor"], check=False)
        _verify(tor)
    except TorknockError:
        _restore(before, record)
        raise
    start_transport(tor, side)
    for change in changes:
        if isinstance(change, File) and change.path == str(SNIPPET):
            _remove_tables(_tables(change.before or "") - _tables(change.text))


def transport_runs(tor: RunningTor, side: str) -> bool:
    """Whether tor has started the transport; *side* is as in `plan`."""
    return _until(lambda: _transport(tor, side) is not None, _STARTS_WITHIN)


def start_transport(tor: RunningTor, side: str) -> None:
    """Have *tor* take up what is configured now. Raises `CannotSetUp` if its transport does not start.

    A bridge's transport that runs is ended: tor starts it again, with its new options, which it does not read anew. One
    that tor has given up is started by a further reload.
    """
    running = _transport(tor, side)
    with tor.heard():
        tor.reload()
        if not tor.reads_within(_REGISTERED_WITHIN):
            raise CannotSetUp("tor does not read its configuration anew; restart it")
        if running is not None:
            if side == "client":  # what runs takes any bridge's line
                return
            with suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGTERM)
        gives_up = time.monotonic() + _REGISTERED_WITHIN
        while not tor.registers_within(_STARTS_WITHIN):
            if tor.failed or time.monotonic() > gives_up:
                said = tor.complaint or f"nothing within {_REGISTERED_WITHIN:.0f} s"
                raise CannotSetUp(f"tor has not started the transport; it said: {said}; see torknock doctor {side}")
            if _transport(tor, side) is None:
                tor.reload()


def first_line(tor: RunningTor, wishes: BridgeWishes, now: float) -> str:
    """The bridge line called as *wishes* says, made if it is not there. Raises `TorknockError`."""
    _until(lambda: tor.fingerprint is not None, _STARTS_WITHIN)
    facts = tor.facts()
    if facts.data_directory is None or (fingerprint := tor.fingerprint) is None:
        raise CannotSetUp("tor does not tell its fingerprint yet; try again in a minute")
    directory = facts.data_directory / "pt_state" / "torknock"
    with Keyring.open(directory, create=True) as keyring:
        try:
            issued = keyring.get(wishes.name)
        except LineUnknown:
            issued = keyring.add(wishes.name, expires=None, now=now)
        keyring.make_known_at(str(wishes.address))
        keyring.set_setting("address", write_address(wishes.address, wishes.port))
        keyring.set_setting("fingerprint", parse_fingerprint(fingerprint))
    return write_bridge_line(BridgeLine(wishes.address, wishes.port, parse_fingerprint(fingerprint), issued.line))


def bootstrapped(tor: RunningTor) -> int:
    """Percent of its start that *tor* has done, after a minute or when it is at its end."""
    _until(lambda: tor.facts().bootstrapped == 100, _BOOTSTRAPS_WITHIN)
    return tor.facts().bootstrapped or 0


def port_and_posture(facts: TorFacts, port: int | None, posture: str | None) -> tuple[int, str]:
    """What was wished for, else what torrc has, else 443 and closed. Raises `CannotSetUp` if it cannot be had."""
    listening = (facts.of_torknock("ServerTransportListenAddr") or "").rpartition(":")[2]
    there = int(listening) if listening.isdecimal() else None
    options = dict(word.partition("=")[::2] for word in (facts.of_torknock("ServerTransportOptions") or "").split())
    port, posture = port or there or 443, posture or options.get("posture") or "closed"
    if port != there and posture != "decoy" and is_served("0.0.0.0", port):  # noqa: S104  looked at, not listened on
        raise CannotSetUp(
            f"another program listens on port {port}; end it, name another with --port, or let it be the decoy with "
            "--posture decoy"
        )
    return port, posture


def undo(record: Record, control: str, password: str | None) -> Iterator[str]:
    """Take back what was changed, newest first; what could not be, and what is left, is told."""
    tables = _tables(known_options())
    yield from record.undo()
    try:
        with tor_at(control, password) as tor:
            tor.reload()
            _until(lambda: tor.facts().of_torknock("ServerTransportPlugin") is None, _LEFT_WITHIN)
    except TorUnreachable as error:
        yield f"{error}; have it read its configuration anew, or start it anew"
    _remove_tables(tables)
    yield "the keyring stays, with the lines that were issued: it is in pt_state/torknock below tor's DataDirectory"


def shipped(name: str) -> str:
    """A file of contrib that is installed with the package."""
    installed = files("torknock") / "contrib" / name
    if installed.is_file():
        return installed.read_text("utf-8")
    return (Path(__file__).parents[2] / "contrib" / name).read_text("utf-8")


@define
class _Before:
    path: Path
    text: str | None


def _configuration(changes: list[Change]) -> list[_Before]:
    """tor's files among what is changed, as they are."""
    paths = [Path(change.path) for change in changes if isinstance(change, (File, Block)) and "/tor" in change.path]
    return [_Before(path, path.read_text("utf-8") if path.exists() else None) for path in paths]


def _restore(before: list[_Before], record: Record) -> None:
    """Have tor's files as they were, for a tor that is started anew must not stumble."""
    for each in before:
        if each.text is None:
            each.path.unlink(missing_ok=True)
        else:
            each.path.write_text(each.text, "utf-8")
    paths = {str(each.path) for each in before}
    record.write([change for change in record.changes() if getattr(change, "path", "") not in paths])


def _verify(tor: RunningTor) -> None:
    """Have another tor read the configuration: the one that runs would end over a wrong one."""
    program = shutil.which("tor", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
    if program is None:
        return
    command = [program, "--verify-config", "-f", str(tor.config_file)]
    if (defaults := tor.defaults_file) is not None:
        command += ["--defaults-torrc", str(defaults)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  ours
    if done.returncode:
        said = [line.partition("] ")[2] for line in done.stdout.splitlines() if "[err]" in line or "[warn]" in line]
        raise CannotSetUp(f"tor would not take the new configuration: {said[-1] if said else 'it does not say why'}")


def _transport(tor: RunningTor, side: str) -> Running | None:
    pid = tor.facts().pid
    return None if pid is None else transport_of(pid, {"bridge": "server", "client": "client"}[side])


def _until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether *true* said so within so many *seconds*."""
    gives_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() > gives_up:
            return False
        time.sleep(_POLLED_EVERY)  # noqa: TID251  a command of root's, which has no reactor
    return True


def _includes(config_file: Path, snippet: Path) -> bool:
    """Whether *config_file* includes what stands at *snippet* (tor's manual, `%include`)."""
    for line in _read_or_empty(config_file).splitlines():
        word, _, pattern = line.strip().partition(" ")
        if word == "%include":
            pattern = pattern.strip().strip('"')
            if fnmatch.fnmatch(str(snippet), pattern) or Path(pattern) == snippet.parent:
                return True
    return False


def _unit(name: str, host: Host) -> str:
    text = shipped(f"systemd/{name}").replace(str(_PROGRAM), str(host.program))
    return text.replace("debian-tor", host.tor_user)


def _profile(program: Path) -> str:
    """What tor's AppArmor profile needs for *program*, wherever it is installed."""
    installed = program.resolve()
    text = shipped("apparmor/system_tor").replace("/opt/torknock/bin/torknock", str(installed))
    return text.replace("/opt/torknock", str(installed.parents[1]))


def _process(service: str, path: str, host: Host, group: int) -> Process:
    capability = "-all,+net_admin"
    allowed = ["--user", host.tor_user] if host.tor_user != "root" else []
    if service == "dial":
        allowed += ["--group", _SERVICE_USER]
    command = [
        "setpriv", f"--reuid={_SERVICE_USER}", f"--regid={_SERVICE_USER}", "--clear-groups", "--no-new-privs",
        f"--inh-caps={capability}", f"--ambient-caps={capability}", f"--bounding-set={capability}",
        str(host.program), service, "--socket", path, *allowed,
    ]  # fmt: skip
    return Process(command, _SERVICE_USER, path, group if service == "gate" else 0, f"/var/log/torknock-{service}.log")


def _check_version(facts: TorFacts) -> None:
    if facts.version[:3] < OLDEST_TOR:
        wanted = ".".join(map(str, OLDEST_TOR))
        raise CannotSetUp(f"this tor is {'.'.join(map(str, facts.version))}; torknock needs {wanted} or newer")


def _is_loopback(where: str) -> bool:
    host = where.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return where.startswith("unix:")


def _tables(options: str) -> set[str]:
    """The table of the port that the lines of torrc in *options* hide."""
    return {table_name("0.0.0.0", int(port)) for port in re.findall(r"ListenAddr torknock 0\.0\.0\.0:(\d+)", options)}  # noqa: S104


def _remove_tables(tables: set[str]) -> None:
    """Remove those of *tables* that a bridge has left, once it has had the time to take them away itself."""
    nft = shutil.which("nft", path="/usr/sbin:/sbin")
    if nft is None or not tables:
        return

    def left() -> set[str]:
        listed = subprocess.run([nft, "list", "tables", "inet"], capture_output=True, text=True, check=False)  # noqa: S603
        return tables & set(listed.stdout.split())

    if not _until(lambda: not left(), _LEFT_WITHIN):
        for table in left():
            subprocess.run([nft, "delete", "table", "inet", table], check=False)  # noqa: S603  ours


def _read_or_empty(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
