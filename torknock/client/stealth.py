"""Knocks at bridges of scheme `knock`, which any TCP Stealth of Linux 3.15 and later opens, too (knock.md).

There are no epochs, so there is nothing to remember on disk and no clock to search for. But an ISN holds for one TSval:
a SYN that the kernel sends a second time has another, so a knock is given up before, and the next one has its own ISN.
"""

from __future__ import annotations

import errno
from ipaddress import IPv6Address, ip_address

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime

from torknock.client.attempts import PAUSES, Chance
from torknock.client.memory import line_id
from torknock.client.rounds import FAILURES, Knocked, Opener, Rounds, T, WrongPeer
from torknock.interfaces import CannotKnock, IStampedDialer, Slipped
from torknock.protocol.bridge_line import Line
from torknock.protocol.knock import integrity_code, isn

PATIENCE = 0.9
"""Seconds that a SYN-ACK is waited for: Linux sends a SYN again after 1 s."""

_TRIES = 5
"""How often a SYN is prepared again that could not leave: another program took its port, or its TSval was over."""

_WHY = "the line may be revoked, or a network on the way may rewrite sequence numbers, timestamps or the address"


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

    def covering(self, payload: bytes) -> StealthKnocker:
        """The same, for connections that begin with *payload*, sent in one piece: as many octets as `integrity=`."""
        return evolve(self, payload=payload)

    def knock(self, line: Line, host: str, port: int, opened: Opener[T]) -> Deferred[T]:
        """What *opened* makes of a connection to the bridge at *host*, an IP literal, and *port*.

        Fails as `Knocker.knock` does.
        """
        name = line_id(line), host, port
        if name not in self._bridges:
            self._bridges[name] = Rounds(self._clock, self._chance)
        rounds = self._bridges[name]
        return rounds.one_at_a_time.run(self._round, rounds, line, host, port, opened)

    async def _round(self, rounds: Rounds, line: Line, host: str, port: int, opened: Opener[T]) -> T:
        rounds.begin()
        try:
            for place in range(1 if rounds.failed else len(PAUSES)):
                await rounds.pause(place)
                try:
                    knocked = await self._dial(rounds, line, host, port)
                    made = await opened(knocked)
                except (*FAILURES, Slipped, WrongPeer) as error:
                    rounds.note(error)
                    if rounds.spent():
                        break
                else:
                    rounds.succeed()
                    return made
        except (ConnectError, CancelledError) as error:
            rounds.note(error)
            rounds.fail()
            raise
        rounds.fail()
        raise rounds.failure(_WHY)

    async def _dial(self, rounds: Rounds, line: Line, host: str, port: int) -> Knocked:
        """A connection, by one SYN that left in time for its TSval; one that was late is followed by another at once.

        A late one may have left, so it counts.
        """
        chosen = 0
        code = None if self._payload is None else integrity_code(line.secret, self._payload)
        address = _address(host)

        def choose(tsval: int) -> int:
            nonlocal chosen
            chosen = isn(line.secret, address, port, tsval, code)
            return chosen

        tries_left = _TRIES
        while True:
            try:
                connected = await rounds.dial(lambda: self._dialer.dial_stamped(host, port, choose), PATIENCE)
                return Knocked(connected, chosen, hung_up=rounds.hung_up)
            except Slipped as error:
                tries_left -= not error.sent
                if not tries_left or rounds.spent():
                    raise
            except CannotKnock as error:
                tries_left -= 1
                if not tries_left or error.number not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise


def _address(host: str) -> bytes:
    """The destination as it will stand in the IP header: 4 or 16 octets."""
    try:
        address = ip_address(host)
    except ValueError:
        raise CannotKnock("what to dial is not an IP address") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.packed
