"""Rows per second of a model without PostgreSQL: ONNX Runtime in Python, or PyTorch.

  peers.py onnxruntime JOB    peers.py torch JOB

throughput.py writes JOB, a file of JSON: `name`, `model`, `sizes`, `rows`, `seconds`, `device` (cuda or cpu), and for texts
`texts` and `tokenizer`. The answer is one line of JSON on standard output: for each size, what is named below, in rows per
second. The inputs are of the same kind and size as the table's.

  all      from values in memory of the machine to results there; texts are tokenised too
  run      the same, and texts are tokens already
  device   inputs and outputs stay on the GPU
  pinned   inputs and outputs are in pinned memory of the machine; needs PyTorch in the same Python, which allocates it
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

SEED = 2
TOKENS = 1 << 15
"""The most tokens of a run, padding counted, as in pg_predict on a GPU."""


def rate(rows: int, seconds: float, work: Callable[[], None]) -> float:
    """Rows per second of `work`, which does `rows` of them: the median of at least three rounds."""
    work()
    took: list[float] = []
    while len(took) < 3 or (sum(took) < seconds and len(took) < 50):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return rows / sorted(took)[len(took) // 2]


def feed(job: dict[str, Any], size: int) -> dict[str, np.ndarray]:
    """Inputs of one run of models that take no texts."""
    random = np.random.default_rng(SEED)
    if job["name"] == "resnet50":
        return {"pixels": random.integers(0, 256, (size, 3, 224, 224), dtype=np.uint8)}
    if job["name"] == "flights":
        columns = json.loads(open(job["columns"]).read())
        kinds = {"float": np.float32, "text": object}
        return {
            name: np.resize(np.array(column["values"], kinds[column["kind"]]), (size, 1)) for name, column in columns.items()
        }
    return {job["input"]: random.random((size, 10), dtype=np.float32)}


def runs_of(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Texts of like length run together, within TOKENS."""
    run: list[int] = []
    for nth in sorted(range(len(lengths)), key=lambda nth: lengths[nth], reverse=True):
        if run and (len(run) == most or (len(run) + 1) * lengths[run[0]] > TOKENS):
            yield run
            run = []
        run.append(nth)
    if run:
        yield run


