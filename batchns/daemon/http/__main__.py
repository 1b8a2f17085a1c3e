"""`python -m batchns.daemon.http` prints the OpenAPI document of the API."""

import sys

from batchns.daemon.http.openapi import text

sys.stdout.write(text())
