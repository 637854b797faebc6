"""The types of `pluggable`'s public names, for a program beside it: `api_types` is checked, not run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import pluggable
from pluggable import testing

API = Path(__file__).with_name("api_types.py")

CONFIGURATION = """
[mypy]
strict = True
plugins = mypy_zope:plugin
untyped_calls_exclude = twisted
enable_error_code = ignore-without-code
"""
"""What an author writes into `mypy.ini`; the plugin is for zope.interface."""


class APITypesTests(SynchronousTestCase):
    """`api_types`."""

    def test_every_use_has_its_types_and_every_mistake_is_found(self) -> None:
        """From outside the repository: mypy reads the types of an installed package only if it has `py.typed`."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / "mypy.ini").write_text(CONFIGURATION)
        (directory / "transport.py").write_text(API.read_text("utf-8"), "utf-8")
        command = [sys.executable, "-m", "mypy", "--python-executable", sys.executable, "transport.py"]
        checked = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        self.assertEqual((checked.stdout, checked.stderr), ("Success: no issues found in 1 source file\n", ""))

    def test_every_public_name_is_used(self) -> None:
        """A name that is added to `__all__` is added there."""
        used = set()
        for node in ast.walk(ast.parse(API.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.Name):
                used.add(node.id)
        self.assertEqual({*pluggable.__all__, *testing.__all__} - used, set())
