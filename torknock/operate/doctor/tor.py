"""Conditions of tor: its options, its listeners, and what it reports of the transport."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from torknock.kernel.places import TORKNOCK
from torknock.kernel.proc import Listening, Process
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.operate.pasted import read
from torknock.operate.sides import Side
from torknock.protocol.bridge_line import LineError, parse_bridge_line
from torknock.tor.inspect import TorFacts

_OLDEST = (0, 4, 5)
_HOW_IT_RUNS = (f"ServerTransportPlugin torknock exec {TORKNOCK} server",
                f"+ClientTransportPlugin torknock exec {TORKNOCK} client")  # fmt: skip


def version(facts: TorFacts) -> Finding:
    """Whether tor is new enough."""
    shown_version = ".".join(map(str, facts.version))
    if facts.version < _OLDEST:
        return not_ok("tor", f"tor {shown_version} runs", "install tor 0.4.5 or newer")
    return ok("tor", f"tor {shown_version} runs")


def bootstrapped(facts: TorFacts) -> Finding:
    """Whether tor is in the Tor network."""
    if facts.bootstrapped == 100:
        return ok("bootstrap", "tor is in the Tor network")
    done = "an unknown part" if facts.bootstrapped is None else f"{facts.bootstrapped} %"
    return not_ok("bootstrap", f"tor has done {done} of its bootstrap", "wait some minutes; then look at tor's log")


def bridge_options(facts: TorFacts) -> list[Finding]:
    """Whether torrc says what a hidden bridge needs."""
    findings = [
        _option(facts, "BridgeRelay", "1", "tor is a bridge", "tor is not a bridge"),
        _option(facts, "AssumeReachable", "1", "tor does not test its ORPort from outside",
                "tor waits for its ORPort to be reachable, which it must not be"),
        _option(facts, "PublishServerDescriptor", "0", "the bridge is published nowhere",
                "tor publishes the bridge to the bridge authority"),
    ]  # fmt: skip
    if facts.option("ExtORPort") in (None, "0"):
        why = "tor has no Extended ORPort, so it takes every client for a local one"
        findings.append(not_ok("ExtORPort", why, _torrc_remedy("ExtORPort auto")))
    else:
        findings.append(ok("ExtORPort", "the transport can tell tor of its clients"))
    if facts.of_torknock("ServerTransportPlugin") is None:
        findings.append(not_ok("transport", "torrc names no transport torknock", _torrc_remedy(_HOW_IT_RUNS[0])))
    return findings


def _option(facts: TorFacts, name: str, expected: str, well: str, ill: str) -> Finding:
    if facts.option(name) == expected:
        return ok(name, well)
    return not_ok(name, ill, _torrc_remedy(f"{name} {expected}"))


def _torrc_remedy(line: str) -> str:
    """What to do so that torrc has *line*."""
    side = Side.CLIENT if line.partition(" ")[0] in _OF_CLIENTS else Side.BRIDGE
    return f"as root: torknock setup {side}; by hand, torrc: {line}"


_OF_CLIENTS = {"UseBridges", "+ClientTransportPlugin"}


def not_set_up(side: Side) -> Finding:
    """That tor knows nothing of torknock."""
    return not_ok("set-up", f"tor is not set up as a {side} of torknock", f"as root: {side.setup_command}")


def client_options(facts: TorFacts) -> list[Finding]:
    """Whether torrc says what a client of a hidden bridge needs."""
    findings = [_option(facts, "UseBridges", "1", "tor uses bridges", "tor does not use bridges")]
    if facts.of_torknock("ClientTransportPlugin") is None:
        findings.append(not_ok("transport", "torrc names no transport torknock", _torrc_remedy(_HOW_IT_RUNS[1])))
    proxies = [name for name in ("Socks4Proxy", "Socks5Proxy", "HTTPSProxy") if facts.option(name)]
    if proxies:
        why = f"{' and '.join(proxies)} is set, and a knock does not pass a proxy"
        findings.append(not_ok("proxy", why, f"take {' and '.join(proxies)} out of torrc"))
    else:
        findings.append(ok("proxy", "tor uses no proxy"))
    lines = _lines(facts)
    faults = []
    for line in lines:
        try:
            parse_bridge_line(line)
        except LineError as error:
            faults.append(_fault(line) or str(error))
    if not lines:
        remedy = "torrc: the bridge line that you were given"
        findings.append(not_ok("bridge lines", "torrc has none of torknock", remedy))
    elif faults:
        why = f"{len(faults)} of {len(lines)} cannot be read: {faults[0]}"
        findings.append(not_ok("bridge lines", why, "copy the whole line into torrc"))
    else:
        findings.append(ok("bridge lines", f"{len(lines)} can be read; torknock check - says whether one opens"))
    return findings


def _fault(line: str) -> str:
    """What tor would have to repair in *line*, or what cannot be repaired; empty if nothing is known."""
    try:
        repairs = read(line).repairs
    except LineError as error:
        return str(error)
    return f"it has {', '.join(repairs)}" if repairs else ""


def uses_knocks(facts: TorFacts) -> bool:
    """Whether a client's torrc has a line of scheme knock."""
    return any("scheme=knock" in line.split() for line in _lines(facts))


