"""`osai-node doctor`: whether this machine can be a node, and what to do where it can't. Nothing is changed."""
