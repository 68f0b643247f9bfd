"""Provide a client for ManageBac's student endpoints. It can be used without the rest of rostersync.

    from rostersync.managebac import ManageBac

    with ManageBac("https://api.managebac.com", token=...) as api:
        for student in api.students.list(status="enrolled", year_group_ids=[10209272]):
            print(student.id, student.last_name)
        api.students.update(20540004, city="Ljubljana", nickname=None)

The public API is what `__all__` lists; docs/client.md explains it. Apart from the simulator, only this package knows
the API's endpoints.

The modules, from the client down: `client` and `students` have the public classes, and `reader` has the class for a
sync. `endpoints` makes the calls. `fields`, `avatar` and `picture` prepare the data of a write. `answers`, `records`,
`values` and `parts` decode responses. `transport` retries requests, `limits` limits their rate, and `ordered_map` makes
several at once. `wire`, `connections` and `network` send them.
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
