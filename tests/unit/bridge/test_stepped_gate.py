"""Tests of torknock.bridge.stepped_gate, and of what every gate does, without privilege."""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.gate_contract import E, GateContract, page
from tests.support.memory_gate import MemoryGate, TwinGuarded
from torknock.bridge.stepped_gate import SteppedGate
from torknock.interfaces import GateFailed
from torknock.protocol.wanted import Wanted


class RememberedSteps:
    """Steps of which only the memory is there: which tokens open, until when. It keeps a list of what was done."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}
        self.standing = False
        self.done: list[tuple[object, ...]] = []
        self.fails = ""
        """The name of the step that fails."""

    @property
    def opens(self) -> set[int]:
        return {token for token, until in self._until.items() if until > self._clock.seconds()}

    def use(self, token: int) -> bool:
        found = token in self.opens
        self._until.pop(token, None)
        return found

    def lose(self) -> None:
        self._until.clear()
        self.standing = False

    def open(self, judging: bool) -> Deferred[None]:
        self._until.clear()
        self.standing = True
        return self._did("open", judging)

    def admit(self, tokens: Collection[int], seconds: int) -> Deferred[None]:
        for token in tokens:
            self._until.setdefault(token, self._clock.seconds() + seconds)
        return self._did("admit", set(tokens), seconds)

    def withdraw(self, tokens: Collection[int]) -> Deferred[None]:
        for token in tokens:
            self._until.pop(token, None)
        return self._did("withdraw", set(tokens))

    def intact(self) -> Deferred[bool]:
        return succeed(self.standing)

    def refused(self) -> Deferred[int | None]:
        return succeed(7)

    def held(self) -> Deferred[int | None]:
        return succeed(len(self.opens) if self.standing else None)

    def close(self) -> Deferred[None]:
        self.lose()
        return succeed(None)

    def _did(self, verb: str, *arguments: object) -> Deferred[None]:
        self.done.append((verb, *arguments))
        return fail(GateFailed(f"{verb} failed")) if verb == self.fails else succeed(None)


class MemoryGateTests(GateContract, SynchronousTestCase):
    """The twin of the other tests does what a gate does."""

    def setUp(self) -> None:
        clock = Clock()
        gate = MemoryGate(clock)
        self.guarded = TwinGuarded(self, clock, gate, gate)


class SteppedGateTests(GateContract, SynchronousTestCase):
    """The difference is applied, in the right order, and no more than that."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.steps = RememberedSteps(self.clock)
        self.gate = SteppedGate(self.clock, self.steps)
        self.guarded = TwinGuarded(self, self.clock, self.gate, self.steps)

    def done(self) -> list[tuple[object, ...]]:
        """The steps since this was last asked."""
        done, self.steps.done = self.steps.done, []
        return done

    def test_nothing_is_done_while_nothing_changes(self) -> None:
        """Nor when a token is used, at each of the keeper's looks."""
        self.apply(page([1, 2]), page([3], E + 1))
        self.assertEqual(self.done(), [("open", False), ("admit", {1, 2}, 300), ("admit", {3}, 300)])
        self.steps.use(1)
        self.apply(page([2]), page([3], E + 1))
        self.assertEqual(self.done(), [])

    def test_a_new_epoch_is_one_page(self) -> None:
        """What the one before had runs out by itself; nothing is withdrawn, and nothing admitted again."""
        self.apply(page([1, 2], seconds=10), page([3], E + 1, seconds=310))
        self.done()
        self.clock.advance(10)
        self.apply(page([3], E + 1, seconds=300), page([4], E + 2, seconds=600))
        self.assertEqual(self.done(), [("admit", {4}, 600)])

    def test_a_revoked_line_is_withdrawn_before_a_new_one_is_admitted(self) -> None:
        """For what remains of their epoch, in whole seconds, the last one whole too."""
        self.apply(page([1, 2], seconds=100))
        self.done()
        self.clock.advance(0.5)
        self.apply(page([2, 3], edition=2, seconds=99.5))
        self.assertEqual(self.done(), [("withdraw", {1}), ("admit", {3}, 100)])

    def test_a_clock_that_is_slewed_changes_nothing(self) -> None:
        """One that was set makes the gate anew, and so does a date with none of the epochs before."""
        self.apply(page([1], seconds=300))
        self.done()
        self.apply(page([1], seconds=304))
        self.assertEqual(self.done(), [])
        self.apply(page([1], seconds=306))
        self.assertEqual(self.done(), [("open", False), ("admit", {1}, 306)])
        self.apply(page([2], E + 9))
        self.assertEqual(self.done(), [("open", False), ("admit", {2}, 300)])

    def test_a_step_that_failed_is_followed_by_a_new_gate(self) -> None:
        """How far it came is not known."""
        for fails in ("open", "admit", "withdraw"):
            with self.subTest(fails=fails):
                self.setUp()
                if fails == "withdraw":
                    self.apply(page([1, 2]))
                self.steps.fails = fails
                failed = self.gate.apply(Wanted(False, (page([2], edition=2),)))
                self.clock.advance(0)
                self.failureResultOf(failed, GateFailed)
                self.steps.fails = ""
                self.done()
                self.apply(page([2], edition=2))
                self.assertEqual(self.done(), [("open", False), ("admit", {2}, 300)])

    def test_a_repair_is_said(self) -> None:
        """Five times within ten minutes, the last time with that; not when the gate was closed."""
        with capturedLogs() as logs:
            self.apply(page([1]))
            self.guarded.close()
            for _ in range(8):
                self.apply(page([1]))
                self.steps.lose()
            said = [log["more"] for log in logs]
            self.assertEqual(said, ["", "", "", "", "; further warnings of this kind are suppressed for 10 minutes"])
            self.clock.advance(601)
            self.apply(page([1]))
        self.assertEqual(len(logs), 6)
