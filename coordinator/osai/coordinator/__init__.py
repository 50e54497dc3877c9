"""Places spans, routes and supervises sessions, and speaks to clients: `osai-coordinator`."""
