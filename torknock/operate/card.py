"""A bridge line as something to scan or to print. What comes out holds its secret.

A QR code holds the line without the word `Bridge`, as plain text and no URI: that is what is pasted into the boxes of
Tor Browser and of phone apps, and what `parse_bridge_line` and torrc's `Bridge` take as well.
"""

from __future__ import annotations

import html
import io
import os
from datetime import UTC, datetime
from pathlib import Path

import segno

from torknock.errors import TorknockError
from torknock.kernel.files import replace_file

_QUIET = 4
"""Modules of margin that readers want around a code (ISO/IEC 18004)."""

_BLACK_ON_WHITE, _PLAIN = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
"""What shows an upper and a lower module of which these are dark."""

_BLACK, _WHITE = "\x1b[38;5;16;48;5;16m##", "\x1b[38;5;231;48;5;231m  "
"""Modules in ASCII, as wide as they are high."""


class CannotDraw(TorknockError):
    """A file was not written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written: {reason}", "name another file")


def qr_text(bridge_line: str, encoding: str) -> str:
    """The QR code of *bridge_line* for a terminal of this *encoding*, without a line end.

    It is in half blocks, or, where the encoding has none, in ASCII, and then twice as wide and high. It sets its
    colours itself, so that it is dark on light in every terminal; without them it is so on paper.
    """
    rows = [list(map(bool, row)) for row in _code(bridge_line, "l").matrix_iter(border=_QUIET)]
    try:
        "".join(_HALVES.values()).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "\n".join("".join(_BLACK if module else _WHITE for module in row) + _PLAIN for row in rows)
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    drawn = (
        "".join(_HALVES[above, below] for above, below in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    )
    return "\n".join(f"{_BLACK_ON_WHITE}{text}{_PLAIN}" for text in drawn)


def write_png(path: Path, bridge_line: str) -> None:
    """The QR code as a picture at *path*, 0600. Raises `CannotDraw`; a file that is there stays."""
    drawn = io.BytesIO()
    _code(bridge_line).save(drawn, kind="png", scale=8, border=_QUIET)
    _write(path, drawn.getvalue())


def write_svg(path: Path, bridge_line: str) -> None:
    """The QR code as a drawing at *path*, 0600. Raises `CannotDraw`; a file that is there stays."""
    drawn = io.BytesIO()
    _code(bridge_line).save(drawn, kind="svg", scale=8, border=_QUIET, light="white")
    _write(path, drawn.getvalue())


def write_card(path: Path, bridge_line: str, expires: int | None) -> None:
    """A page to print at *path*, 0600, for the person who gets the line. Raises `CannotDraw`, also if the file exists.

    It says when the line *expires*, in seconds since 1970, and neither its name nor the note about it: they are the
    operator's.
    """
    code = _code(bridge_line).svg_inline(scale=5, border=_QUIET, light="white", omitsize=True)
    until = "" if expires is None else f"opens until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M} UTC and "
    page = _PAGE.format(code=code, line=html.escape(_bare(bridge_line)), until=until)
    _write(path, page.encode("utf-8"))


def _code(bridge_line: str, error: str = "m") -> segno.QRCode:
    return segno.make_qr(_bare(bridge_line), error=error)


def _bare(bridge_line: str) -> str:
    return bridge_line.removeprefix("Bridge ")


def _write(path: Path, octets: bytes) -> None:
    """Write *octets* to the new file *path*, whole or not at all, readable by its owner alone."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))  # the name is ours
        try:
            replace_file(path, octets)
        except BaseException:
            path.unlink()
            raise
    except FileExistsError:
        raise CannotDraw(path, "it is there already") from None
    except OSError as error:
        raise CannotDraw(path, error.strerror or type(error).__name__) from error


_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Card</title>
<style>
  body {{ font: 12pt/1.5 serif; max-width: 16cm; margin: 1cm auto; padding: 0 5mm; color: black; background: white }}
  svg {{ display: block; width: 9cm; max-width: 100%; margin: 5mm auto }}
  code {{ display: block; border: 1px solid black; padding: 4mm; font: 10pt/1.4 monospace; overflow-wrap: anywhere }}
  @page {{ margin: 0 }}
  @media print {{ body {{ margin: 0; padding: 2cm; max-width: none }} svg, code {{ break-inside: avoid }} }}
</style>
<h1>A bridge to Tor</h1>
<p>This is the line of a hidden bridge: a way into the Tor network that only people who have the line can find.</p>
<p>Scan the code, or copy the line below it, to where your Tor asks for a bridge (in a torrc, behind the word
<i>Bridge</i>); the program torknock must be installed there, and it runs on Linux only, on no phone.</p>
<p>The line {until}is yours alone: do not pass it on or leave it where others see it, and ask for a new one if it is
lost.</p>
{code}
<code>{line}</code>
</html>
"""
