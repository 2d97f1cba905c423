"""A small client of the API server, by JSON over HTTPS with a certificate, for the harness's own questions.

Every call is a connection of its own: the server may be restarted at any moment, and calls are few.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

from layout import API_PORT, NODE_ADDRESS, Layout

TIMEOUT_SECONDS = 10


class Refused(OSError):
    """The API server answered, and its answer is an error. An OSError, so that waits go on after it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """The API server as one party sees it."""

    def __init__(self, layout: Layout, party: str) -> None:
        self._context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
        # Python 3.13 would ask for extensions that openssl's plain `req -x509` leaves out.
        self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._context.load_cert_chain(layout.pki / f"{party}.crt", layout.pki / f"{party}.key")

    def call(self, method: str, path: str, body: object = None) -> bytes:
        """The body of a successful answer.

        Raises an OSError where the server is away, and `Refused` where it answers with an error.
        """
        connection = http.client.HTTPSConnection(NODE_ADDRESS, API_PORT, context=self._context, timeout=TIMEOUT_SECONDS)
        try:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": kind, "Accept": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"the API server broke off: {error!r}") from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(answer.status, content.decode(errors="replace")[:500])
        return content

    def get(self, path: str) -> Any:
        """An object, or a list's answer."""
        return json.loads(self.call("GET", path))

    def ready(self) -> bool:
        """Whether the API server says that it is ready."""
        return self.call("GET", "/readyz") == b"ok"
