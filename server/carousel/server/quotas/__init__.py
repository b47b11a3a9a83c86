"""Quotas: how much a tenant may have at a time, and how fast it may step."""

from carousel.server.quotas.limits import QUOTAS, Limits, LimitsError, read
from carousel.server.quotas.quotas import UNLIMITED, Quotas

__all__ = ["QUOTAS", "UNLIMITED", "Limits", "LimitsError", "Quotas", "read"]
