"""Runs it."""

from scripts.simulation.cli import main

main()
