"""Tests of torknock.service.gate_requests: the parser in front of CAP_NET_ADMIN."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.door import Door, Posture
from torknock.protocol.syn import SYN
from torknock.service.gate_requests import (
    INTACT,
    LEAVE,
    REFUSED,
    SECONDS_AT_MOST,
    SYNS_A_LINE,
    TOKENS_A_LINE,
    Admit,
    Guard,
    Withdraw,
    judge,
    judged,
    parse,
    parse_judge,
    parse_judged,
    pieces,
)
from torknock.service.grammar import Malformed, octets

hosts = st.ip_addresses().filter(lambda host: getattr(host, "scope_id", None) is None)
isns = st.integers(0, 2**32 - 1)
tokens = st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=TOKENS_A_LINE).map(tuple)
doors = st.builds(Door, hosts.map(str), st.integers(1, 65535), st.sampled_from(Posture))
guards = st.builds(Guard, doors, st.booleans())
admits = st.builds(Admit, st.integers(1, SECONDS_AT_MOST), tokens)
asked = st.one_of(guards, admits, st.builds(Withdraw, tokens), st.sampled_from((INTACT, REFUSED, LEAVE)))
syns = st.builds(
    SYN,
    source=hosts.map(str),
    source_port=st.integers(0, 65535),
    address=hosts.map(lambda host: host.packed),
    port=st.integers(0, 65535),
    isn=isns,
    tsval=st.none() | isns,
)

WORDS = (
    "guard admit withdraw intact refused held leave judge judged closed filtered decoy tokens 0 1 443 65536 192.0.2.7 "
    ":: fe80::1%lo 192.0.2.7,1,192.0.2.7,1,1,- - 01"
)
words = st.one_of(st.sampled_from([*WORDS.split(), ""]), st.integers().map(str), hosts.map(str), st.text(max_size=20))
heard = st.one_of(st.binary(max_size=300).map(lambda came: came.decode("latin-1")), st.lists(words).map(" ".join))


class RequestTests(SynchronousTestCase):
    """`parse`."""

    @given(asked)
    def test_what_is_asked_is_understood(self, request: Guard | Admit | Withdraw | str) -> None:
        """Each request is a line that can be sent, and is read as what it was."""
        octets(str(request))
        self.assertEqual(parse(str(request)), request)

    def check(self, came: str) -> None:
        """It is a request that would be written like that, or `Malformed`; nothing is read leniently."""
        try:
            request = parse(came)
        except Malformed:
            return
        self.assertEqual(str(request), came)

    @given(heard)
    def test_any_line_is_a_request_or_malformed(self, came: str) -> None:
        """Words of the grammar in any order, and noise."""
        self.check(came)

    @given(asked.map(str), st.data())
    def test_a_request_with_an_octet_changed(self, line: str, data: st.DataObject) -> None:
        """Near misses of a right request too."""
        at = data.draw(st.integers(0, len(line) - 1))
        self.check(line[:at] + chr(data.draw(st.integers(0, 255))) + line[at + 1 :])

    def test_each_number_of_a_request_is_bounded(self) -> None:
        """Each number at its bounds is read, and the next one is not."""
        for line, beyond in (
            ("guard 0.0.0.0 1 closed tokens", "guard 0.0.0.0 0 closed tokens"),
            ("guard 0.0.0.0 65535 closed tokens", "guard 0.0.0.0 65536 closed tokens"),
            ("admit 1 1", "admit 0 1"),
            (f"admit {SECONDS_AT_MOST} 1", f"admit {SECONDS_AT_MOST + 1} 1"),
            ("admit 1 4294967295", "admit 1 4294967296"),
            ("withdraw 1", "withdraw 0"),
            ("withdraw" + " 1" * TOKENS_A_LINE, "withdraw" + " 1" * (TOKENS_A_LINE + 1)),
            ("guard :: 1 closed tokens", "guard fe80::1%lo 1 closed tokens"),
        ):
            self.assertEqual(str(parse(line)), line)
            self.assertRaises(Malformed, parse, beyond)
        for line in ("admit 1", "withdraw", "withdraw ", "guard :: 1 closed", "guard :: 1 closed judge judge"):
            self.assertRaises(Malformed, parse, line)

    @given(st.lists(isns, max_size=3 * TOKENS_A_LINE))
    def test_tokens_are_split_into_lines_without_loss(self, whole: list[int]) -> None:
        """Nothing is lost or doubled, and each piece fits into a line."""
        cut = list(pieces(whole))
        self.assertEqual([token for piece in cut for token in piece], whole)
        self.assertTrue(all(1 <= len(piece) <= TOKENS_A_LINE for piece in cut))


class JudgeTests(SynchronousTestCase):
    """The question about SYNs and its answer."""

    @given(st.lists(syns, min_size=1, max_size=SYNS_A_LINE))
    def test_what_is_asked_is_understood(self, some: list[SYN]) -> None:
        """Every SYN of a full line, however long its addresses are."""
        octets(judge(some))
        self.assertEqual(parse_judge(judge(some)), some)

    @given(st.lists(st.booleans(), min_size=1, max_size=SYNS_A_LINE))
    def test_what_is_answered_is_understood(self, answers: list[bool]) -> None:
        """In the order of the SYNs, and for exactly so many."""
        octets(judged(answers))
        self.assertEqual(parse_judged(judged(answers), len(answers)), answers)
        for count in (len(answers) - 1, len(answers) + 1):
            self.assertRaises(Malformed, parse_judged, judged(answers), count)

    @given(heard, st.integers(0, SYNS_A_LINE))
    def test_any_answer_is_as_it_is_written_or_malformed(self, came: str, count: int) -> None:
        """They are what would be written like that, or `Malformed`."""
        readings: list[Callable[[], str]] = [
            lambda: judge(parse_judge(came)),
            lambda: judged(parse_judged(came, count)),
        ]
        for read in readings:
            try:
                written = read()
            except Malformed:
                continue
            self.assertEqual(written, came)

    def test_each_number_of_a_syn_is_bounded(self) -> None:
        """Each number of a SYN at its bounds is read, and the next one is not; an answer is 0 or 1."""
        largest = ["192.0.2.1", "65535", "192.0.2.7", "65535", "4294967295", "4294967295"]
        self.assertEqual(judge(parse_judge("judge " + ",".join(largest))), "judge " + ",".join(largest))
        for at in (1, 3, 4, 5):
            beyond = [*largest[:at], str(int(largest[at]) + 1), *largest[at + 1 :]]
            self.assertRaises(Malformed, parse_judge, "judge " + ",".join(beyond))
        for answers in ("2", "-", "01", ""):
            self.assertRaises(Malformed, parse_judged, f"judged {answers}", 1)

    def test_the_longest_line_can_be_sent(self) -> None:
        """128 SYNs from and to the longest addresses."""
        longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        syn = SYN(longest, 65535, ip_address(longest).packed, 65535, 2**32 - 1, 2**32 - 1)
        octets(judge([syn] * SYNS_A_LINE))
        self.assertRaises(Malformed, parse_judge, judge([syn] * (SYNS_A_LINE + 1)))
