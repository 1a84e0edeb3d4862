# SPDX-License-Identifier: Apache-2.0
"""A small client of Glance's API, as a project's member with an administrator's role."""

import http.client
import json
import uuid
from collections.abc import Iterable
from typing import Any

from tests.services.ports import LOOPBACK
from tests.services.waiting import wait_for

PROJECT = uuid.uuid4().hex
IDENTITY = {
    "X-Identity-Status": "Confirmed",
    "X-User-Id": uuid.uuid4().hex,
    "X-Project-Id": PROJECT,
    "X-Tenant-Id": PROJECT,
    "X-Roles": "admin,member,reader",
}
ANSWER_TIMEOUT = 120.0  # seconds
IMPORT_TIMEOUT = 180.0
OCTETS = "application/octet-stream"
REGION = "elsewhere"
TOKEN = uuid.uuid4().hex


class ApiError(Exception):
    """Glance answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Client:
    """Requests to one Glance; each has a connection of its own, so threads may share it."""

    def __init__(self, port: int) -> None:
        self._port = port

    def create(self, *, disk_format: str = "raw", **properties: str) -> str:
        """Create an image; its id."""
        body = {"name": "x", "disk_format": disk_format, "container_format": "bare"}
        created = self._json("POST", "/v2/images", body | properties)
        return str(created["id"])

    def stage(self, image: str, data: bytes | Iterable[bytes], size: int | None = None) -> None:
        """Upload data to the staging directory."""
        length = len(data) if isinstance(data, bytes) else size
        headers = {"Content-Type": OCTETS, "Content-Length": str(length)}
        self._request("PUT", f"/v2/images/{image}/stage", data, headers)

    def start_import(self, image: str, method: str, **more: Any) -> None:
        """Start an import; ``stores`` are for multi-store, ``uri`` is web-download's."""
        description: dict[str, Any] = {"name": method}
        if "uri" in more:
            description["uri"] = more.pop("uri")
        self._json("POST", f"/v2/images/{image}/import", {"method": description} | more)

    def import_from(self, glance: str, other: str, image: str, **more: Any) -> None:
        """Start a glance-download.

        :param glance: URL of the other Glance
        :param other: id of its image
        """
        endpoint = {"region": REGION, "publicURL": glance}
        catalog = [{"type": "image", "name": "glance", "endpoints": [endpoint]}]
        method = {
            "name": "glance-download",
            "glance_region": REGION,
            "glance_image_id": other,
            "glance_service_interface": "public",
        }
        self._request(
            "POST",
            f"/v2/images/{image}/import",
            json.dumps({"method": method} | more).encode(),
            {
                "Content-Type": "application/json",
                "X-Auth-Token": TOKEN,
                "X-Service-Catalog": json.dumps(catalog),
            },
        )

    def delete(self, image: str) -> None:
        """Delete an image."""
        self._request("DELETE", f"/v2/images/{image}")

    def show(self, image: str) -> dict[str, Any]:
        """Properties of an image."""
        return self._json("GET", f"/v2/images/{image}")

    def list(self) -> dict[str, str]:
        """Status of every image, by id."""
        found: dict[str, str] = {}
        path: str | None = "/v2/images?limit=500"
        while path:
            page = self._json("GET", path)
            found |= {image["id"]: image["status"] for image in page["images"]}
            path = page.get("next")
        return found

    def download(self, image: str) -> bytes:
        """Data of an active image."""
        return self._request("GET", f"/v2/images/{image}/file")

    def ready(self) -> bool:
        """Whether it answers at all."""
        try:
            self.list()
        except (OSError, http.client.HTTPException):
            return False
        return True

    def wait_status(self, image: str, *wanted: str) -> None:
        """Wait until an image has one of these statuses."""
        wait_for(
            lambda: self.show(image)["status"] in wanted,
            IMPORT_TIMEOUT,
            f"{image} to be {' or '.join(wanted)}",
        )

    def _json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        answer = self._request(method, path, data, {"Content-Type": "application/json"})
        return dict(json.loads(answer or b"{}"))

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=ANSWER_TIMEOUT)
        try:
            connection.request(method, path, body, IDENTITY | (headers or {}))
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise ApiError(answer.status, data.decode(errors="replace")[:500])
        return data
