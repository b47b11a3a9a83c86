"""The status page: a look at the server for people, on the port of /metrics.

The files of the page are served as they are. What they show comes as JSON from the handlers of the
RPCs themselves, so that page and API say the same. GET and HEAD only; nothing changes by looking,
but that a session whose inside is shown is watched for a minute.
"""

from carousel.server.page.looks import Looks
from carousel.server.page.status_page import StatusPage

__all__ = ["Looks", "StatusPage"]
