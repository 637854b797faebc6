"""Silent knocking for Tor bridges: the ISN of a client's SYN opens the port.

protocol    the protocol as values: bridge lines, tokens, knocks, proofs. Pure
interfaces  the gate and the dialer: all that needs privilege, on one page
errors      what is wrong, and what to do about it
redact      texts without addresses and secrets
kernel      what Linux provides
keyring     the lines that a bridge has issued
channel     what runs behind the TCP handshake
tor         what a running tor is asked
service     what both sides of the privilege line speak
privileged  all that runs with CAP_NET_ADMIN
bridge      the bridge's transport
client      the client's transport
operate     what operators do, as functions that return values
cli         the command `torknock`

Who may import whom, and which program has which rights: `contrib/doc/architecture.md`.
"""
