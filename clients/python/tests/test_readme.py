"""Every Python block of the README runs, in order, and prints what is shown below it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_readme_runs_as_written() -> None:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", text, re.DOTALL)
    assert len(blocks) >= 5
    mark = "== next block =="
    program = f"\nprint({mark!r})\n".join(code for code, _ in blocks)
    drop = "\nwith psycopg.connect() as conn:\n    for v in {v.name for v in pg_predict.models(conn)}:\n        conn.execute('SELECT predict.drop_model(%s)', (v,))\n"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program + drop], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = [part.strip("\n") for part in done.stdout.split(mark)]
    for (code, shown), said in zip(blocks, printed, strict=True):
        own = [line for line in said.splitlines() if not line.startswith("[torch.onnx]")]
        assert "\n".join(own) == shown.strip("\n"), code
