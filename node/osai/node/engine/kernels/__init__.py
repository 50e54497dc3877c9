"""Loops in C for what torch has no fast operator for, compiled on the machine that runs them."""
