"""Silent knocking for Tor bridges: the ISN of the SYN is the key.

isn        what an ISN says
segment    raw octets -> IP -> TCP
line       bridge lines
keyring    the lines that a bridge has issued
gate       the bridge's door
dial       the client's knock
channel    what runs behind the handshake
transport  the rooms above joined to `pluggable`
cli        the command `torknock`
"""
