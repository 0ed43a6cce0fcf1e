"""One tree of errors. Each has a wire code, an HTTP status and whether trying again can help.

    ServiceError                     internal             500
      InvalidRequest                 invalid_request      400
        InvalidModelName             invalid_model_name   400
        ContextExceeded              context_exceeded     400
        UnsupportedByModel           unsupported          400
        PreviousResponseNotFound     previous_response_not_found  400
      Unauthenticated                unauthenticated      401
        SecondFactorRequired         second_factor_required  401
        WrongCode                    wrong_code           401
      Forbidden                      forbidden            403
      NotFound                       not_found            404
        ModelNotFound                model_not_found      404
      Conflict                       conflict             409
      PreconditionFailed             precondition_failed  412
      TooLarge                       too_large            413
      UnsupportedEncoding            unsupported_encoding  415
      OutOfRange                     out_of_range         416
      RateLimited                    rate_limited         429
      RequestCancelled               request_cancelled    499
      EngineFailed                   engine_failed        500
        UpstreamFailed               upstream_failed      500
        ModelLoadFailed              model_load_failed    500
        ReplayDiverged               replay_diverged      500
        AttemptsExhausted            attempts_exhausted   500
      StreamLost                     stream_lost          500
      Restarting                     restarting           503
      Overloaded                     overloaded           503
      Unavailable                    unavailable          503  retryable
      DeadlineExceeded               deadline_exceeded    504
      StorageFull                    storage_full         507

A class's docstring is its default message. Errors cross processes as (code, message, retry_after) and are rebuilt with
``rebuild``.
"""

import inspect
from typing import ClassVar


class ServiceError(Exception):
    """internal error"""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        """``retry_after``: seconds until trying again may help, if that is known."""
        super().__init__(message or inspect.cleandoc(type(self).__doc__ or ""))
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        return str(self.args[0])


class InvalidRequest(ServiceError):
    """invalid request"""

    code, status = "invalid_request", 400

    def __init__(
        self, message: str | None = None, *, retry_after: float | None = None, param: str | None = None
    ) -> None:
        """``param``: the field that is wrong, where one is; not known to other processes."""
        super().__init__(message, retry_after=retry_after)
        self.param = param


class InvalidModelName(InvalidRequest):
    """invalid model name"""

    code = "invalid_model_name"


class ContextExceeded(InvalidRequest):
    """the prompt is longer than the context length of the model"""

    code = "context_exceeded"


class UnsupportedByModel(InvalidRequest):
    """the model does not support this"""

    code = "unsupported"


class PreviousResponseNotFound(InvalidRequest):
    """there is no such response to go on from"""

    code = "previous_response_not_found"


class Unauthenticated(ServiceError):
    """unauthorized"""

    code, status = "unauthenticated", 401


class SecondFactorRequired(Unauthenticated):
    """a code of the second factor is required"""

    code = "second_factor_required"


class WrongCode(Unauthenticated):
    """wrong code; each is accepted once"""

    code = "wrong_code"


class Forbidden(ServiceError):
    """forbidden"""

    code, status = "forbidden", 403


class NotFound(ServiceError):
    """not found"""

    code, status = "not_found", 404


class ModelNotFound(NotFound):
    """model not found"""

    code = "model_not_found"


class Conflict(ServiceError):
    """conflict"""

    code, status = "conflict", 409


class PreconditionFailed(ServiceError):
    """somebody else changed this meanwhile; read it again"""

    code, status = "precondition_failed", 412


class TooLarge(ServiceError):
    """request body too large"""

    code, status = "too_large", 413


class UnsupportedEncoding(ServiceError):
    """the Content-Encoding of the request must be gzip, zstd or none"""

    code, status = "unsupported_encoding", 415


class OutOfRange(ServiceError):
    """the range does not go on where the bytes before it end"""

    code, status = "out_of_range", 416


class RateLimited(ServiceError):
    """too many requests"""

    code, status = "rate_limited", 429


class RequestCancelled(ServiceError):
    """request canceled"""

    code, status = "request_cancelled", 499


class EngineFailed(ServiceError):
    """the engine failed"""

    code = "engine_failed"


class UpstreamFailed(EngineFailed):
    """the server that runs the model failed"""

    code = "upstream_failed"


class ModelLoadFailed(EngineFailed):
    """the model could not be loaded"""

    code = "model_load_failed"


class ReplayDiverged(EngineFailed):
    """the worker died and its answer could not be reproduced; please send the request again"""

    code = "replay_diverged"


class AttemptsExhausted(EngineFailed):
    """the request was given up after too many failed attempts"""

    code = "attempts_exhausted"


class StreamLost(ServiceError):
    """the answer was lost when a server restarted; please send the request again"""

    code = "stream_lost"


class Restarting(ServiceError):
    """this server restarts; the answer goes on, and can be read on with GET /api/v1/inference/requests/ID/stream"""

    code, status = "restarting", 503


class Overloaded(ServiceError):
    """server busy, please try again.  maximum pending requests exceeded"""

    code, status = "overloaded", 503


class Unavailable(ServiceError):
    """a service this request needs is not available; please try again"""

    code, status, retryable = "unavailable", 503, True


class DeadlineExceeded(ServiceError):
    """the request was not answered before its deadline"""

    code, status = "deadline_exceeded", 504


class StorageFull(ServiceError):
    """no space is left on the server's disk"""

    code, status = "storage_full", 507


def _tree(root: type[ServiceError]) -> dict[str, type[ServiceError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


ERRORS_BY_CODE: dict[str, type[ServiceError]] = _tree(ServiceError)


def rebuild(code: str, message: str, retry_after: float | None = None) -> ServiceError:
    """The error another process raised; a code from a newer version becomes a plain ``ServiceError``."""
    return ERRORS_BY_CODE.get(code, ServiceError)(message, retry_after=retry_after)
