"""What must be changed on a host for a hidden bridge, or for a client of one."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
from collections.abc import Callable
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from attrs import frozen

from torknock.errors import TorknockError
from torknock.firewall.look import taken
from torknock.kernel.files import read_file
from torknock.kernel.proc import is_served
from torknock.operate.setup.changes import AT_MOST, Block, Change, File, Member, Process, Reader, Unit, User, run
from torknock.operate.setup.doors import FILTERED_UNIT, access_changes, door_of
from torknock.operate.setup.place import SNIPPET, TORRC, Place, includes
from torknock.protocol.bridge_line import BridgeLine, write_address, write_bridge_line
from torknock.tor.control import RunningTor
from torknock.tor.inspect import TorFacts

_OR_PORT, _EXT_OR_PORT = "ORPort 127.0.0.1:auto", "ExtORPort auto"
OLDEST_TOR = (0, 4, 5)
_UNITS = Path("/etc/systemd/system")
APPARMOR = Path("/etc/apparmor.d/local/system_tor")
"""What is added to the profile of tor (Debian)."""

TORBROWSER = Path("/etc/apparmor.d/local/torbrowser.Tor.tor")
"""The same of the tor of Tor Browser, where torbrowser-launcher installed it (Debian)."""

_APPARMOR_IN_KERNEL = Path("/sys/module/apparmor/parameters/enabled")
SYSTEMD = Path("/run/systemd/system")
_PROGRAM = Path("/usr/local/bin/torknock")
_SERVICE_USER = "torknock"
TOR_USER = "debian-tor"
_HEAD = "# Written by torknock setup; torknock setup --undo takes it away.\n"


class CannotSetUp(TorknockError):
    """Something stands in the way; nothing was changed, or what was changed is taken back."""


@frozen
class Host:
    """What of this host a plan depends on."""

    place: Place
    tor_user: str
    program: Path
    systemd: bool
    apparmor: bool

    @classmethod
    def of(cls, tor: RunningTor | None, program: Path, user: str | None = None) -> Host:
        """The one where this runs as *program*; without *tor*, as Debian has it.

        *user* is whose tor starts the program, if not tor's own. Raises `CannotSetUp`.
        """
        if os.geteuid() != 0:
            raise CannotSetUp("setup changes files of this host", "run it as root")
        if " " in str(program):
            raise CannotSetUp(f"tor cannot start {program}, because of the space in it", "install torknock elsewhere")
        apparmor = APPARMOR.parent.is_dir() and _read_or_empty(_APPARMOR_IN_KERNEL).strip() == "Y"
        config_file, tor_user = (TORRC, TOR_USER) if tor is None else (tor.config_file, tor.user)
        _check_runs(program, user or tor_user)
        return cls(Place.of(config_file), tor_user, program, SYSTEMD.is_dir(), apparmor)


def _check_runs(program: Path, user: str) -> None:
    """Raise `CannotSetUp` unless *user*, if there is one of that name, can run *program*, which is tried."""
    try:
        group = pwd.getpwnam(user).pw_gid
    except KeyError:
        return
    become = ("setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups", "--no-new-privs")
    if run(*become, str(program), "--version", check=False).status:
        raise CannotSetUp(
            f"{user} cannot run {program}, and so cannot its tor",
            "install torknock where every user can run it: "
            "contrib/install does, and so does pipx with PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin",
        )


@frozen
class BridgeWishes:
    """What an operator wants."""

    address: IPv4Address | IPv6Address
    port: int
    posture: str
    name: str
    """Of the first line."""
    named: tuple[IPv4Address | IPv6Address, int]
    """Where lines say that the bridge is: behind address translation the port may be another."""


def bridge_options(facts: TorFacts, wishes: BridgeWishes, known: str, host: Host) -> str:
    """The lines of torrc that hide the bridge; *known* are those of a former set-up. Raises `CannotSetUp`. Pure."""
    _check_version(facts)
    exposed = [where for where in facts.or_listeners if not _is_loopback(where)]
    if exposed:
        ports = ", ".join(f"ORPort {value}" for value in facts.options.get("ORPort", ()))
        raise CannotSetUp(
            f"tor's ORPort listens on {', '.join(exposed)}, which gives a hidden bridge away",
            f"take {ports or 'it'} out of {host.place.config_file}, reload tor, and try again",
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
        f"ServerTransportPlugin torknock exec {host.program} server{host.place.helper('gate')}",
        f"ServerTransportListenAddr torknock 0.0.0.0:{wishes.port}",
        f"ServerTransportOptions torknock posture={wishes.posture}",
    ]
    return "".join(f"{line}\n" for line in lines)


def client_options(facts: TorFacts, bridge_line: BridgeLine, known: str, host: Host) -> str:
    """The lines of torrc that make a client of the bridge, and of those in *known*, its former lines. Pure."""
    _check_version(facts)
    if facts.option("BridgeRelay") == "1":
        raise CannotSetUp("this tor is a bridge itself, and cannot use one", "use another tor as the client")
    if facts.option("ORPort") not in (None, "0"):
        raise CannotSetUp("this tor is a relay, and a relay cannot use a bridge", "use another tor as the client")
    written = write_bridge_line(bridge_line)
    former = [line for line in known.splitlines() if line.startswith("Bridge torknock ")]
    same = {bridge_line.fingerprint, write_address(bridge_line.address, bridge_line.port)}
    bridges = [line for line in former if not same.intersection(line.split())]  # tor knows a bridge once
    plugin = f"ClientTransportPlugin torknock exec {host.program} client{host.place.helper('dial')}"
    return "".join(f"{line}\n" for line in ("UseBridges 1", plugin, *bridges, written))


def plan(side: str, options: str, host: Host, group: int) -> list[Change]:
    """What must be changed on *host* for *options* in torrc; *side* is "bridge" or "client".

    *group* is tor's, who alone may read the options besides root. Raises `CannotSetUp`.
    """
    service = _service("gate" if side == "bridge" else "dial", host, group)
    if side == "bridge":
        service[1:1] = _doors(options, host)  # the service finds them when it starts
    changes: list[Change] = []
    if host.apparmor:
        changes.append(Block(str(APPARMOR), _profile(APPARMOR.name, host.program), Reader.APPARMOR))
    place = host.place
    if place.name and includes(place.config_file, SNIPPET):
        raise CannotSetUp(
            f"{place.config_file} includes {SNIPPET}, which is another tor's", "take that %include out, and try again"
        )
    changes.append(
        File(str(place.snippet), _HEAD + options, 0o640, group, Reader.TOR, known_options(place.snippet) or None)
    )
    if not includes(place.config_file, place.snippet):
        changes.append(Block(str(place.config_file), f"%include {place.snippet}\n", Reader.TOR))
    # a client that is broken off has its bridge in torrc: whatever starts tor, it connects to nothing else
    return _wanted([*service, *changes] if side == "bridge" else [*changes, *service])


def plan_by_hand(facts: TorFacts, host: Host) -> list[Change]:
    """What must be changed for a bridge whose lines in torrc are a person's: what its service may guard."""
    names = ("ServerTransportListenAddr", "ServerTransportOptions")
    options = "".join(f"{name} torknock {facts.of_torknock(name) or ''}\n" for name in names)
    return _wanted([User(_SERVICE_USER), *_doors(options, host)])


