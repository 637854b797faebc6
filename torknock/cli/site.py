"""`torknock site`: the lines that make the operator's own web server the site of a bridge."""

from __future__ import annotations

from pathlib import Path

import click

from torknock.cli.open_keyring import open_keyring
from torknock.cli.options import keyring_option, say
from torknock.cli.site_learn import learn
from torknock.errors import TorknockError
from torknock.keyring.site_settings import SITE, site_path
from torknock.operate.site_lines import nginx_lines


class NoSite(TorknockError):
    """The bridge has no site."""

    def __init__(self) -> None:
        super().__init__(
            "there is no site: this bridge has not run with one",
            "run torknock setup bridge --site; or add site=DIR to ServerTransportOptions of torknock in torrc and "
            "restart tor, or name DIR with --dir",
        )


@click.group(invoke_without_command=True, epilog="Example: torknock site > /etc/nginx/snippets/torknock.conf")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The directory of the site's sockets.  [that of the bridge]",
)
@keyring_option
@click.pass_context
def site(ctx: click.Context, directory: Path | None, keyring: Path) -> None:
    """Print the lines for nginx that make a web site the site of the bridge.

    torknock setup bridge --site-config FILE does all of this. By hand: first run torknock setup bridge --site. Add the
    lines to the site's own server block, with include, and reload nginx. Visitors see no difference. With them,
    what a token lets in goes to nginx, which passes clients on to the bridge. nginx must be 1.13 or newer and must have
    TLS 1.3 in ssl_protocols.

    If other listen lines of that server block say http2, add it to the first of these; setup does.
    """
    if ctx.invoked_subcommand is not None:
        return
    with open_keyring(keyring) as opened:
        there = directory or Path(opened.setting(SITE) or "")
        if not there.is_absolute():
            raise NoSite
        say(nginx_lines(there, site_path(opened)).rstrip("\n"))


site.add_command(learn)
