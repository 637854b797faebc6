"""The lines that an operator adds to a web server's configuration, so that it is the site of a bridge. Pure."""

from __future__ import annotations

import re
from pathlib import Path

from torknock.kernel.places import PLAIN_SOCKET, SITE_SOCKET, TUNNEL_SOCKET

_NGINX = """\
listen unix:{site} ssl{http2} proxy_protocol;
listen unix:{plain} proxy_protocol;
location = /{path} {{
    if ($request_method != GET) {{
        rewrite ^ /{unknown} last;
    }}
    if ($http_upgrade = "") {{
        rewrite ^ /{unknown} last;
    }}
    proxy_pass http://unix:{tunnel};
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    proxy_set_header X-Peer $proxy_protocol_addr:$proxy_protocol_port;
    proxy_intercept_errors on;
    recursive_error_pages on;
    error_page 404 502 504 = /{unknown};
    proxy_read_timeout 1d;
    proxy_send_timeout 1d;
    proxy_buffer_size 64k;
    proxy_buffers 8 64k;
    proxy_busy_buffers_size 128k;
    access_log off;
}}
"""
"""What is no client's goes to `unknown`, so that the site answers it as it answers any path that it does not have."""


def nginx_lines(directory: Path, path: str, http2: bool = False) -> str:
    """The lines for the `server` block of nginx whose name clients send, for a site in *directory*.

    With *http2* its `listen` says so, as those of its neighbours do.
    """
    site, plain, tunnel = (directory / name for name in (SITE_SOCKET, PLAIN_SOCKET, TUNNEL_SOCKET))
    return _NGINX.format(
        site=site, plain=plain, tunnel=tunnel, path=path, unknown=path[::-1], http2=" http2" if http2 else ""
    )


def without_path(text: str) -> str:
    """*text* for a terminal, without the path that leads to the bridge, or its reverse: other people may see it."""
    return re.sub(r"(?<=[\s\"]/)[\w-]{22}(?=[\s;\"]|$)", "...", text)
