"""torknock's lines of torrc, for a bridge and for a client. They depend on what tor says of itself."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from attrs import frozen

from torknock.kernel.proc import is_served
from torknock.operate.setup.changes import CannotSetUp
from torknock.operate.setup.config_files import read_or_empty
from torknock.operate.setup.this_host import Host
from torknock.privileged.gate.translation import taken
from torknock.protocol.bridge_line import BridgeLine, write_address, write_bridge_line
from torknock.protocol.door import Door
from torknock.tor.inspect import TorFacts

HEAD = "# Written by torknock setup; torknock setup --undo takes it away.\n"
OLDEST_TOR = (0, 4, 5)
_OR_PORT, _EXT_OR_PORT = "ORPort 127.0.0.1:auto", "ExtORPort auto"


@frozen
class BridgeSettings:
    """What an operator has chosen for a bridge."""

    address: IPv4Address | IPv6Address
    """Its public address."""
    door: Door
    line_name: str
    """The name of its first line."""
    line_address: tuple[IPv4Address | IPv6Address, int]
    """The address and port in its lines: behind address translation the port may be another than the door's."""
    site: Path | None = None
    """The directory of its site's sockets, if it is to have a site."""


def bridge_options(facts: TorFacts, settings: BridgeSettings, known: str, host: Host) -> str:
    """The lines of torrc that hide the bridge; *known* are those of a former set-up. Raises `CannotSetUp`. Pure."""
    _check_version(facts)
    exposed = [where for where in facts.or_listeners if not _is_loopback(where)]
    if exposed:
        ports = ", ".join(f"ORPort {value}" for value in facts.options.get("ORPort", ()))
        raise CannotSetUp(
            f"tor's ORPort listens on {', '.join(exposed)}, by which a scan finds the bridge",
            f"take {ports or 'it'} out of {host.place.config_file}, reload tor, and try again",
        )
    required = {
        "BridgeRelay": "1",
        "AssumeReachable": "1",
        "Address": str(settings.address),
        "PublishServerDescriptor": "0",
        "BridgeDistribution": "none",
    }
    lines = [f"{name} {value}" for name, value in required.items()]
    if not facts.or_listeners or _OR_PORT in known.splitlines():
        lines.append(_OR_PORT)
    if facts.option("ExtORPort") in (None, "0") or _EXT_OR_PORT in known.splitlines():
        lines.append(_EXT_OR_PORT)
    lines += [
        f"ServerTransportPlugin torknock exec {host.program} server{host.place.helper('gate')}",
        f"ServerTransportListenAddr torknock {settings.door.host}:{settings.door.port}",
        f"ServerTransportOptions torknock posture={settings.door.posture.value}"
        + ("" if settings.site is None else f" site={settings.site}"),
    ]
    return "".join(f"{line}\n" for line in lines)


def client_options(facts: TorFacts, bridge_line: BridgeLine, known: str, host: Host) -> str:
    """The lines of torrc that make a client of the bridge, and of those in *known*, its former lines. Pure."""
    _check_version(facts)
    if facts.option("BridgeRelay") == "1":
        raise CannotSetUp("this tor is a bridge, and a bridge cannot use a bridge", "use another tor as the client")
    if facts.option("ORPort") not in (None, "0"):
        raise CannotSetUp("this tor is a relay, and a relay cannot use a bridge", "use another tor as the client")
    written = write_bridge_line(bridge_line)
    former = [line for line in known.splitlines() if line.startswith("Bridge torknock ")]
    same = {bridge_line.fingerprint, write_address(bridge_line.address, bridge_line.port)}
    bridges = [line for line in former if not same.intersection(line.split())]  # tor knows a bridge once
    plugin = f"ClientTransportPlugin torknock exec {host.program} client{host.place.helper('dial')}"
    return "".join(f"{line}\n" for line in ("UseBridges 1", plugin, *bridges, written))


def known_options(snippet: Path) -> str:
    """Our part of tor's configuration, as a former set-up has written it; "" if there is none."""
    there = read_or_empty(snippet)
    return there if there.startswith(HEAD) else ""


def configured_site(facts: TorFacts) -> Path | None:
    """The directory of the site's sockets in torrc."""
    return Path(site) if (site := _transport_options(facts).get("site")) else None


def _transport_options(facts: TorFacts) -> dict[str, str]:
    words = (facts.of_torknock("ServerTransportOptions") or "").split()
    return dict(word.partition("=")[::2] for word in words)


def configured_port(facts: TorFacts) -> int | None:
    """The port of the door in torrc; None if torrc has none."""
    listening = (facts.of_torknock("ServerTransportListenAddr") or "").rpartition(":")[2]
    return int(listening) if listening.isdecimal() else None


def port_and_posture(
    facts: TorFacts, port: int | None, posture: str | None, usual: Callable[[], str]
) -> tuple[int, str]:
    """The given port and posture, else those of torrc, else 443 and what *usual* returns.

    Raises `CannotSetUp` if the port cannot be used.
    """
    there = configured_port(facts)
    port, posture = port or there or 443, posture or _transport_options(facts).get("posture") or usual()
    if port != there and posture != "decoy" and is_served("0.0.0.0", port):  # noqa: S104  looked at, not listened on
        raise CannotSetUp(
            f"another program listens on port {port}",
            "stop it, choose another port with --port, or make it the decoy with --posture decoy",
        )
    if rule := taken(port, (4, 6), None):
        raise CannotSetUp(
            f"address translation takes port {port} to another service, such as a container that publishes it",
            f"remove the rule, or name another port with --port: {rule}",
        )
    return port, posture


def _check_version(facts: TorFacts) -> None:
    if facts.version[:3] < OLDEST_TOR:
        oldest = ".".join(map(str, OLDEST_TOR))
        raise CannotSetUp(f"this tor is {'.'.join(map(str, facts.version))}", f"torknock needs {oldest} or newer")


def _is_loopback(where: str) -> bool:
    host = where.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return where.startswith("unix:")
