"""What holds of callers without a tenant holds through front ends."""

from tests.server.test_modest import held as held
from tests.server.test_modest import one_server as one_server
from tests.server.test_modest import (
    test_callers_without_a_tenant_are_told_apart_by_their_connections as test_connections,
)

__all__ = ["held", "one_server", "test_connections"]
