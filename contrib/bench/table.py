"""A figure, what it is held to, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: *value* in *unit*, and the bound it is held to, if there is one."""

    benchmark: str
    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def held(self) -> bool:
        """Whether the value keeps its bound."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def bound(self) -> str:
        """The bound in words; "" if there is none."""
        least = "" if self.at_least is None else f"at least {self.at_least:g}"
        most = "" if self.at_most is None else f"at most {self.at_most:g}"
        return ", ".join(filter(None, (least, most)))


def table(figures: Iterable[Figure]) -> str:
    """The rows, aligned."""
    rows = [("benchmark", "what", "value", "unit", "bound", "held")]
    for figure in figures:
        held = "" if not figure.bound else ("yes" if figure.held else "NO")
        rows.append((figure.benchmark, figure.what, f"{figure.value:.3g}", figure.unit, figure.bound, held))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
