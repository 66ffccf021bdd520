"""Glue between gRPC and HTTP applications."""
