"""Tests of torknock.kernel.places: every path of a host stands once."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import torknock
from torknock.kernel.places import (
    APPARMOR_TOR,
    APPARMOR_TOR_BROWSER,
    data_directory_of,
    keyring_of_state,
    keyring_within,
    profile_of,
)

ROOTS = ("/etc/", "/usr/", "/var/", "/run/", "/sys/", "/proc/")


class PlacesTests(SynchronousTestCase):
    """Paths, and what is made of them."""

    def test_the_keyring_is_in_tors_data_directory(self) -> None:
        """And leads back to it, unless it is elsewhere."""
        data = Path("/var/lib/tor-instances/a")
        keyring = keyring_within(data)
        self.assertEqual(keyring, data / "pt_state" / "torknock")
        self.assertEqual(keyring_of_state(data / "pt_state"), keyring)
        self.assertEqual(data_directory_of(keyring), data)
        self.assertIsNone(data_directory_of(Path("/srv/keyring")))

    def test_what_is_added_to_a_profile_names_it(self) -> None:
        """The file beside the directory of what sites add."""
        self.assertEqual(profile_of(APPARMOR_TOR), Path("/etc/apparmor.d/system_tor"))
        self.assertEqual(profile_of(APPARMOR_TOR_BROWSER), Path("/etc/apparmor.d/torbrowser.Tor.tor"))

    def test_no_path_stands_in_two_files(self) -> None:
        """A file that needs another's path imports it."""
        root = Path(torknock.__file__).parent
        found: dict[str, set[str]] = defaultdict(set)
        for path in root.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = node.value
                    if text.startswith(ROOTS) and not text.endswith("/") and " " not in text:
                        found[text].add(str(path.relative_to(root)))
        self.assertEqual({text: files for text, files in found.items() if len(files) > 1}, {})
