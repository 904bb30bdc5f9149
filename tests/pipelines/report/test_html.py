"""The report page of a run, as text and as a browser renders it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.report import html
from pipelines.report.html import write_report
from pipelines.report.media import Answer, Card, Figure, Section
from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.state import NO_ITEMS, StepRecord, StepState, StepStatus
from pipelines.workflow.step import Input, Step
from shared.training.log import TrainLog
from tests.support import handmade
from vq_stage.decode.output_files import picture_path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
CAPTION = 'caption <b>0</b> & "more"'


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page of a pipeline of five steps whose outputs were written by hand."""
    keys = ("one", "two/x", "three")
    codes = handmade.make(tmp_path / "codes", keys).root
    for name, color in (("before", "#3060c0"), ("after", "#c03060")):
        for key in keys:
            path = picture_path(tmp_path / name, key, "png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 16), color).save(path)
    log = TrainLog(tmp_path / "tuned", 0)
    for step in range(30):
        log.add(step=step, loss=3.0 / (step + 1), tokens=100)
    (tmp_path / "tuned").mkdir()
    log.flush()
    log.draw(tmp_path / "tuned/loss.png")
    log.close()
    lines = [{"key": key, "answer": f"an answer to {key}", "error": None} for key in keys]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps = (
        Step("codes", "encode", ("encode", "photos"), codes, (Input("source", "photos"),), ()),
        Step("tuned", "sft", ("sft", "<codes>"), tmp_path / "tuned", (), ("codes",)),
        Step("before", "decode", ("decode",), tmp_path / "before", (Input("dataset", str(codes)),), ("codes",)),
        Step("after", "decode", ("decode",), tmp_path / "after", (Input("dataset", str(codes)),), ("codes",)),
        Step("answers", "understand", ("understand",), tmp_path / "answers.jsonl", (), ("codes",)),
    )
    record = StepRecord("", "", NO_ITEMS, elapsed_s=1.5)
    finished = [StepState(step, StepStatus.NEW, record) for step in steps]
    write_report(Pipeline("a <name>", tmp_path, steps), finished, tmp_path / "report.html")
    return tmp_path / "report.html"


def test_the_page_is_complete_and_needs_no_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure>") == 6
    assert all(f"caption {index}" in text for index in range(3))
    assert all(f"an answer to {key}" in text for key in ("one", "two/x", "three"))
    assert "3.000 → 0.100" in text
    assert "a &lt;name&gt;" in text
    assert "&lt;codes&gt;" in text
    assert set(re.findall(r"""(?:src|href)=["']([a-z]+:?)""", text)) == {"data:"}


def test_captions_and_answers_with_markup_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure("before", "data:image/webp;base64,AAAA", CAPTION)
    card = Card(CAPTION, (figure,), (Answer("answers", "<script>alert(1)</script>"),))
    monkeypatch.setattr(html, "picture_sections", lambda pipeline: [Section("Pictures", "", 160, (card,))])
    write_report(Pipeline("p", tmp_path, ()), [], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("caption &lt;b&gt;0&lt;/b&gt; &amp; &#34;more&#34;") == 2
    assert "<b>0" not in text
    assert "<script" not in text


def test_a_run_without_a_log_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/train_log.jsonl").touch()
    pipeline = Pipeline("p", tmp_path, (Step("tuned", "sft", (), tmp_path / "tuned", (), ()),))
    write_report(pipeline, [], tmp_path / "report.html")
    assert "useful tokens/s" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1200, 420])
def test_a_browser_renders_the_pictures(page: Path, tmp_path: Path, width: int) -> None:
    """The colors of both columns are visible, and nothing overflows a narrow window."""
    shot = tmp_path / "shot.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
    command = [str(CHROMIUM), *options, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600"]
    subprocess.run(
        [*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120, cwd=tmp_path
    )
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    for color in ((0x30, 0x60, 0xC0), (0xC0, 0x30, 0x60)):
        assert (np.abs(pixels - color).max(axis=-1) < 12).mean() > 0.003
    assert (pixels[:, -3:] == pixels[0, -1]).mean() > 0.99
