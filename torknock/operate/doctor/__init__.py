"""What `torknock doctor` looks at: the host, tor, the protected port. Nothing is changed."""
