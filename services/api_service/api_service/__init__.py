"""Arithmetic over HTTP: a gateway in front of math_service."""
