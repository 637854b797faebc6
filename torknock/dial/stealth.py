"""Knocks at bridges of scheme `knock`, which any TCP Stealth of Linux 3.15 and later opens, too (knock.md).

There are no epochs, so there is nothing to remember on disk and no clock to search for. But an ISN holds for one TSval:
a SYN that the kernel sends a second time has another, so a knock is given up before, and the next one has its own ISN.
"""

from __future__ import annotations

import errno
from ipaddress import IPv6Address, ip_address

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, TimeoutError
from twisted.internet.error import ConnectError, ConnectionRefusedError, TCPTimedOutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from torknock.dial.attempts import FRESH, PAUSE, Chance
from torknock.dial.interfaces import CannotKnock, IStampedDialer, Slipped
from torknock.dial.knocking import REST, BridgeSilent, Knocked
from torknock.dial.memory import line_id
from torknock.errors import TorknockError
from torknock.isn.knock import integrity_code, isn
from torknock.line import Line

PATIENCE = 0.9
"""Seconds that a SYN-ACK is waited for: Linux sends a SYN again after 1 s."""

DIALS = 3
"""How often a knock is dialled at once again whose SYN was late for its TSval, or whose port somebody else took."""


@define
class _Bridge:
    """What is remembered of a bridge for the life of the process."""

    one_at_a_time: DeferredLock = field(factory=DeferredLock)
    in_vain: int = 0
    """Rounds, since the last that was not."""
    in_vain_before: int = 0
    """What `in_vain` was before the last answer, which may turn out to be no bridge's."""
    rests_until: float = 0.0
    last_error: Exception | None = None


@define
class StealthKnocker:
    """Knocks at bridges, one round at a time at each, as `Knocker` does with tokens.

    *clock* times the waits, *chance* is a `secrets.SystemRandom`.
    """

    _dialer: IStampedDialer
    _clock: IReactorTime
    _chance: Chance
    _payload: bytes | None = None
    """The first octets that the connections will carry, which their ISN covers; None without integrity."""
    _bridges: dict[tuple[bytes, str, int], _Bridge] = field(factory=dict)

    def covering(self, payload: bytes) -> StealthKnocker:
        """The same, for connections that begin with *payload*, sent in one piece: as many octets as `integrity=`."""
        return evolve(self, payload=payload)

    def knock(self, line: Line, host: str, port: int) -> Deferred[Knocked]:
        """A connection to the bridge at *host*, an IP literal, and *port*. Fails as `Knocker.knock` does."""
        bridge = self._bridge(line, host, port)
        return bridge.one_at_a_time.run(self._round, bridge, line, host, port)

    def disappointed(self, line: Line, host: str, port: int) -> None:
        """What answered a knock was not the bridge: let it rest, as after a round in vain."""
        bridge = self._bridge(line, host, port)
        bridge.in_vain = max(bridge.in_vain, bridge.in_vain_before)
        bridge.last_error = TorknockError("what answered was not the bridge")
        self._rest(bridge)

    def _bridge(self, line: Line, host: str, port: int) -> _Bridge:
        return self._bridges.setdefault((line_id(line), host, port), _Bridge())

    async def _round(self, bridge: _Bridge, line: Line, host: str, port: int) -> Knocked:
        if self._clock.seconds() < bridge.rests_until:
            raise _silent(bridge, "the bridge is let rest after knocks in vain") from bridge.last_error
        knocks = 1 if bridge.in_vain else FRESH
        answer: Exception | None = None
        try:
            for already in range(knocks):
                await deferLater(self._clock, self._chance.uniform(*PAUSE) if already else 0.0)
                try:
                    knocked = await self._dial(line, host, port)
                except Slipped as error:
                    answer = answer or error  # what the bridge said, or did not say, tells more
                except (TimeoutError, TCPTimedOutError, ConnectionRefusedError) as error:
                    answer = error
                else:
                    bridge.in_vain, bridge.in_vain_before = 0, bridge.in_vain
                    bridge.rests_until = 0.0
                    return knocked
            bridge.last_error = answer
            self._rest(bridge)
            raise _silent(bridge, f"the bridge let none of {knocks} knocks in") from bridge.last_error
        except (ConnectError, CancelledError) as error:
            bridge.last_error = error
            self._rest(bridge)
            raise

    async def _dial(self, line: Line, host: str, port: int) -> Knocked:
        """A connection, by one SYN that left in time for its TSval."""
        chosen = 0
        code = None if self._payload is None else integrity_code(line.secret, self._payload)
        address = _address(host)

        def choose(tsval: int) -> int:
            nonlocal chosen
            chosen = isn(line.secret, address, port, tsval, code)
            return chosen

        for tries_left in reversed(range(DIALS)):
            try:
                dialling = self._dialer.dial_stamped(host, port, choose)
                return Knocked(await dialling.addTimeout(PATIENCE, self._clock), chosen)
            except Slipped:
                if not tries_left:
                    raise
            except CannotKnock as error:
                if not tries_left or error.number not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
        raise AssertionError("the last try returns or raises")

    def _rest(self, bridge: _Bridge) -> None:
        bridge.in_vain = min(bridge.in_vain + 1, len(REST) - 1)
        bridge.rests_until = self._clock.seconds() + REST[bridge.in_vain] * self._chance.uniform(0.8, 1.2)


def _address(host: str) -> bytes:
    """The destination as it will stand in the IP header: 4 or 16 octets."""
    try:
        address = ip_address(host)
    except ValueError:
        raise CannotKnock("what to dial is not an IP address") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.packed


def _silent(bridge: _Bridge, what: str) -> BridgeSilent:
    error = bridge.last_error
    refused = isinstance(error, ConnectionRefusedError)
    if refused:
        how = "it refused"
    else:
        how = str(error) if isinstance(error, (TorknockError, ConnectError)) else "nothing came back"
    why = "the line may be revoked, or a network on the way may rewrite sequence numbers, timestamps or the address"
    return BridgeSilent(f"{what} ({how}); {why}", refused)
