"""A tor that uses a hidden bridge and connects to nothing else, whatever it was connected to before; and the way back.

tor's network is off (DisableNetwork) before anything is changed, and on again when tor reads a configuration that has
the bridge. The option is never in torrc. So an interrupted set-up leaves tor without a network, or with the
bridge.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from torknock.errors import TorknockError
from torknock.kernel.places import PROGRAMS
from torknock.operate.setup import debian_tor
from torknock.operate.setup.apply import configured, start_transport, undo, verify, wait_until
from torknock.operate.setup.changes import CannotSetUp, Change, Reader
from torknock.operate.setup.file_changes import File
from torknock.operate.setup.place import Place
from torknock.operate.setup.record import Record
from torknock.operate.sides import Side
from torknock.protocol.bridge_line import BridgeLine
from torknock.tor.control import RunningTor

_USED_WITHIN = 60.0

_CONFIGURED = (
    "the bridge stays configured: tor keeps trying it, and connects to nothing else. torknock setup --undo removes it"
)


def use_bridge(changes: list[Change], tor: RunningTor, record: Record, bridge: BridgeLine) -> None:
    """Make *changes*, and return once *tor* has a circuit through *bridge*.

    Every connection that tor had is closed before. Raises `TorknockError`, which says what is configured then.
    """
    verify(tor.config_file, tor.defaults_file)  # what is wrong already does not cost it the network
    tor.disable_network()
    try:
        with record.making(changes):
            verify_bridged(tor.config_file, tor.defaults_file)
    except (TorknockError, KeyboardInterrupt) as error:
        raise CannotSetUp(
            f"{_reason(error)}; nothing is configured. tor's network stays off (DisableNetwork)",
            "to have tor connect as before, reload or restart it",
        ) from error
    try:
        start_transport(tor, Side.CLIENT)
        if tor.network_disabled:
            raise CannotSetUp("tor's configuration has DisableNetwork 1", "take it out, and reload tor")
        _wait(tor, bridge)
    except (TorknockError, KeyboardInterrupt) as error:
        raise CannotSetUp(_reason(error), _CONFIGURED) from error


def verify_bridged(config_file: Path, defaults_file: Path | None) -> None:
    """See to it that a tor that reads its configuration connects to bridges alone. Raises `CannotSetUp`.

    What stands behind torknock's part overrides it, so the command tor is asked what all of it amounts to.
    """
    if shutil.which("tor", path=PROGRAMS) is None:
        raise CannotSetUp(
            f"no command tor in {PROGRAMS}: whether tor would use the bridge, or connect directly, cannot be checked",
            "install Debian's tor, or link the one that runs to /usr/local/bin",
        )
    options = configured(config_file, defaults_file)
    if ("UseBridges", "1") not in options or not any(name == "Bridge" for name, _ in options):
        raise CannotSetUp(
            f"tor would not use the bridge, but connect directly: another UseBridges stands behind torknock's part of "
            f"{config_file}, there or in a file that it includes",
            "take it out",
        )


def _wait(tor: RunningTor, bridge: BridgeLine) -> None:
    words = [line.split() for line in tor.facts().options.get("Bridge", ())]
    others = {word for each in words for word in each if re.fullmatch("[0-9A-F]{40}", word)} - {bridge.fingerprint}

    def is_in(fingerprints: set[str]) -> bool:
        """A line without a fingerprint leaves what is no other bridge."""
        return bool(fingerprints - others) if bridge.fingerprint is None else bridge.fingerprint in fingerprints

    if wait_until(lambda: is_in(tor.first_hops()) and is_in(tor.connected()), _USED_WITHIN):
        return
    if not is_in(tor.connected()):
        raise CannotSetUp(
            f"the bridge has not answered within {_USED_WITHIN:.0f} s. The line may be revoked or expired, the bridge "
            "may be down, or this network may block it: see torknock check LINE and torknock doctor client"
        )
    percent = tor.facts().bootstrapped or 0
    raise CannotSetUp(
        f"the bridge has answered, but tor has built no circuit through it within {_USED_WITHIN:.0f} s (bootstrap: "
        f"{percent} %): see torknock doctor client"
    )


def _reason(error: BaseException) -> str:
    return str(error) or "interrupted"


def is_client(record: Record) -> bool:
    """Whether what was set up is a client, which has no other way into the Tor network than the bridge."""
    return any(
        isinstance(change, File) and change.reader is Reader.TOR and "UseBridges 1" in change.text.splitlines()
        for change in record.changes()
    )


def undo_and_stop(place: Place, control: str, password: str | None) -> Iterator[str]:
    """Stop tor, see to it that it is not started at boot, and take back what was changed. Raises `TorknockError`."""
    held = debian_tor.stop(control, password)
    yield from undo(place, None, None)
    yield (
        "tor is stopped, and does not start before it is set up again; torknock setup --undo --direct lets it start, "
        "and connect to the Tor network directly"
        if held
        else "tor is stopped; once it is started, it connects to the Tor network directly"
    )


def undo_and_connect(place: Place, control: str, password: str | None) -> Iterator[str]:
    """Take back what was changed, and let tor connect to the Tor network directly. Raises `TorknockError`."""
    yield from undo(place, control, password)
    if debian_tor.release():
        yield "tor may start without torknock again, and is started"
