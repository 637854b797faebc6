"""What a set-up wants of a running tor, over its control port (control-spec). Blocks."""

from __future__ import annotations

import pwd
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stem import Signal

from torknock.tor.asked import Asked
from torknock.tor.inspect import TorFacts, TorUnreachable, controller, facts
from torknock.tor.reasons import is_advice, why_failed

_REGISTERED = re.compile(r"egistered (server )?transport '?torknock\b")
"""What tor logs, for a bridge and for a client."""

_CLOSES_WITHIN = 10.0
_POLLED_EVERY = 0.1


@contextmanager
def tor_at(control: str, password: str | None) -> Iterator[RunningTor]:
    """The tor whose control port is at *control*, a path or `IP:PORT`. Raises `TorUnreachable`."""
    with controller(control, password) as connected:
        yield RunningTor(connected)


class RunningTor:
    """A tor that runs."""

    def __init__(self, controller: Asked) -> None:
        self._controller = controller
        self._read, self._registered = threading.Event(), threading.Event()
        self._complaints: list[str] = []

    def facts(self) -> TorFacts:
        """What it says of itself now."""
        return facts(self._controller)

    @property
    def config_file(self) -> Path:
        """Its torrc."""
        return Path(str(self._controller.get_info("config-file")))

    @property
    def defaults_file(self) -> Path | None:
        """The torrc of its distribution, if there is one."""
        told = str(self._controller.get_info("config-defaults-file", ""))
        return Path(told) if told and Path(told).exists() else None

    @property
    def user(self) -> str:
        """Whom it runs as: a name, or a number where there is no name."""
        pid = int(str(self._controller.get_info("process/pid")))
        uid = Path(f"/proc/{pid}").stat().st_uid
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)

    @property
    def address(self) -> str | None:
        """What it takes for its public address."""
        told = self._controller.get_info("address", None)
        return None if told is None else str(told)

    @property
    def fingerprint(self) -> str | None:
        """The bridge's identity, 40 hexadecimal digits."""
        told = self._controller.get_info("fingerprint", None)
        return None if told is None else str(told)

    def reload(self) -> None:
        """Have it read its torrc again."""
        self._controller.signal(Signal.RELOAD)

    def shut_down(self) -> None:
        """Have it end."""
        self._controller.signal(Signal.SHUTDOWN)

    def disable_network(self) -> None:
        """Close all its connections, and let it make none until it reads its torrc again. Raises `TorUnreachable`."""
        self._controller.set_conf("DisableNetwork", "1")
        gives_up = time.monotonic() + _CLOSES_WITHIN
        while self._or_connections():
            if time.monotonic() > gives_up:
                raise TorUnreachable("tor does not close its connections", "stop it, then try again")
            time.sleep(_POLLED_EVERY)  # noqa: TID251  a command of root's, which has no reactor

    @property
    def network_disabled(self) -> bool:
        """Whether it may make no connection."""
        return bool(self._controller.get_conf("DisableNetwork", ["0"], multiple=True) == ["1"])

    def connected(self) -> set[str]:
        """The relays and bridges that it has connections to: fingerprints, 40 hexadecimal digits in upper case."""
        return {_fingerprint(line.split()[0]) for line in self._or_connections() if line.endswith(" CONNECTED")}

    def first_hops(self) -> set[str]:
        """The first relay or bridge of each circuit that is built; none while it takes its circuits for broken."""
        if self._controller.get_info("status/circuit-established", "0") != "1":
            return set()
        circuits = map(str.split, str(self._controller.get_info("circuit-status", "")).splitlines())
        paths = [words[2].split(",") for words in circuits if len(words) > 2 and words[1] == "BUILT"]
        return {_fingerprint(path[0]) for path in paths if len(path) > 1}  # one hop may have been for a descriptor

    def _or_connections(self) -> list[str]:
        """Its connections to relays, as control-spec has them for `orconn-status`."""
        return [line for line in str(self._controller.get_info("orconn-status", "")).splitlines() if line.strip()]

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within this, what it logs is heard: `complaint`, `failed` and `registers_within` tell."""
        self._controller.add_event_listener(self._heard, "INFO", "NOTICE", "WARN", "ERR")
        try:
            yield
        finally:
            self._controller.remove_event_listener(self._heard)

    def reads_within(self, seconds: float) -> bool:
        """Whether it begins to read its torrc again within so many *seconds*."""
        return self._read.wait(seconds)

    def registers_within(self, seconds: float) -> bool:
        """Whether it registers torknock within so many *seconds*."""
        return self._registered.wait(seconds)

    @property
    def failed(self) -> bool:
        """Whether it said that the transport cannot do what it is to do."""
        return any("torknock" in told and "rror" in told for told in self._complaints)

    @property
    def complaint(self) -> str | None:
        """What it, or its transport, said about the failure of the transport since it was reloaded; no secrets."""
        return why_failed(self._complaints)

    def _heard(self, event: Any) -> None:
        """What it logs. stem does not deliver TRANSPORT_LAUNCHED: the event's own field `type` hides its type."""
        told = str(getattr(event, "message", ""))
        if _REGISTERED.search(told):
            self._registered.set()
        elif told.startswith("Read configuration file"):
            self._read.set()
        elif is_advice(told):
            return
        elif event.runlevel in ("WARN", "ERR") or "reported via standard error" in told:
            self._complaints.append(told)


def _fingerprint(named: str) -> str:
    """The fingerprint in a LongName (control-spec)."""
    return re.split("[~=]", named.removeprefix("$"), maxsplit=1)[0].upper()
