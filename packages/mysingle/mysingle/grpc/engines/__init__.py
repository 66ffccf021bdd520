"""Engines: transport, and nothing of the chain."""
