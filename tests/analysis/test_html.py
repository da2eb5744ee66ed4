"""The page stands alone, says what the API says, and works in a real browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from analysis.errors import TraceError
from analysis.html import MAX_BYTES, page, write_html
from analysis.load import load
from analysis.repeat import record_command
from analysis.summary import summarise
from analysis.tables import SHARE_COLUMNS
from tests.analysis import synthetic

CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ,
    reason="chromium is not installed (apt install chromium)",
)
PHONE, DESKTOP = 390, 1280
"""Widths of a page in CSS pixels."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return synthetic.make_traces(tmp_path_factory.mktemp("traces"), requests=150)


@pytest.fixture(scope="module")
def text(directories: list[Path]) -> str:
    return page([load(directory) for directory in directories])


def rows_of(text: str, title: str) -> list[list[str]]:
    """Return the texts of the rows of the table below a heading."""
    table = text[text.index(f"<h3>{title}") :]
    body = table[table.index("<tbody>") : table.index("</tbody>")]
    return [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>([^<]*)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    ]


def test_the_page_loads_nothing_from_anywhere(text: str) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", text)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert len(text.encode()) < MAX_BYTES


def test_the_shares_on_the_page_are_those_of_the_api(text: str, directories: list[Path]) -> None:
    summary = summarise(map(load, directories)).to_dict("records")
    rows = rows_of(text, "Where the wall time")
    for row, expected in zip(rows, summary, strict=True):
        texts = [column.text(expected[column.source]) for column in SHARE_COLUMNS]
        assert row == [expected["model"], *texts]


def test_a_loss_stands_above_everything(tmp_path: Path) -> None:
    lost = {"calls": 3, "deliveries": 0, "threads": 0, "total": 3}
    path = synthetic.make_trace(tmp_path / "t", requests=50, meta={"lost": lost})
    text = page([load(path)])
    assert text.index("LOST EVENTS in t: 3 of") < text.index('class="verdict"')


def test_names_from_a_trace_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    targets = [{"pid": 1, "comm": evil}]
    path = synthetic.make_trace(tmp_path / "t", requests=50, meta={"targets": targets})
    calls = (path / "calls.csv").read_text().replace("python3", evil)
    (path / "calls.csv").write_text(calls)
    assert evil not in page([load(path)])


def test_micro_is_written_with_its_sign_and_nothing_else_is_touched(text: str) -> None:
    visible = re.sub(r"<(style|script|svg).*?</\1>", "", text, flags=re.DOTALL)
    assert re.search(r"\d µs", visible)
    assert not re.search(r"\d us\b|µsu", visible)
    assert "the usual one" in visible


def test_ids_on_the_page_are_unique(text: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_an_empty_trace_makes_a_page(tmp_path: Path) -> None:
    nothing = synthetic.make_calls("epoll", 10).iloc[:0]
    path = synthetic.write_trace(
        tmp_path / "empty",
        nothing,
        synthetic.make_deliveries(nothing),
        synthetic.make_threads(nothing, None),
        synthetic.make_meta(None, 0, 0, 0),
    )
    assert "</html>" in page([load(path)])


def test_an_existing_file_is_kept_unless_forced(directories: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("mine")
    with pytest.raises(TraceError, match=r"page.html: exists already"):
        write_html(directories[:1], file)
    write_html(directories[:1], file, force=True)
    assert file.read_text().startswith("<!DOCTYPE html>")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_a_file_that_cannot_be_written_is_named(directories: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none/page.html: No such file or directory"):
        write_html(directories[:1], tmp_path / "none" / "page.html")


def test_the_command_that_repeats_a_trace_names_its_load(tmp_path: Path) -> None:
    path = synthetic.make_trace(tmp_path / "t", requests=50)
    assert record_command(load(path)) == (
        "sudo iophase run epoll --connections 8 --size 64 --duration 2 --backend tracepoint"
    )
    workload = {**load(path).meta["workload"], "size": [64, 4096], "transport": "unix"}
    path = synthetic.make_trace(tmp_path / "s", requests=50, meta={"workload": workload})
    assert "--size 64,4096 --transport unix " in record_command(load(path))
    assert "64,4096 B" in page([load(path)])
    network = {"kind": "veth", "delay_ms": 5.0, "loss_percent": 0.0, "bandwidth_mbit": None}
    workload = {**workload, "transport": "tcp", "network": network}
    path = synthetic.make_trace(tmp_path / "n", requests=50, meta={"workload": workload})
    assert "--size 64,4096 --network veth --delay 5.0 " in record_command(load(path))
    command = ["curl", "-s", "a b"]
    path = synthetic.make_trace(
        tmp_path / "u", requests=5, meta={"model": None, "workload": None, "command": command}
    )
    assert record_command(load(path)).endswith("-- curl -s 'a b'")


def browse(file: Path, profile: Path, *flags: str) -> str:
    """Run chromium on a page and return what it prints."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, file.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
        env={**os.environ, "HOME": str(profile)},
    )
    return done.stdout


PROBE = """
<script>
addEventListener("load", () => {
  const head = document.querySelectorAll("table.sortable th button")[1];
  const rows = () => [...document.querySelectorAll("table.sortable")[0].tBodies[0].rows]
    .map(row => row.cells[0].textContent);
  head.click();
  const down = rows();
  head.click();
  const seen = {down, up: rows(), sort: head.parentElement.getAttribute("aria-sort"),
    wide: document.documentElement.scrollWidth, screen: innerWidth,
    figures: [...document.querySelectorAll("figure svg")].map(one => one.clientWidth),
    paper: getComputedStyle(document.body).backgroundColor};
  parent.document.title = "seen:" + JSON.stringify(seen);
});
</script>
"""

FRAME = """<!DOCTYPE html><meta name="color-scheme" content="light dark">
<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{page}"></iframe>
"""
"""Holds a page as narrow as a phone: a window of the browser itself is 500 pixels wide or more."""


def look(text: str, folder: Path, width: int, *flags: str) -> dict[str, Any]:
    """Return what the probe sees of a page that is ``width`` pixels wide."""
    file = folder / "frame.html"
    page = html.escape(text.replace("</body>", PROBE + "</body>"))
    file.write_text(FRAME.format(width=width, page=page))
    flags = ("--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", *flags)
    dom = browse(file, folder / "profile", *flags)
    found = re.search(r"<title>seen:(.*?)</title>", dom)
    assert found, dom[:500]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@browser
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_in_a_browser_tables_sort_and_the_page_fits_its_width(
    text: str, directories: list[Path], tmp_path: Path, width: int
) -> None:
    seen = look(text, tmp_path, width)
    summary = summarise(map(load, directories)).sort_values("wait", kind="stable")
    assert seen["up"] == summary["model"].tolist()
    assert seen["down"] == seen["up"][::-1]
    assert seen["sort"] == "ascending"
    assert seen["wide"] <= seen["screen"] == width
    assert len(seen["figures"]) >= 6
    assert min(seen["figures"]) >= 600  # narrower, their text could not be read: they scroll
    assert seen["paper"] == "rgb(255, 255, 255)"


@browser
def test_in_a_dark_browser_the_page_is_dark(text: str, tmp_path: Path) -> None:
    seen = look(text, tmp_path, DESKTOP, "--blink-settings=preferredColorScheme=0")
    assert seen["paper"] == "rgb(21, 23, 26)"
