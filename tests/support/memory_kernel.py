"""A kernel of which only nftables' memory is there: the twin of `torknock.privileged.gate.kernel.Kernel`."""

from __future__ import annotations

import copy
import errno
import re
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.python.failure import Failure

from torknock.interfaces import GateFailed
from torknock.kernel import nftables_state as state
from torknock.kernel.blocking_program import ProgramFailed
from torknock.kernel.interfaces import IReactor
from torknock.kernel.netlink import attribute, attributes, message, messages
from torknock.kernel.twins import MemoryNetlink, acknowledged

_DONE = struct.pack("=IHHIIi", 20, 3, 2, 0, 0, 0)
_COMMAND = re.compile(
    r"table inet (?P<loaded>\S+) \{\n.*?^\}\n"
    r"|(?P<verb>add|flush|delete) table inet (?P<table>\S+)\n"
    r"|(?P<change>add|delete) element inet (?P<of>\S+) (?P<set>\S+) \{ (?P<elements>[^}]*) \}\n",
    re.MULTILINE | re.DOTALL,
)


class MemoryReactor(Clock):
    """A clock whose threads are done at once. It notes its readers and writers, and what is called at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        self.writers: list[Any] = []
        self.at_end: list[Callable[[], Any]] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers = [each for each in self.readers if each is not reader]

    def addWriter(self, writer: Any) -> None:
        self.writers.append(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writers = [each for each in self.writers if each is not writer]

    def callWhenRunning(self, call: Callable[[], Any]) -> None:
        call()

    def addSystemEventTrigger(self, _when: str, _what: str, call: Callable[[], Any]) -> None:
        self.at_end.append(call)

    def getThreadPool(self) -> MemoryReactor:
        return self

    def callInThreadWithCallback(self, told: Callable[[bool, Any], None], call: Any, *given: Any, **named: Any) -> None:
        try:
            result = call(*given, **named)
        except Exception:  # noqa: BLE001  as in a thread
            told(False, Failure())
        else:
            told(True, result)

    def callFromThread(self, call: Callable[..., Any], *given: Any) -> None:
        call(*given)


@dataclass
class MemoryTable:
    """A table of ours: its text, and its sets, element -> when it runs out."""

    text: str = ""
    sets: dict[str, dict[int, float]] = field(default_factory=lambda: {"tokens": {}, "claimed": {}})
    refused: int = 0


class MemoryKernel:
    """Does the commands of `torknock.service.ruleset`; a transaction is done whole or not at all."""

    def __init__(self) -> None:
        self.time = MemoryReactor()
        self.tables: dict[str, MemoryTable] = {}
        self.rules: dict[str, list[str]] = {}
        """Of iptables, by the program's name."""
        self.generation = 1
        self.refuses: dict[str, str] = {}
        """Why a program, by its name, fails; or nft, by a word of what it is to load."""
        self.interruptions = 0
        """How many lists of a set are broken off by a change, from now on."""
        self.netlink_refused: OSError | None = None
        self.outputs: dict[str, str] = {"nft --json list chains": '{"nftables": []}'}
        """What a command writes, for `output`."""

    @property
    def reactor(self) -> IReactor:
        """See `IKernel`."""
        return cast(IReactor, self.time)

    def syn(self, table: str, token: int) -> bool:
        """Whether a SYN with *token* opens a connection, as the table's rules say; see `ruleset.listing`."""
        if (found := self.tables.get(table)) is None:
            return False
        opens = token in self._live(found, "tokens") and token not in self._live(found, "claimed")
        if opens:
            found.sets["claimed"][token] = self.time.seconds() + 900
            del found.sets["tokens"][token]
        else:
            found.refused += 1
        return opens

    def lose(self, table: str) -> None:
        """Have another program remove *table*."""
        del self.tables[table]
        self.generation += 1

    async def run(self, program: str, arguments: list[str], stdin: bytes = b"") -> str:
        """See `IKernel`."""
        text = stdin.decode("ascii")
        for word, reason in self.refuses.items():
            if word == program or (word in text and program == "nft"):
                raise GateFailed(f"{program} {' '.join(arguments)} {reason}")
        if program != "nft":
            return self._iptables(program, arguments, text)
        match [each for each in arguments if not each.startswith("--")]:
            case ["-f", "-"]:
                self._change(text)
                return ""
            case ["list", "tables", "inet"]:
                return "".join(f"table inet {name}\n" for name in self.tables)
            case ["list", "table", "inet", name]:
                return self._table(name).text
            case ["flush", "set", "inet", name, which]:
                self._table(name).sets[which].clear()
                self.generation += 1
                return ""
        raise AssertionError(arguments)

    def output(self, program: str, *arguments: str) -> str:
        """See `IKernel`."""
        try:
            return self.outputs[" ".join((program, *arguments))]
        except KeyError:
            raise ProgramFailed(f"{program} {' '.join(arguments)} ended with 1: Operation not permitted") from None

    def connect(self) -> MemoryNetlink:
        """See `IKernel`."""
        if self.netlink_refused is not None:
            raise self.netlink_refused
        return MemoryNetlink(self._told)

    def make_transparent(self, made: socket.socket) -> None:
        """See `IKernel`: no packet comes for another address."""

    def _table(self, name: str) -> MemoryTable:
        if name not in self.tables:
            raise GateFailed("nft ended with 1: Error: No such file or directory")
        return self.tables[name]

    def _live(self, table: MemoryTable, name: str) -> set[int]:
        return {each for each, until in table.sets[name].items() if until > self.time.seconds()}

    def _change(self, text: str) -> None:
        before, at = copy.deepcopy(self.tables), 0
        try:
            while at < len(text):
                found = _COMMAND.match(text, at)
                assert found is not None, text[at:]
                self._do(found)
                at = found.end()
        except GateFailed:
            self.tables = before
            raise
        self.generation += 1

    def _do(self, command: re.Match[str]) -> None:
        if name := command["loaded"]:
            self.tables.setdefault(name, MemoryTable()).text += command[0]
        elif command["verb"] == "add":
            self.tables.setdefault(command["table"], MemoryTable())
        elif command["verb"] == "flush":
            self._table(command["table"]).text = ""
        elif command["verb"] == "delete":
            self._table(command["table"])
            del self.tables[command["table"]]
        else:
            self._elements(command["change"], self._table(command["of"]).sets[command["set"]], command["elements"])

    def _elements(self, change: str, known: dict[int, float], text: str) -> None:
        now = self.time.seconds()
        for each in text.split(", "):
            element, _, timeout = each.partition(" timeout ")
            number = int(element)
            if known.get(number, now) <= now:
                known.pop(number, None)
            if change == "add":
                known.setdefault(number, now + int(timeout.rstrip("s")) if timeout else float("inf"))
            elif known.pop(number, None) is None:
                raise GateFailed("nft ended with 1: Error: Could not process rule: No such file or directory")

    def _iptables(self, program: str, arguments: list[str], text: str) -> str:
        of = program.removesuffix("-save").removesuffix("-restore")
        rules = self.rules.setdefault(of, [])
        if program.endswith("-save"):
            return "*mangle\n" + "".join(f"-A {rule}\n" for rule in rules) + "COMMIT\n"
        if program.endswith("-restore"):
            for what, rule in re.findall(r"^(-A|-D) (.*)$", text, re.MULTILINE):
                (rules.append if what == "-A" else rules.remove)(rule)
            self.generation += 1
        elif " ".join(arguments[3:]) not in rules:
            raise GateFailed(f"{program} ended with 1: Bad rule")
        return ""

    def _told(self, octets: bytes) -> Sequence[bytes]:
        [asked] = messages(octets)
        body = {kind: value.rstrip(b"\0").decode("latin-1") for kind, value in attributes(asked.body)}
        if asked.kind == state.GETGEN:
            return [message(state.NEWGEN, attribute(state.GEN_ID, struct.pack("!I", self.generation)))]
        if asked.kind not in (state.GETOBJ, state.GETSETELEM):
            return [acknowledged()]
        table = self.tables.get(body[state.LIST_TABLE])  # NFTA_OBJ_TABLE has the same number
        if table is None:
            return [acknowledged(errno.ENOENT)]
        if asked.kind == state.GETOBJ:
            packets = attribute(state.COUNTER_PACKETS, struct.pack("!Q", table.refused))
            return [message(state.NEWOBJ, attribute(state.OBJ_DATA, packets))]
        live = sorted(self._live(table, body[state.LIST_SET]))
        return [*(self._listed(live[at : at + 1000]) for at in range(0, len(live), 1000)), self._listed([]), _DONE]

    def _listed(self, elements: Sequence[int]) -> bytes:
        each = [
            attribute(state.LIST_ELEMENT, attribute(state.ELEMENT_KEY, attribute(state.DATA_VALUE, n.to_bytes(4))))
            for n in elements
        ]
        octets = bytearray(message(state.NEWSETELEM, attribute(state.LIST_ELEMENTS, b"".join(each))))
        if self.interruptions:
            self.interruptions -= 1
            struct.pack_into("=H", octets, 6, 0x12)  # NLM_F_MULTI | NLM_F_DUMP_INTR
        return bytes(octets)
