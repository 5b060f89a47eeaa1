"""What the benchmark's upstream serves, shared by those who serve it and those who ask for it."""

from __future__ import annotations

SMALL = "/api/v1/namespaces/default/configmaps/one-kilobyte"
MEDIUM = "/api/v1/namespaces/default/configmaps/twenty-kilobytes"
LIST = "/api/v1/pods"
WATCH = "/api/v1/namespaces/default/events"
UPLOAD = "/api/v1/namespaces/default/configmaps/upload"
TUNNEL = "/api/v1/namespaces/default/pods/echo/portforward"
VERSION = "/version"

SMALL_BYTES = 1024
MEDIUM_BYTES = 20 * 1024
LIST_BYTES = 20 * 1000 * 1000
EVENT_BYTES = 1024
FRAME_BYTES = 64 * 1024

# The benchmark's own control of the stream server, reached directly, never through a proxy.
CONTROL_EMIT = "/control/emit"
CONTROL_WATCHES = "/control/watches"
CONTROL_END = "/control/end"
