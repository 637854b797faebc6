"""The address and the posture that are proposed for a bridge, where the operator gives none."""

from __future__ import annotations

from ipaddress import ip_address

from attrs import frozen

from torknock.kernel.blocking_program import ProgramFailed
from torknock.kernel.proc import listening
from torknock.operate.addresses import Address, own_address, refusal
from torknock.operate.doctor.port import LIKE
from torknock.operate.firewall.look import look, routed
from torknock.protocol.door import Posture


@frozen
class ProposedAddress:
    """An address, and why it is proposed, as a clause."""

    address: Address
    why: str


@frozen
class ProposedPosture:
    """A posture, and why it is proposed, as a clause."""

    posture: Posture
    why: str


def propose_address(guess: str | None) -> ProposedAddress | None:
    """The host's own address if it is public, IPv4 first; else tor's *guess* if that is public; else None."""
    for version in (4, 6):
        own = own_address(version)
        if own is not None and own.is_global and not refusal(own):
            return ProposedAddress(own, "this host's own towards the Internet")
    guessed = parsed(guess)
    if guessed is not None and guessed.is_global:
        return ProposedAddress(guessed, "what tor takes for this host's")
    return None


def parsed(text: str | None) -> Address | None:
    """The address that *text* is; None if it is none, or one that no client can connect to."""
    try:
        found = ip_address(text or "")
    except ValueError:  # a host name, which tor allows
        return None
    return None if refusal(found) else found


def propose_posture() -> ProposedPosture:
    """The posture that makes a port look as this host's unused ports do, by its own firewall; closed where in doubt."""
    try:
        firewall = look()
    except ProgramFailed as error:
        reason = error.what
        return ProposedPosture(Posture.CLOSED, f"this host's firewall cannot be read ({reason})")
    used = {each.port for each in listening()}
    postures = {LIKE.get(judgement.fate) for judgement in firewall.judge_unused(used, routed((4, 6)))}
    if postures == {Posture.CLOSED}:
        return ProposedPosture(Posture.CLOSED, "this host's unused ports are closed")
    if postures == {Posture.FILTERED}:
        return ProposedPosture(Posture.FILTERED, "this host's firewall drops what comes to its unused ports")
    return ProposedPosture(Posture.CLOSED, "this host's unused ports do not all do the same, or it cannot be judged")
