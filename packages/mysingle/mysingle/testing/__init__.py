"""For the tests of services: real servers on free ports, and the backends they need.

With pytest, `pytest_plugins = ["mysingle.testing.plugin"]` in your `conftest.py` gives the
fixtures of [mysingle.testing.plugin][].
"""

from __future__ import annotations

from mysingle.testing._certs import CertificateAuthority, Issued
from mysingle.testing._server import connect, run_server, server_of

__all__ = ["CertificateAuthority", "Issued", "connect", "run_server", "server_of"]
