"""The grammar of `torknock gate`: one connection guards one door, and is its lease. Pure.

    guard HOST PORT POSTURE tokens|judge -> ok, the first time with the listening sockets | no taken ... | no failed ...
    admit SECONDS TOKEN ...              -> ok | no failed ...
    withdraw TOKEN ...                   -> ok | no failed ...
    intact                               -> ok yes | ok no
    refused                              -> ok N | ok unknown
    held                                 -> ok N | ok unknown
    leave                                -> ok | no failed ...

`guard` comes first, and may come again: then the gate is reopened, empty. Unasked, a service that was told to `judge`
says `judge SYN ...`, and the client answers `judged` with a 1 or a 0 for each. A SYN is written
`SOURCE,PORT,DESTINATION,PORT,ISN,TSVAL`, with `-` for no TSval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from torknock.protocol.door import Door, Posture
from torknock.protocol.syn import SYN
from torknock.service.grammar import Malformed, address, number

TOKENS_A_LINE = 1_024
SYNS_A_LINE = 128
SECONDS_AT_MOST = 900
"""Three epochs: no token is valid for longer."""

_JUDGING = {"tokens": False, "judge": True}


@dataclass(frozen=True, slots=True)
class Guard:
    """Open the gate of a door, with no token admitted."""

    door: Door
    judging: bool

    def __str__(self) -> str:
        """As it is sent."""
        door, judging = self.door, "judge" if self.judging else "tokens"
        return f"guard {door.host} {door.port} {door.posture.value} {judging}"


@dataclass(frozen=True, slots=True)
class Admit:
    """Let each of the tokens open one connection within so many seconds."""

    seconds: int
    tokens: tuple[int, ...]

    def __str__(self) -> str:
        """As it is sent."""
        return " ".join(["admit", str(self.seconds), *map(str, self.tokens)])


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Let none of the tokens open a connection any more."""

    tokens: tuple[int, ...]

    def __str__(self) -> str:
        """As it is sent."""
        return " ".join(["withdraw", *map(str, self.tokens)])


INTACT, REFUSED, HELD, LEAVE = "intact", "refused", "held", "leave"
"""What is asked in one word."""

Request = Guard | Admit | Withdraw | str


def parse(line: str) -> Request:
    """The request that *line* is. Raises `Malformed`."""
    match line.split(" "):
        case ["guard", host, port, posture, judging] if judging in _JUDGING:
            if "%" in host:
                raise Malformed("an address to guard has no interface")
            door = Door(str(address(host)), number(port, 1, 65535), _posture(posture))
            return Guard(door, _JUDGING[judging])
        case ["admit", seconds, *tokens]:
            return Admit(number(seconds, 1, SECONDS_AT_MOST), _tokens(tokens))
        case ["withdraw", *tokens]:
            return Withdraw(_tokens(tokens))
        case ["intact" | "refused" | "held" | "leave" as asked]:
            return asked
    raise Malformed("write guard, admit, withdraw, intact, refused, held or leave, as the grammar has them")


def pieces(tokens: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """*tokens* as they fit into lines."""
    waiting = tuple(tokens)
    for start in range(0, len(waiting), TOKENS_A_LINE):
        yield waiting[start : start + TOKENS_A_LINE]


def judge(syns: Sequence[SYN]) -> str:
    """The question about *syns*, 1 to `SYNS_A_LINE`."""
    return " ".join(["judge", *map(_syn, syns)])


def parse_judge(line: str) -> list[SYN]:
    """The SYNs that are asked about. Raises `Malformed`."""
    match line.split(" "):
        case ["judge", *syns] if 1 <= len(syns) <= SYNS_A_LINE:
            return [_parse_syn(each) for each in syns]
    raise Malformed("write: judge SYN ...")


def judged(answers: Iterable[bool]) -> str:
    """The answer to `judge`."""
    return "judged " + "".join("01"[answer] for answer in answers)


def parse_judged(line: str, count: int) -> list[bool]:
    """The *count* answers in *line*. Raises `Malformed`."""
    match line.split(" "):
        case ["judged", answers] if len(answers) == count and set(answers) <= {"0", "1"}:
            return [answer == "1" for answer in answers]
    raise Malformed("write: judged, and a 0 or a 1 for each SYN")


def _posture(word: str) -> Posture:
    if (posture := Posture.read(word)) is None:
        raise Malformed(f"a posture is {Posture.listed()}")
    return posture


def _tokens(words: list[str]) -> tuple[int, ...]:
    if not 1 <= len(words) <= TOKENS_A_LINE:
        raise Malformed(f"1 to {TOKENS_A_LINE} tokens a line")
    return tuple(number(word, 1, 2**32 - 1) for word in words)


def _syn(syn: SYN) -> str:
    tsval = "-" if syn.tsval is None else str(syn.tsval)
    return f"{syn.source},{syn.source_port},{ip_address(syn.address)},{syn.port},{syn.isn},{tsval}"


def _parse_syn(word: str) -> SYN:
    match word.split(","):
        case [source, source_port, destination, port, isn, tsval]:
            return SYN(
                str(address(source)),
                number(source_port, 0, 65535),
                address(destination).packed,
                number(port, 0, 65535),
                number(isn, 0, 2**32 - 1),
                None if tsval == "-" else number(tsval, 0, 2**32 - 1),
            )
    raise Malformed("a SYN is SOURCE,PORT,DESTINATION,PORT,ISN,TSVAL")
