"""Which files of a tree a module imports, directly or not, as its text says. Nothing is run."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


class Imports:
    """The imports of the modules that lie in the directory *root*."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._direct = cache(self._parsed)

    def reached(self, start: Path) -> set[Path]:
        """*start*, and every file that is loaded with it, or while it runs."""
        found, left = {start}, [start]
        while left:
            new = self._direct(left.pop()) - found
            found |= new
            left += new
        return found

    def _parsed(self, path: Path) -> set[Path]:
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names):
                    found |= {file for each in names for file in self._files(each.name)}
                case ast.ImportFrom(str() as module, names):
                    dotted = [module, *(f"{module}.{each.name}" for each in names)]
                    found |= {file for name in dotted for file in self._files(name)}
        return found

    def _files(self, dotted: str) -> list[Path]:
        """The module that is called so and the packages that it lies in, as far as they are in the tree."""
        place, found = self._root, []
        for part in dotted.split("."):
            place /= part
            found += [place.with_suffix(".py"), place / "__init__.py"]
        return [path for path in found if path.is_file()]
