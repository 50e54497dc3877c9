"""Which node hosts which layers: decisions, and the shell that tells the nodes."""
