"""Tests of torknock.privileged.gate.service with a kernel in memory: what a peer may have, and what remains of it."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory_kernel import MemoryKernel, MemoryTable
from tests.unit.service.test_conversation import Wire
from torknock.privileged.gate.service import Guarding, Guards, gate_service
from torknock.protocol.door import Door, Posture
from torknock.protocol.syn import SYN
from torknock.service import gate_requests
from torknock.service.access import AccessList, Entry
from torknock.service.claim import claim
from torknock.service.grammar import Malformed
from torknock.service.interfaces import Reply
from torknock.service.peers import Peer
from torknock.service.posture_table import posture_table
from torknock.service.sources_table import sources_table

NOBODY = pwd.getpwnam("nobody")
DOOR = Door("192.0.2.7", 443, Posture.CLOSED)
SILENT = Door("192.0.2.7", 444, Posture.FILTERED)
GUARD = "guard 192.0.2.7 443 closed tokens"
JUDGE = "guard 192.0.2.7 444 filtered judge"


class Refusing(MemoryKernel):
    """A kernel that can refuse to make a socket transparent; it notes which ones were made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[socket.socket] = []
        self.transparent_refused: OSError | None = None

    def make_transparent(self, made: socket.socket) -> None:
        self.made.append(made)
        if self.transparent_refused is not None:
            raise self.transparent_refused


class MemoryConnection:
    """A peer of whom only the answers are there."""

    def __init__(self, uid: int) -> None:
        self.peer = Peer(uid, frozenset())
        self.hung_up = False
        self.asked: list[str] = []

    def hang_up(self) -> None:
        self.hung_up = True

    def ask(self, line: str, answer: str) -> Deferred[str]:
        """Every SYN with an even ISN is let in."""
        self.asked.append(line)
        return succeed(gate_requests.judged(syn.isn % 2 == 0 for syn in gate_requests.parse_judge(line)))


class ServiceCase(SynchronousTestCase):
    """A kernel in memory, an access list and a directory of claims."""

    def setUp(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="gate-"))
        self.addCleanup(shutil.rmtree, self.place)
        self.claims = self.place / "doors"
        self.kernel = Refusing()
        self.access = AccessList(self.place / "gate.toml", (0, os.getuid()))
        self.write_list(DOOR, SILENT)
        self.guards = Guards(self.kernel, self.access, self.claims)

    def write_list(self, *doors: Door, user: str = "nobody") -> None:
        """Have root let *user* guard *doors*."""
        path = self.place / "gate.toml"
        path.write_text("\n".join(str(Entry(each.host, each.port, each.posture, user)) for each in doors))
        path.chmod(0o644)

    def come(self, uid: int = NOBODY.pw_uid) -> tuple[Guarding, MemoryConnection]:
        connection = MemoryConnection(uid)
        made = Guarding(self.guards, cast(Any, connection))
        self.addCleanup(made.ended)
        return made, connection

    def reply(self, to: Guarding, line: str) -> Reply:
        reply = self.successResultOf(Deferred.fromCoroutine(cast(Any, to.answer(line))))
        for each in reply.descriptors:
            self.addCleanup(each.close)
        return cast(Reply, reply)

    def told(self, to: Guarding, *lines: str) -> list[str]:
        return [self.reply(to, line).text for line in lines]


