"""The errors that a person has to read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

import torknock
from torknock.errors import TorknockError
from torknock.kernel.program import command
from torknock.service.access import AccessDenied, parse

_PRODUCT = Path(torknock.__file__).parent


def _calls(tree: ast.AST, names: set[str]) -> Iterator[ast.Call]:
    """The calls in *tree* of a method that is called as one of *names*."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
            yield node


class ErrorTests(SynchronousTestCase):
    """What is wrong, and what to do about it."""

    def test_an_error_is_one_line_of_what_and_remedy(self) -> None:
        """A semicolon between them; without a remedy what is wrong alone."""
        error = TorknockError("the keyring is missing", "start the bridge once")
        self.assertEqual(str(error), "the keyring is missing; start the bridge once")
        self.assertEqual((error.what, error.remedy), ("the keyring is missing", "start the bridge once"))
        self.assertEqual(str(TorknockError("the keyring is missing")), "the keyring is missing")

    def test_an_access_list_that_is_damaged_has_its_remedy_apart(self) -> None:
        """Also where what is wrong has a semicolon of its own, as a text of the TOML parser may."""
        error = self.assertRaises(AccessDenied, parse, "a; b", "/etc/torknock/gate.toml")
        self.assertTrue(error.what.startswith("/etc/torknock/gate.toml is no TOML: "))
        self.assertTrue(error.remedy.startswith("as root: "), error.remedy)

    def test_a_missing_command_has_its_remedy_apart(self) -> None:
        """How to install it."""
        running = command(cast(Any, None), "no-such-command", [], package="nftables")
        error = self.assertRaises(TorknockError, running.send, None)
        self.assertEqual(
            (error.what, error.remedy), ("the command no-such-command is missing", "apt-get install nftables")
        )

    def test_no_error_of_ours_is_outside_the_family(self) -> None:
        """What a channel fails with is a `TorknockError` too."""
        module = import_module("torknock.channel.interfaces")
        self.assertTrue(issubclass(module.ChannelFailed, TorknockError))

    def test_no_attribute_hides_what_or_remedy(self) -> None:
        """A subclass that sets one of them to something else would break the text."""
        for found in walk_packages(torknock.__path__, "torknock."):
            if not found.name.endswith("__main__"):
                import_module(found.name)
        for kind in _kinds(TorknockError):
            names = vars(kind)
            self.assertFalse({"what", "remedy", "__str__"} & set(names), kind)

    def test_nothing_cuts_a_message_at_its_semicolon(self) -> None:
        """A text of another program may have one of its own."""
        cut = [
            f"{path}:{call.lineno}"
            for path in sorted(_PRODUCT.rglob("*.py"))
            for call in _calls(ast.parse(path.read_text("utf-8")), {"partition", "rpartition", "split", "rsplit"})
            if call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value in {";", "; "}
        ]
        self.assertEqual(cut, [])


def _kinds(kind: type[TorknockError]) -> Iterator[type[TorknockError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)
