"""`python -m osai.node` is `osai-node`."""

from osai.node.cli import main

main()
