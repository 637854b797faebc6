"""Tests of what `torknock site`, `line add`, `line list` and `doctor` say of a site, with nginx as its web server."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase

from tests.support.nginx import NAME, Nginx
from tests.unit.channel import peer
from torknock import cli
from torknock.kernel.places import SITE_SOCKET
from torknock.keyring.lines import Keyring
from torknock.keyring.site_settings import SITE, site_path
from torknock.operate.doctor.site_conditions import site
from torknock.operate.finding import State
from torknock.protocol.bridge_line import Channel, parse_bridge_line

WHERE = ("--address", "192.0.2.7:443", "--fingerprint", "A" * 40)


class SiteCase(SynchronousTestCase):
    """A keyring whose bridge has run with a site."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory, self.keyring = Path(temporary.name), Path(temporary.name) / "keyring"
        with Keyring.open(self.keyring, create=True) as opened:
            opened.set_setting(SITE, str(self.directory))
            self.path = site_path(opened)

    def torknock(self, *arguments: str) -> Result:
        result = CliRunner().invoke(cli.torknock, [*arguments, "--keyring", str(self.keyring)], prog_name="torknock")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def start(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey = peer.KEY, more: str = "") -> None:
        """The lines that the command prints, in nginx."""
        (self.directory / SITE_SOCKET).unlink(missing_ok=True)
        nginx = Nginx(self.torknock("site").stdout + more, certificate, key)
        self.addCleanup(nginx.close)
        nginx.start(self.directory / SITE_SOCKET)
        self.nginx = nginx


class CommandTests(SiteCase):
    """What an operator types."""

    def test_a_line_is_of_channel_web(self) -> None:
        """As soon as there is a site; one whose certificate is not publicly trusted is pinned, and that is said."""
        self.start(peer.certificate(NAME))
        told = self.torknock("line", "add", "alice", "--sni", NAME, *WHERE)
        line = parse_bridge_line(told.stdout).line
        self.assertEqual((line.channel, line.path, line.pin, line.sni), (Channel.WEB, self.path, peer.PIN, NAME))
        self.assertIn("not publicly trusted", told.stderr)
        self.assertEqual(told.exit_code, 0)

    def test_a_line_needs_a_name(self) -> None:
        """And a web server that answers; nothing is issued without."""
        for arguments, said in (((), "--sni"), (("--sni", NAME), "cannot connect to")):
            told = self.torknock("line", "add", "alice", *arguments, *WHERE)
            self.assertEqual((told.exit_code, told.stdout), (1, ""))
            self.assertIn(said, told.stderr)
        with Keyring.open(self.keyring, create=False) as opened:
            self.assertEqual(opened.lines(), [])

    def test_other_channels_are_asked_for(self) -> None:
        """They need no site; `line list` says which lines show a certificate of the bridge's own."""
        self.assertEqual(self.torknock("line", "add", "bob", "--channel", "tls", *WHERE).exit_code, 0)
        self.assertIn("show no site: bob; issue others", self.torknock("line", "list").stderr)
        told = self.torknock("line", "add", "carol", "--sni", NAME, "--shape", *WHERE)
        self.assertEqual(told.exit_code, 2)
        self.assertIn("--shape is for --channel tls; channel web always shapes", told.stderr)

    def test_a_bridge_without_a_site(self) -> None:
        """Neither lines for nginx nor lines of channel `web`: it is said what to do first."""
        with Keyring.open(self.keyring, create=False) as opened:
            opened.set_setting(SITE, "")
        for arguments in (("site",), ("line", "add", "alice", "--channel", "web", "--sni", NAME, *WHERE)):
            told = self.torknock(*arguments)
            self.assertEqual((told.exit_code, told.stdout), (1, ""))
            self.assertIn("run torknock setup bridge --site", told.stderr)
        named = self.torknock("site", "--dir", "/run/site").stdout
        self.assertIn("listen unix:/run/site/site.sock ssl proxy_protocol;", named)
        self.assertIn(f"location = /{self.path} {{", named)


class DoctorTests(SiteCase):
    """What the doctor finds."""

    def found(self, pin: bytes | None = peer.PIN, now: float | None = None) -> tuple[State, str]:
        """The first finding, for a bridge with one line of channel `web` with this *pin*."""
        with Keyring.open(self.keyring, create=False) as opened:
            for each in opened.lines():
                opened.withdraw(each.name)
            opened.add("alice", expires=None, now=1, sni=NAME, channel=Channel.WEB, site_pin=pin)
        finding = site(self.keyring, now or time.time())[0]
        self.assertNotIn(NAME, finding.why + finding.remedy)
        self.assertEqual(bool(finding.remedy), finding.state is not State.OK)
        return finding.state, finding.why

    def test_a_site_that_serves(self) -> None:
        """Its web server shows the key in the line."""
        self.start(peer.certificate(NAME))
        self.assertEqual(self.found()[0], State.OK)

    def test_each_fault(self) -> None:
        """Of the web server, its certificate, or its key."""
        self.assertIn("cannot connect", self.found()[1])
        self.start(peer.certificate(NAME))
        for wrong, said in (
            (self.found(pin=None), "not publicly trusted"),
            (self.found(pin=b"p" * 32), "its key is another one"),
            (self.found(now=time.time() + 10 * 86_400), "has expired"),
        ):
            self.assertEqual(wrong[0], State.NOT_OK)
            self.assertIn(said, wrong[1])
        self.nginx.stop()
        self.start(peer.certificate(NAME, "192.0.2.7"))
        self.assertIn("for an IP address", self.found()[1])
        self.nginx.stop()
        configuration = self.nginx.home / "nginx.conf"
        configuration.write_text(configuration.read_text().replace("TLSv1.2 TLSv1.3", "TLSv1.2"))
        (self.directory / SITE_SOCKET).unlink(missing_ok=True)
        self.nginx.start(self.directory / SITE_SOCKET)
        self.assertIn("TLSv1.2", self.found()[1])

    def test_a_web_server_that_was_killed(self) -> None:
        """It left its sockets, and does not start again before they are removed."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(self.directory / SITE_SOCKET))
        self.assertIn("Connection refused", self.found()[1])
        self.assertIn("first remove site.sock and plain.sock", site(self.keyring, time.time())[0].remedy)

    def test_no_site(self) -> None:
        """Then nothing is said of one; nor if there is no keyring."""
        self.assertEqual(site(self.directory / "none", time.time()), [])
        with Keyring.open(self.keyring, create=False) as opened:
            opened.set_setting(SITE, "")
        self.assertEqual(site(self.keyring, time.time()), [])

    def test_lines_of_channel_tls(self) -> None:
        """They are to be issued again."""
        with Keyring.open(self.keyring, create=False) as opened:
            opened.add("bob", expires=None, now=1)
        self.assertIn("1 of 1 live lines show a certificate", site(self.keyring, time.time())[1].why)