class Texts:
    """Tokenises texts, one thread, and makes the tensors of runs."""

    def __init__(self, job: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.texts: list[str] = json.loads(open(job["texts"]).read())
        self.tokenizer = Tokenizer.from_file(job["tokenizer"])
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(512)

    def tokens(self) -> list[list[int]]:
        return [self.tokenizer.encode(text).ids for text in self.texts]

    def feeds(self, tokens: list[list[int]], size: int) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            for run in runs_of([len(ids) for ids in part], size):
                longest = max(len(part[nth]) for nth in run)
                ids = np.zeros((len(run), longest), np.int64)
                mask = np.zeros((len(run), longest), np.int64)
                for row, nth in enumerate(run):
                    ids[row, : len(part[nth])] = part[nth]
                    mask[row, : len(part[nth])] = 1
                yield {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def pooled(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    mean = (states * mask[:, :, None].astype(np.float32)).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def with_onnxruntime(job: dict[str, Any]) -> dict[str, Any]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    on_gpu = job["device"] == "cuda"
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(job["model"], options, providers=providers)
    if on_gpu and session.get_providers()[0] != "CUDAExecutionProvider":
        raise SystemExit("ONNX Runtime in Python has fallen back to the CPU")
    found: dict[str, Any] = {"version": onnxruntime.__version__, "sizes": {}}

    def bound(inputs: dict[str, np.ndarray]) -> Any:
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
        for output in session.get_outputs():
            binding.bind_output(output.name, "cuda", 0)
        return binding

    def pinned(inputs: dict[str, np.ndarray]) -> Callable[[], None]:
        import torch

        def held(value: np.ndarray) -> Any:
            return torch.from_numpy(value).pin_memory()

        given = {name: held(value) for name, value in inputs.items()}
        got = [held(value) for value in session.run(None, inputs)]

        def run() -> None:
            binding = session.io_binding()
            for name, tensor in given.items():
                binding.bind_input(name, "cpu", 0, inputs[name].dtype.type, tuple(tensor.shape), tensor.data_ptr())
            for output, tensor in zip(session.get_outputs(), got, strict=True):
                kind = tensor.numpy().dtype.type
                binding.bind_output(output.name, "cpu", 0, kind, tuple(tensor.shape), tensor.data_ptr())
            session.run_with_iobinding(binding)

        return run

    texts = Texts(job) if "texts" in job else None
    for size in job["sizes"]:
        if texts is None:
            inputs = feed(job, size)
            figures = {"run": rate(size, job["seconds"], lambda: session.run(None, inputs))}
            figures["all"] = figures["run"]
            if on_gpu and all(value.dtype != object for value in inputs.values()):
                binding = bound(inputs)
                figures["device"] = rate(size, job["seconds"], lambda: session.run_with_iobinding(binding))
                try:
                    figures["pinned"] = rate(size, job["seconds"], pinned(inputs))
                except Exception as error:  # noqa: BLE001 - a figure that is missing is no reason to lose the others
                    found["pinned"] = f"{type(error).__name__}: {error}"
        else:
            ready = texts.tokens()

            def run_all(tokens: list[list[int]]) -> None:
                for inputs in texts.feeds(tokens, size):
                    pooled(session.run(None, inputs)[0], inputs["attention_mask"])

            figures = {
                "all": rate(len(ready), job["seconds"], lambda: run_all(texts.tokens())),
                "run": rate(len(ready), job["seconds"], lambda: run_all(ready)),
            }
            if on_gpu:
                bindings = [bound(inputs) for inputs in texts.feeds(ready, size)]
                figures["device"] = rate(
                    len(ready), job["seconds"], lambda: [session.run_with_iobinding(binding) for binding in bindings]
                )
        found["sizes"][size] = figures
    return found


def with_torch(job: dict[str, Any]) -> dict[str, Any]:
    """A module of the same layers with random weights, in TF32 as in ONNX Runtime."""
    import torch
    from torch import nn

    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(1)
    device = torch.device(job["device"])
    found: dict[str, Any] = {"version": torch.__version__, "sizes": {}}

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.all, self.out = nn.Linear(384, 3 * 384), nn.Linear(384, 384)
            self.up, self.down = nn.Linear(384, 1536), nn.Linear(1536, 384)
            self.first, self.second = nn.LayerNorm(384), nn.LayerNorm(384)

        def forward(self, x: Any, mask: Any) -> Any:
            rows, length, _ = x.shape
            q, k, v = self.all(x).view(rows, length, 3, 12, 32).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = self.first(x + self.out(y.transpose(1, 2).reshape(rows, length, 384)))
            return self.second(x + self.down(nn.functional.gelu(self.up(x))))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places, self.norm = nn.Embedding(30522, 384), nn.Embedding(512, 384), nn.LayerNorm(384)
            self.layers = nn.ModuleList(Layer() for _ in range(6))

        def forward(self, ids: Any, mask: Any) -> Any:
            x = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device)))
            for layer in self.layers:
                x = layer(x, mask.bool()[:, None, None, :])
            return x

    if job["name"] == "linear":
        module: Any = nn.Linear(10, 1)
    elif job["name"] == "mlp":
        module = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    elif job["name"] == "minilm":
        module = Encoder()
    elif job["name"] == "resnet50":
        from torchvision.models import resnet50

        module = resnet50(weights=None)
    else:
        raise SystemExit(f"there is no module for {job['name']}")
    module = module.eval().to(device)
    wait = torch.cuda.synchronize if job["device"] == "cuda" else lambda: None

    with torch.inference_mode():

        def once(*inputs: np.ndarray) -> Any:
            there = [torch.from_numpy(value).to(device) for value in inputs]
            if there[0].dtype == torch.uint8:
                there[0] = (there[0].float() - 118.0) / 58.0
            return module(*there).cpu()

        for size in job["sizes"]:
            if "texts" not in job:
                inputs = list(feed(job, size).values())
                figures = {"run": rate(size, job["seconds"], lambda: once(*inputs))}
                figures["all"] = figures["run"]
                there = [torch.from_numpy(value).to(device) for value in inputs]
                there = [(value.float() - 118.0) / 58.0 if value.dtype == torch.uint8 else value for value in there]
                figures["device"] = rate(size, job["seconds"], lambda: (module(*there), wait()))
            else:
                texts = Texts(job)
                ready = texts.tokens()

                def run_all(tokens: list[list[int]]) -> None:
                    for fed in texts.feeds(tokens, size):
                        once(fed["input_ids"], fed["attention_mask"])

                figures = {
                    "all": rate(len(ready), job["seconds"], lambda: run_all(texts.tokens())),
                    "run": rate(len(ready), job["seconds"], lambda: run_all(ready)),
                }
            found["sizes"][size] = figures
    return found


def main() -> None:
    job = json.loads(open(sys.argv[2]).read())
    print(json.dumps((with_torch if sys.argv[1] == "torch" else with_onnxruntime)(job)))


if __name__ == "__main__":
    main()