class GuardTests(ServiceCase):
    """What is asked, and what is answered."""

    def test_a_listed_door_is_guarded(self) -> None:
        """The peer gets the sockets to which its clients are taken; nothing is let in until it says what."""
        guarding, _ = self.come()
        reply = self.reply(guarding, GUARD)
        self.assertEqual(reply.text, "ok")
        text = self.kernel.tables[DOOR.table].text
        for each in reply.descriptors:
            self.assertEqual(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 1)
            self.assertIn(f":{each.getsockname()[1]} accept\n", text)
        self.assertIn(sources_table(NOBODY.pw_uid), self.kernel.tables)
        self.assertFalse(self.kernel.syn(DOOR.table, 7))

    def test_each_request_is_answered(self) -> None:
        """As the grammar has them."""
        guarding, _ = self.come()
        asked = (GUARD, "admit 300 7 8 9", "held", "intact", "withdraw 8")
        self.assertEqual(self.told(guarding, *asked), ["ok", "ok", "ok 3", "ok yes", "ok"])
        self.assertEqual([self.kernel.syn(DOOR.table, token) for token in (7, 8, 9)], [True, False, True])
        self.kernel.lose(DOOR.table)
        self.assertEqual(self.told(guarding, "intact", "held"), ["ok no", "ok unknown"])
        self.assertEqual(self.told(guarding, GUARD, "refused", "leave"), ["ok", "ok 0", "ok"])
        self.assertNotIn(DOOR.table, self.kernel.tables)
        self.assertEqual(self.told(guarding, "refused", "leave"), ["ok unknown", "ok"])

    def test_a_door_comes_first(self) -> None:
        """And one connection has one door; to leave without one is no fault."""
        guarding, _ = self.come()
        self.assertEqual(self.told(guarding, "leave"), ["ok"])
        for line in ("admit 300 7", "withdraw 7", "intact", "refused", "held"):
            self.failureResultOf(Deferred.fromCoroutine(cast(Any, guarding.answer(line))), Malformed)
        self.told(guarding, GUARD)
        self.failureResultOf(Deferred.fromCoroutine(cast(Any, guarding.answer(JUDGE))), Malformed)

    def test_what_root_does_not_list_is_refused(self) -> None:
        """No socket is made."""
        for guarding, line in ((self.come(12345)[0], GUARD), (self.come()[0], "guard 192.0.2.7 443 decoy tokens")):
            self.assertRegex(self.told(guarding, line)[0], "^no failed .* does not list it; as root: torknock setup")
        self.assertEqual((self.kernel.made, self.kernel.tables), ([], {}))

    def test_a_door_has_one_guard(self) -> None:
        """Until its connection ends."""
        first, second = self.come()[0], self.come()[0]
        self.told(first, GUARD)
        self.assertRegex(self.told(second, GUARD)[0], "^no taken another torknock guards port 443")
        self.successResultOf(first.ended() or succeed(None))
        self.assertEqual(self.told(second, GUARD), ["ok"])

    def test_a_port_that_a_program_serves_is_a_decoys(self) -> None:
        """Under another posture its program would lose its clients."""
        with socket.create_server(("127.0.0.1", 0)) as program:
            port = program.getsockname()[1]
            self.write_list(Door("127.0.0.1", port), user="nobody")
            self.assertIn(
                f"no failed another program listens on port {port}",
                self.told(self.come()[0], f"guard 127.0.0.1 {port} closed tokens")[0],
            )
            self.write_list(Door("127.0.0.1", port, Posture.DECOY), user="nobody")
            self.assertEqual(self.told(self.come()[0], f"guard 127.0.0.1 {port} decoy tokens"), ["ok"])

    def test_no_socket_is_left_when_a_gate_cannot_be_opened(self) -> None:
        """The peer is told what the kernel or nft says."""
        for word, told in (("tproxy", "no failed nft -f - is broken"), ("skuid", "no failed nft -f - is broken")):
            self.kernel.refuses = {word: "is broken"}
            self.assertEqual(self.told(self.come()[0], GUARD), [told])
        self.kernel.refuses = {}
        self.kernel.transparent_refused = OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.assertEqual(self.told(self.come()[0], GUARD), ["no failed the kernel refuses: Operation not permitted"])
        self.assertEqual([each.fileno() for each in self.kernel.made], [-1] * len(self.kernel.made))
        self.assertNotIn(DOOR.table, self.kernel.tables)

    def test_root_is_not_kept_from_foreign_addresses(self) -> None:
        """It may do that anyway."""
        self.write_list(DOOR, user="root")
        self.assertEqual(self.told(self.come(0)[0], GUARD), ["ok"])
        self.assertEqual(set(self.kernel.tables), {DOOR.table})

    def test_the_peer_judges(self) -> None:
        """In as many lines as the grammar takes."""
        guarding, connection = self.come()
        self.assertEqual(self.told(guarding, JUDGE), ["ok"])
        syns = [SYN("198.51.100.1", 5000, bytes([192, 0, 2, 7]), 444, isn, None) for isn in range(1, 201)]
        judged = self.successResultOf(Deferred.fromCoroutine(cast(Any, guarding._ask(syns))))
        self.assertEqual(judged, [syn.isn % 2 == 0 for syn in syns])
        self.assertEqual([line.count(" ") for line in connection.asked], [128, 72])


