"""The sample: rows like those that the model was trained on, in whatever form they come, looked at column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .errors import SampleError

Kind = Literal["number", "integer", "boolean", "text", "tensor"]


@dataclass(frozen=True)
class Column:
    """One column: its values (for a tensor one array a row), and what they are."""

    name: str
    kind: Kind
    values: np.ndarray[Any, Any]

    def shown(self, row: int) -> str:
        """A value, short."""
        text = repr(self.values[row].item() if isinstance(self.values[row], np.generic) else self.values[row])
        return text if len(text) <= 40 else text[:37] + "..."

    def telling(self) -> list[int]:
        """Rows with the least and the greatest number, the smallest ones apart from zero, a missing one, and the rarest value."""
        if self.kind == "tensor":
            return []
        if self.kind == "text":
            values, first, counts = np.unique(self.values.astype(str), return_index=True, return_counts=True)
            return [int(first[i]) for i in np.argsort(counts, kind="stable")[:5]] if len(values) else []
        numbers = self.values.astype(np.float64)
        missing = np.flatnonzero(np.isnan(numbers))
        rows = [int(missing[0])] if missing.size else []
        if missing.size < numbers.size:
            magnitudes = np.where(np.isnan(numbers) | (numbers == 0), np.inf, np.abs(numbers))
            rows += [int(np.nanargmin(numbers)), int(np.nanargmax(numbers)), int(np.argmin(magnitudes))]
        return rows


@dataclass(frozen=True)
class Sample:
    """Rows. `named`: the columns' names are the caller's; else they were numbered."""

    columns: tuple[Column, ...]
    rows: int
    named: bool

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.columns]

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)

    def select(self, names: Sequence[str], of: str) -> Sample:
        """The columns that a model was trained with, in its order; an error names those that are missing or too many."""
        if not self.named:
            if len(self.columns) != len(names):
                raise SampleError(f"the sample has {len(self.columns)} columns, and {of} was trained with {len(names)}: {listed(names)}")
            return Sample(tuple(Column(n, c.kind, c.values) for n, c in zip(names, self.columns, strict=True)), self.rows, True)
        missing = [n for n in names if n not in self.names]
        if missing:
            raise SampleError(f"the sample lacks the column {listed(missing)}; {of} was trained with {listed(names)}", missing[0])
        extra = [n for n in self.names if n not in names]
        if extra:
            raise SampleError(f"{of} was not trained with the column {listed(extra)}: leave it out of the sample", extra[0])
        return Sample(tuple(self.column(n) for n in names), self.rows, True)

    def take(self, rows: np.ndarray[Any, Any]) -> Sample:
        """These rows, in this order."""
        return Sample(tuple(Column(c.name, c.kind, c.values[rows]) for c in self.columns), len(rows), self.named)

    def spread(self, most: int) -> np.ndarray[Any, Any]:
        """At most so many rows from all over the sample, in its order: the extremes of each column, missing and rare values, and others at even
        distances."""
        if self.rows <= most:
            return np.arange(self.rows)
        chosen: dict[int, None] = {}
        for c in self.columns:
            for row in c.telling():
                chosen.setdefault(int(row))
        kept = list(chosen)[: most // 2]
        for row in np.linspace(0, self.rows - 1, most).astype(int):
            if len(kept) < most and int(row) not in kept:
                kept.append(int(row))
        return np.array(sorted(kept))

    def numbers(self, of: str) -> np.ndarray[Any, Any]:
        """All columns as one matrix of float32; an error names the first that is no number."""
        for c in self.columns:
            if c.kind in ("text", "tensor"):
                raise SampleError(f'column "{c.name}" holds {c.kind} ({c.shown(0)} in row 0), and {of} takes numbers', c.name)
        matrix = [self.single(c) for c in self.columns]
        return np.stack(matrix, axis=1) if matrix else np.empty((self.rows, 0), np.float32)

    @staticmethod
    def single(c: Column) -> np.ndarray[Any, Any]:
        """The numbers of a column as the model will get them; one that float32 cannot hold is an error."""
        with np.errstate(over="ignore"):
            values = c.values.astype(np.float32)
        lost = np.flatnonzero(np.isinf(values) & np.isfinite(c.values.astype(np.float64)))
        if lost.size:
            raise SampleError(f'column "{c.name}" has {c.shown(int(lost[0]))} in row {lost[0]}, which float32 does not hold', c.name)
        return values

    def frame(self) -> Any:
        """A pandas frame of the values as the model will get them: numbers as float32."""
        import pandas

        return pandas.DataFrame({c.name: self.single(c) if c.kind == "number" else c.values for c in self.columns})


def listed(names: Sequence[str]) -> str:
    """Names in quotes, at most ten of them."""
    return ", ".join(f'"{n}"' for n in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def read(sample: Any) -> Sample:
    """A sample out of a pandas, Polars or Arrow table, a mapping of names to arrays, a NumPy array, or a list of texts."""
    if isinstance(sample, Sample):
        return sample
    if hasattr(sample, "collect") and hasattr(sample, "lazy"):  # a lazy frame of Polars
        sample = sample.collect()
    if hasattr(sample, "to_pandas") and not hasattr(sample, "iloc"):
        sample = sample.to_pandas()
    if hasattr(sample, "iloc") and hasattr(sample, "columns"):
        if not sample.columns.is_unique:
            name = str(sample.columns[sample.columns.duplicated()][0])
            raise SampleError(f'the sample has more than one column "{name}"', name)
        return of_columns({str(n): sample[n] for n in sample.columns}, True)
    if isinstance(sample, Mapping):
        return of_columns(sample, True)
    if isinstance(sample, Sequence) and not isinstance(sample, (str, bytes)) and sample and all(isinstance(x, str) for x in sample):
        return of_columns({"text": np.array(sample, object)}, False)
    if hasattr(sample, "toarray") and hasattr(sample, "nnz"):  # a sparse matrix of SciPy
        sample = sample.toarray()
    array = np.asarray(sample)
    if array.dtype.kind in "US":
        array = array.astype(object)
    if array.ndim == 0 or array.dtype.kind not in "fiubO":
        raise SampleError(f"a sample is a table, a mapping of columns, an array or a list of texts, and not {type(sample).__name__}")
    if array.ndim == 1:
        return of_columns({"x": array}, False)
    if array.ndim == 2:
        return of_columns({f"x{i}": array[:, i] for i in range(array.shape[1])}, False)
    return of_columns({"x": array}, False)


def of_columns(columns: Mapping[str, Any], named: bool) -> Sample:
    """A sample of columns, each looked at."""
    if not columns:
        raise SampleError("the sample has no columns")
    read = tuple(column(str(name), values) for name, values in columns.items())
    rows = len(read[0].values)
    for c in read:
        if len(c.values) != rows:
            raise SampleError(f'column "{c.name}" has {len(c.values)} rows, and "{read[0].name}" has {rows}', c.name)
    if rows == 0:
        raise SampleError("the sample has no rows")
    return Sample(read, rows, named)


def column(name: str, values: Any) -> Column:
    """Looks at the values of a column."""
    if str(getattr(values, "dtype", "")) == "category":
        values = values.astype(object)
    if hasattr(values, "to_numpy"):
        kind = getattr(getattr(values, "dtype", None), "kind", "O")
        # Nullable integers and booleans have no NaN of their own.
        values = values.to_numpy(dtype=np.float64, na_value=np.nan) if kind in "iub" and values.isna().any() else values.to_numpy()
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if values.ndim > 1:
        if values.dtype.kind not in "fiub":
            raise SampleError(f'column "{name}" holds arrays of {values.dtype}, and they must be of numbers', name)
        return Column(name, "tensor", values)
    kind = {"f": "number", "i": "integer", "u": "integer", "b": "boolean"}.get(values.dtype.kind)
    if kind is not None:
        return Column(name, kind, values)  # type: ignore[arg-type]
    if values.dtype.kind in "US":
        values = values.astype(object)
    if values.dtype.kind != "O":
        raise SampleError(f'column "{name}" holds {values.dtype}: turn it into numbers or texts', name)
    return objects(name, values)


def objects(name: str, values: np.ndarray[Any, Any]) -> Column:
    """A column of Python objects: all texts, or all numbers."""

    def is_missing(x: Any) -> bool:
        return x is None or type(x).__name__ in ("NAType", "NaTType") or (isinstance(x, float) and x != x)

    first = next((i for i, x in enumerate(values) if not is_missing(x)), None)
    if first is None:
        raise SampleError(f'column "{name}" holds nothing but missing values', name)
    if isinstance(values[first], str):
        for i, x in enumerate(values):
            if is_missing(x):
                raise SampleError(f'column "{name}" is missing a text in row {i}: ONNX has no missing text, so fill it before training', name)
            if not isinstance(x, str):
                raise SampleError(f'column "{name}" holds text, and {x!r} of type {type(x).__name__} in row {i}', name)
            if "\0" in x:
                raise SampleError(f'column "{name}" has a zero byte in row {i}, which PostgreSQL does not hold', name)
        return Column(name, "text", values)
    for i, x in enumerate(values):
        if not is_missing(x) and not isinstance(x, (int, float, np.number, np.bool_)) and type(x).__name__ != "Decimal":
            raise SampleError(f'column "{name}" has {x!r} of type {type(x).__name__} in row {i}, which is neither a number nor a text', name)
    return Column(name, "number", np.array([np.nan if is_missing(x) else float(x) for x in values]))
