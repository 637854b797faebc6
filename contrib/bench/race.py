"""Two copies of one SYN at once, from two hosts on two processors: how many SYN-ACKs and connections there are."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from contrib.bench.table import Figure
from tests.support.bridge import GREETING, HiddenService, knock
from tests.support.netns import Lab
from tests.support.race import connections, syn_acks
from torknock.privileged.gate import listeners
from torknock.protocol.door import Door
from torknock.protocol.token import epoch_at, tokens
from torknock.service.ruleset import admit, load

RACES = 5_000
_AT_ONCE = 250
_PORT = 8443


def _by_rules() -> Counter[int]:
    """How many tokens had how many SYN-ACKs behind nftables."""
    found = Counter[int]()
    with Lab() as lab:
        bridge, racers = lab.host("bridge"), (lab.host("one"), lab.host("other"))
        bridge.sysctl("net.ipv4.tcp_synack_retries", 0)
        while found.total() < RACES:
            with bridge.enter():
                hidden = listeners.hidden_listeners("0.0.0.0")  # noqa: S104  on loopback, for every address
            door = Door("0.0.0.0", 443)  # noqa: S104  a text
            racing = [1 + secrets.randbelow(2**32 - 1) for _ in range(_AT_ONCE)]
            bridge.run(["nft", "-f", "-"], load(door, listeners.hidden_ports(hidden)) + admit(door.table, racing, 900))
            found.update(syn_acks(bridge, racers, 443, racing))
            for each in hidden:
                each.close()
    return found


def _by_filter() -> tuple[Counter[int], Counter[int]]:
    """How many tokens had how many handshakes, and how many connections that stayed, at a gate without privilege."""
    answered, stayed = Counter[int](), Counter[int]()
    while answered.total() < RACES:
        with Lab() as lab:
            bridge, racers = lab.host("bridge"), (lab.host("one"), lab.host("other"))
            with HiddenService(bridge, f"0.0.0.0:{_PORT}", helper=Path("/nonexistent/gate.sock")) as service:
                line = service.line("alice", time.time(), n=1_000).line
                epoch = epoch_at(time.time())
                fresh = [
                    isn for near in (0, 1, -1) for isn in tokens(line.secret, line.bridge_name, epoch + near, line.n)
                ]
                while knock(racers[0], bridge.address, _PORT, fresh.pop(), 1.0) != GREETING:
                    pass
                for start in range(0, min(len(fresh), RACES - answered.total()), _AT_ONCE):
                    racing = fresh[start : start + _AT_ONCE]
                    became = connections(racers, bridge.address, _PORT, racing, settled=8)
                    answered.update(2 - pair.count("silence") - pair.count("refused") for pair in became)
                    stayed.update(pair.count("open") for pair in became)
    return answered, stayed


def figures() -> Iterator[Figure]:
    """Of `RACES` races each, the percentage with two answers, with none, and with two connections that stay."""
    share = 100 / RACES
    rules = _by_rules()
    yield Figure("race", f"two SYN-ACKs, nftables, of {RACES:,}", share * rules[2], "%", at_most=0)
    yield Figure("race", f"no SYN-ACK, nftables, of {RACES:,}", share * rules[0], "%", at_most=0)
    answered, stayed = _by_filter()
    share = 100 / answered.total()
    yield Figure("race", f"two SYN-ACKs, no privilege, of {answered.total():,}", share * answered[2], "%")
    yield Figure("race", f"two stay open, no privilege, of {stayed.total():,}", share * stayed[2], "%", at_most=0)
    yield Figure("race", f"none stays open, no privilege, of {stayed.total():,}", share * stayed[0], "%", at_most=0)
