"""A live view of the operator's tor, over its control port (control-spec): how far it is, and what it complains of."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import txtorcon
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from torknock.kernel.files import read_file
from torknock.kernel.interfaces import IReactor
from torknock.protocol.bridge_line import LineError, parse_address
from torknock.redact import redact
from torknock.tor import CONTROL
from torknock.tor.reasons import is_advice
from torknock.tor.refusing import DISABLED, HIBERNATING, INTERVAL_END, refusing

_TIMEOUT = 5.0
"""So long tor has for an answer."""

_MESSAGES = 3
"""So many of tor's complaints are kept, the latest."""

_COOKIE = 32
"""Octets of tor's cookie (control-spec)."""

_LONGEST = 300
_ABOUT_TRANSPORTS = re.compile(r"managed proxy|pluggable transport|torknock", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TorSeen:
    """tor, as it is now."""

    version: str
    bootstrapped: int
    """Percent."""
    or_connections: int
    """Connections that speak tor's own protocol; those of clients are among them."""
    or_port_answers: bool | None
    """None if there is none."""
    complaints: tuple[str, ...]
    """Warnings and errors about pluggable transports since it is watched, the latest, without addresses."""
    refusing: str = ""
    """What it is doing instead of taking clients, and until when; empty if it takes them."""


@dataclass(frozen=True, slots=True)
class TorUnseen:
    """The control port cannot be reached; all else works without it."""

    reason: str


class TorRefused(Exception):
    """The control port accepts none of our credentials."""


class Watch:
    """Looks at the tor whose control port is at *control*: an absolute path, or an address such as 127.0.0.1:9051."""

    def __init__(self, reactor: IReactor, control: str = CONTROL) -> None:
        self._reactor = reactor
        self._control = control
        self._protocol: Any = None
        self._complaints: deque[str] = deque(maxlen=_MESSAGES)

    async def look(self) -> TorSeen | TorUnseen:
        """What is to be seen now; connects if need be, and raises nothing but `CancelledError`."""
        try:
            return await Deferred.fromCoroutine(self._look()).addTimeout(_TIMEOUT, self._reactor)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  txtorcon raises what it likes at what tor says
            self.close()
            return TorUnseen(without_addresses(str(error)) or type(error).__name__)

    def close(self) -> None:
        """Look no more."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abortConnection()

    async def _look(self) -> TorSeen:
        if self._protocol is None:
            await self._connect()
        asked = (
            "version", "status/bootstrap-phase", "orconn-status", "net/listeners/or", HIBERNATING, INTERVAL_END
        )  # fmt: skip
        told = [await self._protocol.get_info_single(each) for each in asked]
        version, phase, connections, listeners, hibernating, interval_end = map(str, told)
        disabled = (await self._protocol.get_conf(DISABLED)).get(DISABLED, "")
        percent = re.search(r"\bPROGRESS=(\d{1,3})\b", phase)
        return TorSeen(
            version=_one_line(version.partition(" ")[0]),
            bootstrapped=int(percent[1]) if percent else 0,
            or_connections=sum(line.endswith(" CONNECTED") for line in connections.splitlines()),
            or_port_answers=await self._answers(listeners),
            complaints=tuple(self._complaints),
            refusing=refusing(_one_line(hibernating), _one_line(interval_end)[:20], str(disabled)),
        )

    async def _connect(self) -> None:
        endpoint = _endpoint(self._reactor, self._control)
        protocol: Any = await endpoint.connect(Factory.forProtocol(_Protocol))
        self._protocol = protocol
        protocol.when_disconnected().addBoth(self._gone, protocol)
        await protocol.post_bootstrap
        for event in ("WARN", "ERR"):
            await protocol.add_event_listener(event, self._heard)

    def _gone(self, _result: object, protocol: Any) -> None:
        if self._protocol is protocol:
            self._protocol = None

    def _heard(self, message: str) -> None:
        if _ABOUT_TRANSPORTS.search(message) and not is_advice(message):
            self._complaints.append(without_addresses(message))

    async def _answers(self, listeners: str) -> bool | None:
        """Whether the first of *listeners* takes a connection. txtorcon leaves the quotation marks where it likes."""
        first = listeners.partition(" ")[0].strip('"')
        if not first:
            return None
        try:
            connecting = connectProtocol(_endpoint(self._reactor, first), Protocol())
            connected = await connecting.addTimeout(_TIMEOUT / 2, self._reactor)
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001  whatever it is, it is no answer
            return False
        connected.transport.loseConnection()
        return True


class _Protocol(txtorcon.TorControlProtocol):  # type: ignore[misc]  # txtorcon's
    """txtorcon's, but for the cookie: a tor that is none could name any file as its cookie."""

    def _do_authenticate(self, protoinfo: str) -> Any:
        if re.search(r"METHODS=\S*COOKIE", protoinfo) and "SAFECOOKIE" not in protoinfo:
            raise TorRefused("tor does not offer SAFECOOKIE")  # the method COOKIE would send the file's content
        return super()._do_authenticate(protoinfo)

    def _read_cookie(self, cookiefile: str) -> None:
        self._cookie_data = read_file(Path(cookiefile), _COOKIE)
        if len(self._cookie_data) != _COOKIE:
            raise TorRefused("what tor names as its cookie is none")


def without_addresses(message: str) -> str:
    """*message* as one line of bounded length, without IP addresses and secrets."""
    return redact(message).strip()[:_LONGEST]


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _endpoint(reactor: IReactor, where: str) -> IStreamClientEndpoint:
    if where.startswith(("/", "unix:")):
        path: IStreamClientEndpoint = UNIXClientEndpoint(reactor, where.removeprefix("unix:"), timeout=_TIMEOUT)
        return path
    try:
        address, port = parse_address(where)
    except LineError:
        raise ValueError("it is neither an absolute path nor an address such as 127.0.0.1:9051") from None
    kind = TCP6ClientEndpoint if address.version == 6 else TCP4ClientEndpoint
    return kind(reactor, str(address), port, timeout=_TIMEOUT)
