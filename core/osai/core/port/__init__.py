"""One TCP port for all that a member serves: gRPC, the bare streams of links, and the way in for those who join."""
