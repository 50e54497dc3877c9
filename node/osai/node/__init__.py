"""Hosts spans of models: engine, weights, membership, the edge service and `osai-node`."""
