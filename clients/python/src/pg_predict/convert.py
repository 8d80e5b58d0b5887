"""Trained models of other libraries as ONNX, each with what the library itself answers on the sample.

Libraries are told by the module that a model's class comes from, and imported when such a model is there, never before.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import _get_all_tensors, uses_external_data

from . import sample as samples
from .errors import MissingLibraryError, ModelError, SampleError
from .sample import Column, Sample

Array = np.ndarray[Any, Any]

# Newer operator sets than these are not written by every converter.
OPSETS = {"": 19, "ai.onnx.ml": 3}
# What one value of PostgreSQL holds, with room for what is around it.
MOST_BYTES = (1 << 30) - (1 << 16)


@dataclass(frozen=True)
class Converted:
    """A model as it is sent to the server."""

    model: bytes
    sample: Sample | None = None
    # What the library answers on the sample, by the position of the output; None where it says nothing of it.
    expected: list[Array | None] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    external: bytes | None = None


def need(module: str, extra: str) -> Any:
    """A module, or an error that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingLibraryError(f"{module} is needed for this model and cannot be imported ({error}): pip install 'pg-predict[{extra}]'") from error


def to_onnx(model: Any, sample: Any = None, tokenizer: Any = None) -> Converted:
    """Converts a model of any library that is known, with its sample."""
    if isinstance(model, (str, Path, bytes, bytearray, memoryview, onnx.ModelProto)):
        return of_onnx(model, sample, tokenizer)
    if tokenizer is not None:
        raise ModelError("a tokenizer goes with an ONNX model that takes tokens; this model takes none")
    bases = {c.__module__.partition(".")[0] for c in type(model).__mro__}
    # In this order: models of LightGBM and XGBoost are scikit-learn's too.
    for library, convert in (("lightgbm", of_lightgbm), ("xgboost", of_xgboost), ("torch", of_torch), ("sklearn", of_sklearn)):
        if library in bases:
            if sample is None:
                raise SampleError(f"a model of {library} needs a sample: some of the rows that it was trained on")
            return convert(model, samples.read(sample))
    raise ModelError(
        f"{type(model).__module__}.{type(model).__name__} is not known: a model of scikit-learn, LightGBM, XGBoost or PyTorch, or ONNX as a path, bytes or a ModelProto"
    )


def short(error: Exception) -> str:
    """What an error says, without the pages that some bring."""
    text = str(error).strip() or type(error).__name__
    return text if len(text) <= 600 else text[:600] + " ..."


def answer(predict: Callable[[], Any], of: str) -> Array:
    """What the library says; its error is about the sample."""
    try:
        return np.asarray(predict())
    except Exception as error:
        raise SampleError(f"{of} does not take the sample: {short(error)}") from error


def without_nan(sample: Sample, error: SampleError) -> SampleError:
    """The same error, but with the column's name where it is about missing numbers."""
    if "NaN" in str(error) or "missing" in str(error):
        for c in sample.columns:
            if c.kind == "number" and np.isnan(c.values.astype(np.float64)).any():
                row = int(np.flatnonzero(np.isnan(c.values.astype(np.float64)))[0])
                return SampleError(f'column "{c.name}" has no number in row {row}, and the model takes no missing values', c.name)
    return error


def classes_and_scores(model: Any, x: Any, of: str) -> list[Array | None]:
    """The answers of a model with scikit-learn's methods, in the order of ONNX's outputs."""
    if not hasattr(model, "predict"):
        return [answer(lambda: model.transform(x), of)]
    answers: list[Array | None] = [answer(lambda: model.predict(x), of)]
    if hasattr(model, "predict_proba"):
        answers.append(answer(lambda: by_row(model.predict_proba(x)), of))
    return answers


def by_row(scores: Any) -> Any:
    """The scores of each row. A classifier with several targets gives a list with one matrix for each of them."""
    return np.concatenate([np.asarray(s) for s in scores], axis=1) if isinstance(scores, list) else scores


# scikit-learn


