"""All that runs with CAP_NET_ADMIN, and nothing else. Imports no keyring, no bridge line, no channel."""
