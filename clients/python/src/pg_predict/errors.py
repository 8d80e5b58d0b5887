"""What goes wrong, in words that say where."""

from __future__ import annotations

import psycopg


class PgPredictError(Exception):
    """Whatever this package raises by itself."""


class SampleError(PgPredictError, ValueError):
    """The sample does not fit the model. `column` names the column, where it is one."""

    def __init__(self, message: str, column: str | None = None) -> None:
        super().__init__(message)
        self.column = column


class ModelError(PgPredictError):
    """The model cannot be turned into ONNX, or answers otherwise there."""


class MissingLibraryError(PgPredictError, ImportError):
    """A library is needed that is not installed."""


class ServerError(PgPredictError):
    """The server refused. `sqlstate`, `detail` and `hint` are its own."""

    def __init__(self, error: psycopg.Error) -> None:
        diagnostic = error.diag
        self.sqlstate = error.sqlstate
        self.detail = diagnostic.message_detail
        self.hint = diagnostic.message_hint
        lines = [diagnostic.message_primary or str(error).strip() or type(error).__name__]
        lines += [f"DETAIL: {self.detail}"] if self.detail else []
        lines += [f"HINT: {self.hint}"] if self.hint else []
        super().__init__("\n".join(lines))
