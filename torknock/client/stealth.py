"""Knocks at bridges of scheme `knock`, which any TCP Stealth of Linux 3.15 and later opens, too (knock.md).

There are no epochs, so there is nothing to remember on disk and no clock to search for. But an ISN holds for one TSval:
a SYN that the kernel sends a second time has another, so a knock is given up before, and the next one has its own ISN.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from math import inf

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from torknock.client.attempts import PAUSES, Chance
from torknock.client.memory import line_id
from torknock.client.rounds import Knocked, Opener, Rounds, T
from torknock.interfaces import CannotKnock, Dialled, IStampedDialer
from torknock.protocol.bridge_line import Line
from torknock.protocol.knock import integrity_code, isn

TIMEOUT = 0.9
"""Seconds that a SYN-ACK is waited for: Linux sends a SYN again after 1 s."""


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
    _bridges: dict[tuple[bytes, str, int], Rounds] = field(factory=dict)

    def covering(self, payload: bytes | None) -> StealthKnocker:
        """The same, for connections that begin with *payload*, sent in one piece: as many octets as `integrity=`."""
        return evolve(self, payload=payload)

    def knock(self, line: Line, host: str, port: int, opened: Opener[T], deadline: float = inf) -> Deferred[T]:
        """What *opened* makes of a connection to the bridge at *host*, an IP literal, and *port*.

        *deadline* see `Rounds.run`.

        Fails as `Rounds.run` does.
        """
        try:
            address = _address(host)
        except ValueError:
            return fail(CannotKnock("what to dial is not an IP address"))
        name = line_id(line), host, port
        if name not in self._bridges:
            self._bridges[name] = Rounds(self._clock, self._chance)
        rounds = self._bridges[name]
        code = None if self._payload is None else integrity_code(line.secret, self._payload)

        def choose(tsval: int) -> int:
            return isn(line.secret, address, port, tsval, code)

        return rounds.run(_Stamped(rounds, lambda: self._dialer.dial_stamped(host, port, choose)), opened, deadline)


@define
class _Stamped:
    """A round of SYNs of scheme `knock`."""

    _rounds: Rounds
    _dial: Callable[[], Deferred[Dialled]]
    reasons: str = (
        "the line may be revoked, or a network on the way may rewrite sequence numbers, timestamps or the address"
    )

    async def begin(self) -> int:
        return 1 if self._rounds.failed else len(PAUSES)

    def timeout(self, number: int) -> float:
        return TIMEOUT

    async def dial(self, number: int) -> Knocked:
        dialled = await self._rounds.syns.dial(self._dial, TIMEOUT)
        return Knocked(dialled.socket, dialled.isn, hung_up=self._rounds.hung_up)

    def ends(self, number: int) -> bool:
        return True

    def accepted(self, number: int) -> None:
        """There is nothing to learn from it."""


def _address(host: str) -> bytes:
    """The destination as it will stand in the IP header: 4 or 16 octets. Raises `ValueError`."""
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.packed
