"""A discrete-event simulation of a swarm, by seed: production's decisions over simulated nodes, links and failures."""
