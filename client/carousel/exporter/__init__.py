"""The exporter: the metrics of servers for Prometheus, read through the API like by any caller."""

from carousel.exporter._exporter import Exporter
from carousel.exporter._listening import certificate
from carousel.exporter._targets import Targets

__all__ = ["Exporter", "Targets", "certificate"]
