"""How models call tools: the formats of the families, read from text as it streams, and written down as grammars."""
