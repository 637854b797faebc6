"""A Twisted library for managed Tor pluggable transports: a transport is a pair of Twisted endpoints.

The library does what tor expects of its child: the environment, the lines on stdout, SOCKS5 at the client, the ORPort
at the server, the shutdown. A transport only says how its bytes travel::

    @implementer(IClientTransport)
    class PlainClient:
        def __init__(self, environment): self.environment = environment
        def start(self): return succeed(None)
        def endpoint(self, request): return TCP4ClientEndpoint(reactor, request.address, request.port)
        def stop(self): return None

    @implementer(IServerTransport)
    class PlainServer:
        def __init__(self, environment): self.environment = environment
        def endpoint(self, bind_address, options):
            host, port = bind_address
            return TCP4ServerEndpoint(reactor, port, interface=host)
        def smethod_args(self): return {}

    main(reactor, os.environ, implementation="plain", version="1.0",
         clients={"plain": PlainClient}, servers={"plain": PlainServer})

`contrib/examples/plain.py` is a whole transport. Implemented: pt-spec (version 1), ext-orport-spec (SAFE_COOKIE),
RFC 1928 and RFC 1929 as far as tor speaks them.
"""

from pluggable.arrivals import ORPortFactory
from pluggable.environment import ClientEnvironment, Proxy, ServerEnvironment
from pluggable.errors import (
    AddressTypeNotSupported,
    ConnectionRefused,
    HostUnreachable,
    MethodError,
    NetworkUnreachable,
    NotAllowed,
    SOCKSError,
    TTLExpired,
)
from pluggable.interfaces import IClientTransport, IServerTransport, Request
from pluggable.managed import main, run

__all__ = [
    "AddressTypeNotSupported",
    "ClientEnvironment",
    "ConnectionRefused",
    "HostUnreachable",
    "IClientTransport",
    "IServerTransport",
    "MethodError",
    "NetworkUnreachable",
    "NotAllowed",
    "ORPortFactory",
    "Proxy",
    "Request",
    "SOCKSError",
    "ServerEnvironment",
    "TTLExpired",
    "main",
    "run",
]
