"""Tests of torknock.bridge.filter.bpf: the program, run by a short interpreter; by the kernel in `tests.kernel`."""

from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.bridge.filter.bpf import TOKENS_AT_MOST, Instruction, assembled, listing, program

MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS, linux/bpf_common.h

isns = st.integers(0, 2**32 - 1)
tokens = st.sets(st.integers(1, 2**32 - 1), max_size=80)


def run(instructions: list[Instruction], packet: bytes) -> int:
    """What the program returns for the IP *packet* (bpf(4), in words that are not the generator's)."""
    accumulator, index, at = 0, 0, 0
    while True:
        code, if_true, if_false, k = instructions[at]
        at += 1
        if code in (0x30, 0x50, 0x40):
            size = 4 if code == 0x40 else 1
            start = k - 0xFFF00000 + (index if code != 0x30 else 0)
            if not 0 <= start <= len(packet) - size:
                return 0
            accumulator = int.from_bytes(packet[start : start + size], "big")
        elif code == 0x54:
            accumulator &= k
        elif code == 0x64:
            accumulator <<= k
        elif code == 0x07:
            index = accumulator
        elif code == 0x01:
            index = k
        elif code == 0x05:
            at += k
        elif code in (0x15, 0x35):
            holds = accumulator == k if code == 0x15 else accumulator >= k
            at += if_true if holds else if_false
        else:
            assert code == 0x06
            return k


def datagram(version: int, seq: int, control: int, options: int = 0, next_header: int = 6) -> bytes:
    """An IP header, with so many words of options, and a TCP header of 20 octets."""
    tcp = struct.pack("!HHIIBBHHH", 1, 2, seq, 0, 0x50, control, 1, 2, 0)
    if version == 6:
        return struct.pack("!IHBB32x", 6 << 28, 20, next_header, 64) + tcp
    return struct.pack("!BBHIBBHQ", 0x45 + options, 0, 40, 0, 64, 6, 0, 1) + bytes(4 * options) + tcp


class FilterTests(SynchronousTestCase):
    """Exactly the tokens open."""

    @given(tokens, isns, st.integers(0, 255), st.sampled_from((4, 6)), st.integers(0, 10))
    def test_only_a_token_opens(
        self, live: set[int], seq: int, control: int, version: int, options: int
    ) -> None:
        """Whatever its control bits and IP options: a SYN with a token."""
        wanted = control & 0b10111 == 2 and seq in live
        self.assertEqual(run(program(live, version), datagram(version, seq, control, options)), wanted)

    @given(
        tokens, st.sampled_from([0x02, 0xC2, 0x10, 0x18, 0x12, 0x03, 0x06, 0x04, 0x11, 0x00]), st.integers(-2, 2),
        st.sampled_from((4, 6)), st.integers(0, 10),
    )  # fmt: skip
    def test_what_is_next_to_a_token(
        self, live: set[int], control: int, distance: int, version: int, options: int
    ) -> None:
        """Off by one is off."""
        for token in live:
            seq = (token + distance) % 2**32
            wanted = control & 0b10111 == 2 and seq in live
            self.assertEqual(run(program(live, version), datagram(version, seq, control, options)), wanted)

    @given(tokens, st.sampled_from((4, 6)), st.integers(0, 59))
    def test_what_ends_early_is_not_heard(self, live: set[int], version: int, length: int) -> None:
        """It has no whole TCP header."""
        for token in live:
            whole = datagram(version, token, 2)
            self.assertEqual(run(program(live, version), whole[: min(length, len(whole) - 7)]), 0)

    def test_extension_headers_open_nothing(self) -> None:
        """What stands where the TCP header is looked for is not one."""
        self.assertEqual(run(program({7}, 6), datagram(6, 7, 2, next_header=0)), 0)

    def test_as_many_as_it_takes(self) -> None:
        """Each of `TOKENS_AT_MOST` opens, their neighbours do not, and the kernel's limit is kept."""
        live = random.Random(7).sample(range(1, 2**32 - 1, 2), TOKENS_AT_MOST)  # noqa: S311  odd ones
        for version in (4, 6):
            made = program(live, version)
            self.assertLessEqual(len(made), MOST_INSTRUCTIONS)
            for token in live:
                self.assertEqual(run(made, datagram(version, token, 2)), 1)
                self.assertEqual(run(made, datagram(version, token + 1, 2)), 0)

    def test_no_jump_is_longer_than_the_kernel_has_room_for(self) -> None:
        """However many tokens there are; a conditional jump has one octet for its distance."""
        for count in (*range(400, 440), *range(1, TOKENS_AT_MOST, 61)):
            made = program(range(1, count + 1), 4)
            self.assertEqual(len(assembled(made)), 8 * len(made))
            for token in (1, count // 2 + 1, count):
                self.assertEqual(run(made, datagram(4, token, 2)), 1)

    @given(tokens, st.sampled_from((4, 6)))
    def test_every_jump_stays_inside(self, live: set[int], version: int) -> None:
        """And the program ends with a return, as the kernel asks; eight octets an instruction."""
        made = program(live, version)
        self.assertEqual(made[-1].code, 0x06)
        for at, (code, if_true, if_false, k) in enumerate(made):
            if code in (0x15, 0x35):
                self.assertLess(at + 1 + max(if_true, if_false), len(made))
            else:
                self.assertEqual((if_true, if_false), (0, 0))
            if code == 0x05:
                self.assertLess(at + 1 + k, len(made))
        self.assertEqual(len(assembled(made)), 8 * len(made))
        self.assertEqual(len(listing(made).splitlines()), len(made))

    def test_the_program_has_a_listing_for_auditors(self) -> None:
        """For who audits it."""
        self.assertEqual(listing(program((), 4)), "0: ret 0x0")
        self.assertEqual(
            listing(program({0x1234}, 4)).splitlines(),
            [
                "0: ldb 0xfff00000", "1: and 0xf", "2: lsh 0x2", "3: tax", "4: ldb x+0xfff0000d", "5: and 0x17",
                "6: jeq 0x2, 8, 7", "7: ret 0x0", "8: ld x+0xfff00004", "9: jeq 0x1234, 11, 10", "10: ret 0x0",
                "11: ret 0x1",
            ],
        )  # fmt: skip
