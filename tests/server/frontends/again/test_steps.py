"""What holds of steps holds through front ends."""

from tests.server.test_step_protocol import *  # noqa: F403
