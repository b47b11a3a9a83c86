"""`python -m carousel.server.frontends MEMORY SOCKET`: the process of a front end."""

from __future__ import annotations

import sys

from carousel.server.frontends.front_end import main

main(int(sys.argv[1]), int(sys.argv[2]))
