"""Tests of `torknock setup` as an operator runs it, on a Debian machine whose tor runs as Debian's unit runs it."""

from __future__ import annotations

import filecmp
import os
import signal
from pathlib import Path

from click import unstyle
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import knock
from tests.support.debian import Debian
from tests.support.netns import Lab
from tests.support.nginx import NAME
from tests.unit.channel import peer
from torknock.operate.card import qr_text
from torknock.operate.setup.place import RECORD, SNIPPET
from torknock.protocol.bridge_line import BridgeLine, Channel, parse_bridge_line

OFFLINE = "DirAuthority test orport=1 no-v2 v3ident={0} 127.0.0.1:1 {0}\n".format("0" * 39 + "1")
"""A network that is not there: nothing leaves the machine."""

_NGINX = """\
daemon off;
pid /run/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path /run/body;
    proxy_temp_path /run/proxy;
    fastcgi_temp_path /run/fastcgi;
    uwsgi_temp_path /run/uwsgi;
    scgi_temp_path /run/scgi;
    server {{
        listen 127.0.0.1:8443 ssl;
        server_name {name};
        ssl_protocols TLSv1.2;
        ssl_certificate /etc/nginx/certificate.pem;
        ssl_certificate_key /etc/nginx/key.pem;
    }}
}}
"""

needs_root = None if os.geteuid() == 0 else "a machine of its own needs root"


class Case(SynchronousTestCase):
    """A machine with Debian's tor, and a stranger."""

    skip = needs_root
    timeout = 180

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.bridge, self.stranger = self.lab.host("bridge"), self.lab.host("probe")
        self.debian = Debian(self.bridge)
        self.addCleanup(self.debian.close)

    def torknock(self, *arguments: str, status: int = 0, stdin: str = "") -> str:
        """What the command prints; it must end with *status*."""
        done = self.debian.run("torknock", *arguments, stdin=stdin)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.told = done.stderr
        return done.stdout

    def set_up(self, *more: str) -> BridgeLine:
        """The first bridge line."""
        said = self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes", *more)
        return parse_bridge_line(said.splitlines()[0])

    def torrc(self) -> str:
        return self.debian.path("/etc/tor/torrc").read_text()


