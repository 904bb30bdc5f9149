"""Plans that grow with their source, and quarantined inputs that are retried."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from shared.dataset.dataset import Dataset
from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import Plan, PlannedInput
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.rows import CodeRecord
from shared.errors import ConfigMismatchError, DatasetError, UsageError
from shared.jobs.signals import StopFlag
from shared.maintenance.summary import summarize
from shared.maintenance.verify import verify_dataset
from tests.support.handmade import settings
from tests.support.small_sources import (
    MemorySource,
    commit_missing,
    inputs_of,
    memory_source,
    movie,
    planner,
    png,
)
from tests.support.small_tars import add_member, tar_bytes
from vq_stage.encode.plan_updates import up_to_date_plan
from vq_stage.sources import folder as source_folder
from vq_stage.sources import list_files, media_source
from vq_stage.sources.files import open_file
from vq_stage.sources.media_source import MediaSource
from vq_stage.sources.open_source import open_source


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Return a dataset without a plan."""
    (tmp_path / "dataset").mkdir()
    return Dataset(tmp_path / "dataset")


def planned(dataset: Dataset, source: MediaSource, retry: Sequence[str] = (), unit_rows: int = 4) -> Plan:
    planning = planner(source, unit_rows, retry_quarantined=tuple(retry))
    return up_to_date_plan(dataset, planning, settings(), StopFlag())


def encoded(
    dataset: Dataset, source: MediaSource, retry: Sequence[str] = (), broken: Mapping[str, str] | None = None
) -> Plan:
    """Plan, and commit the missing units."""
    plan = planned(dataset, source, retry)
    commit_missing(dataset, plan, broken)
    return dataset.plan()


def plan_files(dataset: Dataset) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in dataset.root.glob("plan*")}


def rows(dataset: Dataset) -> list[CodeRecord]:
    return [row for record in dataset.commit_records() for row in dataset.rows(record)]


def quarantined(dataset: Dataset) -> int:
    """Return the number of quarantined inputs, on which `verify`, `inspect` and the manifest must agree."""
    report, summary = verify_dataset(dataset), summarize(dataset)
    assert report.problems == []
    assert report.is_complete
    assert sum(summary.quarantined.values()) == report.quarantined == dataset.manifest().quarantined
    assert summary.rows + report.quarantined == summary.planned_rows
    return report.quarantined


def of_key(plan: Plan, key: str) -> list[PlannedInput]:
    return inputs_of(plan, lambda one: one.key == key)


def test_only_what_is_new_is_opened_and_planned(dataset: Dataset) -> None:
    source = memory_source(a=png(0), bad=b"no picture", b=png(1))
    source.add("film.mp4", movie(40))
    source.add("short.mp4", movie(16))
    encoded(dataset, source)
    source.opened.clear()
    source.add("c.png", png(2))
    source.add("new.mp4", movie(40, seed=1))
    source.add("0.png", png(3))
    plan = encoded(dataset, source)
    assert set(source.opened) == {"c.png", "new.mp4", "0.png"}
    assert plan.additions == 1
    new = [one for unit in range(len(plan)) if plan.is_added(unit) for one in plan.unit(unit).inputs]
    assert {one.key: one.src_index for one in new} == {
        "c": 7,
        "new#00000": 8,
        "new#00001": 9,
        "new#00002": 10,
        "0": 11,
    }
    assert quarantined(dataset) == 1


@pytest.mark.parametrize("name", ["manifest.json", "parts/part-000000.json"])
def test_a_damaged_dataset_is_not_extended(name: str, dataset: Dataset) -> None:
    source = memory_source(a=png(0))
    encoded(dataset, source)
    (dataset.root / name).write_text("{")
    source.add("b.png", png(1))
    before = plan_files(dataset)
    with pytest.raises(DatasetError, match=name):
        planned(Dataset(dataset.root), source)
    assert plan_files(dataset) == before


def test_the_source_is_listed_once(dataset: Dataset) -> None:
    """To create the plan, to resume, and to add items; once more to find the inputs to retry."""
    source = memory_source(a=png(0), bad=b"no image")
    encoded(dataset, source)
    assert source.listings == [2]
    encoded(dataset, source)
    assert source.listings == [2, 0]
    source.add("b.png", png(1))
    encoded(dataset, source)
    assert source.listings == [2, 0, 1]
    encoded(dataset, source, retry=["not_an_image"])
    assert source.listings == [2, 0, 1, 1, 0]


