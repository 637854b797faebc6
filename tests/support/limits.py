"""How large files, functions and classes are: what `tests.unit.test_house` bounds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

LINES_OF_A_FILE = 300
LINES_OF_A_FUNCTION = 40
ATTRIBUTES = 10
ARGUMENTS = 5
"""Of a constructor, without `self`."""

_VALUES = {"dataclass", "NamedTuple", "Enum", "StrEnum", "IntEnum", "TypedDict", "Interface"}
"""Decorators and bases of classes that are values or interfaces, and have as many fields as their subject."""


def too_large(source: str) -> Iterator[str]:
    """What of a file with this *source* is above a limit: each with its name and size."""
    tree = ast.parse(source)
    if (lines := len(source.splitlines())) > LINES_OF_A_FILE:
        yield f"{lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > LINES_OF_A_FUNCTION:
                yield f"{node.name}: {lines} lines"
        elif isinstance(node, ast.ClassDef) and not _is_value(node, _typings(tree)):
            if (count := len(_attributes(node))) > ATTRIBUTES:
                yield f"{node.name}: {count} attributes"
            if (count := _arguments(node)) > ARGUMENTS:
                yield f"{node.name}: {count} arguments"


def files(*places: str) -> Iterator[Path]:
    """Every Python file in *places*, folders of the repository."""
    top = Path(__file__).parents[2]
    for place in places:
        yield from sorted((top / place).rglob("*.py"))


def _typings(tree: ast.Module) -> set[str]:
    """What the file has of `typing`: Twisted has a `Protocol`, too."""
    found = {"typing.Protocol"}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _name(node: ast.expr) -> str:
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return ast.unparse(node)


def _is_value(node: ast.ClassDef, typings: set[str]) -> bool:
    names = {_name(each) for each in (*node.decorator_list, *node.bases)}
    short = {name.rpartition(".")[2] for name in names}
    return bool(short & _VALUES) or bool(names & typings & {"Protocol", "typing.Protocol"})


def _fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    return [
        each
        for each in node.body
        if isinstance(each, ast.AnnAssign) and not ast.unparse(each.annotation).startswith("ClassVar")
    ]


def _attributes(node: ast.ClassDef) -> set[str]:
    stored = {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    }
    return stored | {ast.unparse(field.target) for field in _fields(node)}


def _arguments(node: ast.ClassDef) -> int:
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            arguments = each.args
            return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1
    if any(_name(each).rpartition(".")[2] == "define" for each in node.decorator_list):
        return sum("init=False" not in ast.unparse(field) for field in _fields(node))
    return 0
