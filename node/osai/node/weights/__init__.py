"""Checkpoints as a node reads them: from a folder, the hub or a URL, only the bytes it needs, each verified."""
