"""Tests of verbs that start a reactor, each as a process of its own: doctor, check, reflect, rules, server, client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.own_tor import OwnTor, free_port
from torknock.protocol.bridge_line import BridgeLine, Line, parse_address, write_bridge_line

LIMIT = 120.0
FINGERPRINT = "4352E58420E68F5E40BF7C74FADDCCD9D1349413"
_WITHOUT_CAPABILITY = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"] if os.geteuid() == 0 else []


class VerbCase(SynchronousTestCase):
    """A directory, and the command without CAP_NET_ADMIN."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.command = [*_WITHOUT_CAPABILITY, sys.executable, "-m", "torknock"]

    def torknock(self, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """The command, to its end."""
        return subprocess.run(
            [*self.command, *arguments], input=stdin, capture_output=True, text=True, timeout=LIMIT, check=False,
            env={**os.environ, **environ},
        )  # fmt: skip

    def line(self, port: int) -> str:
        """A line of a bridge on loopback."""
        line = Line(bytes(range(32)), bytes(range(32, 64)))
        return write_bridge_line(BridgeLine(*parse_address(f"127.0.0.1:{port}"), FINGERPRINT, line))


class DoctorTests(VerbCase):
    """`torknock doctor`."""

    def test_findings_are_written_for_people_and_for_scripts(self) -> None:
        """The same ones; what is not ok has its remedy below, and decides the exit status."""
        tor = OwnTor(self.directory / "tor")
        self.addCleanup(tor.stop)
        tor.start()
        text = self.torknock("doctor", "bridge", "--control", tor.control)
        told = json.loads(self.torknock("doctor", "bridge", "--control", tor.control, "--json").stdout)
        self.assertEqual((text.returncode, told["status"]), (1, 1))
        [set_up] = [each for each in told["findings"] if each["name"] == "set-up"]
        self.assertEqual((set_up["state"], set_up["remedy"]), ("not ok", "as root: torknock setup bridge"))
        self.assertRegex(text.stdout, r"(?m)^not ok +set-up +tor is not set up as a bridge of torknock$")
        for each in told["findings"]:
            self.assertIn(each["why"], text.stdout)
            self.assertIn(each["remedy"], text.stdout)

    def test_a_role_that_nothing_shows_is_asked_for(self) -> None:
        """In one line."""
        nowhere = str(self.directory / "nowhere")
        done = self.torknock("doctor", "--control", nowhere, "--keyring", nowhere)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("run torknock doctor bridge, or torknock doctor client", done.stderr)

    def test_a_user_has_a_client_and_no_bridge(self) -> None:
        """A user who does not exist has neither."""
        self.assertEqual(self.torknock("doctor", "bridge", "--user", "alice").returncode, 2)
        done = self.torknock("doctor", "client", "--user", "torknock-user-of-no-host")
        self.assertRegex(done.stdout, "(?m)^unknown +tor +there is no user torknock-user-of-no-host on this host$")
        self.assertNotEqual(done.returncode, 0)


class CheckTests(VerbCase):
    """`torknock check`."""

    def test_a_line_that_cannot_be_knocked_with_is_unknown(self) -> None:
        """Without the capability and without the service no SYN left; the exit status is 2, and no secret is shown."""
        nowhere = str(self.directory / "dial.sock")
        line = self.line(free_port())
        done = self.torknock("check", "-", "--helper", nowhere, stdin=line)
        self.assertEqual((done.returncode, done.stderr), (2, ""))
        self.assertRegex(done.stdout, r"(?m)^unknown +line +.*CAP_NET_ADMIN")
        self.assertRegex(done.stdout, r"(?m)^unknown +tor +not asked")
        self.assertNotIn("127.0.0.1", done.stdout)

    def test_a_stranger_sees_what_the_port_does(self) -> None:
        """Here it is closed, as other ports are; as JSON with the time that each answer took."""
        nowhere = str(self.directory / "dial.sock")
        done = self.torknock(
            "check", "line", "--as-stranger", "--json", "-", "--helper", nowhere, stdin=self.line(free_port())
        )
        found = {each["name"]: each for each in json.loads(done.stdout)["findings"]}
        self.assertEqual((found["stranger"]["state"], found["other ports"]["state"]), ("ok", "ok"))
        self.assertIsInstance(found["stranger"]["ms"], int)

    def test_a_path_that_no_reflector_can_be_at_is_refused(self) -> None:
        """A loopback address has no path."""
        done = self.torknock("check", "path", "127.0.0.1:4430")
        self.assertEqual(done.returncode, 2)
        self.assertIn("loopback", done.stderr)


class ReflectTests(VerbCase):
    """`torknock reflect`."""

    def test_it_says_where_it_listens_and_refuses_a_port_that_is_taken(self) -> None:
        """Ctrl-C ends it; a word that is no address is refused."""
        where = f"127.0.0.1:{free_port()}"
        command = ["env", "--default-signal=INT", *self.command, "reflect", "--listen"]
        with subprocess.Popen([*command, where], stdout=subprocess.PIPE, text=True) as reflector:
            assert reflector.stdout is not None
            self.assertEqual(reflector.stdout.readline(), f"reflecting on {where}, an open port that anyone can find\n")
            done = self.torknock("reflect", "--listen", where)
            reflector.send_signal(signal.SIGINT)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"cannot listen on {where}: Address already in use; name another address or port", done.stderr)
        self.assertEqual(self.torknock("reflect", "--listen", "bridge.example").returncode, 2)


