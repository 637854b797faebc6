"""What a running tor says of itself, asked once over its control port (control-spec). Blocks; changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stem import ControllerError, SocketError
from stem.connection import AuthenticationFailure, IncorrectPassword, MissingPassword, UnreadableCookieFile
from stem.control import Controller

from torknock.errors import TorknockError
from torknock.tor import CONTROL
from torknock.tor.asked import ANSWERS_WITHIN, Asked, TorSilent
from torknock.tor.refusing import DISABLED, HIBERNATING, INTERVAL_END, refusing

_OPTIONS = (
    "Address", "AssumeReachable", "Bridge", "BridgeDistribution", "BridgeRelay", "ClientTransportPlugin",
    "DataDirectory", "ExtORPort", "HTTPSProxy", "Log", "ORPort", "PublishServerDescriptor", "ServerTransportListenAddr",
    "ServerTransportOptions", "ServerTransportPlugin", "Socks4Proxy", "Socks5Proxy", "UseBridges",
)  # fmt: skip


_NUMBER = re.compile("[0-9]{1,9}")


class TorUnreachable(TorknockError):
    """No tor could be asked; *missing* if there is none, else it is not for us."""

    def __init__(self, what: str, remedy: str = "", *, missing: bool = False) -> None:
        super().__init__(what, remedy)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class TorFacts:
    """What tor says of itself."""

    version: tuple[int, ...]
    pid: int | None
    options: Mapping[str, tuple[str, ...]]
    """The values of each option of torrc that matters here, none where it is not set."""
    or_listeners: tuple[str, ...]
    """Where it listens for its own protocol: `127.0.0.1:9001`, `[::]:9001`."""
    bootstrapped: int | None
    """Percent."""
    registered: bool | None
    """Whether its own account of itself, which holds every transport that runs, has torknock; None if not known."""
    consensus: tuple[str, str] | None
    """From when to when the consensus that it has is valid: `2026-11-23 19:00:00`, UTC."""
    refusing: str = ""
    """What it is doing instead of taking clients, and until when; empty if it takes them."""

    def option(self, name: str) -> str | None:
        """The value of the option *name*; None where it is not set."""
        return next(iter(self.options.get(name, ())), None)

    def of_torknock(self, name: str) -> str | None:
        """What the option *name* says behind a transport's name, where that is torknock."""
        for value in self.options.get(name, ()):
            names, _, rest = value.partition(" ")
            if "torknock" in names.split(","):
                return rest.strip()
        return None

    @property
    def data_directory(self) -> Path | None:
        """Where its keys and its transports' state are."""
        return Path(found) if (found := self.option("DataDirectory")) else None


def ask_tor(control: str = CONTROL, password: str | None = None) -> TorFacts:
    """What the tor at *control*, a path or `IP:PORT`, says of itself. Raises `TorUnreachable`."""
    with controller(control, password) as asked:
        return facts(asked)


@contextmanager
def controller(control: str, password: str | None) -> Iterator[Asked]:
    """The tor at *control*, ready to be asked. Raises `TorUnreachable`, also for what happens meanwhile."""
    try:
        connected = Asked(lambda: _connected(control))
        try:
            connected.authenticate(password)
            yield connected
        finally:
            connected.close()
    except TorSilent as error:
        what = f"tor at {control} does not answer within {ANSWERS_WITHIN:.0f} s"
        raise TorUnreachable(what, "if it hangs, restart it") from error
    except MissingPassword as error:
        raise TorUnreachable(f"tor at {control} asks for a password", "give it with --password") from error
    except IncorrectPassword as error:
        remedy = "give the one whose hash is in torrc (HashedControlPassword)"
        raise TorUnreachable(f"tor at {control} refuses the password", remedy) from error
    except UnreadableCookieFile as error:
        raise TorUnreachable(f"tor's cookie for {control} cannot be read", "run this command as root") from error
    except AuthenticationFailure as error:
        raise TorUnreachable(f"tor at {control} does not let us ask", "run this command as root") from error
    except SocketError as error:
        denied = "Permission denied" in str(error)
        if denied:
            raise TorUnreachable(f"{control} may not be opened", "run this command as root") from error
        raise TorUnreachable(f"no tor answers at {control}", missing=True) from error
    except ControllerError as error:
        raise TorUnreachable(f"tor at {control} broke off") from error


def _connected(control: str) -> Controller:
    host, colon, port = control.rpartition(":")
    if control.startswith("/") or not (colon and port.isdecimal()):
        return Controller.from_socket_file(control)
    return Controller.from_port(host.strip("[]"), int(port))


def facts(controller: Asked) -> TorFacts:
    """What the tor of *controller* says of itself. Raises `stem.ControllerError`."""
    version = str(controller.get_info("version")).partition(" ")[0]
    pid = controller.get_info("process/pid", None)
    listeners = str(controller.get_info("net/listeners/or", "")).split()
    bootstrap = dict(
        word.split("=", 1) for word in str(controller.get_info("status/bootstrap-phase", "")).split() if "=" in word
    )
    options = {name: tuple(map(str, controller.get_conf(name, [], multiple=True))) for name in _OPTIONS}
    own = controller.get_info("status/fresh-relay-descs", None) if options["ServerTransportPlugin"] else None
    valid = [controller.get_info(f"consensus/valid-{which}", None) for which in ("after", "until")]
    return TorFacts(
        version=tuple(int(part) for part in version.split("-")[0].split(".") if _NUMBER.fullmatch(part)),
        pid=int(pid) if _NUMBER.fullmatch(str(pid)) else None,
        options=options,
        or_listeners=tuple(listener.strip('"') for listener in listeners),
        bootstrapped=int(progress) if _NUMBER.fullmatch(progress := bootstrap.get("PROGRESS", "")) else None,
        registered=None if own is None else any(ours.startswith("transport torknock ") for ours in own.splitlines()),
        consensus=(str(valid[0]), str(valid[1])) if all(valid) else None,  # "" while it has none
        refusing=refusing(
            str(controller.get_info(HIBERNATING, "")),
            str(controller.get_info(INTERVAL_END, "")),
            next(iter(map(str, controller.get_conf(DISABLED, [], multiple=True))), ""),
        ),
    )
