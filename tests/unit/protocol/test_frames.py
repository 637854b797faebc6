"""Tests of torknock.protocol.frames."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.strategies import pieces
from torknock.protocol.frames import (
    ANSWER_AT_MOST,
    FRAME_AT_MOST,
    HEAD,
    PAST_PLAN,
    BadFrame,
    FrameReader,
    frame_sizes,
    write_frame,
)

answers = st.one_of(st.just(0), st.integers(HEAD, ANSWER_AT_MOST))


def frames(most_data: int = 300, most_padding: int = 300) -> st.SearchStrategy[tuple[bytes, int, int, bool]]:
    """Data, padding, the answer that is asked for, and whether the plan ends."""
    return st.tuples(st.binary(max_size=most_data), st.integers(0, most_padding), answers, st.booleans())


def planned(written: list[tuple[bytes, int, int, bool]]) -> list[tuple[bytes, int, int, bool]]:
    """The same frames, but nothing is asked for after the plan."""
    ends = next((number for number, each in enumerate(written) if each[3]), len(written))
    return [(*each[:2], each[2] if number <= ends else 0, each[3]) for number, each in enumerate(written)]


class WriterTests(SynchronousTestCase):
    """What leaves."""

    def test_a_frame_is_its_head_its_data_and_zeros(self) -> None:
        """As protocol.md §3.5 has it, octet for octet."""
        self.assertEqual(
            write_frame(b"data", 20, 4096, free=True), bytes.fromhex("0004 0008 80001000") + b"data" + bytes(8)
        )

    def test_a_frame_that_would_be_refused_is_not_written(self) -> None:
        """Too long, too short for its data, or with an answer that is too long or shorter than a frame."""
        for size, asked in ((FRAME_AT_MOST + 1, 0), (11, 0), (20, ANSWER_AT_MOST + 1), (20, HEAD - 1)):
            with self.subTest((size, asked)):
                self.assertRaises(ValueError, write_frame, b"data", size, asked)

    @given(st.integers(HEAD, 3 * FRAME_AT_MOST))
    def test_the_frames_of_an_answer_are_as_large_as_they_may_be(self, total: int) -> None:
        """They add up, none is shorter than its head, and at most the last two are not full."""
        sizes = list(frame_sizes(total))
        self.assertEqual(sum(sizes), total)
        self.assertTrue(all(HEAD <= size <= FRAME_AT_MOST for size in sizes))
        self.assertLess(len([size for size in sizes if size < FRAME_AT_MOST]), 3)


class ReaderTests(SynchronousTestCase):
    """What arrives."""

    @given(st.lists(frames(), max_size=6).map(planned), st.data())
    def test_what_was_written_is_read_however_it_is_cut(
        self, written: list[tuple[bytes, int, int, bool]], draw: st.DataObject
    ) -> None:
        """Data in order, each answer once, the end of the plan once or more; nothing is left over."""
        octets = b"".join(
            write_frame(data, HEAD + len(data) + padding, asked, free) for data, padding, asked, free in written
        )
        reader = FrameReader(asks=True)
        received = [reader.feed(piece) for piece in draw.draw(pieces(octets))]
        self.assertEqual(b"".join(each.data for each in received), b"".join(each[0] for each in written))
        self.assertEqual([size for each in received for size in each.asked], [each[2] for each in written if each[2]])
        self.assertEqual(any(each.free for each in received), any(each[3] for each in written))
        self.assertEqual(reader.feed(write_frame(b"next", 12)).data, b"next")

    @given(st.binary(max_size=4000), st.booleans(), st.data())
    def test_any_octets_are_read_or_refused(self, octets: bytes, asks: bool, draw: st.DataObject) -> None:
        """Whatever they are, and nothing comes out that did not go in."""
        reader, out = FrameReader(asks), 0
        try:
            for piece in draw.draw(pieces(octets)):
                out += len(reader.feed(piece).data)
        except BadFrame:
            pass
        self.assertLessEqual(out, len(octets))

    def test_data_is_handed_on_before_its_frame_is_whole(self) -> None:
        """So a frame takes no memory."""
        reader = FrameReader(asks=True)
        whole = write_frame(b"abcdef", 30)
        self.assertEqual(reader.feed(whole[:11]).data, b"abc")
        self.assertEqual(reader.feed(whole[11:]).data, b"def")

    def test_a_frame_longer_than_a_record_is_refused(self) -> None:
        """Data and padding count together."""
        for data, padding in ((65535, 65535), (0, FRAME_AT_MOST - HEAD + 1), (FRAME_AT_MOST - HEAD, 1)):
            reader = FrameReader(asks=True)
            with self.assertRaises(BadFrame) as caught:
                reader.feed(struct.pack("!HHI", data, padding, 0))
            self.assertIn(f"a frame has {HEAD + data + padding} octets", str(caught.exception))

    def test_the_shortest_and_the_longest_answer_may_be_asked_for(self) -> None:
        """Of one head, and of 65,536 octets."""
        for asked in (HEAD, ANSWER_AT_MOST):
            self.assertEqual(FrameReader(asks=True).feed(write_frame(b"", HEAD, asked)).asked, (asked,))

    def test_an_answer_of_4_gib_is_refused(self) -> None:
        """And each other that is longer than allowed, or shorter than a frame."""
        for asked in (2**32 - 1, PAST_PLAN - 1, PAST_PLAN + ANSWER_AT_MOST + 1, ANSWER_AT_MOST + 1, HEAD - 1, 1):
            with self.subTest(asked), self.assertRaises(BadFrame) as caught:
                FrameReader(asks=True).feed(struct.pack("!HHI", 0, 0, asked))
            self.assertIn("octets is asked for", str(caught.exception))

    def test_an_answer_that_is_asked_for_after_the_plan_is_refused_however_it_is_cut(self) -> None:
        """In the octets that end the plan too."""
        octets = write_frame(b"", HEAD, ANSWER_AT_MOST, free=True) + write_frame(b"", HEAD, HEAD)
        for size in (1, HEAD, 2 * HEAD):
            reader = FrameReader(asks=True)
            with self.subTest(size), self.assertRaises(BadFrame):
                for start in range(0, len(octets), size):
                    reader.feed(octets[start : start + size])

    def test_a_bridge_that_asks_is_refused(self) -> None:
        """Clients answer nothing, and have no plan that a bridge could end."""
        for asked in (HEAD, PAST_PLAN):
            with self.assertRaises(BadFrame):
                FrameReader(asks=False).feed(struct.pack("!HHI", 0, 0, asked))
