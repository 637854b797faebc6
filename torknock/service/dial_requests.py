"""The grammar of `torknock dial`: one request on a connection, and what is said about it. Pure.

    dial HOST PORT ISN [BIND]    -> dialling, then: ok and the connected socket | no cannot ... | no failed ...
    stamped HOST PORT [BIND]     -> tsval N; the client answers `isn N` at once; then as above, or: no slipped ...,
                                    no late ...

`dialling` says that the SYN has left. HOST and BIND are addresses, ISN is 1..2**32-1; `isn 0` gives the dial up.
`no cannot ERRNO TEXT`: no SYN has left; `no failed ERRNO TEXT`: no connection; ERRNO is 0 if the kernel gave none.
`no slipped TEXT`: the SYN may have left with another TSval; `no late TEXT`: it was too late, and has not left.
`no busy TEXT`: this user dials too often.
"""

from __future__ import annotations

from dataclasses import dataclass

from torknock.service.grammar import Malformed, address, number

DIALLING = "dialling"
"""What the service says once the SYN has left."""

ANSWER_WITHIN = 0.002
"""Seconds in which the ISN for a TSval must come."""

_ERRNO_AT_MOST = 4095  # linux/err.h, MAX_ERRNO


@dataclass(frozen=True, slots=True)
class Request:
    """What to dial, and from where; without an *isn* it depends on the TSval."""

    host: str
    port: int
    isn: int | None
    bind: str | None

    def __str__(self) -> str:
        """As it is sent."""
        words = ["stamped" if self.isn is None else "dial", self.host, str(self.port)]
        if self.isn is not None:
            words.append(str(self.isn))
        if self.bind is not None:
            words.append(self.bind)
        return " ".join(words)


def parse(line: str) -> Request:
    """The request that *line* is. Raises `Malformed`."""
    chosen: int | None = None
    match line.split(" "):
        case ["dial", host, port, isn, *bind] if len(bind) < 2:
            chosen = number(isn, 1, 2**32 - 1)
        case ["stamped", host, port, *bind] if len(bind) < 2:
            pass
        case _:
            raise Malformed("write: dial HOST PORT ISN [BIND], or: stamped HOST PORT [BIND]")
    for each in (host, *bind):
        address(each)
    return Request(host, number(port, 1, 65535), chosen, bind[0] if bind else None)


def tsval(value: int) -> str:
    """The question for an ISN."""
    return f"tsval {value}"


def parse_tsval(line: str) -> int:
    """The TSval that an ISN is asked for. Raises `Malformed`."""
    return _only_number("tsval", line)


def isn(value: int) -> str:
    """The answer to `tsval`."""
    return f"isn {value}"


def parse_isn(line: str) -> int:
    """The ISN that was answered, perhaps 0. Raises `Malformed`."""
    return _only_number("isn", line)


def errno_and_text(number_of_it: int | None, text: str) -> str:
    """What stands behind `no cannot` and `no failed`."""
    return f"{number_of_it or 0} {text}"


def parse_errno_and_text(said: str) -> tuple[int | None, str]:
    """The errno, if there was one, and the text. Raises `Malformed`."""
    word, _, text = said.partition(" ")
    return number(word, 0, _ERRNO_AT_MOST) or None, text


def _only_number(name: str, line: str) -> int:
    match line.split(" "):
        case [first, word] if first == name:
            return number(word, 0, 2**32 - 1)
    raise Malformed(f"write: {name} N")