def plan_for_user(user: str, host: Host) -> list[Change]:
    """What must be changed on *host* for a tor of *user*'s own, such as Tor Browser's. Raises `CannotSetUp`."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise CannotSetUp(f"there is no user {user} on this host") from None
    changes = [*_service("dial", host, 0), Member(user, _SERVICE_USER)]
    if (TORBROWSER.parent.parent / TORBROWSER.name).exists():
        changes.append(Block(str(TORBROWSER), _profile(TORBROWSER.name, host.program), Reader.APPARMOR))
    return _wanted(changes)


def _wanted(changes: list[Change]) -> list[Change]:
    """Those of *changes* that are not so already; with a file of systemd's, the units that it may be of."""
    wanted = [change.wanted() for change in changes]
    files = any(it and isinstance(change, File) and change.reader is Reader.SYSTEMD
                for it, change in zip(wanted, changes, strict=True))  # fmt: skip
    return [change for it, change in zip(wanted, changes, strict=True) if it or (files and isinstance(change, Unit))]


def _service(service: str, host: Host, group: int) -> list[Change]:
    """What has a privileged service run."""
    changes: list[Change] = [User(_SERVICE_USER)]
    if not host.systemd:
        return [*changes, _process(service, host.place.socket(service), host, group)]
    for kind in ("service", "socket"):
        changes.append(_unit_file(f"torknock-{service}.{kind}", host, host.place.suffix))
    return [*changes, Unit(f"torknock-{service}{host.place.suffix}.socket")]


def _unit_file(name: str, host: Host, suffix: str = "") -> File:
    """The unit *name* of contrib/systemd, as it is for one tor: with *suffix* in its name, and in what it refers to."""
    stem, _, kind = name.partition(".")
    text = re.sub(rf"\b{stem}\.(service|socket)", rf"{stem}{suffix}.\1", _unit(name, host))
    text = re.sub(r"(?m)^(ListenStream=.*)\.sock$", rf"\1{suffix}.sock", text)
    replaces = None if suffix else _earlier(name)
    return File(str(_UNITS / f"{stem}{suffix}.{kind}"), text, reader=Reader.SYSTEMD, replaces=replaces)


