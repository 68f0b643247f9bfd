"""All that knows the vendor: a client of ManageBac's student endpoints, to be used with or without the rest.

    from rostersync.managebac import ManageBac

    with ManageBac("https://api.managebac.com", token=...) as api:
        for student in api.students.list(status="enrolled", year_group_ids=[10209272]):
            print(student.id, student.last_name)
        api.students.update(20540004, city="Ljubljana", nickname=None)

What is exported here is the whole public face; docs/client.md tells how to use it.
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
