"""From items to units: sizes, clips, duplicates and refusals, without a model and from headers only."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.codec import EMU3
from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import Plan
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.settings import DatasetSettings
from shared.errors import Interrupted, JobStoppedError
from shared.jobs.signals import StopFlag
from tests.support.small_sources import MemorySource, gif, inputs_of, memory_source, movie, planner, png
from vq_stage.sources.media_source import MediaItem


def plan_of(source: MemorySource, path: Path, unit_rows: int = 4, first_index: int = 0, **options: object) -> Plan:
    planning = planner(source, unit_rows, **options)
    with PlanWriter(unit_rows) as writer:
        planning.plan_items(writer, source, KnownKeys(), first_index, StopFlag())
        writer.freeze(path, DatasetSettings(EMU3))
    return Plan(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.arrow"


def keys(plan: Plan, unit: int) -> list[str]:
    return [planned.key for planned in plan.unit(unit).inputs]


def reasons(plan: Plan) -> dict[str, str]:
    """Return the reasons of refused inputs by URI."""
    return {one.uri: one.refused_reason for one in inputs_of(plan) if one.refused_reason}


def test_units_are_of_one_size_the_largest_first_and_what_is_refused_last(path: Path) -> None:
    source = memory_source(
        a=png(0), b=png(1, 32, 32), bad=b"no picture", c=png(2), d=png(3), e=png(4, 32, 32), f=png(5, 24, 16)
    )
    plan = plan_of(source, path, unit_rows=2)
    found = [(plan.unit(number).size, keys(plan, number)) for number in range(len(plan))]
    assert found == [
        ((1, 32, 32), ["b", "e"]),
        ((1, 16, 24), ["a", "c"]),
        ((1, 16, 24), ["d"]),
        ((1, 24, 16), ["f"]),
        ((0, 0, 0), ["bad"]),
    ]
    assert {one.key: one.src_index for one in inputs_of(plan)} == dict(
        zip(["a", "b", "bad", "c", "d", "e", "f"], range(7))
    )


def test_a_video_becomes_clips_with_keys_of_their_own(path: Path) -> None:
    """40 frames at 8 per second: clips of 16, 16 and 8 frames."""
    source = MemorySource(Path())
    source.add("folder/film.mp4", movie(40), "a caption")
    plan = plan_of(source, path)
    assert [plan.unit(number).size for number in range(len(plan))] == [(16, 16, 24), (8, 16, 24)]
    assert keys(plan, 0) == ["folder/film#00000", "folder/film#00001"]
    assert keys(plan, 1) == ["folder/film#00002"]
    clips = inputs_of(plan)
    assert [(clip.src_index, clip.frame_start, clip.frame_stride, clip.fps) for clip in clips] == [
        (0, 0, None, 8.0),
        (1, 16, None, 8.0),
        (2, 32, None, 8.0),
    ]
    assert {(clip.uri, clip.text) for clip in clips} == {("folder/film.mp4", "a caption")}


def test_a_video_of_one_clip_keeps_its_name(path: Path) -> None:
    source = MemorySource(Path())
    source.add("film.mp4", movie(16))
    assert keys(plan_of(source, path), 0) == ["film"]


def test_a_moving_gif_is_a_video_and_a_still_one_an_image(path: Path) -> None:
    """5 frames of 0.1 s: 0.5 s, which is 4 frames at 8 per second."""
    source = MemorySource(Path())
    source.add("moving.gif", gif(5))
    source.add("still.gif", gif(1))
    plan = plan_of(source, path)
    assert {one.key: unit.size for unit in map(plan.unit, range(len(plan))) for one in unit.inputs} == {
        "moving": (4, 16, 24),
        "still": (1, 16, 24),
    }


def test_unusable_videos_are_refused_with_a_reason(path: Path) -> None:
    source = MemorySource(Path())
    source.add("short.mp4", movie(3))
    source.add("garbage.mp4", b"garbage" * 100)
    source.add("empty.mp4", b"")
    source.add("gone.mp4", None)
    source.media_items.append(MediaItem("named", "named.png").refused("bad_name", "for some reason"))
    plan = plan_of(source, path)
    found = reasons(plan)
    assert found.pop("empty.mp4") in ("empty", "truncated")
    assert found == {
        "short.mp4": "too_short",
        "garbage.mp4": "not_a_video",
        "gone.mp4": "missing",
        "named.png": "bad_name",
    }
    assert "named.png" not in source.opened


def test_a_key_in_use_is_refused_and_the_first_input_kept(path: Path) -> None:
    source = memory_source(a=png(0))
    source.add("other/a.png", png(1), key="a")
    plan = plan_of(source, path)
    assert reasons(plan) == {"other/a.png": "duplicate_key"}
    assert [(one.key, one.src_index) for one in inputs_of(plan)] == [("a", 0), ("a", 1)]


def test_equal_files_are_encoded_once_only_if_asked(path: Path) -> None:
    """The clips of a video differ from each other, and equal those of its copy."""
    source = memory_source(a=png(0), b=png(1), copy=png(0))
    source.add("film.mp4", movie(40))
    source.add("film-copy.mp4", movie(40))
    assert reasons(plan_of(source, path)) == {}
    once = plan_of(source, path.with_name("once.arrow"), duplicates="once")
    assert reasons(once) == {"copy.png": "duplicate_content", "film-copy.mp4": "duplicate_content"}
    refused = [one.key for one in inputs_of(once) if one.refused_reason]
    assert refused == ["copy", "film-copy#00000", "film-copy#00001", "film-copy#00002"]


def test_many_refused_in_a_row_stop_the_job_and_a_good_one_between_them_does_not(path: Path) -> None:
    bad = {f"bad-{number}": b"no picture" for number in range(3)}
    plan_of(memory_source(**bad), path, max_refused_in_a_row=3)
    source = memory_source(**bad, good=png(0), **{f"more-{number}": b"no picture" for number in range(3)})
    plan_of(source, path.with_name("broken-up.arrow"), max_refused_in_a_row=3)
    with pytest.raises(JobStoppedError, match=r"more than 2 inputs in a row.*bad-2\.png: not_an_image.*--max-refused"):
        plan_of(source, path.with_name("stopped.arrow"), max_refused_in_a_row=2)
    assert not path.with_name("stopped.arrow").exists()


def test_the_number_of_reader_threads_does_not_change_the_plan(path: Path) -> None:
    contents = {f"picture-{number}": png(number, 16 + 8 * (number % 3)) for number in range(12)}
    plans = []
    for threads in (1, 2, 5):
        source = memory_source(**contents)
        source.add("film.mp4", movie(40))
        plan_path = path.with_name(f"{threads}.arrow")
        plan_of(source, plan_path, reader_threads=threads, unit_rows=3)
        plans.append(plan_path.read_bytes())
    assert plans[0] == plans[1] == plans[2]


def test_a_signal_while_planning_leaves_nothing(path: Path) -> None:
    stop, source = StopFlag(), memory_source(a=png(0), b=png(1))
    stop.set("SIGTERM")
    with PlanWriter(4) as writer, pytest.raises(Interrupted, match="SIGTERM"):
        planner(source).plan_items(writer, source, KnownKeys(), 0, stop)
    assert list(path.parent.iterdir()) == []


def test_locator_and_extra_fields_are_planned(path: Path) -> None:
    source = MemorySource(Path())
    source.contents["a.png"] = png(0)
    source.media_items.append(MediaItem("a", "a.png", "text", locator=(512, 90), extra_json='{"a":"ä","b":1}'))
    (planned,) = inputs_of(plan_of(source, path, first_index=40))
    assert (planned.src_index, planned.text, planned.locator) == (40, "text", (512, 90))
    assert planned.extra_json == '{"a":"ä","b":1}'