class RulesTests(VerbCase):
    """`torknock rules`."""

    def test_who_may_not_ask_nftables_is_told_so(self) -> None:
        """In one line, without a ruleset."""
        done = self.torknock("rules")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"\Atorknock: [^\n]+\n\Z")


class TransportTests(VerbCase):
    """`torknock server` and `torknock client`, as tor starts them."""

    def managed(self, verb: str, *options: str, **environ: str) -> str:
        """What the transport tells tor until its methods are done; then its stdin ends, and so does it."""
        environment = {
            **os.environ, "TOR_PT_MANAGED_TRANSPORT_VER": "1", "TOR_PT_STATE_LOCATION": str(self.directory),
            "TOR_PT_EXIT_ON_STDIN_CLOSE": "1", **environ,
        }  # fmt: skip
        told = ""
        with subprocess.Popen(
            [*self.command, verb, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as transport:
            assert transport.stdout is not None
            assert transport.stdin is not None
            for line in transport.stdout:
                told += line
                if line.endswith("METHODS DONE\n"):
                    break
            transport.stdin.close()
            told += transport.stdout.read()
        self.assertEqual(transport.returncode, 0, told)
        return told

    def test_a_server_without_privilege_filters_at_its_own_port(self) -> None:
        """It says so, and names its address."""
        told = self.managed(
            "server", "--helper", str(self.directory / "gate.sock"), TOR_PT_SERVER_TRANSPORTS="torknock",
            TOR_PT_SERVER_BINDADDR=f"torknock-127.0.0.1:{free_port()}", TOR_PT_ORPORT="127.0.0.1:9",
        )  # fmt: skip
        self.assertRegex(told, r"(?m)^VERSION 1$")
        self.assertRegex(told, r"(?m)^SMETHOD torknock 127\.0\.0\.1:")
        self.assertIn("a filter guards port", told)

    def test_a_server_with_options_that_are_wrong_names_them(self) -> None:
        """Each with what it may be."""
        for options, told in (
            ("torknock:colour=red", "torknock has no colour"),
            ("torknock:posture=open", "posture= is"),
            ("torknock:keyring=here", "keyring= must be an absolute path"),
            ("torknock:metrics=everywhere", "metrics"),
        ):
            said = self.managed(
                "server", TOR_PT_SERVER_TRANSPORTS="torknock", TOR_PT_ORPORT="127.0.0.1:9",
                TOR_PT_SERVER_BINDADDR="torknock-127.0.0.1:0", TOR_PT_SERVER_TRANSPORT_OPTIONS=options,
            )  # fmt: skip
            [error] = [line for line in said.splitlines() if line.startswith("SMETHOD-ERROR torknock ")]
            self.assertIn(told, error)

    def test_a_server_that_may_not_take_the_operators_posture_says_what_it_lacks(self) -> None:
        """A filter is silent, so it can be no closed port."""
        said = self.managed(
            "server", "--helper", str(self.directory / "gate.sock"), TOR_PT_SERVER_TRANSPORTS="torknock",
            TOR_PT_SERVER_BINDADDR=f"torknock-127.0.0.1:{free_port()}", TOR_PT_ORPORT="127.0.0.1:9",
            TOR_PT_SERVER_TRANSPORT_OPTIONS="torknock:posture=closed",
        )  # fmt: skip
        self.assertRegex(said, r"(?m)^SMETHOD-ERROR torknock this process lacks CAP_NET_ADMIN, and there is ")

    def test_a_client_without_privilege_and_service_cannot_knock(self) -> None:
        """The user of a SOCKS port must exist."""
        said = self.managed("client", "--helper", str(self.directory / "d"), TOR_PT_CLIENT_TRANSPORTS="torknock")
        self.assertRegex(said, r"(?m)^CMETHOD-ERROR torknock this process lacks CAP_NET_ADMIN")
        self.assertEqual(self.torknock("client", "--socks-user", "torknock-user-of-no-host").returncode, 2)
