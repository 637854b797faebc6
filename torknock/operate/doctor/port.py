"""Conditions of the protected port: who listens, what the firewall does, whether the posture fits the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torknock.bridge.status_report import Trouble, Warned
from torknock.kernel.proc import Listening
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.operate.firewall.fate import Fate, Judgement
from torknock.operate.firewall.look import Firewall
from torknock.protocol.door import Posture
from torknock.redact import redact

UNSEEN = "a provider's firewall cannot be seen from here; torknock check --as-stranger from outside can"

LIKE: Mapping[Fate | None, Posture] = {Fate.PASSED: Posture.CLOSED, Fate.DROPPED: Posture.FILTERED}
"""The posture that does what a firewall does to unused ports."""


def listeners(port: int, posture: Posture, found: Iterable[Listening], ours: frozenset[int] | None) -> Finding:
    """Whether another program listens on *port*; *ours* are the inodes of the transport's own sockets, if known."""
    if ours is None:
        found, ours = list(found), frozenset()
        if posture is not Posture.DECOY and any(each.port == port and each.public for each in found):
            why = f"a program listens on port {port}; this user may not see whether it is the transport"
            return unknown("listener", why, "run torknock doctor as root")
    others = [listening for listening in found if listening.port == port and listening.inode not in ours]
    public = [listening for listening in others if listening.public]
    if posture is Posture.DECOY:
        if public:
            return ok("listener", f"a service of yours listens on port {port}, as posture decoy wants")
        remedy = "start it, or take posture=decoy out of ServerTransportOptions"
        return not_ok("listener", f"no service listens on port {port}, so there is no decoy", remedy)
    if public:
        why = f"another program listens on port {port}, and answers strangers"
        return not_ok("listener", why, "stop it, or hide a port without a service, or choose posture=decoy")
    return ok("listener", f"no other program listens on port {port}")


def gate(table: str, firewall: Firewall | None, filtering: bool) -> Finding:
    """Whether torknock's table stands; *filtering* if the transport's own socket is the gate."""
    if filtering:
        return ok("gate", "the transport's own socket is the gate")
    if firewall is None:
        return unknown("gate", "this user may not list nftables", "run torknock doctor as root")
    if firewall.has_table(table):
        return ok("gate", f"the table {table} of nftables is loaded")
    remedy = "look at tor's log; a program that flushes nftables must not run again and again"
    return not_ok("gate", f"there is no table {table} in nftables: the port is closed to everyone", remedy)


_HINDER = (Trouble.CLOSED, Trouble.TOKENS_MISSING)
"""Warnings of a running bridge that keep clients out."""


def opens(warnings: Iterable[Warned]) -> Finding:
    """Whether the running bridge says that lines open its port; *warnings* are those of its status."""
    closed = next((warned.text for warned in warnings if warned.trouble in _HINDER), None)
    if closed is None:
        return ok("bridge", "it says that lines open its port")
    return not_ok("bridge", closed, "do what this says; tor's log has more, and the bridge opens again by itself")


def let_in(port: int, judged: Sequence[tuple[int, Judgement]], taking: str = "") -> Finding:
    """Whether the host's own firewall lets SYNs come to *port*.

    *judged* has a judgement for each IP version; *taking* is the rule that takes the port elsewhere, "" if none does.
    """
    name = "firewall"
    worst = next((it for it in judged if it[1].fate not in (Fate.PASSED, None)), None)
    if taking:
        why = f"address translation takes SYNs to port {port} elsewhere, with a token or without"
        return not_ok(name, why, f"remove the rule, or hide another port: {taking}")
    if worst is not None and (fate := worst[1].fate) is not None:
        remedy = f"let TCP port {port} in: ufw allow {port}/tcp, firewall-cmd --add-port={port}/tcp, or its rule in nft"
        return not_ok(name, f"over IPv{worst[0]} a SYN to port {port} is {fate.value}, with a token or without", remedy)
    doubtful = next((it for it in judged if it[1].fate is None), None)
    if doubtful is not None:
        why = f"whether a SYN to port {port} is let in over IPv{doubtful[0]} depends on what cannot be judged"
        return unknown(name, why, f"look at {_listed(doubtful[1].doubts)}")
    return ok(name, f"the rules of this host let SYNs to port {port} in")


def fits(posture: Posture, judged: Sequence[Judgement]) -> Finding:
    """Whether *posture* is what the host's unused ports do; *judged* has a judgement for some of them."""
    name = "posture"
    if posture is Posture.DECOY:
        return ok(name, "decoy: strangers are served, so nothing stands out")
    fates = {judgement.fate for judgement in judged}
    if len(fates) > 1:
        why = f"{posture.value}: the host's unused ports do not all do the same"
        return unknown(name, why, "let them all be closed, or dropped, as the bridge's port is")
    fate = fates.pop() if fates else None
    if fate is None:
        doubts = [doubt for judgement in judged for doubt in judgement.doubts]
        why = f"{posture.value}: what the host's unused ports do cannot be judged"
        return unknown(name, why, f"look at {_listed(doubts)}" if doubts else UNSEEN)
    like = LIKE.get(fate)
    if like is posture:
        return ok(name, f"{posture.value}, as this host's unused ports are by its own rules; {UNSEEN}")
    why = f"the port is {posture.value}, and SYNs to this host's unused ports are {_seen(fate)}: it stands out"
    if like is None:
        return not_ok(name, why, "let the firewall drop what it rejects, and choose posture=filtered")
    return not_ok(name, why, f"ServerTransportOptions torknock posture={like.value}")


def _seen(fate: Fate) -> str:
    return "refused, the ports being closed" if fate is Fate.PASSED else fate.value


def _listed(doubts: Sequence[str]) -> str:
    shown = [redact(doubt) for doubt in dict.fromkeys(doubts)]
    return "; ".join(shown[:3]) + ("; ..." if len(shown) > 3 else "")
