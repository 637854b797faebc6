"""What every `IGate` does, as tests: for the twin in memory, and for each real gate with real packets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torknock.interfaces import GateFailed
from torknock.protocol.wanted import Page, Wanted

E = 5_666_667
"""The present epoch, as far as these tests go."""


class Guarded(Protocol):
    """A door with a gate, and a client who knocks at it."""

    def apply(self, wanted: Wanted) -> None:
        """See `IGate`; raises `GateFailed`."""

    def refused(self) -> int | None:
        """See `IGate`."""

    def held(self) -> int | None:
        """See `IGate`."""

    def close(self) -> None:
        """See `IGate`."""

    def disturb(self) -> None:
        """Have another program change the gate, if one can."""

    def opens(self, token: int) -> bool:
        """Whether a SYN with *token* opens a connection now."""

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass."""


def page(tokens: Iterable[int], epoch: int = E, edition: int = 1, seconds: float = 300) -> Page:
    """*tokens* of *epoch*."""
    return Page(epoch, edition, seconds, set(tokens))


class GateContract:
    """To be mixed into a test case, whose `guarded` is made for each test."""

    guarded: Guarded

    def apply(self, *pages: Page, judging: bool = False) -> None:
        self.guarded.apply(Wanted(judging, pages))

    def opening(self, *tokens: int) -> set[int]:
        """Those of *tokens* that open a connection, one after the other."""
        return {token for token in tokens if self.guarded.opens(token)}

    def expect(self, found: object, expected: object) -> None:
        assert found == expected, f"{found}, not {expected}"

    def test_nothing_opens_until_it_is_wanted(self) -> None:
        """An opened gate is empty; what is wanted opens, of every page, and nothing else does."""
        self.apply()
        self.expect(self.opening(1001, 1002), set())
        self.apply(page([1001, 1002]), page([1003], E + 1))
        self.expect(self.opening(1001, 1003, 1004), {1001, 1003})

    def test_a_token_opens_once(self) -> None:
        """Also if the same is wanted again, as at every look of the keeper's."""
        self.apply(page([1001, 1002]))
        self.expect(self.opening(1001), {1001})
        self.apply(page([1001, 1002]))
        self.expect(self.opening(1001), set())
        self.apply(page([1002]))
        self.expect(self.opening(1001, 1002), {1002})

    def test_the_difference_is_applied(self) -> None:
        """Tokens come and go in a page, and whole pages; what stays wanted goes on to open, with its time."""
        self.apply(page([1001, 1002, 1003], seconds=280), page([1004], E + 1))
        self.apply(page([1002, 1003, 1005], edition=2, seconds=279), page([1006], E + 2))
        self.expect(self.opening(1001, 1002, 1003, 1004, 1005, 1006), {1002, 1003, 1005, 1006})

    def test_what_is_wanted_in_another_epoch_stays(self) -> None:
        """Two lines may derive the same ISN."""
        self.apply(page([1001, 1002]), page([1001], E + 1))
        self.apply(page([1002], edition=2), page([1001], E + 1))
        self.expect(self.opening(1001, 1002), {1001, 1002})

    def test_tokens_run_out_by_themselves(self) -> None:
        """When their caller hangs or dies."""
        self.apply(page([1001], seconds=1), page([1002], E + 1))
        self.guarded.pass_time(2.5)
        self.expect(self.opening(1001, 1002), {1002})

    def test_a_clock_that_was_set_counts(self) -> None:
        """The same tokens, for another time than they were told."""
        self.apply(page([1001], seconds=300))
        self.apply(page([1001], seconds=1))
        self.guarded.pass_time(2.5)
        self.expect(self.opening(1001), set())

    def test_a_gate_that_another_program_changed_is_repaired(self) -> None:
        """With what is wanted then: what was spent since does not come back."""
        self.apply(page([1001, 1002, 1003]))
        self.expect(self.opening(1001), {1001})
        self.guarded.disturb()
        self.apply(page([1002, 1003]))
        self.expect(self.opening(1001, 1002), {1002})

    def test_judging_may_begin_and_end(self) -> None:
        """Tokens go on to open, whether the gate can judge or not."""
        self.apply(page([1001, 1002, 1003, 1004]))
        self.expect(self.opening(1001), {1001})
        self.apply(page([1002, 1003, 1004]), judging=True)
        self.expect(self.opening(1002), {1002})
        self.apply(page([1003, 1004]))
        self.expect(self.opening(1001, 1003), {1003})

    def test_a_closed_gate_opens_nothing(self) -> None:
        """It can be closed twice, and opened again."""
        self.apply(page([1001, 1002]))
        self.guarded.close()
        self.guarded.close()
        self.expect(self.opening(1001), set())
        self.apply(page([1002]))
        self.expect(self.opening(1001, 1002), {1002})

    def test_more_than_a_gate_takes_is_refused(self) -> None:
        """Or it takes them all; in no case some of them, with no word."""
        many = set(range(2001, 2001 + 5000))
        try:
            self.apply(page(many))
        except GateFailed:
            self.guarded.close()
            self.apply(page([1001]))
            self.expect(self.opening(1001, 2001), {1001})
        else:
            self.expect(self.opening(2001, 7000, 7001), {2001, 7000})

    def test_it_tells_how_many_tokens_the_kernel_holds(self) -> None:
        """A token that was used is not among them; a closed gate holds none that it could tell of."""
        self.apply(page([1001, 1002]), page([1003], E + 1))
        self.expect(self.guarded.held(), 3)
        self.opening(1001)
        self.expect(self.guarded.held(), 2)
        self.guarded.close()
        self.expect(self.guarded.held() or 0, 0)

    def test_it_tells_how_many_it_refused(self) -> None:
        """A number, or that it counts none."""
        self.apply(page([1001, 1002]))
        self.expect((self.guarded.refused() or 0) >= 0, True)
