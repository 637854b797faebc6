"""Tests of torknock.bridge.knocks: SYNs as values, and the time as a number."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.bridge import knocks as room
from torknock.bridge.knocks import Judge, tag
from torknock.protocol.bridge_line import Line, Scheme
from torknock.protocol.knock import integrity_code, isn
from torknock.protocol.syn import SYN

ALICE = Line(b"a secret of alice", None, sni="example.net", scheme=Scheme.KNOCK)
BOB = Line(b"a secret of bob", None, sni="example.net", scheme=Scheme.KNOCK)
CAROL = Line(b"a secret of carol", None, sni="example.net", scheme=Scheme.KNOCK, integrity=4)
V4, V6 = bytes([192, 0, 2, 7]), bytes.fromhex("20010db8000000000000000000000007")


def knock(line: Line, tsval: int | None, address: bytes = V4, payload: bytes = b"") -> SYN:
    """The SYN of *line*."""
    code = integrity_code(line.secret, payload) if line.integrity else None
    return SYN("192.0.2.1", 40000, address, 443, isn(line.secret, address, 443, tsval or 0, code), tsval)


class JudgeTests(SynchronousTestCase):
    """Who gets in, once."""

    def setUp(self) -> None:
        self.remembered: list[tuple[int, int, int]] = []
        self.told: list[str] = []
        self.judge = self.another()
        self.judge.lines({"alice": ALICE, "bob": BOB, "carol": CAROL})

    def another(self) -> Judge:
        return Judge(remember=lambda *knock: self.remembered.append(knock), warn=self.told.append)

    def test_a_knock_of_any_line_opens(self) -> None:
        """IPv4 and IPv6, with a TSval and without, and with an integrity code; and it is known whose it was."""
        syns = [
            *(knock(line, tsval, address) for line in (ALICE, BOB) for tsval in (7, None) for address in (V4, V6)),
            knock(CAROL, 9, V6, b"abcd"),
        ]
        self.assertEqual(self.judge.judge(syns, 0.0), [True] * len(syns))
        lines = [self.judge.lines_for(syn, 1.0) for syn in syns]
        self.assertEqual(lines, [("alice",)] * 4 + [("bob",)] * 4 + [("carol",)])

    @given(st.integers(0, 31), st.integers(0, 2**32 - 1))
    def test_one_bit_off_is_no_knock(self, bit: int, tsval: int) -> None:
        """All 32 bits count; with integrity, as for carol, it is 16 before the first octets come."""
        self.judge.lines({"alice": ALICE})
        right = knock(ALICE, tsval)
        self.assertEqual(self.judge.judge([replace(right, isn=right.isn ^ 1 << bit)], 0.0), [False])

    def test_a_knock_is_bound_to_address_port_and_tsval(self) -> None:
        """None of them can be changed."""
        right = knock(ALICE, 7)
        for wrong in (
            replace(right, address=bytes([192, 0, 2, 8])),
            replace(right, port=444),
            replace(right, tsval=8),
            replace(right, tsval=None),
        ):
            self.assertEqual(self.judge.judge([wrong], 0.0), [False])

    def test_it_opens_once_wherever_it_comes_from(self) -> None:
        """Also when both come together, and however much later."""
        right = knock(ALICE, 7)
        elsewhere = replace(right, source="198.51.100.1", source_port=1)
        self.assertEqual(self.judge.judge([right, elsewhere], 0.0), [True, False])
        self.assertEqual(self.judge.judge([right, elsewhere], 1e9), [False, False])
        self.assertEqual(self.remembered, [(tag(ALICE), right.isn, 7)])

    def test_what_was_seen_before_the_start_is_refused(self) -> None:
        """A successor gets it from the disk; for a line that shares the secret too."""
        right = knock(ALICE, 7)
        self.judge.judge([right], 0.0)
        successor = self.another()
        successor.lines({"alice again": ALICE}, self.remembered)
        self.assertEqual(successor.judge([right], 0.0), [False])

    def test_a_line_that_is_full_is_closed(self) -> None:
        """To knocks of its own; that is said once."""
        self.patch(room, "KNOCKS_AT_MOST", 2)
        self.assertEqual(self.judge.judge([knock(ALICE, n) for n in range(5)], 0.0), [True, True, False, False, False])
        self.assertEqual(self.judge.judge([knock(BOB, 0)], 0.0), [True])
        self.assertEqual(len(self.told), 1)
        self.assertIn("alice", self.told[0])

    def test_a_disk_that_refuses_lets_nobody_in(self) -> None:
        """What cannot be remembered does not happen."""

        def refuse(*_knock: int) -> None:
            raise OSError

        judge = Judge(remember=refuse, warn=self.told.append)
        judge.lines({"alice": ALICE})
        self.assertRaises(OSError, judge.judge, [knock(ALICE, 7)], 0.0)
        self.assertEqual(judge.lines_for(knock(ALICE, 7), 0.0), ())

    def test_a_connection_belongs_to_live_lines_once(self) -> None:
        """Not to one that was revoked in between, nor to anybody much later."""
        syns = [knock(ALICE, 7), knock(BOB, 7), knock(BOB, 8)]
        self.judge.judge(syns, 0.0)
        self.judge.lines({"bob": BOB})
        self.assertEqual(self.judge.lines_for(syns[0], 1.0), ())
        self.assertEqual(self.judge.lines_for(syns[1], 1.0), ("bob",))
        self.assertEqual(self.judge.lines_for(syns[1], 1.0), ())
        self.assertEqual(self.judge.lines_for(syns[2], 1000.0), ())

    def test_without_lines_nobody_gets_in(self) -> None:
        """And nothing breaks."""
        self.judge.lines({})
        self.assertEqual(self.judge.judge([knock(ALICE, 7)], 0.0), [False])
        self.assertEqual(self.judge.judge([], 0.0), [])

    def test_misses_are_not_counted_here(self) -> None:
        """The gate counts them, and one place warns of them: `torknock.bridge.refusals`."""
        guesses = [replace(knock(ALICE, n), isn=n) for n in range(2_000)]
        self.judge.judge(guesses, 0.0)
        self.assertEqual(self.told, [])
