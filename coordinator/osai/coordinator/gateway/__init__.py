"""The HTTP front door: OpenAI's API, the swarm as JSON, metrics and the health page."""
