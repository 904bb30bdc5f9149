"""One step of a pipeline, built from its description."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.workflow.step import Step, build_step
from shared.errors import UsageError


def build(**described: str) -> Step:
    return build_step("a", described, {"here": "photos"}, {"a": Path("out/a"), "b": Path("out/b")}, main)


def test_references_are_replaced_and_the_output_is_added() -> None:
    step = build(run="decode", dataset="${b}", format="jpg")
    assert step.arguments == ("decode", "--format", "jpg", "--", "out/b", "out/a")
    assert (step.output, step.needs, step.location("dataset")) == (Path("out/a"), ("b",), "out/b")


def test_a_home_directory_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    step = build(run="encode", source="~/list.jsonl", image_root="~/photos")
    assert step.arguments == ("encode", "--image-root", "/home/me/photos", "--", "/home/me/list.jsonl", "out/a")


def test_execution_options_do_not_belong_to_the_result_arguments() -> None:
    step = build(run="encode", source="${here}", workers="2", resize="none")
    assert step.result_arguments == ("encode", "--resize", "none", "--", "photos", "out/a")
    assert {"--workers", "2"} <= set(step.arguments)


@pytest.mark.parametrize(("unit_rows", "match"), [("0", "--unit-rows 0"), ("many", "not a valid integer")])
def test_the_command_checks_its_options(unit_rows: str, match: str) -> None:
    with pytest.raises(UsageError, match=f"step a: .*{match}"):
        build(run="encode", source="photos", unit_rows=unit_rows)
