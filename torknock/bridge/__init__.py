"""The bridge's transport: who is admitted, and what becomes of a connection."""
