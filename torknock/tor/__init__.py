"""What is asked of a tor that runs."""
