"""mysingle: the batteries-included gRPC platform for Python."""