def of_sklearn(model: Any, sample: Sample) -> Converted:
    """A model, or a pipeline whose steps may take columns by name: one input a column then, else one of all numbers."""
    skl2onnx = need("skl2onnx", "sklearn")
    types = need("skl2onnx.common.data_types", "sklearn")
    need("pandas", "sklearn")
    register_trees()
    of = f"the {type(model).__name__}"
    names = getattr(model, "feature_names_in_", None)
    if names is not None:
        sample = sample.select([str(n) for n in names], of)
    encoded = set(encoded_columns(model, sample.names))
    options = {id(model): {"zipmap": False}} if is_classifier(model) else None
    by_column = any(type(step).__name__ == "ColumnTransformer" for step in steps(model))
    if not by_column and all(c.kind == "text" for c in sample.columns):
        initial = [("x", types.StringTensorType([None, len(sample.columns)]))]
        vectorizes = hasattr(first_step(model), "vocabulary_")
        x = list(sample.columns[0].values) if vectorizes else sample.frame() if names is not None else sample.frame().to_numpy()
    elif not by_column:
        matrix = sample.numbers(of)
        x = sample.frame() if names is not None else matrix
        initial = [("x", types.FloatTensorType([None, matrix.shape[1]]))]
    else:
        for c in sample.columns:
            if c.kind == "tensor":
                raise SampleError(f'column "{c.name}" holds arrays, and {of} takes single values', c.name)
        # Whole numbers stay such where an encoder looks them up; elsewhere they are numbers like the others.
        kinds = [c if c.kind != "integer" or c.name in encoded else replace(c, kind="number") for c in sample.columns]
        sample = replace(sample, columns=tuple(replace(c, kind="number") if c.kind == "boolean" else c for c in kinds))
        one = {"text": types.StringTensorType, "integer": types.Int64TensorType, "number": types.FloatTensorType}
        initial = [(c.name, one[c.kind]([None, 1])) for c in sample.columns]
        x = sample.frame() if names is not None else sample.frame().to_numpy()
    try:
        expected = answers_of(model, x, of)
    except SampleError as error:
        raise without_nan(sample, wrong_kind(sample, model, error)) from error
    try:
        proto = convert_sklearn(skl2onnx, model, initial, options)
    except Exception as error:
        told = wrong_kind(sample, model, SampleError(str(error)))
        if told.column is not None:
            raise told from error
        raise ModelError(f"{of} cannot be turned into ONNX: {short(error)}") from error
    if by_column:
        name_inputs(proto, sample.names)
    found: dict[str, Any] = {} if by_column else {"features": sample.names}
    # The model took the missing numbers of the sample, so it takes those of a table.
    if any(c.kind == "number" and np.isnan(c.values.astype(np.float64)).any() for c in sample.columns):
        found["on_null"] = "nan"
    return Converted(proto.SerializeToString(), sample, expected, found)


def name_inputs(proto: onnx.ModelProto, names: list[str]) -> None:
    """Gives the inputs of a model the names of the columns: skl2onnx writes an underscore for what no identifier has."""
    renamed = {i.name: name for i, name in zip(proto.graph.input, names, strict=True) if i.name != name}
    for i in proto.graph.input:
        i.name = renamed.get(i.name, i.name)
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)


def answers_of(model: Any, x: Any, of: str) -> list[Array | None]:
    """The answers of a model of scikit-learn. Some were compiled for float64 alone: the same numbers go into these as such."""
    try:
        return classes_and_scores(model, x, of)
    except SampleError as error:
        if "dtype mismatch" not in str(error):
            raise
        wide = x.astype({c: np.float64 for c in x.columns if x[c].dtype == np.float32}) if hasattr(x, "columns") else x.astype(np.float64)
        return classes_and_scores(model, wide, of)


def convert_sklearn(skl2onnx: Any, model: Any, initial: list[Any], options: dict[int, Any] | None) -> Any:
    """Converts a model; without the options of classifiers if its converter has none."""
    try:
        with plain_attributes():
            return skl2onnx.convert_sklearn(model, initial_types=initial, options=options, target_opset=OPSETS)
    except NameError as error:
        if options is None or "zipmap" not in str(error):
            raise
        last = last_step(model)
        with plain_attributes():
            return skl2onnx.convert_sklearn(model, initial_types=initial, options=None if last is model else {id(last): {}}, target_opset=OPSETS)


