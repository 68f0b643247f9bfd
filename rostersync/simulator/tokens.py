"""The tokens of a school, and their permissions."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rostersync.simulator.messages import Request

# We chose these names of permissions, because ManageBac does not document its own names.
MAY_READ, MAY_WRITE = "Students: read", "Students: write"

Permissions = tuple[str, ...]

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Tokens:
    """The tokens that the server accepts: one with the admin role, and optionally one that may only read."""

    def __init__(self, token: str, read_only: str | None = None) -> None:
        self._known: list[tuple[bytes, Permissions]] = [(token.encode(), (MAY_READ, MAY_WRITE))]
        if read_only is not None:
            self._known.append((read_only.encode(), (MAY_READ,)))

    def permissions(self, request: Request) -> Permissions | None:
        """Return the permissions of the request's token, or None if the request has no token or an unknown one."""
        shown = [token.encode() for token in _shown(request)]
        for known, permissions in self._known:
            if any(hmac.compare_digest(token, known) for token in shown):
                return permissions
        return None


def may(permissions: Permissions, method: str) -> bool:
    """Return whether the permissions allow a request with this method."""
    return (MAY_WRITE if method in _WRITES else MAY_READ) in permissions


def _shown(request: Request) -> Iterator[str]:
    """Yield the tokens of a request, from each of the three places where a token may be."""
    if (token := request.headers.get("auth-token")) is not None:
        yield token
    if (token := request.first("auth_token")) is not None:
        yield token
    bearer = request.headers.get("authorization", "")
    if bearer.startswith("Bearer "):
        yield bearer.removeprefix("Bearer ")
