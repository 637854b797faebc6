"""The conditions that `torknock doctor` checks: the host, tor, the protected port. Changes nothing."""
