"""`torknock site learn`: write down what the pages of the operator's site look like inside TLS."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from torknock.channel.shapes import EXCHANGES
from torknock.cli.options import say
from torknock.kernel.files import replace_file
from torknock.operate.site_pages import learn as learn_site
from torknock.protocol.exchanges import write_site


@click.command(epilog="Example: torknock site learn https://www.example.org/ https://www.example.org/news")
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--output", default=EXCHANGES, show_default=True, metavar="FILE", help="Where to write the exchanges.")
@click.option(
    "--ca", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="Trust the certificates in FILE alone."
)
def learn(urls: tuple[str, ...], output: str, ca: str | None) -> None:
    """Learn the sizes of your own site's pages, for shaped streams: channel web, and lines with shape=1.

    Each page at URL is loaded over HTTP/1.1 as a browser loads it, with the style sheets, scripts and images that the
    same site has. Put the file into the keyring's directory, and give it to your clients for the directory in which
    their torknock keeps its state; then restart tor. Where there is no file, the exchanges that torknock ships are
    used.
    """
    site = learn_site(urls, secrets.SystemRandom(), ca)
    replace_file(Path(output), write_site(site).encode("utf-8"), 0o644)
    say(f"{output}: {sum(map(len, site.pages))} exchanges on {len(site.pages)} connections")
