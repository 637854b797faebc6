"""Tests of torknock.client.memory: no token is claimed twice, whatever happens to the process or its file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from torknock.client.memory import KEPT, Memory, MemoryHeld, line_id
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import EPOCH

E = 5_666_667
NAME = line_id(Line(secret=bytes(32), pin=bytes(32)))
ROOT = Path(__file__).parent.parent.parent.parent

CLAIM = """
import os, signal, sys
from pathlib import Path
from torknock.client.memory import Memory, MemoryHeld
memories = []
def claims(memory, isn):
    while True:
        try:
            return memory.claim(bytes(16), 7, isn)
        except MemoryHeld:
            pass
for directory in sys.argv[1:]:
    print("ready", flush=True)
    sys.stdin.readline()
    memories.append(Memory(Path(directory)))
claimed = [[isn for isn in range(1, 301) if claims(memory, isn)] for memory in memories]
print(claimed, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


class MemoryTests(SynchronousTestCase):
    """`Memory`."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file = self.directory / "knocks.sqlite"

    def opened(self, directory: Path | None = None) -> Memory:
        memory = Memory(directory or self.directory)
        self.addCleanup(memory.close)
        return memory

    def test_a_token_is_claimed_once(self) -> None:
        """By this process, and by one that comes after it."""
        memory = self.opened()
        self.assertTrue(memory.claim(NAME, E, 7))
        self.assertFalse(memory.claim(NAME, E, 7))
        memory.close()
        again = self.opened()
        self.assertFalse(again.claim(NAME, E, 7))
        self.assertEqual(again.used(NAME), {7})

    def test_a_token_used_by_one_line_is_unused_by_another(self) -> None:
        """Two lines may derive the same word."""
        memory = self.opened()
        self.assertTrue(memory.claim(NAME, E, 7))
        self.assertTrue(memory.claim(bytes(16), E, 7))
        self.assertTrue(memory.claim(NAME, E, 8))
        self.assertEqual(memory.used(NAME), {7, 8})
        self.assertEqual(memory.used(bytes(16)), {7})

    def test_a_device_begins_where_it_began_before(self) -> None:
        """After a restart and after damage; another device elsewhere, and each line elsewhere."""
        memory = self.opened()
        start = memory.start(NAME)
        self.assertEqual((memory.start(NAME), self.opened().start(NAME)), (start, start))
        self.assertNotEqual(memory.start(bytes(16)), start)
        another = Path(self.mktemp())
        another.mkdir()
        self.assertNotEqual(self.opened(another).start(NAME), start)
        memory.close()
        without = self.opened(self.directory / "nothing")
        self.assertEqual(without.start(NAME), without.start(NAME))

    def test_unclaimed_is_unused(self) -> None:
        """What was never sent may be used later."""
        memory = self.opened()
        memory.claim(NAME, E, 7)
        memory.unclaim(NAME, E, 7)
        self.assertEqual(self.opened().used(NAME), set())
        self.assertTrue(memory.claim(NAME, E, 7))

    def test_old_tokens_are_forgotten(self) -> None:
        """On disk, too: nobody reads there when somebody knocked yesterday."""
        memory = self.opened()
        for epoch in (E - KEPT, E - KEPT + 1, E):
            memory.claim(NAME, epoch, epoch)
        memory.forget(E)
        self.assertEqual(memory.used(NAME), {E - KEPT + 1, E})
        self.assertEqual(self.opened().used(NAME), {E - KEPT + 1, E})

    def test_what_is_forgotten_is_in_no_file(self) -> None:
        """Neither in free pages nor in the write-ahead log, nor in a file that was put aside."""
        memory, other = self.opened(), self.opened()
        names = [bytes([number]) * 16 for number in range(1, 200)]
        for number, name in enumerate(names):
            (memory if number % 2 else other).claim(name, E, 7)
        self.assertTrue(self.found(names))
        memory.forget(E + KEPT - 1)
        self.assertTrue(self.found(names))
        memory.claim(NAME, E + KEPT, 7)
        memory.forget(E + KEPT)
        self.assertEqual(self.found(names), set())
        self.assertEqual(other.used(NAME), {7})

    def found(self, names: list[bytes]) -> set[bytes]:
        """Those of *names* that are in a file of the directory."""
        octets = b"".join(path.read_bytes() for path in self.directory.iterdir())
        return {name for name in names if name in octets}

    def test_what_another_process_keeps_from_being_erased_is_erased_later(self) -> None:
        """While it reads, the log cannot be emptied."""
        memory = self.opened()
        memory.claim(b"x" * 16, E, 7)
        with contextlib.closing(sqlite3.connect(self.file)) as reading:
            reading.execute("BEGIN")
            reading.execute("SELECT * FROM used").fetchall()
            memory.forget(E + KEPT)
            self.assertTrue(self.found([b"x" * 16]))
        memory.forget(E + KEPT)
        self.assertEqual(self.found([b"x" * 16]), set())

    def test_a_file_that_was_put_aside_is_removed(self) -> None:
        """As old as what is in it may be."""
        aside = self.directory / "knocks.damaged"
        for age, stays in ((KEPT - 1, True), (KEPT + 1, False)):
            aside.write_bytes(b"x")
            os.utime(aside, times=(0, (E - age) * EPOCH))
            self.opened().forget(E)
            self.assertEqual(aside.exists(), stays)

    def test_file_is_private_and_tells_nothing(self) -> None:
        """Only its owner reads it, and neither secret nor pin is in it."""
        line = Line(secret=bytes(range(32)), pin=bytes(range(100, 132)))
        memory = self.opened()
        memory.claim(line_id(line), E, 7)
        for path in self.directory.iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path)
            self.assertNotIn(line.secret[:8], path.read_bytes())
            self.assertNotIn(line.bridge_name[:8], path.read_bytes())

    def test_the_id_of_a_line_depends_on_secret_and_bridge(self) -> None:
        """Secret and bridge both make it; 16 bytes."""
        lines = [Line(bytes(32), bytes(32)), Line(bytes(31) + b"1", bytes(32)), Line(bytes(32), bytes(31) + b"1")]
        self.assertEqual(len({line_id(line) for line in lines}), 3)
        self.assertEqual(len(NAME), 16)

    def test_two_processes_at_once_and_killed(self) -> None:
        """Two begin a file together and claim all tokens: each token goes to one, and both leave theirs when killed."""
        directories = [self.directory / str(number) for number in range(20)]
        for directory in directories:
            directory.mkdir()
        arguments = [sys.executable, "-c", CLAIM, *map(str, directories)]
        both = [
            subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
            for _ in range(2)
        ]
        for _ in directories:
            for child in both:
                assert child.stdout is not None
                self.assertEqual(child.stdout.readline(), "ready\n")
            for child in both:
                assert child.stdin is not None
                child.stdin.write("\n")
                child.stdin.flush()
        claimed = [json.loads(child.communicate()[0]) for child in both]
        self.assertEqual([child.returncode for child in both], [-signal.SIGKILL] * 2)
        for directory, one, other in zip(directories, *claimed, strict=True):
            self.assertEqual(sorted(one + other), list(range(1, 301)))
            self.assertEqual(self.opened(directory).used(bytes(16)), set(range(1, 301)))

    def test_no_token_is_claimed_while_another_program_holds_the_file(self) -> None:
        """From the beginning, or later: it is not done without; once the file is free, the token goes to one."""
        one = self.opened()
        with contextlib.closing(sqlite3.connect(self.file, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with capturedLogs() as logs:
                late = self.opened()
                for memory in (one, late):
                    self.assertRaises(MemoryHeld, memory.claim, NAME, E, 7)
                    memory.forget(E)
                    memory.unclaim(NAME, E, 7)
            self.assertEqual(logs, [])
            holder.execute("COMMIT")
        self.assertEqual([memory.claim(NAME, E, 7) for memory in (late, one, late)], [True, False, False])
        self.assertFalse(self.opened().claim(NAME, E, 7))

    def test_damaged_file_is_put_aside(self) -> None:
        """It is kept for whoever wants to look, a new one is begun, and one line says so."""
        self.file.write_bytes(b"not a database, but long enough to be read as one" * 100)
        with capturedLogs() as logs:
            memory = self.opened()
        self.assertEqual([event["log_level"].name for event in logs], ["error"])
        self.assertTrue((self.directory / "knocks.damaged").read_bytes().startswith(b"not a"))
        memory.claim(NAME, E, 7)
        self.assertFalse(self.opened().claim(NAME, E, 7))

    def test_damage_that_is_found_later(self) -> None:
        """A new file is begun with what this process has used, and one line says so."""
        memory = self.opened()
        for isn in range(1, 2000):
            memory.claim(NAME, E, isn)
        memory.close()
        memory, other = self.opened(), self.opened()
        octets = bytearray(self.file.read_bytes())
        octets[8192:] = bytes(len(octets) - 8192)
        self.file.write_bytes(octets)
        other.claim(NAME, E, 2000)  # what was read before is out of date
        with capturedLogs() as logs:
            memory.claim(NAME, E + 1, 7)
            memory.used(NAME)
            memory.claim(NAME, E + 1, 8)
        self.assertEqual([event["log_level"].name for event in logs], ["error"])
        self.assertEqual(memory.used(NAME), {7, 8})
        self.assertEqual(self.opened().used(NAME), {7, 8})
        self.assertEqual(len((self.directory / "knocks.damaged").read_bytes()), len(octets))

    def small_file(self) -> bytes:
        """A file of this version, closed as a client that ends closes it: 8 tokens of three epochs, and a number."""
        memory = Memory(self.directory)
        memory.start(NAME)
        for isn in range(8):
            memory.claim(NAME, E - isn % 3, 1000 + isn)
        memory.close()
        return self.file.read_bytes()

    def assert_survives(self, octets: bytes) -> None:
        """A client starts with a file of these *octets*, uses no token twice, and leaves a file that is whole."""
        for path in self.directory.iterdir():
            path.unlink()
        self.file.write_bytes(octets)
        with contextlib.closing(Memory(self.directory)) as memory:
            memory.forget(E)
            memory.start(NAME)
            memory.used(NAME)
            memory.claim(NAME, E, 5)
            memory.unclaim(NAME, E, 5)
            self.assertTrue(memory.claim(NAME, E, 6))
            self.assertFalse(memory.claim(NAME, E, 6))
        with contextlib.closing(Memory(self.directory)) as again:
            self.assertIn(6, again.used(NAME))

    def test_a_changed_octet_anywhere_in_the_file_is_survived(self) -> None:
        """Wherever it is: those of the header and the schema, and a sample of the others."""
        whole = self.small_file()
        schema = whole.index(b"CREATE TABLE"), whole.rindex(b"STRICT") + 6
        places = [*range(0, 108, 3), *range(schema[0] - 60, schema[1], 5), *range(108, len(whole), 101)]
        for number, place in enumerate(places):
            changed = bytearray(whole)
            changed[place] ^= (0xFF, 0x01, 0x80, 0x20)[number % 4]
            self.assert_survives(bytes(changed))

    def test_a_file_that_is_cut_off(self) -> None:
        """At the end of a page, and within one."""
        whole = self.small_file()
        for size in (0, 1, 15, 99, 100, 512, 4095, 4096, 4097, 8192, 9000):
            self.assert_survives(whole[:size])

    def test_a_file_of_another_form_is_put_aside(self) -> None:
        """Other columns, other types, another table beside ours, a trigger: each is put aside, and a new one begun."""
        for script in (
            "CREATE TABLE used (epoch, line, isn); INSERT INTO used VALUES ('a', 'b', x'ff')",
            "CREATE TABLE used (isn INTEGER)",
            "CREATE TABLE used (epoch INTEGER, line BLOB, isn INTEGER, PRIMARY KEY (epoch, line, isn)); "
            "INSERT INTO used VALUES ('a', 1, 'c')",
            "CREATE VIEW used AS SELECT 1 AS epoch, x'00' AS line, 'a' AS isn",
            "CREATE TABLE device (number BLOB); INSERT INTO device VALUES (1), (2)",
            "CREATE TABLE another (x)",
        ):
            (self.directory / "knocks.damaged").unlink(missing_ok=True)
            self.file.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(self.file)) as made:
                made.executescript(script)
            octets = self.file.read_bytes()
            self.assert_survives(octets)
            self.assertEqual((self.directory / "knocks.damaged").read_bytes()[100:], octets[100:], script)
        whole = self.small_file()
        self.file.write_bytes(whole)
        with contextlib.closing(sqlite3.connect(self.file)) as made:
            made.execute("CREATE TRIGGER t AFTER INSERT ON used BEGIN DELETE FROM used; END")
        self.assert_survives(self.file.read_bytes())

    def test_a_file_that_would_hold_the_reactor_up(self) -> None:
        """A large one is not read, and neither is a pipe."""
        for make in (lambda: self.file.write_bytes(bytes(1 << 24)), lambda: os.mkfifo(self.file)):
            self.file.unlink(missing_ok=True)
            make()
            with capturedLogs() as logs:
                memory = self.opened()
            self.assertEqual(len(logs), 1)
            self.assertTrue(memory.claim(NAME, E, 7))
            memory.close()
            self.assertEqual(self.opened().used(NAME), {7})

    def test_a_file_of_an_earlier_version_is_kept(self) -> None:
        """Its tables are written with other white space."""
        with contextlib.closing(sqlite3.connect(self.file)) as made:
            made.executescript("""
    CREATE TABLE IF NOT EXISTS used (
        epoch INTEGER, line BLOB, isn INTEGER, PRIMARY KEY (epoch, line, isn)
    ) STRICT, WITHOUT ROWID
""")
            made.execute("INSERT INTO used VALUES (?, ?, ?)", (E, NAME, 7))
            made.commit()
        self.assertEqual(self.opened().used(NAME), {7})

    def test_what_another_process_has_begun_again_is_not_put_aside(self) -> None:
        """Both find the damage; the second goes on in the file that the first began."""
        both = self.opened(), self.opened()
        both[0].claim(NAME, E, 1)
        both[1].claim(NAME, E, 2)
        with contextlib.closing(sqlite3.connect(self.file)) as other:
            other.execute("DROP TABLE used")
        with capturedLogs() as logs:
            for isn, memory in enumerate(both, 3):
                self.assertTrue(memory.claim(NAME, E, isn))
        self.assertEqual(len(logs), 1)
        self.assertEqual([memory.used(NAME) for memory in both], [{1, 2, 3, 4}] * 2)

    def test_directory_that_is_not_there(self) -> None:
        """As a file that cannot be."""
        with capturedLogs() as logs:
            memory = Memory(self.directory / "nowhere")
            self.assertTrue(memory.claim(NAME, E, 7))
            self.assertFalse(memory.claim(NAME, E, 7))
        self.assertEqual([event["log_level"].name for event in logs], ["error"])
        self.assertIn("cannot be used", logs[0]["log_format"])

    def test_file_that_cannot_be_is_done_without(self) -> None:
        """One line says so, and this process still uses no token twice."""
        self.file.mkdir()
        with capturedLogs() as logs:
            memory = self.opened()
            self.assertTrue(memory.claim(NAME, E, 7))
            self.assertFalse(memory.claim(NAME, E, 7))
            memory.unclaim(NAME, E, 7)
            self.assertTrue(memory.claim(NAME, E, 7))
            memory.claim(NAME, E - KEPT, 8)
            memory.forget(E)
            self.assertEqual(memory.used(NAME), {7})
        self.assertEqual([event["log_level"].name for event in logs], ["error"])

    def test_file_that_fails_later_is_begun_again(self) -> None:
        """What was claimed before it failed stays claimed, and one line says so."""
        memory = self.opened()
        memory.claim(NAME, E, 7)
        with sqlite3.connect(self.file) as other:
            other.execute("DROP TABLE used")
        other.close()
        with capturedLogs() as logs:
            self.assertFalse(memory.claim(NAME, E, 7))
            self.assertTrue(memory.claim(NAME, E, 8))
            self.assertEqual(memory.used(NAME), {7, 8})
        self.assertEqual(len(logs), 1)
        self.assertEqual(self.opened().used(NAME), {7, 8})

    def test_a_link_in_its_place_is_not_followed(self) -> None:
        """Nothing is written to where somebody has pointed."""
        elsewhere = self.directory / "elsewhere"
        os.symlink(elsewhere, self.file)
        with capturedLogs() as logs:
            self.opened().claim(NAME, E, 7)
        self.assertEqual(len(logs), 1)
        self.assertFalse(elsewhere.exists())
