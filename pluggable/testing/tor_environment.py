"""The environment in which tor starts a transport: `TOR_PT_*` (pt-spec §3.2). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def client_environment(transports: Iterable[str], data_directory: Path, proxy: str | None = None) -> dict[str, str]:
    """What a tor with *data_directory* sets for `ClientTransportPlugin`; *proxy* is the URL of its proxy option."""
    environ = _common(data_directory) | {"TOR_PT_CLIENT_TRANSPORTS": ",".join(transports)}
    return environ | ({"TOR_PT_PROXY": proxy} if proxy is not None else {})


def server_environment(
    bind_addresses: Mapping[str, str], data_directory: Path, *, or_port: str, extended_or_port: str | None = None,
    options: str | None = None,
) -> dict[str, str]:  # fmt: skip
    """What a tor with *data_directory* sets for `ServerTransportPlugin`.

    *bind_addresses* has `ip:port` for each transport's name; *or_port* and *extended_or_port* are `ip:port` too.
    *options* are those of `ServerTransportOptions`, as `name:key=value;name:key=value`.
    """
    environ = _common(data_directory) | {
        "TOR_PT_SERVER_TRANSPORTS": ",".join(bind_addresses),
        "TOR_PT_SERVER_BINDADDR": ",".join(f"{name}-{address}" for name, address in bind_addresses.items()),
        "TOR_PT_ORPORT": or_port,
        "TOR_PT_EXTENDED_SERVER_PORT": extended_or_port or "",
    }
    if extended_or_port is not None:
        environ["TOR_PT_AUTH_COOKIE_FILE"] = str(cookie_file(data_directory))
    return environ | ({"TOR_PT_SERVER_TRANSPORT_OPTIONS": options} if options is not None else {})


def cookie_file(data_directory: Path) -> Path:
    """Where a tor with *data_directory* keeps the cookie of its Extended ORPort."""
    return data_directory / "extended_orport_auth_cookie"


def _common(data_directory: Path) -> dict[str, str]:
    return {
        "TOR_PT_MANAGED_TRANSPORT_VER": "1",
        "TOR_PT_STATE_LOCATION": f"{data_directory}/pt_state/",
        "TOR_PT_EXIT_ON_STDIN_CLOSE": "1",
    }
