"""What a coordinator of a private swarm does besides: lets members in by token, renews their certificates, revokes."""
