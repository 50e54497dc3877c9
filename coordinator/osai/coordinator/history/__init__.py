"""What the swarm has done: recorded each minute, kept for a month, shown on the health page."""
