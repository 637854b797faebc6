"""Tests of torknock.bridge.ledger and of torknock.bridge.calendar."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from torknock.bridge.calendar import HELD, Calendar
from torknock.bridge.ledger import SpentKnocks, SpentTokens, SpentUnusable

HEADER, RECORD = 20, 16


class SpentTokensTests(SynchronousTestCase):
    """What a bridge that starts anew knows."""

    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.path = directory / "torknock-443.spent"

    def opened(self) -> SpentTokens:
        spent = SpentTokens(self.path)
        self.addCleanup(spent.close)
        return spent

    def test_what_was_added_is_read_by_the_next(self) -> None:
        """Without the first having closed anything: it may have been killed."""
        spent = self.opened()
        self.assertEqual(spent.enter(7), set())
        spent.add(7, 1)
        spent.add(7, 2**32 - 1)
        self.assertEqual(self.opened().enter(7), {(7, 1), (7, 2**32 - 1)})

    def test_epochs_that_are_over_are_forgotten(self) -> None:
        """The file does not grow for ever, and goes on to be written after it was cut."""
        spent = self.opened()
        spent.enter(7)
        spent.add(6, 1)
        spent.add(7, 1)
        spent.add(8, 2)
        self.assertEqual(spent.enter(8), {(7, 1), (8, 2)})
        spent.add(9, 3)
        self.assertEqual(self.path.stat().st_size, HEADER + 3 * RECORD)
        self.assertEqual(self.opened().enter(8), {(7, 1), (8, 2), (9, 3)})

    def test_the_highest_epoch_is_never_forgotten(self) -> None:
        """Whatever the date is later; below it, less its neighbours, nothing comes back."""
        self.opened().enter(700)
        for epoch in (7, 699, 701):
            spent = self.opened()
            spent.enter(epoch)
            self.assertEqual((spent.highest, spent.floor), (max(700, epoch), max(700, epoch) - 1))

    def test_what_is_known_is_written(self) -> None:
        """A record that could not be written when its connection came."""
        self.opened().enter(7, [(7, 5), (2, 5)])
        self.assertEqual(self.opened().enter(7), {(7, 5)})

    @given(st.integers(0, 2 * RECORD + 40), st.integers(0, 40))
    def test_a_torn_record_is_left_out(self, size: int, room: int) -> None:
        """A record that was cut off, or room that was reserved; what is written after it is whole again."""
        size += HEADER
        spent = self.opened()
        self.path.unlink(missing_ok=True)
        spent.enter(7)
        spent.reserve(room)
        spent.add(7, 1)
        spent.add(7, 2)
        spent.close()
        os.truncate(self.path, size)
        kept = {(7, isn) for isn in (1, 2) if size >= HEADER + isn * RECORD}
        spent = self.opened()
        self.assertEqual(spent.enter(7), kept)
        spent.add(7, 3)
        self.assertEqual(spent.enter(7), kept | {(7, 3)})
        self.assertEqual(self.opened().enter(7), kept | {(7, 3)})

    @given(st.integers(1, RECORD - 1))
    def test_what_follows_a_torn_record_is_not_misread(self, left: int) -> None:
        """Nothing is shifted: a record begins where its slot does."""
        self.path.unlink(missing_ok=True)
        spent = self.opened()
        spent.enter(7)
        for isn in (1, 2):
            spent.add(7, isn)
        with self.path.open("r+b") as file:
            file.seek(HEADER + RECORD + left)
            file.write(bytes(RECORD - left))
        self.assertIn((7, 1), self.opened().enter(7))
        self.assertFalse(self.opened().enter(7) - {(7, 1), (7, 2)})

    @given(st.integers(0, HEADER + RECORD - 1), st.integers(0, 7))
    def test_what_is_damaged_is_refused(self, at: int, bit: int) -> None:
        """A changed bit in the header or in a record before the last opens nothing."""
        self.path.unlink(missing_ok=True)
        spent = self.opened()
        spent.enter(7)
        spent.add(7, 1)
        spent.add(7, 2)
        octets = bytearray(self.path.read_bytes())
        octets[at] ^= 1 << bit
        self.path.write_bytes(octets)
        self.assertIn("damaged", str(self.assertRaises(SpentUnusable, self.opened().enter, 7)))

    def test_a_file_of_an_earlier_version_is_read(self) -> None:
        """It has neither header nor checksums, and perhaps a torn record."""
        self.path.write_bytes(struct.pack("!QIQI", 7, 1, 8, 2) + b"\0" * 5)
        self.assertEqual(self.opened().enter(7), {(7, 1), (8, 2)})
        self.assertEqual(self.opened().enter(7), {(7, 1), (8, 2)})

    def test_a_ledger_has_one_descriptor_however_often_it_is_written_anew(self) -> None:
        """A bridge that runs for weeks does not run out of them; once it is closed it has none."""

        def open_files() -> int:
            links = []
            for link in Path("/proc/self/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # the directory's own
                    links.append(os.readlink(link))
            return sum(link.startswith(str(self.path)) for link in links)

        spent = self.opened()
        for epoch in range(7, 12):
            spent.enter(epoch)
            spent.add(epoch, 1)
            spent.sync(spent.handle())
            self.assertEqual(open_files(), 1)
        spent.close()
        spent.close()
        self.assertEqual(open_files(), 0)

    def test_nothing_is_written_to_a_file_without_a_name(self) -> None:
        """It is said, and what this process wrote is not lost."""
        spent = self.opened()
        spent.enter(7)
        spent.add(7, 1)
        self.path.unlink()
        self.assertIn("removed", str(self.assertRaises(SpentUnusable, spent.add, 7, 2)))
        self.assertRaises(SpentUnusable, spent.add, 7, 2)
        self.assertEqual(spent.enter(7), {(7, 1)})
        spent.add(7, 2)
        self.assertEqual(self.opened().enter(7), {(7, 1), (7, 2)})

    def test_nothing_is_written_to_a_file_that_was_moved(self) -> None:
        """As a directory is that makes room for a backup: the next process reads what is in its place."""
        spent = self.opened()
        spent.enter(7)
        spent.add(7, 1)
        self.path.rename(self.path.with_name("away"))
        self.assertRaises(SpentUnusable, spent.add, 7, 2)
        backup = self.opened()
        backup.enter(6)
        backup.add(7, 3)
        self.assertRaises(SpentUnusable, spent.add, 7, 2)
        self.assertEqual(spent.enter(7), {(7, 1), (7, 3)})
        self.assertEqual(self.opened().enter(7), {(7, 1), (7, 3)})

    def test_nobody_else_can_read_it(self) -> None:
        """Whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        self.opened().enter(7)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_a_disk_that_refuses_is_said(self) -> None:
        """In one line that names the file."""
        self.path.mkdir()
        self.assertIn(str(self.path), str(self.assertRaises(SpentUnusable, self.opened().enter, 7)))
        self.path.rmdir()
        self.assertRaises(SpentUnusable, self.opened().add, 7, 1)
        self.assertRaises(SpentUnusable, self.opened().reserve, 1)

    def test_a_pipe_in_its_place_is_refused_at_once(self) -> None:
        """Nothing waits for a writer."""
        os.mkfifo(self.path)
        self.assertIn("no regular file", str(self.assertRaises(SpentUnusable, self.opened().enter, 7)))


