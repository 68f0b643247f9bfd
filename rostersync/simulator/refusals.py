"""The API's responses to requests that it refuses, with one function for each documented error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rostersync.simulator.messages import Response, json_response, text_response

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

BLANK = "can't be blank"
INVALID = "is invalid"


class Refusal(Exception):
    """The API refuses a request. `response` is the response to send."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def access_denied(status: int) -> Response:
    """Return the response to a request with an unknown token (401) or without the permission (403)."""
    return json_response(status, {"error": "Access Denied"})


def no_record() -> Response:
    return json_response(404, {"error": "Record was not found"})


def no_such_path() -> Response:
    return json_response(404, {"error": "Not Found"})


def no_such_method(allowed: Iterable[str]) -> Response:
    return json_response(405, {"error": "Method Not Allowed"}, {"Allow": ", ".join(allowed)})


def bad_structure() -> Response:
    """Return the response to a body that is not a JSON object, or that lacks the object's wrapper."""
    return json_response(400, {"error": "Invalid payload data structure."})


def unpermitted(allowed: Iterable[str]) -> Response:
    """Return the response to a body with a field that a write cannot set."""
    return json_response(400, {"error": "Unpermitted parameter", "allowed_params": list(allowed)})


def invalid(**errors: str) -> Response:
    """Return the response to values that the API does not accept, with a message for each field."""
    return json_response(422, {"errors": {name: [message] for name, message in errors.items()}})


def too_many_requests(headers: dict[str, str]) -> Response:
    return text_response(429, "Too Many Requests\n", "text/plain", headers)


def spell_reset(moment: datetime) -> str:
    """Return a time in the format of the header X-RateLimit-Reset, in whole seconds."""
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
