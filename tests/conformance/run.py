"""ONNX's own test cases through raw ONNX Runtime and through SQL, side by side.

  run.py ROOT [PATTERN]     run.sh calls it, with a server reachable through libpq's environment variables

Every case runs whole: the model is created with the option "batch": "none", a row is one run. Cases that raw ONNX Runtime
runs in batches once their first dimension is open also run batched: all their rows through one predict_batch. What raw ONNX
Runtime passes and SQL can hold must pass in SQL. The same cases, and the models of this project, get seven very unequal rows:
each must get in a batch what it gets alone, and few that could be batched may be run row by row.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cases import find, find_files

HERE = Path(__file__).resolve().parent
NODE, LIGHT, BATCHED = 1451, 9, 630
"""The least that must pass of the cases node and light, and in batches."""
FALSE_ALARMS = 0.03
"""The most of the models whose rows are independent that may be run row by row."""
LEAK = 96 * 1024
"""What a backend may grow by after its first 200 cases, in kB: what the C library keeps of freed memory is part of it."""


def work(form: str, root: str, titles: list[str], into: list[dict[str, Any]]) -> None:
    """Runs all titles in one form; starts the worker again where raw ONNX Runtime ends it."""
    left = list(titles)
    while left:
        command = [sys.executable, str(HERE / "worker.py"), form, root]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE) as worker:
            threading.Thread(target=feed, args=(worker, list(left)), daemon=True).start()
            for line in worker.stdout:
                into.append(json.loads(line))
                left.pop(0)
        if left:
            into.append({"case": left.pop(0), "raw": "crashed", "batchable": False, "memory": 0, "pid": 0, "seconds": 0.0})


def feed(worker: subprocess.Popen[str], titles: list[str]) -> None:
    try:
        worker.stdin.write("\n".join(titles) + "\n")
        worker.stdin.close()
    except BrokenPipeError:
        pass


def memory(form: str, outcomes: list[dict[str, Any]]) -> list[str]:
    """Says how a backend grew; gives what is wrong with it."""
    wrong = []
    if len({o["pid"] for o in outcomes if o["pid"]}) > 1:
        wrong.append(f"{form}: a backend died on the way")
    if len(outcomes) > 400:
        at = [outcomes[i]["memory"] for i in (0, 200, len(outcomes) // 2, -1)]
        print(f"# {form}: memory of the backend after 1, 200, half, all cases: {', '.join(f'{kb // 1024} MB' for kb in at)}")
        if at[-1] - at[1] > LEAK:
            wrong.append(f"{form}: the backend grew by {(at[-1] - at[1]) // 1024} MB after its first 200 cases")
    return wrong


def main() -> None:
    root, pattern = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    titles = [case.title for case in find(Path(root)) if re.search(pattern, case.title)]
    started = time.monotonic()
    results: dict[str, list[dict[str, Any]]] = {"whole": [], "batched": [], "unequal": []}
    files = [case.title for case in find_files() if re.search(pattern, case.title)]
    # The large ones come first here, too.
    several = {"unequal": files + titles}
    threads = [threading.Thread(target=work, args=(form, root, several.get(form, titles), results[form])) for form in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wrong = []
    kinds: dict[str, Counter[str]] = {}
    rules: Counter[str] = Counter()
    for outcome in results["whole"]:
        kind = outcome["case"].split("/")[0]
        counts = kinds.setdefault(kind, Counter())
        counts["all"] += 1
        if outcome["raw"] != "passed":
            counts[f"raw {outcome['raw']}"] += 1
            continue
        counts["raw"] += 1
        if "rule" in outcome:
            rules[outcome["rule"]] += 1
            continue
        counts["held"] += 1
        if outcome["sql"] == "passed":
            counts["sql"] += 1
        else:
            wrong.append(f"{outcome['case']}: {outcome['sql']}" + (" (the backend died)" if outcome.get("lost") else ""))
    tried = [o for o in results["batched"] if o["batchable"]]
    for outcome in tried:
        if outcome["sql"] != "passed":
            wrong.append(f"batched {outcome['case']}: {outcome['sql']}" + (" (the backend died)" if outcome.get("lost") else ""))

    for why, count in Counter(o["why"] for o in results["whole"] if "why" in o).most_common(5 if pattern else 0):
        print(f"# raw ONNX Runtime, {count} cases: {why}")
    print("# What SQL cannot hold, by rule:")
    for rule, count in rules.most_common():
        print(f"#   {count:4} cases: {rule}")
    for kind, counts in kinds.items():
        others = ", ".join(f"{k} {n}" for k, n in sorted(counts.items()) if k.startswith("raw "))
        print(f"# {kind}: {counts['all']} cases, raw ONNX Runtime passes {counts['raw']}" + (f" ({others})" if others else "") + f", SQL holds {counts['held']}, SQL passes {counts['sql']}")
    unequal = [o for o in results["unequal"] if o["batchable"]]
    for outcome in unequal:
        if outcome["sql"] != "passed":
            wrong.append(f"unequal rows {outcome['case']}: {outcome['sql']}" + (" (the backend died)" if outcome.get("lost") else ""))
    independent = [o for o in unequal if o["independent"]]
    alarms = [o for o in independent if o.get("reason")]
    print(f"# unequal rows: {len(unequal)} models, of {len(independent)} the rows are independent; {len(alarms)} of these run row by row:")
    for outcome in alarms:
        print(f"#   {outcome['case']}: {outcome.get('reason')}")
    if len(alarms) > FALSE_ALARMS * len(independent) and not pattern:
        wrong.append(f"{len(alarms)} of {len(independent)} models with independent rows run row by row")
    batched = sum(o["sql"] == "passed" for o in tried)
    print(f"# in batches: raw ONNX Runtime runs {len(tried)}, SQL passes {batched}")
    if not pattern:
        for form, outcomes in results.items():
            wrong += memory(form, outcomes)
        for what, got, least in (("node cases", kinds["node"]["sql"], NODE), ("light cases", kinds["light"]["sql"], LIGHT), ("cases in batches", batched, BATCHED)):
            if got < least:
                wrong.append(f"{got} {what} pass, and {least} should at least")
    for line in wrong:
        print(f"not ok - {line}")
    print(f"# {time.monotonic() - started:.0f} seconds")
    print("failed" if wrong else "all that raw ONNX Runtime passes and SQL can hold passes")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
