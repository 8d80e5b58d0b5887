"""Holds the manifests against the schemas of Kubernetes and Argo Workflows, then runs what their containers run, in this database.

  python check.py        the database is the one that PGHOST and so on name
"""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from hera.workflows.models import CronWorkflow
from pydantic import ValidationError

HERE = Path(__file__).resolve().parent
VERSIONS = ["1.29", "1.33"]


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((HERE / name).read_text(encoding="utf-8")))


def validate(manifest: dict[str, Any]) -> str | None:
    """What a schema says against a manifest; nothing where it fits."""
    try:
        if manifest["apiVersion"].startswith("argoproj.io/"):
            # hera's models let unknown fields pass; what comes out again must be what went in.
            kept = CronWorkflow.model_validate(manifest).model_dump(by_alias=True, exclude_none=True, mode="json")
            return unknown(manifest, kept, "")
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
    except (kubernetes_validate.ValidationError, ValidationError) as error:
        return str(error).splitlines()[0]
    return None


def unknown(given: Any, kept: Any, path: str) -> str | None:
    """The first field that a schema does not have."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                return f"{path}.{key} is not a field"
            if found := unknown(value, kept[key], f"{path}.{key}"):
                return found
    if isinstance(given, list) and isinstance(kept, list):
        for i, (a, b) in enumerate(zip(given, kept, strict=True)):
            if found := unknown(a, b, f"{path}[{i}]"):
                return found
    return None


def broken(manifest: dict[str, Any], path: list[str | int], value: Any, rename: str | None = None) -> dict[str, Any]:
    """A copy with another value, or another name of a field."""
    wrong = copy.deepcopy(manifest)
    place: Any = wrong
    for step in path[:-1]:
        place = place[step]
    if rename is not None:
        place[rename] = place.pop(path[-1])
    else:
        place[path[-1]] = value
    return wrong


def run(command: list[str]) -> None:
    print("$", *command)
    subprocess.run(command, check=True)


def main() -> None:
    cronjob, workflow = load("cronjob.yaml"), load("workflow.yaml")
    for name, manifest in (("secret.yaml", load("secret.yaml")), ("cronjob.yaml", cronjob), ("workflow.yaml", workflow)):
        problem = validate(manifest)
        assert problem is None, f"{name}: {problem}"
        print(f"{name} fits its schema")
    for wrong in (
        broken(cronjob, ["spec", "schedule"], 3),
        broken(cronjob, ["spec", "concurrencyPolicy"], None, rename="concurrency"),
        broken(cronjob, ["spec", "jobTemplate", "spec", "template", "spec", "containers", 0, "name"], None, rename="title"),
        broken(workflow, ["spec", "workflowSpec", "entrypoint"], ["nightly"]),
        broken(workflow, ["spec", "workflowSpec", "templates", 1, "retryStrategy", "retryPolicy"], None, rename="policy"),
    ):
        problem = validate(wrong)
        assert problem is not None, "a broken manifest must not pass"
        print(f"a broken one is refused: {problem}")
    container = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    run(container["command"] + container["args"])
    templates = {t["name"]: t for t in workflow["spec"]["workflowSpec"]["templates"]}
    for task in templates["nightly"]["dag"]["tasks"]:
        statement = task["arguments"]["parameters"][0]["value"]
        step = templates[task["template"]]["container"]
        run(step["command"] + [a.replace("{{inputs.parameters.statement}}", statement) for a in step["args"]])


if __name__ == "__main__":
    main()