@contextlib.contextmanager
def plain_attributes() -> Iterator[None]:
    """Makes Python's numbers of NumPy's in the attributes of operators: skl2onnx passes them on, and onnx rejects them."""
    helper = onnx.helper
    make = helper.make_attribute

    def plain(value: Any) -> Any:
        if isinstance(value, (bool, np.bool_)):
            return int(value)
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            return value.tolist()
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    def make_plain(key: str, value: Any, *more: Any, **named: Any) -> Any:
        return make(key, plain(value), *more, **named)

    helper.make_attribute = make_plain
    try:
        yield
    finally:
        helper.make_attribute = make


def wrong_kind(sample: Sample, model: Any, error: SampleError) -> SampleError:
    """The same error, but with the name of the column whose text is no number, or whose category is new."""
    reason = str(error)
    for c in sample.columns:
        if c.kind == "text" and any(words in reason for words in ("could not convert string", "StringTensorType", "Cannot use", "isnan")):
            used = [t for t in transformers(model) if c.name in t[1]]
            if not used or any(type(first_step(t[0])).__name__ not in ("OneHotEncoder", "OrdinalEncoder", "TfidfVectorizer", "CountVectorizer") for t in used):
                return SampleError(f'column "{c.name}" holds text ({c.shown(0)} in row 0), and the model was trained with numbers there', c.name)
    for transformer, names in transformers(model):
        step = first_step(transformer)
        for name, categories in zip(names, getattr(step, "categories_", []), strict=False):
            values = sample.column(name)
            known = {str(x) for x in categories}
            new = next((i for i, x in enumerate(values.values) if str(x) not in known), None)
            if new is not None and "unknown categories" in reason:
                return SampleError(f'column "{name}" has {values.shown(new)} in row {new}, which the model was not trained with', name)
    return error


def steps(model: Any) -> Iterator[Any]:
    """A model and all that it consists of."""
    yield model
    for _, step in getattr(model, "steps", []):
        yield from steps(step)
    for transformer, _ in transformers_of(model):
        yield from steps(transformer)


def transformers_of(model: Any) -> list[tuple[Any, list[str]]]:
    """The transformers of a ColumnTransformer, with the names of their columns."""
    names = [str(n) for n in getattr(model, "feature_names_in_", [])]
    found = []
    for _, transformer, columns in getattr(model, "transformers_", []) if type(model).__name__ == "ColumnTransformer" else []:
        if isinstance(columns, str):
            columns = [columns]
        if isinstance(columns, (list, tuple, np.ndarray)) and not isinstance(transformer, str):
            found.append((transformer, [c if isinstance(c, str) else names[int(c)] if int(c) < len(names) else str(c) for c in columns]))
    return found


def transformers(model: Any) -> list[tuple[Any, list[str]]]:
    return [t for step in steps(model) for t in transformers_of(step)]


def first_step(model: Any) -> Any:
    inner = getattr(model, "steps", None)
    return first_step(inner[0][1]) if inner else model


def last_step(model: Any) -> Any:
    inner = getattr(model, "steps", None)
    return last_step(inner[-1][1]) if inner else model


def encoded_columns(model: Any, names: list[str]) -> list[str]:
    """Columns whose values are looked up among categories."""
    return [n for t, columns in transformers(model) if type(first_step(t)).__name__ in ("OneHotEncoder", "OrdinalEncoder") for n in columns if n in names]


def is_classifier(model: Any) -> bool:
    return bool(importlib.import_module("sklearn.base").is_classifier(model))


