"""A swarm on this machine: one coordinator and N nodes as child processes."""
