"""Tests of torknock.kernel.routes: which interface strangers' packets come in by, with a /proc of its own."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel import routes
from torknock.kernel.routes import default_interface

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
LOCAL = "eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
HALF = "tun0\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n"
DEFAULT = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
NONE = "0" * 32
SIXTH = f"{NONE} 00 {NONE} 00 {NONE} ffffffff 00000001 00000000 00200200       lo\n"
PREFIX = f"20010db8{'0' * 24} 40 {NONE} 00 {NONE} 00000100 00000001 00000000 00000001     eth1\n"
DEFAULT_6 = f"{NONE} 00 {NONE} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00000003     eth0\n"


class RouteTests(SynchronousTestCase):
    """`default_interface`."""

    def setUp(self) -> None:
        self.net = Path(self.mktemp())
        self.net.mkdir()
        self.patch(routes, "_NET", self.net)

    def test_the_default_route_is_found(self) -> None:
        """A route to half of all addresses is none, and neither is the one of IPv6 that refuses everything."""
        (self.net / "route").write_text(HEAD + LOCAL + HALF + DEFAULT)
        (self.net / "ipv6_route").write_text(SIXTH + PREFIX + DEFAULT_6)
        self.assertEqual([default_interface(version) for version in (4, 6)], ["eth0", "eth0"])

    def test_there_may_be_none(self) -> None:
        """As without IPv6, whose table is then missing."""
        (self.net / "route").write_text(HEAD + LOCAL + HALF)
        self.assertEqual([default_interface(version) for version in (4, 6)], [None, None])

    @given(st.text(max_size=200), st.sampled_from([4, 6]))
    def test_any_text_names_an_interface_or_none(self, text: str, version: int) -> None:
        """It names an interface, or none."""
        (self.net / "route").write_text(text)
        (self.net / "ipv6_route").write_text(text)
        self.assertIsInstance(default_interface(version), (str, type(None)))

    def test_this_machines_own(self) -> None:
        """Whatever it is."""
        self.patch(routes, "_NET", Path("/proc/thread-self/net"))
        self.assertIsInstance(default_interface(4), (str, type(None)))
