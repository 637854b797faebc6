"""What a stolen SYN shows: the TLS server behind it, seen by a client that has no proof."""

from __future__ import annotations

import socket
import ssl
import time
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import TORKNOCK, HiddenService, connected
from tests.support.netns import Lab
from torknock.protocol.token import epoch_at, tokens

BEHIND_NAT = "203.0.113.9"
"""An address in a line that the bridge's host does not have."""


class CertificateTests(SynchronousTestCase):
    """A bridge on two addresses of its own, and on one that a NAT gives it; a line for each."""

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")
        self.addresses = {"alice": self.bridge.address, "bob": self.bridge.address6, "carol": BEHIND_NAT}
        self.service = HiddenService(self.bridge)
        self.addCleanup(self.service.close)
        for name, address in self.addresses.items():
            self.add(name, f"[{address}]:443" if ":" in address else f"{address}:443")

    def add(self, name: str, where: str, *more: str) -> None:
        arguments = ["line", "add", name, "--address", where, "--fingerprint", "A" * 40, "--n", "200"]
        keyring = ["--keyring", str(self.service.state / "torknock")]
        self.bridge.run([TORKNOCK, *arguments, *keyring, *more])

    def shown(self, name: str, address: str) -> x509.Certificate:
        """The certificate that a SYN with a token of the line *name*, sent to *address*, leads to."""
        with self.service.keyring() as keyring:
            line = keyring.get(name).line
        fresh = iter(tokens(line.secret, line.bridge_name, epoch_at(time.time()), line.n))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        found: list[bytes] = []

        def shake_hands() -> bool:
            try:
                with (
                    connected(self.client, address, 443, next(fresh)) as tcp,
                    context.wrap_socket(tcp, server_hostname="another.example") as tls,
                ):
                    found.append(tls.getpeercert(binary_form=True) or b"")
            except ConnectionRefusedError:  # the line is a moment old
                return False
            return True

        self.assertTrue(wait_for(shake_hands), self.service.said)
        return x509.load_der_x509_certificate(found[0])

    def assert_shows(self, shown: x509.Certificate, address: str, *hosts: str) -> None:
        """*shown* is for *address*, and no other address or host of the bridge's lines is anywhere in it."""
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(list(map(str, names.get_values_for_type(x509.IPAddress))), [address])
        der = shown.public_bytes(Encoding.DER)
        for other in {*self.addresses.values(), self.bridge.address, self.bridge.address6} - {address}:
            self.assertNotIn(ip_address(other).packed, der)
            self.assertNotIn(other.encode(), der)
        self.assertNotIn(address.encode(), der)
        for host in hosts:
            self.assertNotIn(host.encode(), der)

    def test_it_is_for_the_lines_own_address(self) -> None:
        """A line's SYN, wherever it is sent, shows no address that stands in another line alone."""
        self.assert_shows(self.shown("alice", self.bridge.address), self.bridge.address)
        self.assert_shows(self.shown("bob", self.bridge.address6), self.bridge.address6)
        self.assert_shows(self.shown("alice", self.bridge.address6), self.bridge.address)
        self.assert_shows(self.shown("carol", self.bridge.address), BEHIND_NAT)

    def test_it_is_for_the_lines_own_name(self) -> None:
        """A line with a name shows that name alone, and no other line shows it."""
        self.add("dave", f"{self.bridge.address}:443", "--sni", "dave.example")
        shown = self.shown("dave", self.bridge.address)
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["dave.example"])
        self.assertNotIn(socket.inet_aton(self.bridge.address), shown.public_bytes(Encoding.DER))
        self.assert_shows(self.shown("alice", self.bridge.address), self.bridge.address, "dave.example")

    def test_a_restart_changes_nothing(self) -> None:
        """Octet for octet, so that the certificate tells neither when a bridge started nor whether it is another."""
        before = self.shown("alice", self.bridge.address)
        assert self.service.process.stdin is not None
        self.service.process.stdin.close()
        self.service.process.wait(10)
        self.service.start()
        with self.service.keyring() as keyring:
            keyring.revoke("alice", time.time())
        self.add("erin", f"{self.bridge.address}:443")
        self.assertEqual(self.shown("erin", self.bridge.address), before)
