"""Data of the small model that a swarm can be tried with. It is found by `osai.core.embedded`, and never imported."""
