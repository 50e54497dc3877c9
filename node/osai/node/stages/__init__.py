"""The sessions that cross this node, and what becomes of their rows."""
