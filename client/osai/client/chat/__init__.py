"""A conversation in a terminal: what was said, the commands, the line editor and the screen."""
