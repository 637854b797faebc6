"""What tor reads of a transport's stdout (pt-spec §3.3): lines as values, and those that it would not take. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address


@dataclass(frozen=True, slots=True)
class Method:
    """A `CMETHOD` or an `SMETHOD`: where a transport listens, and the ARGS of an `SMETHOD`."""

    address: str
    port: int
    arguments: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A `LOG`: a severity of tor's, in lower case, and the message without its quotation marks."""

    severity: str
    message: str


_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_METHOD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SEVERITIES = frozenset({"error", "warning", "notice", "info", "debug"})


class TorOutput:
    """The lines that a transport has written, in tor's order of reading.

    `faults` has each line that tor would ignore, or for which it would end the transport: none, for a good transport.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.faults: list[str] = []
        self.error: str | None = None
        """The `ENV-ERROR`, `VERSION-ERROR` or `PROXY-ERROR`, if there was one: nothing starts after it."""
        self.proxy_done = False
        self.status: dict[str, str] = {}
        """The items of the last `STATUS`."""
        self.methods: dict[str, Method] = {}
        self.method_errors: dict[str, str] = {}
        self.done = False
        """Whether `CMETHODS DONE` or `SMETHODS DONE` was written."""
        self.logs: list[LogLine] = []
        self._incomplete = b""

    @property
    def version(self) -> bool:
        """Whether `VERSION 1` was written."""
        return "VERSION 1" in self.lines

    def feed(self, octets: bytes) -> None:
        """Read what the transport wrote, in pieces of any size."""
        *lines, self._incomplete = (self._incomplete + octets).split(b"\n")
        for line in lines:
            text = line.decode("ascii", "backslashreplace")
            self.lines.append(text)
            if not self._understand(text):
                self.faults.append(text)

    def _understand(self, line: str) -> bool:
        keyword, _, rest = line.partition(" ")
        if keyword in ("ENV-ERROR", "VERSION-ERROR", "PROXY-ERROR"):
            self.error = line
            return self.version == (keyword == "PROXY-ERROR")
        if keyword == "VERSION":
            return rest == "1"
        if keyword == "LOG":
            return self._log(rest)
        if keyword == "STATUS":
            return self._status(rest)
        return self.version and not self.done and self._start(keyword, rest)

    def _start(self, keyword: str, rest: str) -> bool:
        """Lines that tor takes between `VERSION` and `DONE`."""
        if keyword in ("CMETHODS", "SMETHODS"):
            self.done = rest == "DONE"
            return self.done
        if keyword == "PROXY":
            self.proxy_done = rest == "DONE"
            return self.proxy_done
        name, _, rest = rest.partition(" ")
        if not _METHOD_NAME.fullmatch(name):
            return False
        if keyword in ("CMETHOD-ERROR", "SMETHOD-ERROR"):
            self.method_errors[name] = rest
            return bool(rest)
        read = {"CMETHOD": _client_method, "SMETHOD": _server_method}.get(keyword)
        method = None if read is None else read(rest)
        if method is not None:
            self.methods[name] = method
        return method is not None

    def _log(self, rest: str) -> bool:
        items = _items(rest)
        if items is None or items.get("SEVERITY") not in _SEVERITIES or "MESSAGE" not in items:
            return False
        self.logs.append(LogLine(items["SEVERITY"], items["MESSAGE"]))
        return True

    def _status(self, rest: str) -> bool:
        items = _items(rest)
        if items is None or "TYPE" not in items:
            return False
        self.status = items
        return True


def _client_method(rest: str) -> Method | None:
    protocol, _, address = rest.partition(" ")
    return _method(address) if protocol == "socks5" else None


def _server_method(rest: str) -> Method | None:
    address, *options = rest.split(" ")
    arguments: dict[str, str] = {}
    for option in options:
        if option.startswith("ARGS:"):
            pairs = [item.partition("=") for item in option.removeprefix("ARGS:").split(",")]
            if not all(key and equals for key, equals, _ in pairs):
                return None
            arguments.update((key, value) for key, _, value in pairs)
    return _method(address, arguments)


def _method(text: str, arguments: dict[str, str] | None = None) -> Method | None:
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        if not 1 <= int(port) <= 65535 or host.startswith("[") != (address.version == 6):
            return None
    except ValueError:
        return None
    return Method(str(address), int(port), arguments or {})


def _items(text: str) -> dict[str, str] | None:
    """`KEY=value KEY="quoted value"` as a mapping; None if it is not such a list."""
    items: dict[str, str] = {}
    while text:
        key, equals, text = text.partition("=")
        if not key or not equals:
            return None
        if quoted := _QUOTED.match(text):
            items[key] = re.sub(r"\\(.)", r"\1", quoted[1])
            text = text[quoted.end() :]
        else:
            word = text.partition(" ")[0]
            items[key], text = word, text[len(word) :]
        if text and not text.startswith(" "):
            return None
        text = text.removeprefix(" ")
    return items