class BridgeTests(Case):
    """`torknock setup bridge`."""

    def setUp(self) -> None:
        super().setUp()
        self.tor = self.debian.start_tor(OFFLINE)
        self.before = self.torrc()

    def test_one_command_and_back(self) -> None:
        """A transport without a capability, a hidden port, a line; then everything as it was."""
        said = self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes")
        text, _, code = said.partition("\n")
        line = parse_bridge_line(text)
        self.assertEqual((str(line.address), line.port), (self.bridge.address, 443))
        self.assertEqual(code, unstyle(qr_text(text, "utf-8")) + "\n")
        self.assertEqual(knock(self.stranger, self.bridge.address, 443, None), "refused")
        for pid in self.bridge.pids():
            status = Path(f"/proc/{pid}/status").read_text()
            if "torknock server" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                self.assertRegex(status, r"CapEff:\s0{16}\n")
                break
        else:
            self.fail("no transport runs")
        first = self.debian.path(str(SNIPPET)).read_text()
        self.assertEqual(self.set_up(), line)
        self.assertIn("nothing is to be changed", self.told)
        self.assertEqual(self.debian.path(str(SNIPPET)).read_text(), first)
        self.assertIn("torknock-443", self.torknock("rules"))
        self.torknock("setup", "--undo")
        self.assertEqual(self.torrc(), self.before)
        for path in (SNIPPET, SNIPPET.parent, RECORD):
            self.assertFalse(self.debian.path(str(path)).exists(), path)
        for name in ("passwd", "group", "shadow"):
            self.assertTrue(filecmp.cmp(f"/etc/{name}", self.debian.path(f"/etc/{name}"), shallow=False), name)
        self.assertNotIn("torknock", self.bridge.run(["nft", "list", "tables"]).stdout)
        self.assertTrue(wait_for(lambda: not self.runs("torknock")))

    def test_a_transport_that_tor_has_given_up(self) -> None:
        """A second call has tor start it again, together with the service that it lacked."""
        line = self.set_up()
        for word in ("torknock\0gate", "torknock\0server"):
            for pid in self.bridge.pids():
                if word in self.command(pid):
                    os.kill(pid, signal.SIGKILL)
        log = self.debian.path("/var/log/tor.log")
        self.assertTrue(wait_for(lambda: "didn't launch any pluggable transport listeners" in log.read_text()))
        self.assertEqual(self.set_up(), line)
        self.assertTrue(self.runs("torknock\0server"))

    def command(self, pid: int) -> str:
        return Path(f"/proc/{pid}/cmdline").read_text()

    def runs(self, word: str) -> bool:
        return any(word in self.command(pid) for pid in self.bridge.pids())

    def test_what_a_person_changed_since_stays(self) -> None:
        """It is said, and the rest is taken back."""
        self.set_up("--port", "8443")
        with self.debian.path(str(SNIPPET)).open("a") as file:
            file.write("ContactInfo nobody\n")
        self.torknock("setup", "--undo")
        self.assertIn(f"{SNIPPET} was changed since, and is kept", self.told)
        self.assertEqual(self.torrc(), self.before)

    def test_wishes_are_remembered(self) -> None:
        """A second call without them keeps port and posture."""
        self.set_up("--port", "8443", "--posture", "filtered")
        self.assertEqual(knock(self.stranger, self.bridge.address, 8443, None, 0.5), "silence")
        self.assertEqual(self.set_up().port, 8443)
        self.assertIn("nothing is to be changed", self.told)

    def test_a_site_is_prepared_then_added_to_the_operators_nginx_and_all_of_it_undone(self) -> None:
        """Before nginx has its lines that is no failure; with them, a site without TLS 1.3 is one."""
        config = self.start_nginx()
        self.set_up()
        self.set_up("--site")
        self.assertIn("torknock site > /etc/nginx/snippets/torknock.conf", self.told)
        self.assertIn("listen unix:/run/torknock-site/site.sock ssl", self.torknock("site"))
        asked = ("setup", "bridge", "--address", self.bridge.address, "--yes", "--site-config", "/etc/nginx/nginx.conf")
        self.torknock(*asked, status=1)
        self.assertEqual(self.told.count("nothing is to be changed"), 1)
        self.assertRegex(self.told, r"not ok +site +it speaks TLSv1.2")
        config.write_text(config.read_text().replace("TLSv1.2;", "TLSv1.2 TLSv1.3;"))
        self.debian.run("nginx", "-s", "reload")
        doctor = ("torknock", "doctor", "bridge")
        self.assertTrue(wait_for(lambda: "speaks TLSv1.2" not in self.debian.run(*doctor).stdout, 60))
        self.assertIs(parse_bridge_line(self.torknock("line", "add", "alice", "--sni", NAME)).line.channel, Channel.WEB)
        self.torknock(*asked)
        self.assertEqual(self.told.count("nothing is to be changed"), 2)
        self.torknock("setup", "--undo", "--yes")
        left = [self.debian.path(each).exists() for each in ("/run/torknock-site", "/etc/nginx/snippets/torknock.conf")]
        without = _NGINX.format(name=NAME).replace("TLSv1.2;", "TLSv1.2 TLSv1.3;")
        self.assertEqual((config.read_text(), left), (without, [False, False]))

    def start_nginx(self) -> Path:
        """nginx with a site on the machine; its configuration."""
        config, home = self.debian.path("/etc/nginx/nginx.conf"), self.debian.path("/etc/nginx")
        config.write_text(_NGINX.format(name=NAME))
        (home / "certificate.pem").write_bytes(peer.certificate(NAME).public_bytes(Encoding.PEM))
        (home / "key.pem").write_bytes(peer.KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.debian.path("/var/log/nginx").mkdir()
        nginx = self.bridge.popen(self.debian.within(["/usr/sbin/nginx"]))
        self.addCleanup(nginx.wait)
        self.addCleanup(nginx.terminate)
        self.assertTrue(wait_for(lambda: self.debian.path("/run/nginx.pid").exists()))
        return config

    def test_other_wishes_are_taken_up(self) -> None:
        """By the transport that runs; nothing is left at the port that was hidden before."""
        self.set_up("--posture", "filtered")
        self.set_up("--port", "8443")
        self.assertEqual(knock(self.stranger, self.bridge.address, 443, None, 0.5), "refused")
        self.assertEqual(knock(self.stranger, self.bridge.address, 8443, None, 0.5), "silence")
        self.set_up("--posture", "closed")
        self.assertEqual(knock(self.stranger, self.bridge.address, 8443, None), "refused")

    def test_lines_that_would_open_nothing_any_more(self) -> None:
        """Leaving posture filtered warns of lines of scheme knock by their names, as long as they live."""
        self.set_up("--posture", "filtered")
        self.torknock("line", "add", "carol", "--scheme", "knock")
        self.set_up("--posture", "filtered")
        self.assertNotIn("warning", self.told)
        self.set_up("--posture", "closed")
        self.assertIn("warning: with posture closed these lines of scheme knock open nothing: carol", self.told)
        self.torknock("line", "add", "dave", "--scheme", "knock", status=1)
        self.assertIn("setup bridge --posture filtered", self.told)
        self.torknock("line", "revoke", "carol")
        self.set_up()
        self.assertNotIn("warning", self.told)

    def test_tor_would_not_take_it(self) -> None:
        """The running tor is not made to read what would end it, and its files are as before."""
        with self.debian.path("/etc/tor/torrc").open("a") as file:
            file.write("Nonsense 1\n")
        before = self.torrc()
        self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes", status=1)
        self.assertIn("tor would not take the configuration", self.told)
        self.assertEqual(self.torrc(), before)
        self.assertFalse(self.debian.path(str(SNIPPET)).exists())
        self.assertIsNone(self.tor.poll())

    def test_a_port_that_is_served(self) -> None:
        """Nothing is changed; the line says what to do."""
        with self.bridge.enter():
            import socket

            served = socket.create_server(("0.0.0.0", 443))  # noqa: S104  in a namespace
        with served:
            self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes", status=1)
        self.assertRegex(self.told, "another program listens on port 443; .*--port")
        self.assertFalse(self.debian.path(str(RECORD)).exists())


class UserTests(Case):
    """`torknock setup client --user`: somebody's own tor, and no other."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("alice", "mallory"):
            self.debian.run("useradd", "--no-create-home", name)

    def ask_dial(self, user: str) -> str:
        """What `torknock check` says of the way to knock as *user*, at an address to which no router knows a way."""
        line = f"torknock 203.0.113.1:443 {'A' * 40} key={'A' * 43} pin={'A' * 43}"
        return self.debian.run(
            "setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "torknock", "check", line
        ).stdout

    def test_who_is_named_may_knock(self) -> None:
        """And nobody else; then everything as it was."""
        before = {name: self.debian.path(f"/etc/{name}").read_text() for name in ("passwd", "group")}
        said = self.torknock("setup", "client", "--user", "alice", "--yes")
        self.assertEqual(said, "+ClientTransportPlugin torknock exec /usr/local/bin/torknock client\n")
        self.assertIn("cannot be reached from here", self.ask_dial("alice"))
        self.assertIn("this service is not for this user", self.ask_dial("mallory"))
        self.torknock("setup", "client", "--user", "alice", "--yes")
        self.assertIn("nothing is to be changed", self.told)
        self.torknock("setup", "--undo")
        self.assertEqual({name: self.debian.path(f"/etc/{name}").read_text() for name in before}, before)
        self.assertFalse(self.debian.path(str(RECORD)).exists())

    def test_the_profile_of_tor_browser(self) -> None:
        """Where torbrowser-launcher has put one, its tor may start the transport; and no longer after undo."""
        self.debian.path("/etc/apparmor.d/torbrowser.Tor.tor").write_text("profile of another package\n")
        local = self.debian.path("/etc/apparmor.d/local/torbrowser.Tor.tor")
        local.write_text("# a person's own\n")
        self.torknock("setup", "client", "--user", "alice", "--yes")
        self.assertIn("add to /etc/apparmor.d/local/torbrowser.Tor.tor", self.told)
        self.assertTrue(local.read_text().startswith("# a person's own\n"))
        self.assertIn("/usr/local/bin/torknock ix,", local.read_text())
        self.torknock("setup", "client", "--user", "alice", "--yes")
        self.assertIn("nothing is to be changed", self.told)
        self.torknock("setup", "--undo")
        self.assertEqual(local.read_text(), "# a person's own\n")

    def test_nobody_of_that_name(self) -> None:
        """One line, and no change."""
        self.torknock("setup", "client", "--user", "bob", "--yes", status=1)
        self.assertIn("there is no user bob", self.told)
        self.assertFalse(self.debian.path(str(RECORD)).exists())
        self.torknock("setup", "client", "--yes", status=2)
        self.assertIn("give the bridge line", self.told)


class RefusalTests(Case):
    """What stands in the way is said in one line, and nothing is changed."""

    def test_an_or_port_that_everybody_sees(self) -> None:
        """The leak that gives hidden bridges away."""
        self.debian.start_tor(f"{OFFLINE}ORPort 9001\nBridgeRelay 1\nAssumeReachable 1\n")
        self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes", status=1)
        self.assertRegex(self.told, "ORPort listens on .*9001.*take ORPort 9001 out of /etc/tor/torrc")
        self.assertFalse(self.debian.path(str(RECORD)).exists())

    def test_a_control_socket_that_is_not_there_is_named(self) -> None:
        """The control socket is not there."""
        said = ("setup", "bridge", "--address", self.bridge.address, "--yes", "--control", "/run/tor/other")
        self.torknock(*said, status=1)
        self.assertIn("no tor answers at /run/tor/other", self.told)
        self.assertFalse(self.debian.path(str(RECORD)).exists())

    def test_a_program_that_tors_user_cannot_run(self) -> None:
        """Such as what pipx installs for root, below /root: tor would say nothing but that it failed."""
        self.debian.start_tor(OFFLINE)
        self.debian.run("useradd", "--no-create-home", "alice")
        self.debian.run("mkdir", "--mode=700", "/usr/local/bin/private")
        self.debian.run("cp", "/usr/local/bin/torknock", "/usr/local/bin/private/torknock")
        for command, user in (
            (("bridge", "--address", self.bridge.address), "debian-tor"),
            (("client", "--user", "alice"), "alice"),
        ):
            done = self.debian.run("/usr/local/bin/private/torknock", "setup", *command, "--yes")
            self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
            self.assertIn(f"{user} cannot run /usr/local/bin/private/torknock", done.stderr)
            self.assertIn("contrib/install", done.stderr)
            self.assertFalse(self.debian.path(str(RECORD)).exists())

    def test_an_unknown_address(self) -> None:
        """Without a person to ask, it must be named."""
        self.debian.start_tor(OFFLINE)
        self.torknock("setup", "bridge", "--yes", status=2)
        self.assertIn("--address", self.told)

    def test_a_person_says_no(self) -> None:
        """Everything that would be changed was shown."""
        self.debian.start_tor(OFFLINE)
        self.torknock("setup", "bridge", "--address", self.bridge.address, status=1, stdin="n\n")
        for shown in ("write /etc/tor/torrc.d/torknock.conf", "%include", "ORPort 127.0.0.1:auto", "torknock gate"):
            self.assertIn(shown, self.told)
        self.assertFalse(self.debian.path(str(RECORD)).exists())
