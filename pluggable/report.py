"""The lines that a transport writes to tor (pt-spec §3.3), escaped so that no text can forge another line. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Literal

from pluggable.arguments import write_smethod
from pluggable.errors import StartError

Severity = Literal["error", "warning", "notice", "info", "debug"]


class Report:
    """Writes whole lines, each in one call of *write*."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def version(self) -> None:
        """`VERSION 1`: the environment was read without an error."""
        self._write_line("VERSION 1")

    def failed(self, error: StartError) -> None:
        """`ENV-ERROR`, `VERSION-ERROR` or `PROXY-ERROR`: nothing will start."""
        self._write_line(f"{error.keyword} {error}")

    def status(self, transport: str, implementation: str, version: str) -> None:
        """`STATUS TYPE=version`, which tor publishes; *version* has no spaces, or `ValueError`.

        `TRANSPORT=` is there for a tor before 0.4.8.13.
        """
        if not re.fullmatch("[!-~]+", version):
            raise ValueError("a version is ASCII without spaces")
        about = f"IMPLEMENTATION={_quoted(implementation)} VERSION={_quoted(version)}"
        self._write_line(f"STATUS TYPE=version TRANSPORT={transport} {about}")

    def proxy_done(self) -> None:
        """`PROXY DONE`: every connection to a bridge will use the proxy."""
        self._write_line("PROXY DONE")

    def cmethod(self, name: str, host: str, port: int) -> None:
        """`CMETHOD`: the SOCKS port of transport *name*."""
        self._write_line(f"CMETHOD {name} socks5 {_address(host, port)}")

    def cmethod_error(self, name: str, text: str) -> None:
        """`CMETHOD-ERROR`: the transport *name* cannot run."""
        self._write_line(f"CMETHOD-ERROR {name} {text}")

    def cmethods_done(self) -> None:
        """`CMETHODS DONE`: every transport was reported."""
        self._write_line("CMETHODS DONE")

    def smethod(self, name: str, host: str, port: int, arguments: Mapping[str, str]) -> None:
        """`SMETHOD`: where transport *name* listens. Raises `ValueError` for arguments that tor would not take."""
        written = write_smethod(arguments)
        self._write_line(f"SMETHOD {name} {_address(host, port)}" + (f" ARGS:{written}" if written else ""))

    def smethod_error(self, name: str, text: str) -> None:
        """`SMETHOD-ERROR`: the transport *name* cannot run."""
        self._write_line(f"SMETHOD-ERROR {name} {text}")

    def smethods_done(self) -> None:
        """`SMETHODS DONE`: every transport was reported."""
        self._write_line("SMETHODS DONE")

    def log(self, severity: Severity, message: str) -> None:
        """`LOG`: tor writes *message* into its own log."""
        self._write_line(f"LOG SEVERITY={severity} MESSAGE={_quoted(message)}")

    def _write_line(self, line: str) -> None:
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
