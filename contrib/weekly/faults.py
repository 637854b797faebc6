"""Networks and other programs that interfere while clients connect: what is carried, and after how long."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence

from contrib.bench.table import Figure
from contrib.weekly.ends import Ends, Traffic, back, carried, every
from tests.support.bridge import GREETING, HiddenService, knock
from tests.support.middlebox import Middlebox
from tests.support.netns import Host, Lab, Namespace
from torknock.protocol.bridge_line import Channel, Line
from torknock.protocol.token import epoch_at

_STOPPED = 10.0
_LINES = 1000
_chance = random.SystemRandom()


def flush(minutes: float) -> Iterator[Figure]:
    """Another program empties the set of tokens, or all of nftables, every 3 seconds."""
    with Ends() as ends:
        with Traffic(ends) as traffic:
            for number in every(3.0, minutes):
                what = ["ruleset"] if number % 2 else ["set", "inet", "torknock-443", "tokens"]
                ends.bridge.run(["sh", "-c", f"nft flush {' '.join(what)} || true"])
        yield from carried("flush", traffic, 0.5)
        yield back("flush", ends)


def link(minutes: float) -> Iterator[Figure]:
    """The bridge's link is down for 3 seconds, or its address away, every 12 seconds; what stands lives on."""
    with Ends() as ends:
        with ends.session() as standing, Traffic(ends) as traffic:
            for number in every(9.0, minutes):
                (_without_address if number % 2 else _without_link)(ends.bridge)
                standing.exchange(1)
        yield from carried("link", traffic, 0.3)
        yield back("link", ends)


def _without_link(host: Host) -> None:
    host.ip(f"link set {host.interface} down")
    time.sleep(3.0)
    host.ip(f"link set {host.interface} up", *_ways(host))


def _without_address(host: Host) -> None:
    host.ip(f"address del {host.address}/24 dev {host.interface}")
    time.sleep(3.0)
    host.ip(f"address add {host.address}/24 dev {host.interface}", *_ways(host))


def _ways(host: Host) -> list[str]:
    """What a host loses with its link or its address."""
    return [
        f"route replace default via {host.gateway}",
        f"neigh replace {host.gateway} lladdr {host.gateway_mac} dev {host.interface} nud permanent",
    ]


def loss(minutes: float) -> Iterator[Figure]:
    """5 % of the packets are lost, 5 % come twice, 10 % come late, behind others."""
    with Ends() as ends:
        box = Middlebox(ends.lab, ends.client, ends.bridge, copies=_copies)
        with box, Traffic(ends, kilobytes=64) as traffic:
            time.sleep(60 * minutes)
        yield from carried("loss", traffic, 0.95)


def _copies() -> Sequence[float]:
    drawn = _chance.random()
    if drawn < 0.05:
        return ()
    if drawn < 0.10:
        return (0.0, 0.0)
    return (0.02,) if drawn < 0.20 else (0.0,)


def mtu(minutes: float) -> Iterator[Figure]:
    """The smallest datagram that IPv4 must carry, and the one of IPv6."""
    with Ends() as ends:
        for size in (1280, 576):
            wires: list[tuple[Namespace, str]] = [(host, host.interface) for host in (ends.bridge, ends.client)]
            wires += [(ends.lab.hub, host.hub_interface) for host in (ends.bridge, ends.client)]
            for where, name in wires:
                where.ip(f"link set {name} mtu {size}")
            with Traffic(ends, kilobytes=256) as traffic:
                time.sleep(30 * minutes)
            yield from carried(f"mtu {size}", traffic, 1.0)


def stop(minutes: float) -> Iterator[Figure]:
    """Each program is stopped for 10 seconds; a session that stands lives on, and another can be had afterwards."""
    with Ends() as ends, ends.session() as standing:
        for _ in every(0.0, max(0.0, minutes - 2 * _STOPPED / 60)):
            for name, process in (("client", ends.child.process), ("server", ends.service.process)):
                process.send_signal(signal.SIGSTOP)
                try:
                    time.sleep(_STOPPED)
                finally:
                    process.send_signal(signal.SIGCONT)
                standing.exchange(16)
                yield back(f"stop {name}", ends)


def revoke(minutes: float) -> Iterator[Figure]:
    """1,000 lines are revoked, as fast as the disk allows, while others knock with each of them."""
    with Lab() as lab, HiddenService(lab.host("bridge")) as service:
        client, address = lab.host("client"), lab.host("bridge").address
        with service.keyring() as keyring:
            lines = {
                f"line{number}": keyring.add(f"line{number}", channel=Channel.RAW, expires=None, now=time.time()).line
                for number in range(_LINES)
            }
        revoked: dict[str, float] = {}
        late: list[float] = []
        let_in = [0]
        over = threading.Event()

        def go_on() -> None:
            while not over.is_set():
                name = _chance.choice(list(lines))
                began = time.monotonic()
                answer = knock(client, address, 443, _token(lines[name]), 1.0)
                let_in[0] += answer == GREETING
                if answer == GREETING and name in revoked:
                    late.append(began - revoked[name])

        threads = [threading.Thread(target=go_on, daemon=True) for _ in range(8)]
        for isn in lines[f"line{_LINES - 1}"].tokens(epoch_at(time.time())):  # until the bridge has taken up all lines
            if knock(client, address, 443, isn, 1.0) == GREETING:
                break
            time.sleep(5.0)
        for thread in threads:
            thread.start()
        with service.keyring() as keyring:
            for name in lines:
                keyring.revoke(name, time.time())
                revoked[name] = time.monotonic()
        time.sleep(max(5.0, 60 * minutes - 90))
        over.set()
        for thread in threads:
            thread.join(10.0)
        yield Figure("revoke", "clients let in meanwhile", let_in[0], "", at_least=1)
        yield Figure("revoke", "longest time from a revocation to a SYN that was let in", max(late, default=0.0), "s",
                     at_most=2.0)  # fmt: skip


def _token(line: Line) -> int:
    return _chance.choice(line.tokens(epoch_at(time.time())))
