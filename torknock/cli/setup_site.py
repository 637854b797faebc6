"""The last step of `torknock setup bridge --site-config`: the site's lines in nginx's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torknock.cli.open_keyring import open_keyring
from torknock.cli.setup_steps import confirm_changes
from torknock.cli.site import NoSite
from torknock.keyring.site_settings import SITE, site_path

if TYPE_CHECKING:
    from torknock.operate.setup.place import Place


def serve_site(config: Path, place: Place, keyring: Path, yes: bool) -> None:
    """Have the `server` block in *config* be the site of the bridge of *place*, which runs: its path is in *keyring*.

    Raises `TorknockError`: then nginx's configuration is as it was. Raises `click.Abort`.
    """
    from torknock.operate.setup.place import RECORD
    from torknock.operate.setup.record import Record
    from torknock.operate.setup.site_include import include_changes

    with open_keyring(keyring) as opened:
        site, path = opened.setting(SITE), site_path(opened)
    if not site:
        raise NoSite
    with Record(RECORD).locked():
        changes = include_changes(config, place.suffix, Path(site), path)
        if confirm_changes(changes, yes, reloads=False):
            with place.record.making(changes):
                pass
