"""`python -m osai.coordinator` is `osai-coordinator`."""

from osai.coordinator.cli import main

main()