class EndTests(ServiceCase):
    """How a gate ends."""

    def test_it_ends_with_its_connection(self) -> None:
        """A filtered port stays silent."""
        guarding, _ = self.come()
        self.told(guarding, JUDGE)
        self.successResultOf(guarding.ended() or succeed(None))
        self.assertEqual(set(self.kernel.tables), {posture_table(SILENT), sources_table(NOBODY.pw_uid)})
        self.assertEqual(self.guards.guarding, set())
        self.assertIsNone(self.come()[0].ended())

    def test_it_ends_when_root_takes_the_door_from_the_list(self) -> None:
        """And the peer is hung up on; another change is none of its business."""
        guarding, connection = self.come()
        other, _ = self.come()
        self.told(guarding, GUARD)
        self.write_list(DOOR)
        for each in (guarding, other):
            self.successResultOf(Deferred.fromCoroutine(each.follow()))
        self.assertIn(DOOR.table, self.kernel.tables)
        self.write_list(SILENT)
        with capturedLogs() as logged:
            self.successResultOf(Deferred.fromCoroutine(guarding.follow()))
        self.assertIn("does not list it", logged[0]["reason"])
        self.assertTrue(connection.hung_up)
        self.assertNotIn(DOOR.table, self.kernel.tables)

    def test_a_gate_that_cannot_be_closed_is_logged(self) -> None:
        """Its tokens run out by themselves."""
        guarding, _ = self.come()
        self.told(guarding, GUARD)
        self.kernel.refuses = {"delete table": "is broken"}
        with capturedLogs() as logged:
            self.successResultOf(guarding.ended() or succeed(None))
        self.assertIn("is broken", logged[0]["reason"])


class HelperTests(ServiceCase):
    """The service as a whole."""

    def started(self) -> Any:
        made = gate_service(self.kernel, self.access, self.claims, 16)
        self.addCleanup(lambda: [each() for each in self.kernel.time.at_end])
        return made

    def test_a_conversation_over_a_socket_is_with_this_user(self) -> None:
        """With this user, over a socket."""
        self.write_list(DOOR, user=pwd.getpwuid(os.getuid()).pw_name)
        service = self.started()
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        connection, wire = service.buildProtocol(None), Wire(near)
        connection.makeConnection(wire)
        connection.dataReceived(f"{GUARD}\nadmit 300 7\n".encode())
        self.assertEqual((wire.said(), len(wire.passed) in (1, 2)), (["ok", "ok"], True))
        self.assertTrue(self.kernel.syn(DOOR.table, 7))
        connection.connectionLost(Failure(ConnectionDone()))
        self.assertNotIn(DOOR.table, self.kernel.tables)

    def test_what_a_killed_service_left_is_removed(self) -> None:
        """But not what another process guards, nor a table of others."""
        self.kernel.tables = {DOOR.table: MemoryTable(), SILENT.table: MemoryTable(), "torknock-9": MemoryTable()}
        held = claim(SILENT, self.claims)
        self.addCleanup(os.close, held)
        self.started()
        self.assertNotIn(DOOR.table, self.kernel.tables)
        self.assertLessEqual({SILENT.table, "torknock-9"}, set(self.kernel.tables))

    def test_what_cannot_be_removed_is_logged(self) -> None:
        """And the service goes on."""
        self.kernel.refuses = {"nft": "is broken"}
        with capturedLogs() as logged:
            self.started()
        self.assertIn("tables that no bridge uses are left: {reason}", [each.get("log_format") for each in logged])
        self.kernel.refuses = {}
        self.kernel.time.advance(0.25)
        self.assertIn(posture_table(SILENT), self.kernel.tables)
