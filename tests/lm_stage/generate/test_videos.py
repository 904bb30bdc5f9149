"""Videos from prompts to rows: generated, continued, crashed and resumed, asked about; images as before.

A stand-in for the model makes them quick; the tests of the visual generator continue videos of a real one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from lm_stage.inference.visual_generator import VisualGenerator
from lm_stage.inference.visual_sequence import VisualSequence
from lm_stage.understand.job import understand
from lm_stage.understand.options import UnderstandOptions
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.dataset.rows import SequenceRecord
from shared.errors import ConfigMismatchError, UsageError
from tests.support.file_digests import file_digests
from tests.support.step_by_step import stand_in_language_model

SIZE = {"height": 16, "width": 24}  # pixels: 2 × 3 codes
LONG = {"key": "long", "prompt": "a red apple", "frames": 5, "video": "clip"}
CRASH_AFTER = 11  # forwards: inside the fourth frame of LONG


class Crashed(Exception):
    pass


def write(path: Path, *entries: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


def options(prompts: str, dataset: Path, model: Path, **others: Any) -> GenerateOptions:
    return GenerateOptions(prompts, str(dataset), model=str(model), **{"batch_size": 2, "journal_rows": 1, **others})


def parts(dataset: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((dataset / "parts").glob("*.arrow"))]


@pytest.fixture(scope="module", autouse=True)
def _stand_in() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stand_in_language_model(patch)
        yield


@pytest.fixture(scope="module")
def written(small_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with a video of two frames and an image; tests must not change it."""
    folder = tmp_path_factory.mktemp("written")
    clip, still = {"key": "clip", "frames": 2, **SIZE}, {"key": "still", **SIZE}
    prompts = write(folder / "p.jsonl", {"prompt": "a red apple", **clip}, {"prompt": "a green pear", **still})
    result = generate(options(prompts, folder / "dataset", small_lm))
    assert (result.rows, result.quarantined) == (2, 0)
    return folder / "dataset"


@pytest.fixture(scope="module")
def longer_prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("prompts")
    from_still = {"key": "moved", "prompt": "a green pear", "frames": 3, "video": "still", "fps": 2}
    short = {"key": "short", "prompt": "a pear", "frames": 2, "video": "clip"}
    return write(folder / "p.jsonl", LONG, from_still, short)


