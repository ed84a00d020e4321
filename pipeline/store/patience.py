"""The one retry policy for every remote store, and what a store's refusal means.

fsspec's back ends share no base class of errors, so the question asked of an error is not "may it be tried again?" but "is it
a final answer?". Everything else (5xx, 409, timeouts, resets, broken bodies) is tried again, with growing, jittered pauses.
Clients are told to try once: their own retries would multiply with these, and botocore's run dry on a store that refuses half
of all requests (its quota pays back less than such a store costs).
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 20  # half of all requests refused: one in a million fails; without the store, one to two minutes pass
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
DEADLINE_S = 300.0  # no new attempt after that: a peer that hangs costs a client's time limit each time

_FINAL_ERRORS = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
    *(TypeError, ValueError, NotImplementedError, ImportError),
)
_FINAL_STATUS = frozenset({401, 403, 404, 405, 411, 412, 413, 416, 501, 507})
_NAMELESS = "400"  # what a HEAD is told where a GET is told the reason: the answer to a HEAD has no body
_CREDENTIALS = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"),
        *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "RequestExpired", "AuthorizationHeaderMalformed"),
        *("InvalidSecurity", "NotSignedUp", "AccountProblem", "MissingSecurityHeader", "UnauthorizedAccess"),
    }
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def persist(operation: Callable[[], T], attempts: int = ATTEMPTS, unanswered_attempts: int = ATTEMPTS) -> T:
    """Run an operation on a store until it gives a final answer, at most `attempts` times.

    `unanswered_attempts`: how many of them may end without any answer of a server, where a person waits.
    """
    began = time.monotonic()
    for attempt in range(1, attempts):
        try:
            return operation()
        except Exception as error:  # no common base class, see the module's docstring
            nobody_there = http_status(error) is None and attempt >= unanswered_attempts
            if is_final(error) or nobody_there or time.monotonic() - began > DEADLINE_S:
                raise
            time.sleep(_pause_s(attempt - 1))
    return operation()


def is_final(error: BaseException) -> bool:
    """Whether asking again would bring the same answer."""
    code = error_code(error)
    final = isinstance(error, _FINAL_ERRORS) or http_status(error) in _FINAL_STATUS
    return final or code in _CREDENTIALS or code == _NAMELESS


def says_refused(error: BaseException) -> bool:
    """Whether the store is closed to us: no right, or (a bare 400) a request that it does not accept from us."""
    refused = isinstance(error, PermissionError) or http_status(error) in (401, 403)
    return refused or names_credentials(error) or error_code(error) == _NAMELESS


def names_credentials(error: BaseException) -> bool:
    """Whether the store says that it is our credentials (or our clock), which is never about one object."""
    return error_code(error) in _CREDENTIALS


def says_full(error: BaseException) -> bool:
    """Whether there is no room left."""
    return getattr(error, "errno", None) in _FULL or http_status(error) == 507


def says_read_only(error: BaseException) -> bool:
    """Whether a local file system takes no writes."""
    return getattr(error, "errno", None) == errno.EROFS


def says_taken(error: BaseException) -> bool:
    """Whether a conditional put found its key taken."""
    # s3fs knows a failed If-None-Match by an element that only some servers send; the status is what all of them send.
    return isinstance(error, FileExistsError) or http_status(error) == 412


def http_status(error: BaseException) -> int | None:
    """The status of the answer behind an error; None: there was none, or this back end does not tell."""
    response = _response(error)
    if isinstance(response, dict):
        status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None)
    return status


def error_code(error: BaseException) -> str | None:
    """S3's word for what went wrong, such as ExpiredToken; a number where the answer had no body."""
    response = _response(error)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return None if code is None else str(code)


def _response(error: BaseException) -> object:
    return getattr(error.__cause__ or error, "response", None)


def _pause_s(attempt: int) -> float:
    """Exponential, between half and all of it: many workers must not come back at the same moment."""
    return min(FIRST_PAUSE_S * 2.0**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
