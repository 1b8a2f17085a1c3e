"""The daemon's API: HTTP/1.1 over a unix socket, and over mutual TLS where an administrator wants it."""

from batchns.daemon.http.server import serve
from batchns.daemon.http.settings import Limits, Settings, Tls

__all__ = ["serve", "Limits", "Settings", "Tls"]
