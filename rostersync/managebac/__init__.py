"""Provide a client for ManageBac's student endpoints. The client can be used without the rest of rostersync.

    from rostersync.managebac import ManageBac

    with ManageBac("https://api.managebac.com", token=...) as api:
        for student in api.students.list(status="enrolled", year_group_ids=[10209272]):
            print(student.id, student.last_name)
        api.students.update(20540004, city="Ljubljana", nickname=None)

The names in `__all__` are the public API, which docs/client.md explains. Only this package and the simulator know the
API's endpoints.

These are the modules, from the highest layer to the lowest. `client` and `students` define the public classes, and
`reader` defines the class that a sync uses. `endpoints` calls the API's endpoints. `fields`, `avatar` and `picture`
prepare the data that is written. In the package `decoding`, the modules `answers`, `records`, `values` and `parts`
decode responses. In the package `wire`, `transport` repeats failed requests, `limits` limits the rate of requests, and
`ordered_map` makes several requests at the same time. `http`, `connections` and `network` send a single request.
"""

from __future__ import annotations

from rostersync.errors import (
    AccessDenied,
    ApiError,
    ConfigError,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    OutcomeUnknown,
    OutOfTime,
    RateLimited,
    Redirected,
    Refused,
    ServerFailed,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unreachable,
)
from rostersync.managebac.client import ManageBac
from rostersync.managebac.fields import StudentFields
from rostersync.managebac.students import StudentList, Students
from rostersync.records import Rejected, Student

__all__ = [
    "AccessDenied",
    "ApiError",
    "ConfigError",
    "Forbidden",
    "Invalid",
    "Malformed",
    "ManageBac",
    "NotFound",
    "OutOfTime",
    "OutcomeUnknown",
    "RateLimited",
    "Redirected",
    "Refused",
    "Rejected",
    "ServerFailed",
    "Student",
    "StudentFields",
    "StudentList",
    "Students",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unreachable",
]
