"""Traces of requests: spans as plain data and, as an option, their way to an OpenTelemetry collector."""