def _lines(facts: TorFacts) -> list[str]:
    return [line for line in facts.options.get("Bridge", ()) if line.split()[:1] == ["torknock"]]


def takes_clients(facts: TorFacts) -> Finding:
    """Whether tor takes clients: it may hibernate, be shutting down or have no network."""
    if not facts.refusing:
        return ok("clients", "tor takes clients")
    remedy = "wait; or raise AccountingMax in torrc, or set DisableNetwork 0, whichever is named, and reload tor"
    return not_ok("clients", f"tor {facts.refusing}; the port is closed to clients meanwhile", remedy)


def is_exposed(facts: TorFacts) -> bool:
    """Whether tor says that it listens for its own protocol on a public address."""
    return any(not _is_loopback(listener) for listener in facts.or_listeners)


def or_port(facts: TorFacts, theirs: Iterable[Listening] | None) -> Finding:
    """Whether tor can be reached but through the transport; *theirs* is what its process listens on, if known.

    A reachable ORPort is how hidden bridges are found.
    """
    name, remedy = "ORPort", "torrc: ORPort 127.0.0.1:auto, and no other port on a public address"
    ports = {_port(listener) for listener in facts.or_listeners if not _is_loopback(listener)}
    if ports:
        return not_ok(name, f"tor's ORPort {_listed(ports)} is on a public address: a scan finds the bridge", remedy)
    if theirs is None:
        why = "tor says that its ORPort is on loopback; its process could not be looked at"
        return unknown(name, why, "run torknock doctor as root")
    ports = {str(listener.port) for listener in theirs if listener.public}
    if ports:
        return not_ok(name, f"tor listens on port {_listed(ports)} of a public address: a scan finds it", remedy)
    if not facts.or_listeners and facts.refusing:
        return unknown(name, "tor has closed its ORPort for as long as it takes no clients", "ask again after that")
    if not facts.or_listeners:
        return not_ok(name, "tor has no ORPort, which a bridge needs", _torrc_remedy("ORPort 127.0.0.1:auto"))
    return ok(name, "tor listens on loopback alone")


def _listed(ports: Iterable[str]) -> str:
    return " and ".join(sorted(ports))


def _port(listener: str) -> str:
    return listener.rpartition(":")[2]


def _is_loopback(listener: str) -> bool:
    try:
        return ip_address(listener.rpartition(":")[0].strip("[]")).is_loopback
    except ValueError:
        return listener.startswith("unix:")


def running(side: Side, transport: Process | None, refusing: str = "") -> Finding:
    """Whether the *transport*'s process runs; *refusing* is what tor does instead of taking clients.

    A tor without a network ends its transports, and starts them again once it has one. Restarting it then helps
    nothing, and ends what keeps a client from connecting directly.
    """
    if transport is not None:
        return ok("process", f"tor runs torknock {side.verb}")
    if refusing:
        why = f"tor runs no torknock {side.verb}, because tor {refusing}"
        return not_ok("process", why, "do not restart tor: it starts the transport by itself when this is over")
    return not_ok("process", f"tor runs no torknock {side.verb}", "look at tor's log; then reload tor")


def registered(facts: TorFacts) -> Finding:
    """Whether tor knows the transport as one that works."""
    match facts.registered:
        case True:
            return ok("registered", "the transport has told tor that it is ready")
        case False:
            return not_ok("registered", "the transport has not told tor that it is ready", "look at tor's log")
    return unknown("registered", "this tor does not say", "look at tor's log for: Registered server transport")
