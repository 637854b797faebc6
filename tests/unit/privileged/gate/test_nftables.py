"""Tests of torknock.privileged.gate.nftables with a kernel in memory: each step, and each fault that it may meet."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from tests.support.gate_contract import GateContract
from tests.support.memory_gate import TwinGuarded
from tests.support.memory_kernel import MemoryKernel, MemoryTable
from torknock.bridge.stepped_gate import SteppedGate
from torknock.interfaces import DoorTaken, GateFailed
from torknock.privileged.gate import claimed
from torknock.privileged.gate.loaded import loaded_tables
from torknock.privileged.gate.nftables import DoorTable
from torknock.protocol.door import Door, Posture
from torknock.protocol.syn import SYN
from torknock.service import ruleset
from torknock.service.posture_table import posture_table
from torknock.service.ruleset import HiddenPorts

DOOR = Door("0.0.0.0", 443, Posture.CLOSED)  # noqa: S104  a name, not a socket
FILTERED = Door("192.0.2.7", 443, Posture.FILTERED)
HIDDEN = HiddenPorts(40001, 40002)
TAKEN = """{"nftables": [{"chain": {"family": "ip", "table": "nat", "name": "PREROUTING", "type": "nat",
"hook": "prerouting"}}]}"""
RULE = """{"nftables": [{"rule": {"family": "ip", "table": "nat", "chain": "PREROUTING", "handle": 5, "expr": [
{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 443}},
{"dnat": {"addr": "192.0.2.9", "port": 8443}}]}}]}"""
WRITTEN = "table ip nat {\n\tchain PREROUTING {\n\t\ttcp dport 443 dnat to 192.0.2.9:8443 # handle 5\n\t}\n}\n"


def refuse(syns: Sequence[SYN]) -> Deferred[Sequence[bool]]:
    """A judge."""
    return succeed([False] * len(syns))


class TableCase(SynchronousTestCase):
    """A door with a kernel in memory."""

    def setUp(self) -> None:
        self.claims = Path(tempfile.mkdtemp(prefix="claims-"))
        self.addCleanup(shutil.rmtree, self.claims)
        self.kernel = MemoryKernel()
        self.table = self.made(DOOR)

    def made(self, door: Door) -> DoorTable:
        return DoorTable(self.kernel, door, HIDDEN, refuse, self.claims)

    def opened(self, door: Door = DOOR, *tokens: int, judging: bool = False) -> DoorTable:
        """A gate that is open for *tokens*."""
        table = self.made(door)
        self.addCleanup(table.close)
        self.successResultOf(table.open(judging))
        self.successResultOf(table.admit(tokens, 300))
        return table

    def failure(self, step: Deferred[Any]) -> str:
        """Why *step* fails."""
        return str(self.failureResultOf(step, GateFailed).value)

    def intact(self, table: DoorTable) -> bool:
        return self.successResultOf(table.intact())


class _Kept:
    """What the kernel lets in at a door."""

    def __init__(self, kernel: MemoryKernel, table: str) -> None:
        self._kernel, self._table = kernel, table

    def use(self, token: int) -> bool:
        return self._kernel.syn(self._table, token)

    def lose(self) -> None:
        self._kernel.lose(self._table)


class ContractTests(GateContract, TableCase):
    """What every gate does."""

    def setUp(self) -> None:
        super().setUp()
        gate = SteppedGate(self.kernel.time, self.table)
        self.addCleanup(gate.close)
        self.guarded = TwinGuarded(self, self.kernel.time, gate, _Kept(self.kernel, DOOR.table))


class OpenTests(TableCase):
    """`open` and `close`."""

    def test_a_door_has_one_guard(self) -> None:
        """Until it is closed, also if that fails."""
        first = self.opened()
        self.failureResultOf(self.table.open(False), DoorTaken)
        self.kernel.refuses["delete table"] = "is broken"
        self.assertIn("is broken", self.failure(first.close()))
        del self.kernel.refuses["delete table"]
        self.assertIsNone(self.successResultOf(self.table.open(False)))
        self.assertIsNone(self.successResultOf(self.table.close()))
        self.assertIsNone(self.successResultOf(self.table.close()))
        self.assertEqual(self.kernel.tables, {})

    def test_a_directory_that_others_may_enter_is_no_place_for_claims(self) -> None:
        """They could claim every door; also where nothing can be made."""
        self.claims.chmod(0o755)
        self.assertIn("other users may enter it", str(self.failureResultOf(self.table.open(False)).value.__cause__))
        self.claims = Path("/dev/null/doors")
        self.assertIn("port 443 cannot be claimed in /dev/null/doors", self.failure(self.made(DOOR).open(False)))

    def test_a_filtered_port_stays_silent_when_it_is_closed(self) -> None:
        """One with another posture has no such table, though another process has left one."""
        table = self.opened(FILTERED)
        self.assertEqual(set(self.kernel.tables), {FILTERED.table, posture_table(FILTERED)})
        self.assertTrue(self.intact(table))
        self.successResultOf(table.close())
        self.assertEqual(set(self.kernel.tables), {posture_table(FILTERED)})
        self.opened(Door(FILTERED.host, FILTERED.port, Posture.CLOSED))
        self.assertNotIn(posture_table(FILTERED), self.kernel.tables)

    def test_a_closed_gate_takes_no_tokens(self) -> None:
        """And counts nothing."""
        self.assertIn("the gate of port 443 is closed", self.failure(self.table.admit({7}, 300)))
        self.assertIn("the gate of port 443 is closed", self.failure(self.table.withdraw({7})))
        self.assertIsNone(self.successResultOf(self.table.refused()))
        self.assertIsNone(self.successResultOf(self.table.held()))

    def test_a_missing_capability_is_told(self) -> None:
        """Whether netlink or nft refuses."""
        self.kernel.netlink_refused = OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.assertIn("nftables cannot be asked: Operation not permitted", self.failure(self.table.open(False)))
        self.kernel.netlink_refused = None
        self.kernel.refuses["nft"] = "ended with 1: Operation not permitted"
        self.assertIn("nft -f - ended with 1: Operation not permitted", self.failure(self.table.open(False)))

    def test_another_service_has_the_port_by_address_translation(self) -> None:
        """The rule is named without its addresses; the gate does not open, and an open one is closed by its owner."""
        outputs = dict(self.kernel.outputs)
        self.kernel.outputs |= {
            "nft --json list chains": TAKEN,
            "nft --json list table ip nat": RULE,
            "nft --terse --handle list table ip nat": WRITTEN,
        }
        told = self.failure(self.table.open(False))
        self.assertIn("address translation takes port 443 to another service", told)
        self.assertNotIn("192.0.2.9", told)
        ours, self.kernel.outputs = self.kernel.outputs, outputs
        self.kernel.generation += 1
        self.successResultOf(self.table.open(False))
        self.kernel.outputs = ours
        self.kernel.generation += 1
        self.assertIn("address translation takes port 443", self.failure(self.table.intact()))
        self.successResultOf(self.table.close())


class ChangeTests(TableCase):
    """`admit`, `withdraw` and what they leave."""

    def test_many_tokens_are_told_in_parts(self) -> None:
        """nft reads no text that would hold the reactor up, and all are there."""
        table = self.opened()
        before = self.kernel.generation
        self.successResultOf(table.admit(range(10_000), 300))
        self.assertEqual(self.kernel.generation - before, 3)
        self.assertEqual(self.successResultOf(table.held()), 10_000)

    def test_while_the_kernel_lists_its_tokens_other_steps_are_made(self) -> None:
        """That takes half a second for 100,000 of them; a list that a step interrupts is no count."""
        table, calls = self.opened(DOOR, 7, 8), list[Any]()
        in_thread = self.kernel.time.callInThreadWithCallback
        self.patch(self.kernel.time, "callInThreadWithCallback", lambda *call: calls.append(call))
        held = table.held()
        self.successResultOf(table.admit({9}, 300))
        self.assertNoResult(held)
        self.kernel.interruptions = 1
        in_thread(*calls.pop())
        self.assertIsNone(self.successResultOf(held))

    def test_tokens_that_are_being_admitted_are_counted_when_all_of_them_are(self) -> None:
        """And so are those of a step that waits."""
        table, waiting, run = self.opened(DOOR, 7, 8), Deferred[None](), self.kernel.run

        async def slow(program: str, arguments: list[str], stdin: bytes = b"") -> str:
            await waiting
            return await run(program, arguments, stdin)

        self.patch(self.kernel, "run", slow)
        steps = [table.admit({9}, 300), table.admit({10}, 300)]
        held = table.held()
        self.assertNoResult(held)
        waiting.callback(None)
        self.assertEqual([self.successResultOf(step) for step in steps], [None, None])
        self.assertEqual(self.successResultOf(held), 4)

    def test_what_had_a_syn_ack_is_not_admitted_again(self) -> None:
        """Whether the table is replaced or another process opens it: the kernel forgets what the file knows."""
        table = self.opened(DOOR, 7, 8)
        self.assertTrue(self.kernel.syn(DOOR.table, 7))
        for again in (False, True):
            if again:
                self.successResultOf(table.close())
                table = self.made(DOOR)
                self.addCleanup(table.close)
            self.successResultOf(table.open(False))
            self.successResultOf(table.admit({7, 8}, 300))
            self.assertFalse(self.kernel.syn(DOOR.table, 7))
            self.assertEqual(self.successResultOf(table.held()), 1)

    def test_it_is_forgotten_when_no_token_of_then_is_valid(self) -> None:
        """The clock is the host's since its boot, so here the file says that it is long ago."""
        table = self.opened(DOOR, 7)
        self.kernel.syn(DOOR.table, 7)
        self.successResultOf(table.close())
        [kept] = self.claims.glob("*.claimed")
        kept.write_bytes(bytes(8) + kept.read_bytes()[8:] + b"torn")  # a time of 0.0, and half of another record
        self.opened(DOOR, 7)
        self.assertTrue(self.kernel.syn(DOOR.table, 7))

    @given(st.binary(max_size=100))
    def test_any_octets_may_be_in_the_file(self, octets: bytes) -> None:
        """Half a record is none, and no record lasts longer than a token can be valid."""
        path = self.claims / "file"
        path.write_bytes(octets)
        found = claimed._read(path, 1000.0)
        self.assertLessEqual(len(found), len(octets) // 12)
        self.assertTrue(all(1000 < until <= 1900 for until in found.values()))

    def test_what_was_answered_cannot_be_read(self) -> None:
        """The gate does not open: what is admitted could open twice."""
        self.successResultOf(self.table.open(False))
        self.addCleanup(self.table.close)
        self.kernel.interruptions = 5
        self.assertIn("nftables is changed all the time", self.failure(self.table.open(False)))
        self.kernel.interruptions = 4
        self.assertIsNone(self.successResultOf(self.table.open(False)))
        self.successResultOf(self.table.admit({7}, 300))
        self.kernel.syn(DOOR.table, 7)
        kept = next(self.claims.iterdir())
        (self.claims / f"{kept.name}.claimed").mkdir()
        self.assertIn("make room for it", self.failureResultOf(self.table.open(False), GateFailed).value.remedy)
        (self.claims / f"{kept.name}.claimed").rmdir()


class IntactTests(TableCase):
    """`intact`."""

    def setUp(self) -> None:
        super().setUp()
        self.table = self.opened(DOOR, 7, 8)

    def elsewhere(self) -> None:
        """Another program changes a table of its own."""
        self.kernel.generation += 1

    def test_nothing_is_listed_while_nothing_changes(self) -> None:
        """nft would read every token back."""
        self.kernel.refuses["nft"] = "must not be run"
        self.assertTrue(self.intact(self.table))
        del self.kernel.refuses["nft"]

    def test_a_change_of_another_table_is_none(self) -> None:
        """It is looked at once."""
        self.elsewhere()
        self.assertTrue(self.intact(self.table))
        self.test_nothing_is_listed_while_nothing_changes()

    def test_a_token_that_was_used_is_not_missing(self) -> None:
        """It is among the claimed."""
        self.kernel.syn(DOOR.table, 7)
        self.elsewhere()
        self.assertTrue(self.intact(self.table))

    def test_tokens_that_come_or_go_are_noticed(self) -> None:
        """Whoever put one there could open the port with it."""
        tokens = self.kernel.tables[DOOR.table].sets["tokens"]
        tokens[9] = 300.0
        self.elsewhere()
        self.assertFalse(self.intact(self.table))
        del tokens[9], tokens[7]
        self.assertFalse(self.intact(self.table))

    def test_another_rule_is_noticed(self) -> None:
        """And a table that is gone, or of which nothing can be told."""
        self.kernel.tables[DOOR.table].text += "more"
        self.elsewhere()
        self.assertFalse(self.intact(self.table))
        self.kernel.lose(DOOR.table)
        self.assertFalse(self.intact(self.table))
        self.assertIsNone(self.successResultOf(self.table.held()))
        self.assertIn("the refused SYNs cannot be counted: No such file", self.failure(self.table.refused()))

    def test_a_list_that_is_broken_off_says_nothing(self) -> None:
        """The gate is as it was known to be, until the next look."""
        self.kernel.interruptions = 1
        self.elsewhere()
        self.assertTrue(self.intact(self.table))
        self.kernel.tables[DOOR.table].text += "more"
        self.assertFalse(self.intact(self.table))

    def test_refused_syns_are_counted(self) -> None:
        """One in 64 is, and stands for all of them."""
        self.kernel.syn(DOOR.table, 9)
        self.assertEqual(self.successResultOf(self.table.refused()), 64)


class JudgingTests(TableCase):
    """A gate that asks about SYNs without a token."""

    def test_the_queue_is_read_while_it_judges(self) -> None:
        """If it ends, the gate is not intact; each SYN that is refused is counted."""
        table = self.opened(FILTERED, judging=True)
        self.assertEqual(len(self.kernel.time.readers), 1)
        self.assertTrue(self.intact(table))
        self.kernel.syn(FILTERED.table, 9)
        self.assertEqual(self.successResultOf(table.refused()), 1)
        self.kernel.time.readers[0].stop()
        self.assertFalse(self.intact(table))
        self.successResultOf(table.open(True))
        self.successResultOf(table.open(False))
        self.assertEqual(self.kernel.time.readers, [])
        self.assertTrue(self.intact(table))

    def test_a_kernel_without_the_statement_has_the_target(self) -> None:
        """iptables places the rule once in each IP version of the door, notices its loss, and takes it away."""
        self.kernel.refuses["queue flags bypass"] = "ended with 1: Error: Could not process rule"
        rule = ruleset.xtables(FILTERED)
        table = self.opened(FILTERED, judging=True)
        self.assertEqual(self.kernel.rules, {"iptables-nft": [rule]})
        self.successResultOf(table.open(True))
        self.assertEqual(self.kernel.rules, {"iptables-nft": [rule]})
        self.assertTrue(self.intact(table))
        shown = self.successResultOf(Deferred.fromCoroutine(loaded_tables(self.kernel)))
        self.assertIn(f"table inet {FILTERED.table} {{\n", shown)
        self.assertTrue(shown.endswith(f"\niptables-nft -t mangle -A {rule}\n"), shown)
        self.kernel.rules["iptables-nft"].clear()
        self.kernel.generation += 1
        self.assertFalse(self.intact(table))
        self.successResultOf(table.open(True))
        self.successResultOf(table.close())
        self.assertEqual(self.kernel.rules["iptables-nft"], [])

    def test_neither_can_be_had(self) -> None:
        """What iptables says is told, and the queue is read no more once the gate is closed."""
        self.kernel.refuses |= {"queue flags bypass": "fails", "iptables-nft-restore": "ended with 1: no such target"}
        self.assertIn("no such target", self.failure(self.made(FILTERED).open(True)))


class LoadedTests(TableCase):
    """`loaded_tables`."""

    def test_nothing_is_loaded(self) -> None:
        """Tables of others are none of ours."""
        self.kernel.tables["filter"] = MemoryTable("table inet filter {\n}\n")
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(loaded_tables(self.kernel))), "")

    def test_ours_are_shown(self) -> None:
        """Without a look at iptables where no SYN is judged."""
        self.opened()
        self.kernel.refuses["iptables-nft-save"] = "must not be run"
        shown = self.successResultOf(Deferred.fromCoroutine(loaded_tables(self.kernel)))
        self.assertEqual(shown, ruleset.listing(DOOR, HIDDEN))
