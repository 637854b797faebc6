"""The gate in nftables, and the service that loads it for bridges."""
