"""Traces of requests on their way through the server, in OpenTelemetry's words where asked for."""
