"""MB/s and CPU seconds a GB of channel `web`, behind nginx, and of channel `tls`."""

from __future__ import annotations

from collections.abc import Iterator

from contrib.bench.relay import RUNS, SIZE, measure, swallow_then_send
from contrib.bench.table import Figure
from contrib.bench.transports import cpu_seconds, service, torknock, torknock_web
from tests.support.netns import Namespace


def figures() -> Iterator[Figure]:
    """The medians of `RUNS` runs that take turns, and the ratio of the speeds."""
    tls, web, nginx_used = [], [], []
    with (
        Namespace("tk-bench-tls") as one,
        Namespace("tk-bench-web") as other,
        service(one, swallow_then_send) as one_port,
        service(other, swallow_then_send) as other_port,
        torknock(one, one_port) as tls_pair,
        torknock_web(other, other_port) as (web_pair, nginx),
    ):
        for _ in range(RUNS):
            tls.append(measure(tls_pair))
            before = cpu_seconds(nginx.pid)
            web.append(measure(web_pair))
            nginx_used.append((cpu_seconds(nginx.pid) - before) / (2 * SIZE / 1e9))
    a, b = (tuple(sorted(column)[RUNS // 2] for column in zip(*rows, strict=True)) for rows in (tls, web))
    for number, what in enumerate(("speed, MB/s", "client, CPU s/GB", "server, CPU s/GB")):
        yield Figure("web", f"channel tls, {what}", a[number], "")
        yield Figure("web", f"channel web, {what}", b[number], "")
    yield Figure("web", "channel web, nginx, CPU s/GB", sorted(nginx_used)[RUNS // 2], "")
    yield Figure("web", "speed, channel web / tls", b[0] / a[0], "ratio", at_least=0.8)
