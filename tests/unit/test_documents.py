"""Tests of the documents: the files that they name exist, and the tree in architecture.md is the one that is here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import torknock

ROOT = Path(__file__).parents[2]
ARCHITECTURE = ROOT / "contrib" / "doc" / "architecture.md"
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "contrib").glob("*/*.md")))

PROSE = (*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "contrib" / "doc").glob("*.md")))
COLUMNS = 120

_NAMED = re.compile(r"(?<![\w./-])((?:tests|torknock|pluggable|contrib)/[a-z_][\w./-]*)|`([a-z_]+/[\w/]+\.py)`")
"""A path from the root of the repository, or a module's, in backticks, from `torknock/` on."""

_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
"""What a link of Markdown leads to, within the repository."""

_ENTRY = re.compile(r" {4}( *)([\w.]+/?)  +\S.*|    (\w+/)")
"""A line of the tree: two spaces of indentation a storey."""


def named(text: str) -> set[str]:
    """The paths that *text* names; NAME in one stands for a file that the reader writes."""
    paths = ((found[1] or found[2]).rstrip("./-") for found in _NAMED.finditer(text))
    return {path for path in paths if "NAME" not in path}


def leads_somewhere(document: Path, target: str) -> bool:
    """Whether the link *target* in *document* leads to a file, and to a heading of it if it names one."""
    path, _, anchor = target.partition("#")
    there = document.parent / path if path else document
    if not there.exists() or not anchor:
        return there.exists()
    headings = re.findall(r"(?m)^#+ (.*)$", there.read_text("utf-8"))
    return anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tree(text: str) -> Iterator[str]:
    """Each file of the tree in *text*, as a path from the root of the repository."""
    directories: list[str] = []
    for line in text.splitlines():
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            continue
        name = entry[2] or entry[3]
        del directories[len(entry[1] or "") // 2 :]
        if name.endswith("/"):
            directories.append(name)
        else:
            yield "".join(directories) + name


class DocumentTests(SynchronousTestCase):
    """What a reader looks up."""

    def test_every_file_that_is_named_exists(self) -> None:
        """A test or a module that was moved or removed is named by its new path, or not at all."""
        missing = {
            f"{document.relative_to(ROOT)}: {path}"
            for document in DOCUMENTS
            for path in named(document.read_text("utf-8"))
            if not (ROOT / path).exists() and not (ROOT / "torknock" / path).exists()
        }
        self.assertEqual(missing, set())

    def test_every_link_leads_somewhere(self) -> None:
        """To a file that is there, and to a heading that it has."""
        broken = {
            f"{document.relative_to(ROOT)}: {target}"
            for document in DOCUMENTS
            for target in _LINK.findall(document.read_text("utf-8"))
            if not leads_somewhere(document, target)
        }
        self.assertEqual(broken, set())

    def test_no_line_is_wider_than_a_terminal(self) -> None:
        """Also in tables and examples: a longer row is a list."""
        wide = [
            f"{document.relative_to(ROOT)}:{number}: {len(line)} columns"
            for document in DOCUMENTS
            for number, line in enumerate(document.read_text("utf-8").splitlines(), 1)
            if len(line) > COLUMNS
        ]
        self.assertEqual(wide, [])

    def test_the_package_names_its_rooms(self) -> None:
        """`help(torknock)` has a line for each package and module, but for `__main__`."""
        modules = {path.stem for path in (ROOT / "torknock").glob("[a-z]*.py")}
        packages = {path.parent.name for path in (ROOT / "torknock").glob("*/__init__.py")}
        named_here = re.findall(r"(?m)^(\w+)  +\w", torknock.__doc__ or "")
        self.assertEqual(sorted(named_here), sorted(modules | packages))

    def test_the_tree_lists_every_file(self) -> None:
        """Under "Files" in architecture.md, with a line that says what is in it; none that is gone."""
        listed = sorted(tree(ARCHITECTURE.read_text("utf-8")))
        modules = [path for package in ("torknock", "pluggable") for path in (ROOT / package).rglob("[a-z]*.py")]
        here = {str(path.relative_to(ROOT)) for path in [*modules, *(ROOT / "torknock").rglob("*.cnf")]}
        self.assertEqual((sorted(here - set(listed)), sorted(set(listed) - here)), ([], []), "(missing, gone)")
        self.assertEqual(len(listed), len(set(listed)))
