"""The health page: the swarm at a glance."""
