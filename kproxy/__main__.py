"""The program: `python -m kproxy`, `kproxy`, and `kubectl kproxy` by the name kubectl-kproxy."""

from __future__ import annotations

import sys

from kproxy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
