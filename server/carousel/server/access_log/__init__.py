"""The access log: who did what to which resource, and what came of it, as lines of JSON.

`Recorder` stands around the handlers of rpc.py, `Writer` has the thread that writes, `RotatingFile`
is the file. Not to be taken for the audit logs of sessions, which hold their inputs.
"""

from carousel.server.access_log.metrics import AccessLogMetrics
from carousel.server.access_log.opening import AccessLogError, open_recorder
from carousel.server.access_log.recorder import Recorder
from carousel.server.access_log.rotating_file import RotatingFile
from carousel.server.access_log.writer import Writer

__all__ = [
    "AccessLogError",
    "AccessLogMetrics",
    "Recorder",
    "RotatingFile",
    "Writer",
    "open_recorder",
]