def test_a_resume_opens_no_caption_file(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes(png(0))
        (folder / f"{name}.txt").write_text(f"caption of {name}")
    (folder / "metadata.jsonl").write_text("")
    encoded(dataset, open_source(folder))
    opened: list[str] = []
    for module in (source_folder, list_files, media_source):
        monkeypatch.setattr(module, "open_file", partial(recorded_open, opened))
    encoded(dataset, open_source(folder))
    assert opened == []
    (folder / "c.png").write_bytes(png(1))
    (folder / "c.txt").write_text("caption of c")
    encoded(dataset, open_source(folder))
    assert sorted(opened) == ["c.png", "c.txt", "metadata.jsonl"]
    assert [row.text for row in rows(dataset)] == ["caption of a", "caption of b", "caption of c"]


def recorded_open(opened: list[str], path: Path, *arguments: object, **options: object) -> object:
    opened.append(path.name)
    return open_file(path, *arguments, **options)


def test_nothing_new_writes_nothing(dataset: Dataset) -> None:
    source = memory_source(a=png(0), b=png(1))
    encoded(dataset, source)
    before = plan_files(dataset)
    source.opened.clear()
    encoded(dataset, source)
    assert plan_files(dataset) == before
    assert source.opened == []


def test_additions_continue_the_numbering_of_units_and_indices(dataset: Dataset) -> None:
    source = memory_source(a=png(0), b=png(1))
    encoded(dataset, source)
    for number, name in enumerate(["c", "d"], 1):
        source.add(f"{name}.png", png(10 + number, 32, 32))
        source.add(f"{name}-bad.png", b"no picture")
        before = plan_files(dataset)
        plan = encoded(dataset, source)
        assert before.items() <= plan_files(dataset).items(), "a plan is never changed"
        assert plan.additions == number
    assert [plan.unit(number).unit for number in range(len(plan))] == list(range(5))
    assert [one.src_index for one in inputs_of(plan)] == list(range(6))
    assert plan.next_index() == plan.input_count == 6
    assert quarantined(dataset) == 2
    assert [row.key for row in rows(dataset)] == ["a", "b", "c", "d"]


def test_additions_of_equal_sources_are_equal(tmp_path: Path) -> None:
    plans = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        dataset, source = Dataset(tmp_path / name), memory_source(a=png(0))
        encoded(dataset, source)
        source.add("b.png", png(1))
        encoded(dataset, source)
        plans.append(plan_files(dataset))
    assert plans[0] == plans[1]
    assert sorted(plans[0]) == ["plan-0001.arrow", "plan.arrow"]


def test_a_new_input_with_a_key_in_use_is_quarantined(dataset: Dataset) -> None:
    """The second of two new inputs with one key; and an image with the key of a clip."""
    source = memory_source(**{"film#00001": png(0)})
    encoded(dataset, source)
    source.add("new.png", png(1))
    source.add("other/new.png", png(2), key="new")
    source.add("film.mp4", movie(40))
    plan = encoded(dataset, source)
    refused = inputs_of(plan, lambda one: one.refused_reason is not None)
    assert [(one.uri, one.refused_reason) for one in refused] == [
        ("other/new.png", "duplicate_key"),
        ("film.mp4", "duplicate_key"),
    ]
    found = [row.key for row in rows(dataset)]
    assert len(found) == len(set(found)) == 4
    assert len(plan_files(dataset)) == 2
    encoded(dataset, source)
    assert len(plan_files(dataset)) == 2, "refused inputs are known too"


def test_a_file_is_not_new_when_another_with_its_stem_is_added(dataset: Dataset, tmp_path: Path) -> None:
    """With a.webp beside it, the key of a.png is `a.png`, no longer `a`; it is still the same image."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(0))
    (folder / "film.mp4").write_bytes(movie(40))
    encoded(dataset, open_source(folder))
    (folder / "a.webp").write_bytes(png(1))
    (folder / "film.png").write_bytes(png(2))
    plan = encoded(dataset, open_source(folder))
    added = [one.uri for unit in range(len(plan)) if plan.is_added(unit) for one in plan.unit(unit).inputs]
    assert added == ["a.webp", "film.png"]
    assert quarantined(dataset) == 0
    (folder / "a.png").unlink()
    (folder / "film.mp4").unlink()
    assert encoded(dataset, open_source(folder)).additions == 1, "they are still known when the others are gone"


def test_other_settings_are_refused_before_anything_is_planned(dataset: Dataset) -> None:
    source = memory_source(a=png(0))
    encoded(dataset, source)
    source.add("b.png", png(1))
    before = plan_files(dataset)
    other = replace(settings(), unit_rows=9)
    with pytest.raises(ConfigMismatchError, match="units"):
        up_to_date_plan(dataset, planner(source), other, StopFlag())
    assert plan_files(dataset) == before


def test_an_empty_source_creates_no_dataset(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="found nothing to encode"):
        planned(dataset, MemorySource(Path("memory")))
    assert plan_files(dataset) == {}


def test_a_retried_input_keeps_its_key_and_index_and_is_counted_once(dataset: Dataset) -> None:
    source = memory_source(a=png(0), bad=b"no picture")
    source.add("gone.png", None, "a caption")
    encoded(dataset, source, broken={"a": "truncated"})
    assert quarantined(dataset) == 3
    source.contents["gone.png"] = png(5)
    plan = encoded(dataset, source, retry=["missing"])
    assert [(one.src_index, one.text, one.refused_reason) for one in of_key(plan, "gone")] == [
        (2, "a caption", "missing"),
        (2, "a caption", None),
    ]
    assert plan.retried == {"missing": 1}
    assert quarantined(dataset) == 2
    assert summarize(dataset).quarantined == {"not_an_image": 1, "truncated": 1}
    assert [row.key for row in rows(dataset)] == ["gone"]
    encoded(dataset, source, retry=["truncated"])
    assert summarize(dataset).quarantined == {"not_an_image": 1}
    assert sorted((row.key, row.src_index) for row in rows(dataset)) == [("a", 0), ("gone", 2)]
    assert plan.next_index() == 3


def test_an_input_that_fails_again_stays_quarantined_and_is_counted_once(dataset: Dataset) -> None:
    source = memory_source(a=png(0))
    source.add("gone.png", None)
    encoded(dataset, source)
    for attempts in (1, 2):
        plan = encoded(dataset, source, retry=["missing"])
        assert plan.retried == {"missing": attempts}
        assert quarantined(dataset) == 1
    source.contents["gone.png"] = png(1)
    encoded(dataset, source, retry=["missing"])
    assert quarantined(dataset) == 0
    assert encoded(dataset, source, retry=["missing"]).additions == 3, "no input is left to retry"


def test_a_killed_retry_run_again_plans_nothing_twice(dataset: Dataset) -> None:
    """The same command resumes: the second attempt is planned, though not yet committed."""
    source = memory_source(a=png(0))
    source.add("gone.png", None)
    encoded(dataset, source)
    source.contents["gone.png"] = png(1)
    assert planned(dataset, source, retry=["missing"]).additions == 1
    plan = encoded(dataset, source, retry=["missing"])
    assert plan.additions == 1
    assert [row.key for row in rows(dataset)] == ["a", "gone"]
    assert quarantined(dataset) == 0


def test_a_retried_video_gets_its_clips_now(dataset: Dataset) -> None:
    source = memory_source(a=png(0))
    source.add("film.mp4", None, "a caption")
    source.add("b.png", png(1))
    encoded(dataset, source)
    source.contents["film.mp4"] = movie(40)
    plan = encoded(dataset, source, retry=["missing"])
    clips = inputs_of(plan, lambda one: one.frame_start is not None)
    assert [(one.key, one.src_index, one.frame_start, one.text) for one in clips] == [
        ("film#00000", 1, 0, "a caption"),
        ("film#00001", 3, 16, "a caption"),
        ("film#00002", 4, 32, "a caption"),
    ]
    assert plan.next_index() == 5
    report = verify_dataset(dataset)
    assert (report.rows, report.quarantined, report.problems) == (5, 0, [])
    source.opened.clear()
    assert encoded(dataset, source).additions == 1
    assert source.opened == []


def test_a_clip_that_could_not_be_read_is_tried_again_as_it_was(dataset: Dataset) -> None:
    source = MemorySource(Path("memory"))
    source.add("film.mp4", movie(40))
    encoded(dataset, source, broken={"film#00001": "truncated"})
    source.opened.clear()
    plan = encoded(dataset, source, retry=["truncated"])
    first, again = of_key(plan, "film#00001")
    assert first == again
    assert plan.unit(len(plan) - 1).size == (16, 16, 24)
    assert source.opened == [], "it is read when it is encoded"
    assert quarantined(dataset) == 0


def test_a_retry_uses_the_current_caption(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(0))
    (folder / "a.txt").write_bytes(b"\xff\xfe\xff")
    encoded(dataset, open_source(folder))
    assert summarize(dataset).quarantined == {"caption_unreadable": 1}
    (folder / "a.txt").write_text("a caption")
    encoded(dataset, open_source(folder), retry=["caption_unreadable"])
    assert [(row.key, row.text) for row in rows(dataset)] == [("a", "a caption")]
    assert quarantined(dataset) == 0


def test_growing_and_retrying_in_one_run(dataset: Dataset) -> None:
    source = memory_source(a=png(0))
    source.add("gone.png", None)
    encoded(dataset, source)
    source.contents["gone.png"] = png(1)
    source.add("new.png", png(2))
    plan = encoded(dataset, source, retry=["missing"])
    assert plan.additions == 2
    assert sorted((row.key, row.src_index) for row in rows(dataset)) == [("a", 0), ("gone", 1), ("new", 2)]


def keys_and_uris(plan: Plan) -> dict[str, str]:
    return {one.key: one.uri for one in inputs_of(plan, lambda one: one.refused_reason is None)}


def test_the_same_key_for_different_images_costs_no_row(dataset: Dataset, tmp_path: Path) -> None:
    """What is planned keeps its key when the source grows, also by a shard that comes before the others."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in (1, 2):
        (folder / f"{shard}.tar").write_bytes(tar_bytes({f"{n}.png": png(10 * shard + n) for n in range(2)}))
    first = {"0": "1.tar/0.png", "1": "1.tar/1.png", "2/0": "2.tar/0.png", "2/1": "2.tar/1.png"}
    assert keys_and_uris(encoded(dataset, open_source(folder))) == first
    assert len(encoded(dataset, open_source(folder))) == len(dataset.plan())
    (folder / "0.tar").write_bytes(tar_bytes({"0.png": png(0), "2.png": png(2)}))
    grown = {**first, "0/0": "0.tar/0.png", "2": "0.tar/2.png"}
    assert keys_and_uris(encoded(dataset, open_source(folder))) == grown
    assert keys_and_uris(encoded(dataset, open_source(folder))) == grown


def test_a_growing_list_with_keys_that_repeat(dataset: Dataset, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    entries = [{"image": f"{n}.png", "key": key} for n, key in enumerate(["cat", "dog", "cat"])]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(entries))
    first = {"cat": "0.png", "dog": "1.png", "2.png": "2.png"}
    assert keys_and_uris(encoded(dataset, open_source(path))) == first
    path.write_text(json.dumps([{"image": "3.png", "key": "dog"}, *reversed(entries), {"image": "./3.png"}]))
    assert keys_and_uris(encoded(dataset, open_source(path))) == {**first, "3.png": "3.png", "3": "./3.png"}


def test_three_items_with_one_key_and_one_path(dataset: Dataset, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(3):
            add_member(tar, "a.png", png(number))
    source = open_source(tmp_path / "0.tar")
    assert set(keys_and_uris(encoded(dataset, source))) == {"a", "0/a", "0/a~2"}
    assert len(encoded(dataset, source)) == 1


def test_a_tar_grows_by_members_of_a_name_that_it_has(dataset: Dataset, tmp_path: Path) -> None:
    path, members = tmp_path / "0.tar", [png(0), movie(40), png(1), movie(40, seed=1)]
    for count in (1, 3, 4):
        with tarfile.open(path, "w") as tar:
            for content in members[:count]:
                add_member(tar, "a.png" if content.startswith(b"\x89PNG") else "a.mp4", content)
        plan = encoded(dataset, open_source(path))
        assert len(encoded(dataset, open_source(path))) == len(plan)
    found = keys_and_uris(plan)
    assert [key for key, uri in found.items() if uri == "0.tar/a.png"] == ["a", "0/a"]
    assert [key.partition("#")[0] for key, uri in found.items() if uri == "0.tar/a.mp4"] == ["a.mp4"] * 3 + [
        "0/a.mp4"
    ] * 3


def test_keys_that_were_refused_by_earlier_versions_cost_no_row(dataset: Dataset, tmp_path: Path) -> None:
    """A second picture with the key of another was quarantined once."""
    for shard in (1, 2):
        (tmp_path / f"{shard}.tar").write_bytes(tar_bytes({"a.png": png(shard)}))
    first, second = open_source(tmp_path / "*.tar")
    refused = replace(second, other_keys=())
    with PlanWriter(4) as writer:
        planning = planner(open_source(tmp_path / "*.tar"))
        planning.plan_items(writer, [first, refused], KnownKeys(), 0, StopFlag())
        writer.freeze(dataset.plan_path, settings())
    assert [one.refused_reason for one in inputs_of(dataset.plan())] == [None, "duplicate_key"]
    for _ in range(2):
        plan = encoded(dataset, open_source(tmp_path / "*.tar"))
        assert keys_and_uris(plan) == {"a": "1.tar/a.png", "2/a": "2.tar/a.png"}
        assert len(plan) == 3


def test_retried_inputs_are_those_of_their_path_where_keys_repeat(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard, content in ((1, b"broken"), (2, b"broken"), (3, png(3))):
        (folder / f"{shard}.tar").write_bytes(tar_bytes({"a.png": content, "a.txt": b"of %d" % shard}))
    encoded(dataset, open_source(folder))
    for shard in (0, 1, 2):
        (folder / f"{shard}.tar").write_bytes(tar_bytes({"a.png": png(shard), "a.txt": b"of %d" % shard}))
    plan = encoded(dataset, open_source(folder), retry=["not_an_image"])
    found = {one.key: (one.uri, one.text) for one in inputs_of(plan, lambda one: one.refused_reason is None)}
    assert found == {
        "a": ("1.tar/a.png", "of 1"),
        "2/a": ("2.tar/a.png", "of 2"),
        "3/a": ("3.tar/a.png", "of 3"),
        "0/a": ("0.tar/a.png", "of 0"),
    }


def test_a_retried_entry_that_names_no_file_keeps_its_reason(dataset: Dataset, tmp_path: Path) -> None:
    """Once corrected, the entry is a new item with another key."""
    (tmp_path / "a.png").write_bytes(png(0))
    listed = tmp_path / "list.jsonl"
    listed.write_text('{"image": "a.png"}\n{"image": 5}\n')
    encoded(dataset, open_source(listed))
    (tmp_path / "b.png").write_bytes(png(1))
    listed.write_text('{"image": "a.png"}\n{"image": "b.png"}\n')
    encoded(dataset, open_source(listed), retry=["bad_entry"])
    assert {row.key for row in rows(dataset)} == {"a", "b"}
    assert dict(summarize(dataset).quarantined) == {"bad_entry": 1}


def test_a_retried_member_of_a_tar_is_not_another_one_of_the_same_name(dataset: Dataset, tmp_path: Path) -> None:
    def write(second: bytes) -> MediaSource:
        with tarfile.open(tmp_path / "t.tar", "w") as tar:
            for content, text in ((png(0), b"first"), (second, b"second")):
                add_member(tar, "x.png", content)
                add_member(tar, "x.txt", text)
        return open_source(tmp_path / "t.tar")

    encoded(dataset, write(bytes(len(png(1)))))
    assert quarantined(dataset) == 1
    encoded(dataset, write(png(1)), retry=["not_an_image"])
    assert {row.key: row.text for row in rows(dataset)} == {"x": "first", "t/x": "second"}
