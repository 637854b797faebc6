"""The lines that a bridge has issued, its TLS key, and the erasure of what is over."""
