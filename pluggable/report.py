"""The lines that a transport says to tor (pt-spec §3.3), so escaped that no text can forge another line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Literal

from pluggable.arguments import write_smethod
from pluggable.errors import StartError

Severity = Literal["error", "warning", "notice", "info", "debug"]


class Report:
    """Says whole lines, each in one call of *write*."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def version(self) -> None:
        """`VERSION 1`: everything in the environment is well."""
        self._say("VERSION 1")

    def failed(self, error: StartError) -> None:
        """`ENV-ERROR`, `VERSION-ERROR` or `PROXY-ERROR`: nothing will start."""
        self._say(f"{error.keyword} {error}")

    def status(self, transport: str, implementation: str, version: str) -> None:
        """`STATUS TYPE=version`, which tor publishes; *version* has no spaces, or `ValueError`.

        `TRANSPORT=` is there for a tor before 0.4.8.13.
        """
        if not re.fullmatch("[!-~]+", version):
            raise ValueError("a version is ASCII without spaces")
        about = f"IMPLEMENTATION={_quoted(implementation)} VERSION={_quoted(version)}"
        self._say(f"STATUS TYPE=version TRANSPORT={transport} {about}")

    def proxy_done(self) -> None:
        """`PROXY DONE`: whatever leaves will go through the proxy."""
        self._say("PROXY DONE")

    def cmethod(self, name: str, host: str, port: int) -> None:
        """`CMETHOD`: tor finds transport *name* behind this SOCKS port."""
        self._say(f"CMETHOD {name} socks5 {_address(host, port)}")

    def cmethod_error(self, name: str, text: str) -> None:
        """`CMETHOD-ERROR`: *name* is ours, and cannot run."""
        self._say(f"CMETHOD-ERROR {name} {text}")

    def cmethods_done(self) -> None:
        """`CMETHODS DONE`: there are no more."""
        self._say("CMETHODS DONE")

    def smethod(self, name: str, host: str, port: int, arguments: Mapping[str, str]) -> None:
        """`SMETHOD`: the world finds transport *name* there. Raises `ValueError` for what tor would not take."""
        written = write_smethod(arguments)
        self._say(f"SMETHOD {name} {_address(host, port)}" + (f" ARGS:{written}" if written else ""))

    def smethod_error(self, name: str, text: str) -> None:
        """`SMETHOD-ERROR`: *name* is ours, and cannot run."""
        self._say(f"SMETHOD-ERROR {name} {text}")

    def smethods_done(self) -> None:
        """`SMETHODS DONE`: there are no more."""
        self._say("SMETHODS DONE")

    def log(self, severity: Severity, message: str) -> None:
        """`LOG`: tor writes *message* into its own log."""
        self._say(f"LOG SEVERITY={severity} MESSAGE={_quoted(message)}")

    def _say(self, line: str) -> None:
        self._write(_plain(line).encode("ascii") + b"\n")


def _address(host: str, port: int) -> str:
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port}")
    address = ip_address(host)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _plain(text: str) -> str:
    return re.sub(r"[^ -~]", "?", text)


def _quoted(text: str) -> str:
    return '"' + re.sub(r'([\\"])', r"\\\1", _plain(text)) + '"'
