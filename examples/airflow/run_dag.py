"""Runs the DAG by dag.test(), as it is, and once more after rows have changed that its checks must not let pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "dags"))


def psql(statement: str) -> str:
    return subprocess.run(["psql", "-X", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", statement], check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    from nightly_scores import dag

    states = {}
    first = dag.test()
    states = {t.task_id: str(t.state) for t in first.get_task_instances()}
    assert str(first.state) == "success" and set(states.values()) == {"success"}, states
    assert psql("SELECT count(*) FROM example_airflow.scores") == "9857"
    print("the night went well:", states)
    psql("UPDATE example_airflow.applications SET int_rate = int_rate * 1.5")
    second = dag.test()
    states = {t.task_id: str(t.state) for t in second.get_task_instances()}
    assert str(second.state) == "failed" and states["score"] == "success" and states["no_drift"] == "failed", states
    print("rates that are half as high again fail the night:", states)


if __name__ == "__main__":
    assert os.environ.get("AIRFLOW_HOME"), "run.sh sets it"
    main()
