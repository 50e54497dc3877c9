"""Vocabulary that client, node and coordinator share."""
