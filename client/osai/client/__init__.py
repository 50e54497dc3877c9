"""The thin client of an osai swarm and the `osai` command."""
