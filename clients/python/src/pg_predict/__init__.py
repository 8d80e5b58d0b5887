"""pg_predict for Python: registers trained models with PostgreSQL, and reads predictions into data frames."""

from .api import Registered, Version, models, predict, promote, register
from .errors import MissingLibraryError, ModelError, PgPredictError, SampleError, ServerError
from .server import Output

__all__ = [
    "MissingLibraryError", "ModelError", "Output", "PgPredictError", "Registered", "SampleError", "ServerError", "Version", "models", "predict", "promote", "register",
]  # fmt: skip
__version__ = "0.1.0"