class SpentKnocksTests(SynchronousTestCase):
    """What a bridge that starts anew refuses."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()

    def opened(self) -> SpentKnocks:
        spent = SpentKnocks(self.path)
        self.addCleanup(spent.close)
        return spent

    def test_what_was_added_is_read_by_the_next(self) -> None:
        """As long as the line is known; the numbers are whole."""
        spent = self.opened()
        spent.read([])
        spent.add(2**64 - 1, 2**32 - 1, 2**32 - 1)
        spent.add(7, 1, 0)
        spent.add(8, 1, 0)
        self.assertEqual(self.opened().read([7, 2**64 - 1]), {(7, 1, 0), (2**64 - 1, 2**32 - 1, 2**32 - 1)})

    def test_a_file_of_an_earlier_version_is_read(self) -> None:
        """It has no header."""
        self.path.write_bytes(struct.pack("!QIIQII", 7, 1, 2, 8, 3, 4))
        self.assertEqual(self.opened().read([7, 8]), {(7, 1, 2), (8, 3, 4)})

    def test_a_damaged_header_is_no_earlier_version(self) -> None:
        """A knock that is forgotten could be sent again for ever."""
        spent = self.opened()
        spent.read([])
        spent.add(7, 1, 0)
        octets = bytearray(self.path.read_bytes())
        octets[0] ^= 1
        self.path.write_bytes(octets)
        self.assertRaises(SpentUnusable, self.opened().read, [7])


class CalendarTests(SynchronousTestCase):
    """Which date is believed."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ahead = 1_700_000_000.0
        self.steps: list[float] = []
        self.calendar = Calendar(lambda: self.ahead + self.clock.seconds(), self.clock.seconds, self.steps.append)

    def after(self, seconds: float) -> float:
        """By how much the calendar is ahead of the steady clock, a second at a time, *seconds* later."""
        for _ in range(round(seconds)):
            self.calendar.now()
            self.clock.advance(1)
        return self.calendar.now() - self.clock.seconds() - 1_700_000_000

    def test_a_step_is_believed_once_it_has_lasted(self) -> None:
        """In both directions, and it is said when it is seen."""
        for number, by in enumerate((3600.0, -7200.0), 1):
            before = self.after(1)
            self.ahead += by
            self.assertEqual(self.after(HELD - 1), before)
            self.assertEqual(self.after(1), before + by)
            self.assertEqual((len(self.steps), self.steps[-1]), (number, by))

    def test_a_step_that_is_taken_back_is_none(self) -> None:
        """However often it is made."""
        for _ in range(10):
            self.ahead += 86_400
            self.assertEqual(self.after(HELD / 2), 0)
            self.ahead -= 86_400
            self.assertEqual(self.after(1), 0)

    def test_steps_one_after_the_other_begin_anew(self) -> None:
        """The clock must stand still where it was set."""
        for _ in range(10):
            self.ahead += 600
            self.assertEqual(self.after(HELD / 2), 0)

    def test_a_clock_that_is_slewed_is_followed(self) -> None:
        """At once."""
        self.ahead += 4
        self.assertEqual(self.after(1), 4)
