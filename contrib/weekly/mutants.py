"""Small changes to a source text, each of which a test should notice. Pure."""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip

_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """A text with one change, and what names the change wherever the text around it moves."""

    function: str
    """The classes and functions that it lies in, with dots; "" at the level of the module."""

    line: str
    """The line of source that the change begins in, without its indentation."""

    change: str
    """What was there and what is there now, in the form that `ast.unparse` writes."""

    number: int
    """The line's number in the text, from 1. It is no part of the name."""

    text: str
    """The whole text, changed."""

    @property
    def name(self) -> tuple[str, str, str]:
        """Function, line and change."""
        return self.function, self.line, self.change


def mutants(text: str) -> list[Mutant]:
    """Every mutant of the module *text*, in the order of the text; each of them is valid Python."""
    return list(_Finder(text).found(ast.parse(text), ""))


def sample(found: list[Mutant], seed: int, number: int) -> list[Mutant]:
    """At most *number* of *found*, always the same for a *seed*.

    Each mutant is drawn by its name: if a line changes, or moves, the others of the sample stay.
    """
    seen: Counter[tuple[str, str, str]] = Counter()
    drawn = []
    for mutant in found:
        seen[mutant.name] += 1
        lot = repr((seed, mutant.name, seen[mutant.name])).encode()
        drawn.append((hashlib.sha256(lot).digest(), mutant))
    chosen = sorted(drawn, key=lambda each: each[0])[:number]
    return sorted((mutant for _, mutant in chosen), key=lambda mutant: mutant.number)


def difference(text: str, mutant: Mutant, path: str) -> str:
    """The change that *mutant* makes to *text*, the file *path*, as a diff."""
    lines = difflib.unified_diff(text.splitlines(), mutant.text.splitlines(), path, path, lineterm="", n=2)
    return "\n".join(lines)


class _Finder:
    """Walks through a module, and leaves out what no test of behaviour could notice: annotations and decorators."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._octets = text.encode()
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line.encode()))

    def found(self, node: ast.AST, function: str) -> Iterator[Mutant]:
        inside = f"{function}.{node.name}".lstrip(".") if isinstance(node, _SCOPES) else function
        if isinstance(node, ast.stmt | ast.expr):
            for place, new in _changes(node, inside):
                mutant = self._mutant(place, new, inside)
                if mutant is not None:
                    yield mutant
        for child in _children(node):
            yield from self.found(child, inside)

    def _mutant(self, place: ast.stmt | ast.expr, new: ast.AST, function: str) -> Mutant | None:
        written = ast.unparse(new)
        inserted = f"({written})" if _needs_parentheses(place, new) else written
        assert place.end_lineno is not None
        assert place.end_col_offset is not None
        start = self._starts[place.lineno - 1] + place.col_offset
        end = self._starts[place.end_lineno - 1] + place.end_col_offset
        text = (self._octets[:start] + inserted.encode() + self._octets[end:]).decode()
        try:
            compile(text, "", "exec", dont_inherit=True)
        except SyntaxError:
            return None
        line = self._text.splitlines()[place.lineno - 1].strip()
        return Mutant(function, line, f"{ast.unparse(place)} -> {written}", place.lineno, text)


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.keyword) and node.arg in ("init", "repr", "eq"):
        return  # what attrs makes of a class
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases") or isinstance(value, ast.JoinedStr):
            continue  # places within an f-string are not those in the file
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield child


def _changes(node: ast.stmt | ast.expr, function: str) -> Iterator[tuple[ast.stmt | ast.expr, ast.AST]]:
    """What takes the place of *node*, or of a part of it."""
    match node:
        case ast.Compare():
            for at, operator in enumerate(node.ops):
                operators = [*node.ops[:at], _COMPARISONS[type(operator)](), *node.ops[at + 1 :]]
                yield node, ast.Compare(node.left, operators, node.comparators)
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            yield node, ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.AugAssign(target, operator, value):
            if type(operator) in _OPERATORS:
                yield node, ast.AugAssign(target, _OPERATORS[type(operator)](), value)
        case ast.BoolOp(operator, values):
            yield node, ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield node, operand
        case ast.Constant(bool() as value) if function:
            yield node, ast.Constant(not value)
        case ast.Constant(int() | float() as value) if not isinstance(value, bool):
            yield node, ast.Constant(value + 1)
        case ast.If(test) | ast.IfExp(test) if not _for_types(test):
            yield from ((test, ast.Constant(value)) for value in (True, False))
        case ast.While(test) if not isinstance(test, ast.Constant):
            yield test, ast.Constant(False)
        case ast.Return(value) if value is not None and not _says_nothing(value):
            yield node, ast.Return(ast.Constant(None))
    for each in getattr(node, "generators", ()):
        yield from ((test, ast.Constant(True)) for test in each.ifs)
    if _can_be_dropped(node):
        yield node, ast.Pass()


def _for_types(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _says_nothing(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value in (None, False)


def _can_be_dropped(node: ast.AST) -> bool:
    """Whether the rest makes sense without it. A name that is no longer bound would be found by anything."""
    match node:
        case ast.Expr(value):
            return not isinstance(value, ast.Constant | ast.Yield | ast.YieldFrom)
        case ast.Assign(targets):
            return all(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)
    return isinstance(node, ast.AugAssign | ast.Delete | ast.Raise | ast.Continue | ast.Break)


def _needs_parentheses(place: ast.AST, new: ast.AST) -> bool:
    """Whether *new* may bind less than *place* does."""
    if isinstance(new, ast.BinOp):
        return not isinstance(new.op, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv)
    plain = isinstance(new, ast.Name | ast.Constant | ast.Call | ast.Attribute | ast.Subscript)
    return isinstance(new, ast.expr) and not plain and not isinstance(place, ast.Compare)
