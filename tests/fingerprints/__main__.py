"""The command that writes fingerprints; see the package."""

from __future__ import annotations

import sys

from tests.fingerprints import main

raise SystemExit(main(sys.argv[1:]))
