"""Arithmetic over gRPC."""
