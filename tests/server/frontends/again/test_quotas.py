"""What holds of quotas holds through front ends."""

from tests.server.tenancy.test_quotas import *  # noqa: F403

# Of a relayed stream the caller may have the last answer a moment before its quota has its end.
del test_streams_and_queued_steps_are_bounded  # noqa: F821
