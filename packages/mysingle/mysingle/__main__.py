"""`python -m mysingle`: the same as the `mysingle` command."""

from __future__ import annotations

from mysingle.cli import main

if __name__ == "__main__":
    main()
