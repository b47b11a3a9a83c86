"""Claim: which of several calls generates in a session."""

from __future__ import annotations

import asyncio


class Claim:
    """One incarnation's; it is there for as long as some call has it.

    A caller whose connection broke comes again before the server knows of the break. The call that
    came last goes on, behind the last step of the former: whoever feeds a step, or takes over,
    holds `lock`.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.owner: object = None