def register_trees() -> None:
    """Tells skl2onnx of trees that stand inside a pipeline, where their library is loaded."""
    skl2onnx = importlib.import_module("skl2onnx")
    if "lightgbm" not in sys.modules and "xgboost" not in sys.modules:
        return
    shapes = importlib.import_module("skl2onnx.common.shape_calculator")
    classes, numbers = shapes.calculate_linear_classifier_output_shapes, shapes.calculate_linear_regressor_output_shapes
    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    if "lightgbm" in sys.modules:
        lightgbm = sys.modules["lightgbm"]
        convert = need("onnxmltools.convert.lightgbm.operator_converters.LightGbm", "lightgbm").convert_lightgbm
        skl2onnx.update_registered_converter(lightgbm.LGBMClassifier, "LightGbmLGBMClassifier", classes, convert, options=options)
        skl2onnx.update_registered_converter(lightgbm.LGBMRegressor, "LightGbmLGBMRegressor", numbers, convert, options={"split": None})
    if "xgboost" in sys.modules:
        xgboost = sys.modules["xgboost"]
        convert = need("onnxmltools.convert.xgboost.operator_converters.XGBoost", "xgboost").convert_xgboost
        skl2onnx.update_registered_converter(xgboost.XGBClassifier, "XGBoostXGBClassifier", classes, convert, options=options)
        skl2onnx.update_registered_converter(xgboost.XGBRegressor, "XGBoostXGBRegressor", numbers, convert)


# LightGBM and XGBoost


def probabilities(raw: Array) -> Array:
    """Two columns of a probability of the second class."""
    return np.stack([1 - raw, raw], axis=1) if raw.ndim == 1 else raw


def of_lightgbm(model: Any, sample: Sample) -> Converted:
    """A model with scikit-learn's methods, or a Booster. A NULL is what LightGBM takes for missing."""
    convert = need("onnxmltools", "lightgbm").convert_lightgbm
    types = need("onnxmltools.convert.common.data_types", "lightgbm")
    of = f"the {type(model).__name__}"
    booster = getattr(model, "booster_", model)
    sample = select_renamed(sample, model, booster.feature_name(), of)
    if booster.pandas_categorical:
        raise ModelError(f"{of} was trained on columns of categories, which ONNX's trees do not have: encode them as numbers, or in a pipeline of scikit-learn")
    if getattr(getattr(model, "classes_", None), "dtype", np.dtype(int)).kind == "b":
        raise ModelError(f"{of} has the classes False and True, which its converter does not know: train it on 0 and 1")
    x = sample.numbers(of)
    if booster is not model:
        expected = classes_and_scores(model, x, of)
    else:
        raw = answer(lambda: model.predict(x), of)
        objective = str(model.params.get("objective", ""))
        has_classes = objective.startswith(("binary", "multiclass", "softmax", "cross_entropy"))
        expected = [None, probabilities(raw)] if has_classes else [raw]
    try:
        proto = convert(model, initial_types=[("x", types.FloatTensorType([None, x.shape[1]]))], zipmap=False, target_opset=15)
    except Exception as error:
        raise ModelError(f"{of} cannot be turned into ONNX: {short(error)}") from error
    return Converted(proto.SerializeToString(), sample, expected, {"features": sample.names, "on_null": "nan"})


def select_renamed(sample: Sample, model: Any, names: list[str], of: str) -> Sample:
    """The columns that a model of LightGBM was trained with, under the caller's names: LightGBM writes an underscore for each space."""
    own = getattr(model, "feature_names_in_", None)
    if own is not None and len(own) == len(names) and sample.named and all(str(n) in sample.names for n in own):
        return sample.select([str(n) for n in own], of)
    if not sample.named or all(n in sample.names for n in names):
        return sample.select(names, of)
    written = {name: re.sub(r"\s", "_", name) for name in sample.names}
    found = [[name for name, w in written.items() if n in (name, w)] for n in names]
    return sample.select([f[0] if len(f) == 1 else n for f, n in zip(found, names, strict=True)], of)


