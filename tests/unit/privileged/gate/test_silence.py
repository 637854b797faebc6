"""Tests of torknock.privileged.gate.silence with a kernel in memory: what root lists stands, whoever removes it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory_kernel import MemoryKernel
from torknock.privileged.gate.silence import Silence
from torknock.protocol.door import Door, Posture
from torknock.service.access import AccessList, Entry, uid_of
from torknock.service.posture_table import posture_listing, posture_table
from torknock.service.sources_table import sources_listing, sources_table

CLOSED = Entry("0.0.0.0", 443, Posture.CLOSED, "nobody")  # noqa: S104  a name, not a socket
FILTERED = Entry("192.0.2.7", 444, Posture.FILTERED, "root")
TABLE, USERS = posture_table(FILTERED.door), sources_table(uid_of("nobody") or 0)


class SilenceTests(SynchronousTestCase):
    """A list with a filtered door and with a user."""

    def setUp(self) -> None:
        place = Path(tempfile.mkdtemp(prefix="silence-"))
        self.addCleanup(shutil.rmtree, place)
        self.path = place / "gate.toml"
        self.kernel = MemoryKernel()
        self.changes = 0
        self.write_list(CLOSED, FILTERED)
        silence = Silence(self.kernel, AccessList(self.path, (0, os.getuid())), self.changed)
        silence.start()
        self.silence = silence
        self.addCleanup(silence.stop)

    async def changed(self) -> None:
        self.changes += 1

    def write_list(self, *entries: Entry) -> None:
        self.path.write_text("\n".join(map(str, entries)))
        self.path.chmod(0o644)

    def texts(self) -> dict[str, str]:
        return {name: table.text for name, table in self.kernel.tables.items()}

    def look(self) -> list[str]:
        """Have it look once; why it warns."""
        with capturedLogs() as logged:
            self.kernel.time.advance(0.25)
        return [str(each.get("reason") or each.get("table")) for each in logged]

    def test_what_is_listed_stands(self) -> None:
        """The port is silent, and the user sends from no foreign address; root may."""
        expected = {TABLE: posture_listing(FILTERED.door), USERS: sources_listing(uid_of("nobody") or 0)}
        self.assertEqual((self.texts(), self.changes), (expected, 1))

    def test_nothing_is_asked_while_nothing_changes(self) -> None:
        """Once it has seen that all stands."""
        self.look()
        self.kernel.refuses = {"nft": "must not be run"}
        self.assertEqual((self.look(), self.changes), ([], 1))

    def test_what_another_program_takes_away_is_loaded_again(self) -> None:
        """And said."""
        self.look()
        for name in (TABLE, USERS):
            before = self.texts()
            self.kernel.lose(name)
            self.assertEqual(self.look(), [name])
            self.assertEqual(self.texts(), before)
            self.look()
        self.kernel.tables[TABLE].text = self.kernel.tables[TABLE].text.replace("drop", "accept")
        self.kernel.generation += 1
        self.assertEqual(self.look(), [TABLE])
        self.assertEqual(self.texts(), before)

    def test_a_door_that_is_listed_no_more_is_not_silent(self) -> None:
        """Its gate is closed before; the table of the user stays, because its sockets may."""
        self.write_list(CLOSED)
        self.assertEqual((self.look(), set(self.kernel.tables), self.changes), ([], {USERS}, 2))
        self.path.unlink()
        self.assertEqual((self.look(), set(self.kernel.tables), self.changes), ([], {USERS}, 3))

    def test_while_the_list_cannot_be_used_the_last_one_counts(self) -> None:
        """That is said once."""
        self.write_list(CLOSED)
        self.path.write_text("nonsense")
        [reason] = self.look()
        self.assertIn("is no TOML", reason)
        self.assertEqual((self.look(), set(self.kernel.tables)), ([], {TABLE, USERS}))
        self.kernel.lose(TABLE)
        self.assertEqual(self.look(), [TABLE])
        self.write_list(CLOSED, FILTERED)
        self.assertEqual((self.look(), self.changes), ([], 1))

    def test_what_fails_is_said_once_and_tried_again(self) -> None:
        """Whether netlink, nft or something else fails."""
        self.look()
        self.kernel.netlink_refused = OSError(errno.EPERM, os.strerror(errno.EPERM))
        [reason] = self.look()
        self.assertIn("Operation not permitted", reason)
        self.assertEqual(self.look(), [])
        self.kernel.netlink_refused = None
        self.kernel.lose(TABLE)
        self.kernel.refuses = {"nft": "is broken"}
        self.assertIn("nft -f - is broken", self.look())
        self.assertNotIn("nft -f - is broken", self.look())
        self.kernel.refuses = {}
        self.look()
        self.assertIn(TABLE, self.kernel.tables)

    def test_an_error_that_was_not_foreseen_ends_nothing(self) -> None:
        """Its kind is said, and not its text, which may have an address."""

        async def broken() -> None:
            raise RuntimeError("192.0.2.1")

        self.patch(self.silence, "_changed", broken)
        self.write_list(FILTERED)
        self.assertEqual(self.look(), ["RuntimeError"])
        self.patch(self.silence, "_changed", self.changed)
        self.assertEqual((self.look(), self.changes), ([], 2))

    def test_the_tables_stay_when_it_stops(self) -> None:
        """The tables stay; to stop again is no fault."""
        self.successResultOf(self.silence.stop())
        self.successResultOf(self.silence.stop())
        self.kernel.lose(TABLE)
        self.assertEqual((self.look(), set(self.kernel.tables)), ([], {USERS}))


class DoorTests(SynchronousTestCase):
    """A door of every address."""

    def test_its_silence_is_for_every_address(self) -> None:
        """The rule names the port alone."""
        text = posture_listing(Door("::", 444, Posture.FILTERED))
        self.assertIn("\t\ttcp dport 444 drop\n", text)
