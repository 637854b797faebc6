"""Tests of torknock.bridge.admission: whatever comes in whatever order, what is wanted is what is valid."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.bridge.admission import LINES_A_TURN, Admission
from torknock.bridge.knocks import Judge
from torknock.keyring.issued import Issued
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import EPOCH, ratchet

E = 5_666_667
NOW = E * EPOCH + 10.0


def issued(name: str, secret: bytes = b"") -> Issued:
    """A line of scheme `token`; its secret, unless it is given, is its name's."""
    return Issued(name, Line(secret or name.encode().ljust(32, b"."), bytes(32), n=4), int(NOW), None, None)


def later(name: str, epoch: int) -> Issued:
    """A line of version 2 that begins with *epoch*; a line that begins earlier becomes it."""
    return issued(name, ratchet(name.encode().ljust(32), bytes(32), epoch))


def near(epoch: int) -> range:
    """The epochs whose tokens are valid in *epoch*."""
    return range(epoch - 1, epoch + 2)


class AdmissionTests(SynchronousTestCase):
    """Epochs, lines and connections come; a gate is told what is wanted."""

    def setUp(self) -> None:
        self.admission = Admission(Judge(remember=lambda *knock: None, warn=self.fail))

    def update(self, epochs: range, live: Sequence[Issued]) -> int:
        """Do it; returns how often others were let run."""
        return sum(1 for _ in self.admission.update(epochs, live))

    def opens(self) -> dict[int, set[int]]:
        return {page.epoch: set(page.tokens) for page in self.admission.wanted(NOW).pages}

    def test_nothing_opens_before_the_first_update(self) -> None:
        """And nothing breaks."""
        self.assertEqual(self.opens(), {})
        self.assertEqual(self.admission.spend(7, NOW), ((), ()))

    def test_a_revoked_line_opens_nothing_from_the_first_step_on(self) -> None:
        """Also while its tokens have not been struck out yet."""
        alice, bob = issued("alice"), issued("bob")
        self.update(near(E), [alice, bob])
        steps = self.admission.update(near(E), [bob])
        next(steps)
        self.assertEqual(self.admission.spend(alice.line.tokens(E)[0], NOW)[1], ())
        list(steps)
        self.assertEqual(self.opens(), {epoch: set(bob.line.tokens(epoch)) for epoch in near(E)})

    def test_many_lines_let_others_run(self) -> None:
        """A step derives the tokens of a few lines, whatever has changed."""
        lines = [issued(f"line{number}") for number in range(4 * LINES_A_TURN)]
        self.assertGreaterEqual(self.update(near(E), lines), 4 * 3 + 4)
        self.assertGreaterEqual(self.update(near(E + 1), lines), 4 + 4)
        self.assertGreaterEqual(self.update(near(E + 1), []), 4)

    def test_an_update_that_changes_nothing_has_no_new_edition(self) -> None:
        """So a gate need not compare its tokens."""
        alice = later("alice", E - 1)
        for epoch in (E, E + 100):  # by then it is carried on
            self.update(near(epoch), [alice])
            before = self.admission.wanted(NOW)
            self.update(near(epoch), [alice])
            after = self.admission.wanted(NOW)
            self.assertEqual([page.edition for page in after.pages], [page.edition for page in before.pages])

    def test_a_line_is_carried_on_only_once_it_lags_far_behind(self) -> None:
        """To carry all lines on in each epoch would only make garbage."""
        for epoch, first in ((E + 5, E), (E + 100, E + 98)):
            self.update(near(epoch), [later("alice", E)])
            self.assertEqual(self.admission.live["alice"].line.first_epoch, first)

    def test_a_line_is_not_taken_back_to_where_the_keyring_has_it(self) -> None:
        """What was carried on stays so; what has the same name and another secret is another line."""
        first = later("alice", E)
        self.update(near(E + 100), [first])
        carried = self.admission.live["alice"].line.first_epoch
        self.assertGreater(carried, E)
        self.update(near(E + 100), [first])
        self.assertEqual(self.admission.live["alice"].line.first_epoch, carried)
        self.assertEqual(self.opens()[E + 100], set(first.line.tokens(E + 100)))
        other = issued("alice", ratchet(b"other".ljust(32), bytes(32), E))
        self.update(near(E + 100), [other])
        self.assertEqual(self.opens()[E + 100], set(other.line.tokens(E + 100)))

    def test_what_is_denied_comes_back_without_what_was_spent(self) -> None:
        """A token that comes meanwhile is spent for nothing."""
        alice = issued("alice")
        self.update(near(E), [alice])
        first, second = alice.line.tokens(E)[:2]
        self.assertEqual(self.admission.spend(first, NOW)[1], (alice,))
        self.admission.deny()
        self.assertEqual(self.opens(), {})
        self.assertEqual(self.admission.spend(second, NOW), (tuple(near(E)), ()))
        self.update(near(E), [alice])
        self.assertEqual(self.opens()[E], set(alice.line.tokens(E)) - {first, second})

    @given(
        st.lists(
            st.tuples(
                st.integers(E, E + 4), st.sets(st.sampled_from("abc")), st.integers(0, 3), st.sampled_from((0, 0, 1))
            ),
            max_size=8,
        )
    )
    def test_whatever_comes_the_wanted_is_what_is_valid_and_unspent(
        self, steps: list[tuple[int, set[str], int, int]]
    ) -> None:
        """Epochs forth, and back but to none that was left behind; lines and connections; updates broken off."""
        self.setUp()
        used: set[int] = set()
        floor = 0
        for epoch, names, which, broken in steps:
            lines = [issued(name) for name in sorted(names)]
            floor = max(floor, epoch - 1)
            epochs = range(floor, epoch + 2)
            if broken:
                next(self.admission.update(epochs, lines), None)
                self.admission.deny()
            self.update(epochs, lines)
            for line in lines[:1] if epochs else ():
                used.add(line.line.tokens(epoch)[which])
                self.admission.spend(line.line.tokens(epoch)[which], epoch * EPOCH)
            valid = {at: {isn for each in lines for isn in each.line.tokens(at)} - used for at in epochs}
            self.assertEqual(self.opens(), valid)
