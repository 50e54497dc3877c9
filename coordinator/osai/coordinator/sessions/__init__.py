"""One session, from its first epoch to its end: decisions, and the shell that carries them out."""
