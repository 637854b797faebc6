"""What `contrib/demo` shows: a bridge that scans do not find, a client that gets in, a replay and a revoked line that do not.

Everything happens in network namespaces of its own and is gone afterwards. Exit status 0 means that all of it held.
"""

from __future__ import annotations

import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.capture import Capture, Packet  # noqa: E402  the project is found by the line above
from tests.support.netns import Host  # noqa: E402
from tests.support.packets import probe, replay  # noqa: E402
from tests.support.tornet import PAGE, Tor, TorFailed, TorNetwork  # noqa: E402

TORKNOCK = Path(sys.executable).with_name("torknock")
PORT, BESIDE = 443, 444
SCANS = ("-sS", "-sF", "-sN", "-sX", "-sA")


class Failed(Exception):  # noqa: N818  it is what is said
    """Something that was to be shown did not hold."""


def said(text: str) -> None:
    """A line for who is watching."""
    print(f"  {text}", flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """A step of the show: named at its start, timed at its end."""
    print(f"* {text}", flush=True)
    began = time.monotonic()
    yield
    said(f"({time.monotonic() - began:.1f} s)")


def must(held: bool, otherwise: str) -> None:
    """Go on if it *held*."""
    if not held:
        raise Failed(otherwise)


def scanned(prober: Host, address: str, scan: str) -> dict[int, tuple[str, ...]]:
    """What nmap sees of `PORT` and `BESIDE` with *scan*: state, reason and TTL of each."""
    family = ["-6"] if ":" in address else []
    report = prober.run(["nmap", *family, "-n", "-Pn", scan, f"-p{PORT},{BESIDE}", "--reason", "-oX", "-", address]).stdout
    return {
        int(port.attrib["portid"]): tuple(port.find("state").attrib.values())  # type: ignore[union-attr]
        for port in ElementTree.fromstring(report).iter("port")  # noqa: S314  nmap's own output
    }
