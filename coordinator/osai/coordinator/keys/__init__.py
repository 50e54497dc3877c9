"""API keys: who may ask this coordinator for what, and how much of it. The A numbers are clauses of docs/security.md.

Without `--require-keys` nothing here is used.
"""
