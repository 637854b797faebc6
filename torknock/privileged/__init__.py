"""Everything that runs with CAP_NET_ADMIN, and nothing else."""
