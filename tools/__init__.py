"""What serves the work on contagg and is no part of it: run as `python -m tools.NAME` from the repository root."""
