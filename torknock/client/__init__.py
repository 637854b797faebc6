"""The client's transport: tokens, SYNs, retries, and the channel behind the knock."""
