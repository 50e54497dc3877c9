"""The benches of `scripts/bench`: each measures osai and a baseline in one run, and gives figures as a table."""
