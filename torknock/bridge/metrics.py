"""Counts for Prometheus, over HTTP on loopback or on a Unix socket; off unless the operator wants them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from torknock.bridge.counts import Monitor
from torknock.bridge.status_report import FIGURES, Kind, Status, Trouble
from torknock.errors import TorknockError
from torknock.kernel.interfaces import IReactor
from torknock.protocol.bridge_line import LineError, parse_address

_log = Logger()

_CONNECTIONS_AT_MOST = 16

_TIMEOUT = 5.0
"""Seconds that a connection may be silent."""


class BadMetrics(TorknockError):
    """`metrics=` names no place for metrics."""

    def __init__(self) -> None:
        super().__init__("metrics= takes an address of this host alone, such as 127.0.0.1:9100, or /absolute/path.sock")


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where metrics are served: a Unix socket if *port* is 0, else a loopback address."""

    where: str
    port: int = 0


def parse_metrics(text: str) -> Metrics:
    """The place that *text*, the value of `metrics=`, names. Raises `BadMetrics`."""
    if text.startswith("/"):
        return Metrics(text)
    try:
        address, port = parse_address(text)
    except LineError:
        raise BadMetrics from None
    if not address.is_loopback or not text.endswith(f":{port}"):
        raise BadMetrics
    return Metrics(str(address), port)


def site(reactor: IReactor, monitor: Monitor) -> WrappingFactory:
    """The web site that has what *monitor* counts at `/metrics`; it serves few at once, so that descriptors remain."""
    root = Resource()
    root.putChild(b"metrics", _MetricsPage(monitor))
    return _Few(_Site(root, reactor=reactor, timeout=_TIMEOUT))  # type: ignore[no-untyped-call]  # Twisted's


class _Few(WrappingFactory):
    """Serves `_CONNECTIONS_AT_MOST` connections; further ones are closed."""

    noisy = False

    def registerProtocol(self, p: ProtocolWrapper) -> None:
        super().registerProtocol(p)  # type: ignore[no-untyped-call]  # Twisted's
        if len(self.protocols) > _CONNECTIONS_AT_MOST:
            p.abortConnection()


class _Site(Site):
    """Keeps no log of requests."""

    noisy = False

    def log(self, request: HTTPRequest) -> None:
        """Nothing."""


class _MetricsPage(Resource):
    """`/metrics`."""

    isLeaf = True  # noqa: N815  Twisted's name

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # twisted.web has no types
        self._monitor = monitor

    def render_GET(self, request: Request) -> int:
        """The counts, in Prometheus' text format."""
        sending = Deferred.fromCoroutine(self._send(request))
        request.notifyFinish().addErrback(lambda _gone: sending.cancel())
        sending.addErrback(lambda failure: failure.trap(CancelledError))
        sending.addErrback(lambda failure: _log.failure("metrics not sent", failure=failure))
        return NOT_DONE_YET

    async def _send(self, request: Request) -> None:
        registry = CollectorRegistry()
        registry.register(_Counts(await self._monitor.status()))
        request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode("ascii"))
        request.write(generate_latest(registry))
        request.finish()


class _Counts(Collector):
    """A status as metrics: numbers alone, for a line's name may be a person's."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """One family for each figure, and one for the warnings."""
        status = self._status
        for name, figure in FIGURES.items():
            family = CounterMetricFamily if figure.kind is Kind.COUNTER else GaugeMetricFamily
            if (value := getattr(status, name)) is not None:
                yield family(f"torknock_{figure.metric}", figure.meaning, value)
        warned = {each.trouble for each in status.warnings}
        warnings = GaugeMetricFamily("torknock_warning", "1 while the operator is warned.", labels=["trouble"])
        for trouble in Trouble:
            warnings.add_metric([trouble.value], trouble in warned)
        yield warnings
