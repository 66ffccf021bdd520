"""Every contract of the platform, and the stubs made from them."""