def of_xgboost(model: Any, sample: Sample) -> Converted:
    """A model with scikit-learn's methods, or a Booster. A NULL is what XGBoost takes for missing."""
    convert = need("onnxmltools", "xgboost").convert_xgboost
    types = need("onnxmltools.convert.common.data_types", "xgboost")
    xgboost = need("xgboost", "xgboost")
    of = f"the {type(model).__name__}"
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    names = booster.feature_names
    if names is not None:
        sample = sample.select(names, of)
    elif len(sample.columns) != booster.num_features():
        raise SampleError(f"the sample has {len(sample.columns)} columns, and {of} was trained with {booster.num_features()}")
    if any(kind == "c" for kind in booster.feature_types or []):
        raise ModelError(f"{of} was trained on columns of categories, which ONNX's trees do not have: encode them as numbers, or in a pipeline of scikit-learn")
    x = sample.numbers(of)
    if booster is not model:
        expected = classes_and_scores(model, x if names is None else sample.frame(), of)
    else:
        raw = answer(lambda: model.predict(xgboost.DMatrix(x, feature_names=names)), of)
        objective = json.loads(model.save_config())["learner"]["objective"]["name"]
        expected = [None, probabilities(raw)] if objective in ("binary:logistic", "multi:softprob") else [raw]
    # The converter wants features that are called f0, f1 ...
    unnamed = copy.deepcopy(model)
    (unnamed.get_booster() if hasattr(unnamed, "get_booster") else unnamed).feature_names = None
    try:
        proto = convert(unnamed, initial_types=[("x", types.FloatTensorType([None, x.shape[1]]))], target_opset=15)
    except Exception as error:
        raise ModelError(f"{of} cannot be turned into ONNX: {short(error)}") from error
    return Converted(proto.SerializeToString(), sample, expected, {"features": sample.names, "on_null": "nan"})


# PyTorch


