"""A tor in memory, for tests of transports: no process, no socket, no wait.

`MemoryTor` starts transports, reads what they write to stdout, and is tor at both ends of what they carry;
`MemoryNetwork` is the reactor that both use. A test of client and server together::

    class RotTests(SynchronousTestCase):
        def test_what_tor_sends_arrives_at_the_bridges_tor(self):
            network = MemoryNetwork()
            bridge = MemoryTor(network, Path(self.mktemp()).absolute())
            bridge.start_server({"rot": lambda environment: RotServer(network)}, {"rot": "192.0.2.1:443"})
            client = MemoryTor(network, Path(self.mktemp()).absolute())
            client.start_client({"rot": lambda environment: RotClient(network)})
            connecting = client.connect("rot", "192.0.2.1", 443, [("key", "value")])
            network.advance(0)
            self.successResultOf(connecting).write(b"hello")
            network.advance(0)
            self.assertEqual(bridge.clients[0].received, b"hello")

`contrib/examples/test_plain.py` is a whole suite. The parts that do no I/O serve tests of a whole program, such as
those that start it as a process: `client_environment` and `server_environment` are what tor sets, `TorOutput` reads
what the program writes, `TorSOCKS` and `TorExtendedORPort` are tor's halves of the two conversations. The library's own
tests compare all of them with a real tor.
"""

from pluggable.testing.memory_network import MemoryNetwork
from pluggable.testing.memory_tor import MemoryTor
from pluggable.testing.tor_environment import client_environment, cookie_file, server_environment
from pluggable.testing.tor_extorport import COOKIE_HEADER, TorExtendedORPort
from pluggable.testing.tor_link import LinkToBridge, LinkToClient, SOCKSRefused, TorLink
from pluggable.testing.tor_output import LogLine, Method, TorOutput
from pluggable.testing.tor_socks import SOCKSAnswerFault, TorSOCKS

__all__ = [
    "COOKIE_HEADER",
    "LinkToBridge",
    "LinkToClient",
    "LogLine",
    "MemoryNetwork",
    "MemoryTor",
    "Method",
    "SOCKSAnswerFault",
    "SOCKSRefused",
    "TorExtendedORPort",
    "TorLink",
    "TorOutput",
    "TorSOCKS",
    "client_environment",
    "cookie_file",
    "server_environment",
]
