"""Tests of torknock.kernel.netlink and nftables_state: messages, and what a kernel may answer."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel import nftables_state as state
from torknock.kernel.netlink import INetlink, attribute, attributes, message, messages
from torknock.kernel.twins import MemoryNetlink, acknowledged

DONE = struct.pack("=IHHIIi", 20, 3, 2, 0, 0, 0)
"""The end of a list, NLMSG_DONE."""


class CodecTests(SynchronousTestCase):
    """Messages and attributes."""

    @given(st.integers(16, 65535), st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
    def test_what_is_written_is_read(self, kind: int, wanted: list[tuple[int, bytes]]) -> None:
        """Several messages in a row, each with its attributes."""
        octets = message(kind, b"".join(attribute(*each) for each in wanted))
        found = list(messages(octets * 2))
        self.assertEqual([each.kind for each in found], [kind, kind])
        self.assertEqual([list(attributes(each.body)) for each in found], [wanted, wanted])

    @given(st.binary(max_size=100))
    def test_any_octets_end(self, octets: bytes) -> None:
        """However wrong a length is, no more is found than there is, and every step goes on."""
        found = list(messages(octets))
        self.assertLessEqual(len(found), len(octets) // 16)
        self.assertLessEqual(sum(len(value) for _, value in attributes(octets)), len(octets) + 4)

    def test_a_nested_attribute(self) -> None:
        """Its mark is no part of its kind."""
        self.assertEqual(list(attributes(attribute(0x8000 | 4, b"abcd"))), [(4, b"abcd")])


class StateTests(SynchronousTestCase):
    """`ruleset_generation`, `counted_packets` and `set_elements`."""

    def setUp(self) -> None:
        self.kernel = MemoryNetlink(lambda _octets: self.answers)
        self.answers: Sequence[bytes] = ()

    def asking(self, answers: Sequence[bytes]) -> Callable[[], INetlink]:
        self.answers = answers
        return lambda: self.kernel

    def test_the_generation_is_a_number_of_four_octets(self) -> None:
        """A number of four octets."""
        told = message(state.NEWGEN, attribute(state.GEN_ID, struct.pack("!I", 77)))
        self.assertEqual(state.ruleset_generation(self.asking([told])), 77)
        self.assertTrue(self.kernel.closed)

    def test_a_kernel_without_nftables(self) -> None:
        """The error is the kernel's, and the socket is closed."""
        for code in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT):
            self.kernel.closed = False
            connect = self.asking([acknowledged(code)])
            for ask in (
                lambda connect=connect: state.ruleset_generation(connect),
                lambda connect=connect: state.counted_packets("table", "refused", connect),
                lambda connect=connect: state.set_elements("table", "tokens", connect),
            ):
                error = self.assertRaises(OSError, ask)
                self.assertEqual((error.errno, error.strerror), (code, os.strerror(code)))
                self.assertTrue(self.kernel.closed)

    def test_an_answer_that_says_nothing(self) -> None:
        """It is no generation."""
        for answer in (acknowledged(), message(state.NEWGEN, b""), b"", message(state.NEWOBJ, bytes(40))):
            self.assertRaises(OSError, state.ruleset_generation, self.asking([answer]))

    @given(
        st.lists(
            st.binary(max_size=80)
            | st.builds(
                lambda kind, body: message(kind, body),
                st.sampled_from([state.NEWGEN, state.NEWOBJ, state.NEWSETELEM, 3]),
                st.lists(st.tuples(st.integers(0, 4), st.binary(max_size=20))).map(
                    lambda all_: b"".join(attribute(*each) for each in all_)
                ),
            ),
            max_size=4,
        )
    )
    def test_any_answer_is_read_or_an_error(self, answers: list[bytes]) -> None:
        """It tells something, or is an `OSError`."""
        for ask in (
            lambda: state.ruleset_generation(self.asking(answers)),
            lambda: state.counted_packets("table", "refused", self.asking(answers)),
            lambda: state.set_elements("table", "tokens", self.asking(answers)),
        ):
            self.kernel.waiting.clear()
            with contextlib.suppress(OSError):
                ask()

    def test_a_counter_is_the_one_that_was_asked_for(self) -> None:
        """The packets of the one that was asked for."""
        data = attribute(state.OBJ_DATA, attribute(state.COUNTER_PACKETS, struct.pack("!Q", 12)))
        self.assertEqual(state.counted_packets("t", "refused", self.asking([message(state.NEWOBJ, data)])), 12)
        [asked] = messages(self.kernel.sent[0])
        self.assertEqual(dict(attributes(asked.body))[state.OBJ_NAME], b"refused\0")

    def elements(self, *numbers: int) -> bytes:
        """A part of a list of the elements *numbers*."""
        each = [
            attribute(state.LIST_ELEMENT, attribute(state.ELEMENT_KEY, attribute(state.DATA_VALUE, n.to_bytes(4))))
            for n in numbers
        ]
        return message(state.NEWSETELEM, attribute(state.LIST_ELEMENTS, b"".join(each)))

    def test_the_elements_of_a_set(self) -> None:
        """Over as many messages as it takes."""
        told = [self.elements(1, 2) + self.elements(3), self.elements(2**32 - 1), DONE]
        self.assertEqual(state.set_elements("t", "tokens", self.asking(told)), {1, 2, 3, 2**32 - 1})

    def test_a_list_that_was_changed_meanwhile(self) -> None:
        """Nothing of it counts."""
        changed = bytearray(self.elements(1))
        struct.pack_into("=H", changed, 6, 0x12)  # NLM_F_MULTI | NLM_F_DUMP_INTR
        self.assertRaises(InterruptedError, state.set_elements, "t", "tokens", self.asking([bytes(changed), DONE]))
