"""Runs spans of transformers' own layers: loading, paged KV cache, packed steps, scheduling and sampling."""
