"""Pipelines for sessions. Pure."""
