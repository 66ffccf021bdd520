"""Settings, logs and the context of the call: what needs no gRPC."""
