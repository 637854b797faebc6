"""Tests of the claim on a door: one process guards it, in whichever mode, and no other user can take it or see it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import Case
from tests.support.bridge import HiddenService

STRANGER = ["setpriv", "--reuid=64012", "--regid=64012", "--clear-groups", "/usr/bin/python3", "-c"]
"""A local user without any privilege."""

BIND_NAME = """
import socket, time
held = socket.socket(socket.AF_UNIX)
held.bind("\\0torknock/torknock-443")
print("bound", flush=True)
time.sleep(60)
"""

LOCK_ALL = """
import fcntl, os, sys, time
held = []
for where, directories, files in os.walk(sys.argv[1]):
    for name in [*directories, *files]:
        try:
            held.append(os.open(os.path.join(where, name), os.O_RDONLY))
            fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass
print(len(held), flush=True)
time.sleep(60)
"""


class ClaimTests(Case):
    """The service, a bridge of root's own, and a local user who would shut them."""

    def stranger(self, script: str, *arguments: str) -> str:
        """The first line that the stranger's *script* says; it runs on."""
        running = self.bridge.popen([*STRANGER, script, *arguments], stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        return str(running.stdout.readline()).strip()

    def test_no_name_that_any_user_can_take(self) -> None:
        """A local user who binds what the claim was once, an abstract Unix name, shuts nothing."""
        self.assertEqual(self.stranger(BIND_NAME), "bound")
        with self.asking() as connection:
            self.assertEqual(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "ok")

    def test_no_file_that_another_user_can_lock(self) -> None:
        """Everything that such a user can open beside the service's socket is locked, and nothing is shut."""
        with self.asking() as connection:
            self.assertEqual(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "ok")
            self.say(connection, "leave")
        self.stranger(LOCK_ALL, str(self.directory))
        with self.asking() as connection:
            self.assertEqual(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "ok")

    def test_a_guarded_port_is_not_to_be_seen(self) -> None:
        """Its number stands in no list that everybody may read."""
        with self.asking() as connection:
            self.assertEqual(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "ok")
            told = self.bridge.run([*STRANGER, "print(open('/proc/net/unix').read(), open('/proc/locks').read())"])
            self.assertNotIn("torknock-443", told.stdout)

    def test_two_modes_exclude_each_other(self) -> None:
        """A bridge of root's with a gate of its own, and the service, at one port: the second is refused."""
        with self.asking() as connection:
            self.assertEqual(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "ok")
            with HiddenService(self.bridge, own=self.path) as hidden:
                self.assertIn("another torknock guards port 443", "\n".join(hidden.said))
        with HiddenService(self.bridge, own=self.path) as hidden:
            self.assertTrue(any(line.startswith("SMETHOD torknock") for line in hidden.said), hidden.said)
            with self.asking() as connection:
                self.assertRegex(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "^no taken ")
        with self.asking() as connection:
            self.assertTrue(wait_for(lambda: self.say(connection, "guard 0.0.0.0 443 closed tokens") == "ok"))

    def test_a_claim_ends_with_its_process(self) -> None:
        """However it ends."""
        with self.asking() as connection:
            self.assertEqual(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "ok")
            self.service.kill()
            self.service.wait()
        self.serve()
        with self.asking() as connection:
            self.assertEqual(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "ok")

    def test_other_network_namespaces_have_doors_of_their_own(self) -> None:
        """The same port of another namespace is another door."""
        with self.asking() as connection:
            self.assertEqual(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "ok")
            with HiddenService(self.client, own=self.path) as hidden:
                self.assertTrue(any(line.startswith("SMETHOD torknock") for line in hidden.said), hidden.said)


class FilterTests(Case):
    """Without privilege: two bridges with one keyring."""

    def test_two_processes_of_one_keyring(self) -> None:
        """The second is refused, also while the first does not listen yet."""
        nowhere = Path("/nonexistent/gate.sock")
        with HiddenService(self.bridge, "0.0.0.0:8443", helper=nowhere) as first:
            doors = first.state / "torknock" / "doors"
            self.assertEqual(doors.stat().st_mode & 0o077, 0)
            with HiddenService(self.bridge, "0.0.0.0:8443", directory=first.state, helper=nowhere) as second:
                self.assertRegex("\n".join(second.said), "SMETHOD-ERROR torknock.*port 8443")