def of_torch(model: Any, sample: Sample) -> Converted:
    """A module. Its inputs are the columns by the names of forward()'s arguments, or all columns as one row of numbers."""
    torch = need("torch", "torch")
    need("onnxscript", "torch")
    of = f"the module {type(model).__name__}"
    arguments = [
        name for name, p in inspect.signature(model.forward).parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    options: dict[str, Any] = {}
    if len(arguments) == 1:
        if len(sample.columns) > 1 or sample.columns[0].kind != "tensor":
            inputs = [sample.numbers(of)]
            options["features"] = sample.names
        else:
            sample = Sample((replace(sample.columns[0], name=arguments[0]),), sample.rows, True)
            inputs = [tensor(sample.columns[0], of)]
    else:
        sample = sample.select(arguments, of)
        inputs = [tensor(c, of) for c in sample.columns]
    given = tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs)
    # A batch of one would be taken for one that is fixed.
    traced = tuple(torch.cat([x, x])[: max(2, min(len(x), 8))] for x in given)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            try:
                said = model(*given)
            except Exception as error:
                raise SampleError(f"{of} does not take the sample: {short(error)}") from error
            dynamic = tuple({0: torch.export.Dim("batch")} for _ in traced)
            try:
                names = list(said) if isinstance(said, dict) else None
                if names is None and isinstance(said, (tuple, list)) and len(said) > 1:
                    names = [f"output_{i}" for i in range(1, len(said) + 1)]
                program = torch.onnx.export(model, traced, input_names=arguments, output_names=names or ["output"], dynamic_shapes=dynamic, dynamo=True, verbose=False)
            except Exception as error:
                raise ModelError(f"{of} cannot be turned into ONNX: {short(error)}") from error
    finally:
        model.train(was_training)
    outputs = list(said.values()) if isinstance(said, dict) else list(said) if isinstance(said, (tuple, list)) else [said]
    expected: list[Array | None] = [o.detach().cpu().numpy() for o in outputs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        program.save(str(path), external_data=sum(p.numel() * p.element_size() for p in model.parameters()) > MOST_BYTES // 2)
        written = of_onnx(path, None, None)
    return replace(written, sample=sample, expected=expected, options=options)


def tensor(c: Column, of: str) -> Array:
    """A column as a tensor: whole numbers stay such."""
    if c.kind == "text":
        raise SampleError(f'column "{c.name}" holds text ({c.shown(0)} in row 0), and {of} takes numbers', c.name)
    return c.values.astype(np.int64) if c.values.dtype.kind in "iu" else c.values if c.values.dtype.kind == "b" else c.values.astype(np.float32)


# ONNX


def of_onnx(model: Any, sample: Any, tokenizer: Any) -> Converted:
    """A file, its bytes or a ModelProto, with the weights that it names beside it, and with a tokenizer where it takes tokens."""
    folder = Path(".")
    if isinstance(model, (str, Path)):
        path = Path(model)
        if not path.is_file():
            raise ModelError(f"there is no file {path}")
        folder = path.parent
        content = path.read_bytes()
    elif isinstance(model, onnx.ModelProto):
        if model.ByteSize() > MOST_BYTES:
            return split(model, sample, tokenizer)
        content = model.SerializeToString()
    else:
        content = bytes(model)
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:
        raise ModelError(f"the model is not ONNX: {error}") from error
    if not proto.graph.node:
        raise ModelError("the model is not ONNX: it has no operators")
    locations = sorted({entry.value for t in _get_all_tensors(proto) if uses_external_data(t) for entry in t.external_data if entry.key == "location"})
    missing = [x for x in locations if not (folder / x).is_file()]
    if missing:
        raise ModelError(f"the model's weights {samples.listed(missing)} are not in {folder.resolve()}: give the path of the model, with its weights beside it")
    if len(locations) > 1 or len(content) > MOST_BYTES:
        onnx.load_external_data_for_model(proto, str(folder))
        return split(proto, sample, tokenizer)
    external = (folder / locations[0]).read_bytes() if locations else None
    if external is not None and len(external) > MOST_BYTES:
        raise too_large(len(external))
    converted = Converted(content, external=external, tokenizer=tokenizer_json(tokenizer))
    initializers = {i.name for i in proto.graph.initializer}
    inputs = [i.name for i in proto.graph.input if i.name not in initializers]
    return converted if sample is None else with_sample(converted, inputs, samples.read(sample))


def with_sample(converted: Converted, inputs: list[str], sample: Sample) -> Converted:
    """Says which columns of a sample fill the inputs: by their names, or all of them the only one."""
    if converted.tokenizer is not None:
        texts = [c for c in sample.columns if c.kind == "text"]
        if not texts:
            raise SampleError(f'column "{sample.names[0]}" holds no text, and a model with a tokenizer takes text', sample.names[0])
        return replace(converted, sample=sample, options={"features": sample.names})
    if len(inputs) == 1 and sample.names != inputs:
        if len(sample.columns) > 1:
            return replace(converted, sample=sample, options={"features": sample.names})
        return replace(converted, sample=Sample((replace(sample.columns[0], name=inputs[0]),), sample.rows, True))
    return replace(converted, sample=sample.select(inputs, "the model"))


def split(proto: onnx.ModelProto, sample: Any, tokenizer: Any) -> Converted:
    """A model that is too large for one value, or whose weights are in several files: its weights in one file of their own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        try:
            onnx.save_model(proto, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location="weights", size_threshold=1024)
        finally:
            # The weights went out of the caller's own.
            onnx.load_external_data_for_model(proto, folder)
        size = Path(folder, "weights").stat().st_size
        if size > MOST_BYTES:
            raise too_large(size)
        return of_onnx(path, sample, tokenizer)


def too_large(size: int) -> ModelError:
    return ModelError(
        f"the model's weights have {size:,} bytes, and what a client sends may have {MOST_BYTES:,}: put the files on the server, where a member of "
        "pg_read_server_files calls predict.create_model_from_file()"
    )


def tokenizer_json(tokenizer: Any) -> str | None:
    """The content of a tokenizer.json: of a path, a Tokenizer of the library tokenizers, or a fast tokenizer of transformers."""
    if tokenizer is None:
        return None
    tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(tokenizer, "to_str"):
        return str(tokenizer.to_str())
    if isinstance(tokenizer, (str, Path)):
        text = str(tokenizer)
        if text.lstrip().startswith("{"):
            return text
        path = Path(tokenizer)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise ModelError(f"there is no file {path}")
        return io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="utf-8").read()
    raise ModelError(f"a tokenizer is a tokenizer.json, a tokenizers.Tokenizer or a fast tokenizer of transformers, and not {type(tokenizer).__name__}")