@pytest.fixture(scope="module")
def longer(written: Path, longer_prompts: str, small_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that continues `written`, from an undisturbed job; tests must not change it."""
    dataset = tmp_path_factory.mktemp("longer") / "dataset"
    result = generate(options(longer_prompts, dataset, small_lm, images=str(written)))
    assert (result.rows, result.quarantined) == (2, 1)
    return dataset


def test_a_video_is_a_row_with_frames_and_fps(written: Path) -> None:
    index = KeyReader(Dataset.open(written))
    clip, still = index.row("clip"), index.row("still")
    assert isinstance(clip, SequenceRecord)
    assert (clip.kind, clip.codes_THW.shape, clip.fps, clip.src_h, clip.valid) == ("video", (2, 2, 3), 8.0, 16, True)
    assert (still.kind, still.codes_THW.shape, still.fps) == ("image", (1, 2, 3), None)
    assert clip.codes_THW[0].tolist() != clip.codes_THW[1].tolist(), "a frame of its own"


def test_a_continued_clip_stays_as_it_is(written: Path, longer: Path) -> None:
    before, after = KeyReader(Dataset.open(written)), KeyReader(Dataset.open(longer))
    for key, continued, frames, fps in (("long", "clip", 5, 8.0), ("moved", "still", 3, 2.0)):
        row, prefix = after.row(key), before.row(continued).codes_THW
        assert (row.kind, row.codes_THW.shape, row.fps) == ("video", (frames, 2, 3), fps)
        np.testing.assert_array_equal(row.codes_THW[: len(prefix)], prefix)
        assert len({frame.tobytes() for frame in row.codes_THW}) == frames, "every further frame is new"
    [refusal] = [refusal for record in Dataset(longer).commit_records() for refusal in Dataset(longer).refusals(record)]
    assert (refusal.key, refusal.reason) == ("short", "bad_frames")


def crash_in_the_video(monkeypatch: pytest.MonkeyPatch, command: GenerateOptions) -> None:
    """Stop the job inside a video, as a crash of the machine would: the last line of the journal is incomplete."""
    steps, step = [0], VisualGenerator.step

    def crashing(generator: VisualGenerator) -> list[VisualSequence]:
        steps[0] += 1
        if steps[0] > CRASH_AFTER:
            raise Crashed
        return step(generator)

    with monkeypatch.context() as patch:
        patch.setattr(VisualGenerator, "step", crashing)
        with pytest.raises(Crashed):
            generate(command)
    journal = Dataset(command.dataset).journal_path(0)
    content = journal.read_bytes()
    assert content.count(b"\n") > 3
    journal.write_bytes(content[:-7])


def test_crashed_inside_a_video_and_run_again(
    written: Path,
    longer: Path,
    longer_prompts: str,
    small_lm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = options(longer_prompts, tmp_path / "dataset", small_lm, images=str(written))
    crash_in_the_video(monkeypatch, command)
    generate(command)
    assert parts(tmp_path / "dataset") == parts(longer)


def test_a_clip_is_asked_about(written: Path, small_lm: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    understand(UnderstandOptions(str(written), str(out), model=str(small_lm), max_new_tokens=3, batch_size=2))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    asked = {line["key"]: line["question"] for line in lines}
    assert asked == {"clip": "Please describe the video.", "still": "Please describe the image."}
    assert [line["error"] for line in lines] == [None, None]
    settings = json.loads(out.with_name("answers.jsonl.settings.json").read_text())
    assert settings["video_template"] == {"name": "univla", "size": "T*H*W", "has_eol": False}


def test_a_question_about_a_clip_is_added(written: Path, small_lm: Path, tmp_path: Path) -> None:
    about_still, about_clip = ({"question": "what?", "image": key} for key in ("still", "clip"))
    questions = write(tmp_path / "q.jsonl", about_still)
    out, others = tmp_path / "a.jsonl", {"model": str(small_lm), "questions": questions, "max_new_tokens": 3}
    understand(UnderstandOptions(str(written), str(out), **others))
    write(tmp_path / "q.jsonl", about_still, about_clip)
    with pytest.raises(ConfigMismatchError, match="video_template"):
        understand(UnderstandOptions(str(written), str(out), video_template="rows", **others))
    understand(UnderstandOptions(str(written), str(out), **others))
    assert [json.loads(line)["error"] for line in out.read_text().splitlines()] == [None, None]


def settings_of(entries: Sequence[dict[str, Any]], model: Path, folder: Path, **others: Any) -> dict[str, Any]:
    """Return the recorded settings of a job whose prompts are all refused, so that no model loads."""
    generate(options(write(folder / "p.jsonl", *entries), folder / "dataset", model, **others))
    return dict(Dataset(folder / "dataset").plan().settings.generation or {})


def test_settings_of_images_are_those_of_version_0_1(small_lm: Path, tmp_path: Path) -> None:
    """With an additional key, datasets of that time could not be resumed; `noise` is left out for them."""
    settings = settings_of([{"prompt": ""}], small_lm, tmp_path, video_template="rows", **SIZE)
    for name in ("model", "text", "layout"):
        assert settings.pop(name)
    defaults = {"area": 1024, "is_size_given": True, "negative_prompt": "", "ratio": "1:1", "samples": 1, "seed": 0}
    assert settings == {
        "defaults": {**defaults, **SIZE},
        "guidance_scale": 3.0,
        "images": None,
        "sampling": {"greedy": False, "noise": "gumbel", "temperature": 1.0, "top_k": 2048, "top_p": 1.0},
        "suffix": "",
        "template": "text-to-image",
    }


def test_settings_of_videos_have_format_and_frames(small_lm: Path, tmp_path: Path) -> None:
    too_long = {"prompt": "a " * 500, **SIZE}
    settings = settings_of([too_long], small_lm, tmp_path, video_template="rows", frames=5)
    assert settings["video_template"] == {"name": "rows", "size": "T*H*W", "has_eol": True}
    assert settings["defaults"]["frames"] == 5


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"frames": -1}, "--frames -1"),
        ({"video_template": "emu3"}, "expected one of univla, rows"),
        ({"frames": 500, **SIZE}, "500 frames of 2×3 codes take"),
        ({"area": 4096 * 4096}, "512×512 codes take"),
    ],
)
def test_bad_settings_of_videos_stop_the_job(
    changes: dict[str, Any], shown: str, small_lm: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=shown):
        generate(options(write(tmp_path / "p.jsonl", {"prompt": "a"}), tmp_path / "dataset", small_lm, **changes))
    assert not (tmp_path / "dataset").exists()


def test_videos_are_added_to_images_in_the_default_format(small_lm: Path, tmp_path: Path) -> None:
    still = {"prompt": "a green pear", "key": "still", **SIZE}
    clip, second = ({"prompt": "a pear", "key": key, "frames": 1, **SIZE} for key in ("clip", "second"))
    command = options(write(tmp_path / "p.jsonl", still), tmp_path / "dataset", small_lm)
    rows = replace(command, video_template="rows")
    assert generate(command).rows == 1
    digest = file_digests(tmp_path / "dataset/parts")
    write(tmp_path / "p.jsonl", still, clip)
    with pytest.raises(ConfigMismatchError, match="video_template"):
        generate(rows)
    assert generate(command).rows == 1
    assert digest.items() <= file_digests(tmp_path / "dataset/parts").items()
    write(tmp_path / "p.jsonl", still)
    with pytest.raises(ConfigMismatchError, match="video_template"):
        generate(rows)  # the planned video would be one of `rows` if it had not been generated yet
    write(tmp_path / "p.jsonl", still, clip, second)
    assert generate(command).rows == 1
    index = KeyReader(Dataset.open(tmp_path / "dataset"))
    assert [index.row(key).kind for key in ("still", "clip", "second")] == ["image", "video", "video"]
