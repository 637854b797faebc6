"""SYNs with a chosen ISN, and the service that sends them for clients."""
