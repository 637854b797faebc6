"""Tests of what tor's user can have guarded on a Debian host: what root lists, and nothing else."""

from __future__ import annotations

import os
import socket
import threading

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import knock
from tests.support.debian import Debian
from tests.support.netns import Lab
from torknock.protocol.door import Posture
from torknock.service import GATE_SOCKET
from torknock.service.access import ACCESS, EVERYWHERE, Entry

needs_root = None if os.geteuid() == 0 else "a machine of its own needs root"

ASK = f"""
import os, socket, sys
for line in sys.stdin:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(20)
        asking.connect({GATE_SOCKET!r})
        asking.sendall(line.encode())
        said = b""
        while not said.endswith(b"\\n"):
            octets, descriptors, _, _ = socket.recv_fds(asking, 4096, 8)
            said += octets
            for each in descriptors:
                os.close(each)
        print(said.decode().rstrip(), flush=True)
"""
"""Asks each line of stdin on a connection of its own, and prints the answers."""

PAGE = b"this is root's web server\n"


class AccessTests(SynchronousTestCase):
    """A host where the service runs, with a web server of root's, and an intruder who is tor's user."""

    skip = needs_root
    timeout = 180

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.bridge, self.stranger = self.lab.host("bridge"), self.lab.host("probe")
        self.debian = Debian(self.bridge)
        self.addCleanup(self.debian.close)
        self.debian.run("useradd", "--system", "--user-group", "second")
        self.allow(Entry(EVERYWHERE, 443, Posture.CLOSED, "debian-tor"))
        with self.bridge.enter():
            self.web = socket.create_server((EVERYWHERE, 80))
        self.addCleanup(self.web.close)
        threading.Thread(target=self.serve, daemon=True).start()
        self.debian.run("mkdir", "-p", "/run/torknock")
        service = self.debian.within(["/usr/local/bin/torknock", "gate"])
        with self.debian.path("/var/log/gate.log").open("w") as log:
            self.bridge.popen(service, stdout=log, stderr=log)
        self.assertTrue(wait_for(lambda: self.debian.path(GATE_SOCKET).is_socket()))
        self.debian.run("chmod", "666", GATE_SOCKET)

    def allow(self, *entries: Entry) -> None:
        """Have the access list hold *entries*."""
        path = self.debian.path(str(ACCESS))
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(str, entries)))

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.web.accept()
            except OSError:
                return
            with connection:
                connection.sendall(PAGE)

    def ask(self, *lines: str, user: str = "debian-tor") -> list[str]:
        """What the service says to *user*, line by line."""
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "/usr/bin/python3", "-c", ASK]
        done = self.debian.run(*command, stdin="".join(f"{line}\n" for line in lines))
        self.assertEqual(done.stderr, "")
        return done.stdout.splitlines()

    def page(self) -> bytes | str:
        return knock(self.stranger, self.bridge.address, 80, None)[: len(PAGE)]

    def test_roots_services_cannot_be_taken_over(self) -> None:
        """Neither as a decoy nor by silence; each refusal says what root must do."""
        for asked in (
            "guard 0.0.0.0 80 decoy judge", "guard 0.0.0.0 80 filtered tokens", "guard 0.0.0.0 54321 filtered tokens",
            f"guard {self.bridge.address} 443 closed tokens", "guard 0.0.0.0 443 filtered tokens",
            "guard 0.0.0.0 443 decoy tokens",
        ):  # fmt: skip
            with self.subTest(asked=asked):
                [said] = self.ask(asked)
                self.assertRegex(said, r"^no failed debian-tor may not guard port .*as root: torknock setup bridge")
                self.assertEqual(self.page(), PAGE)
        self.assertEqual(self.ask("guard 0.0.0.0 443 closed tokens"), ["ok"])
        self.assertTrue(wait_for(lambda: self.ask("guard :: 443 closed tokens") == ["ok"]))

    def test_no_number_of_attempts_exhausts_nftables(self) -> None:
        """1,020 doors, guarded or left: root's own nft goes on, and no door's table is left."""
        said = self.ask(*(f"guard 0.0.0.0 {port} filtered tokens" for port in range(10_000, 11_020)))
        self.assertEqual({line.partition(" may")[0] for line in said}, {"no failed debian-tor"})
        self.bridge.run(["nft", "add", "table", "inet", "roots"])
        tables = self.bridge.run(["nft", "list", "tables", "inet"]).stdout.splitlines()
        self.assertEqual([table for table in tables if "torknock-sources" not in table], ["table inet roots"])

    def test_two_users_have_a_door_each(self) -> None:
        """And neither has the other's."""
        self.allow(
            Entry(EVERYWHERE, 443, Posture.CLOSED, "debian-tor"), Entry(EVERYWHERE, 8443, Posture.CLOSED, "second")
        )
        first, other = "guard 0.0.0.0 443 closed tokens", "guard 0.0.0.0 8443 closed tokens"
        self.assertEqual((self.ask(first), self.ask(other, user="second")), (["ok"], ["ok"]))
        for asked, user in ((first, "second"), (other, "debian-tor")):
            self.assertRegex(self.ask(asked, user=user)[0], f"^no failed {user} may not guard")
        self.assertRegex(self.ask(first, user="games")[0], "^no refused this service is not for this user")

    def test_a_list_that_root_did_not_write(self) -> None:
        """Or that is not there, as after an upgrade, or is damaged: refused, in a line that says what to do."""
        path, asked = self.debian.path(str(ACCESS)), "guard 0.0.0.0 443 closed tokens"
        path.chmod(0o666)
        self.assertRegex(self.ask(asked)[0], "^no failed /etc/torknock/gate.toml can be written by others than root; ")
        path.chmod(0o644)
        path.parent.chmod(0o777)
        self.assertRegex(self.ask(asked)[0], "^no failed /etc/torknock can be written by others than root, who could ")
        path.parent.chmod(0o755)
        path.write_text("[[door\n")
        self.assertRegex(self.ask(asked)[0], "^no failed /etc/torknock/gate.toml is no TOML: .*setup bridge")
        path.unlink()
        self.assertRegex(self.ask(asked)[0], "^no failed nothing may be guarded, .*as root: torknock setup bridge$")
