"""What `torknock setup` changes on a host, and how it is undone."""