def _doors(options: str, host: Host) -> list[Change]:
    door = door_of(options, host.tor_user)
    unit = _unit_file(FILTERED_UNIT, host) if host.systemd else None
    return [] if door is None else access_changes(door, host.place.owner(host.tor_user), _SERVICE_USER, unit)


def known_options(snippet: Path) -> str:
    """Our part of tor's configuration, as a former set-up has written it; "" if there is none."""
    there = _read_or_empty(snippet)
    return there if there.startswith(_HEAD) else ""


def configured_port(facts: TorFacts) -> int | None:
    """The port that torrc hides."""
    listening = (facts.of_torknock("ServerTransportListenAddr") or "").rpartition(":")[2]
    return int(listening) if listening.isdecimal() else None


def port_and_posture(
    facts: TorFacts, port: int | None, posture: str | None, usual: Callable[[], str]
) -> tuple[int, str]:
    """What was wished for, else what torrc has, else 443 and what *usual* says.

    Raises `CannotSetUp` if it cannot be had.
    """
    there = configured_port(facts)
    options = dict(word.partition("=")[::2] for word in (facts.of_torknock("ServerTransportOptions") or "").split())
    port, posture = port or there or 443, posture or options.get("posture") or usual()
    if port != there and posture != "decoy" and is_served("0.0.0.0", port):  # noqa: S104  looked at, not listened on
        raise CannotSetUp(
            f"another program listens on port {port}",
            "end it, name another with --port, or let it be the decoy with --posture decoy",
        )
    if rule := taken(port, (4, 6), None):
        raise CannotSetUp(
            f"address translation takes port {port} to another service, such as a container that publishes it",
            f"remove the rule, or name another port with --port: {rule}",
        )
    return port, posture


def shipped(name: str) -> str:
    """A file of contrib that is installed with the package."""
    installed = files("torknock") / "contrib" / name
    if installed.is_file():
        return installed.read_text("utf-8")
    return (Path(__file__).parents[3] / "contrib" / name).read_text("utf-8")


def _unit(name: str, host: Host) -> str:
    text = shipped(f"systemd/{name}").replace(str(_PROGRAM), str(host.program))
    return text.replace(TOR_USER, host.tor_user)


def _earlier(name: str) -> str | None:
    """The unit that stands there, if an earlier version of torknock has it like that (contrib/systemd/earlier)."""
    there = _read_or_empty(_UNITS / name)
    as_shipped = re.sub(r"(?m)^ExecStart=\S+/torknock\b", f"ExecStart={_PROGRAM}", there)
    as_shipped = re.sub(r"(?m)(^SocketGroup=|--user )\S+", rf"\g<1>{TOR_USER}", as_shipped)
    digest = hashlib.sha256(as_shipped.encode("utf-8")).hexdigest()
    return there if f"{digest}  {name}" in shipped("systemd/earlier").splitlines() else None


def _profile(name: str, program: Path) -> str:
    """What the AppArmor profile *name* needs for *program*, wherever it is installed."""
    installed = program.resolve()
    text = shipped(f"apparmor/{name}").replace("/opt/torknock/bin/torknock", str(installed))
    return text.replace("/opt/torknock", str(installed.parents[1]))


def _process(service: str, path: str, host: Host, group: int) -> Process:
    capability = "-all,+net_admin"
    allowed = []
    if service == "dial":
        allowed = ["--user", host.tor_user] if host.tor_user != "root" else []
        allowed += ["--group", _SERVICE_USER]
    command = [
        "setpriv", f"--reuid={_SERVICE_USER}", f"--regid={_SERVICE_USER}", "--clear-groups", "--no-new-privs",
        f"--inh-caps={capability}", f"--ambient-caps={capability}", f"--bounding-set={capability}",
        str(host.program), service, "--socket", path, *allowed,
    ]  # fmt: skip
    log = f"/var/log/torknock-{service}{host.place.suffix}.log"
    return Process(command, _SERVICE_USER, path, group if service == "gate" else 0, log)


def _check_version(facts: TorFacts) -> None:
    if facts.version[:3] < OLDEST_TOR:
        wanted = ".".join(map(str, OLDEST_TOR))
        raise CannotSetUp(f"this tor is {'.'.join(map(str, facts.version))}", f"torknock needs {wanted} or newer")


def _is_loopback(where: str) -> bool:
    host = where.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return where.startswith("unix:")


def _read_or_empty(path: Path) -> str:
    try:
        return read_file(path, AT_MOST).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
