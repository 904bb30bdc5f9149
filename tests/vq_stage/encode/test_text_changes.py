"""Changed captions update a dataset without encoding anything again."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipelines.cli import main
from shared.dataset.dataset import Dataset
from shared.jobs.signals import StopFlag
from shared.maintenance.verify import verify_dataset
from tests.support.command import ENCODE
from tests.support.handmade import settings
from tests.support.small_sources import commit_missing, movie, planner, png
from tests.support.small_tars import add_member
from tests.support.stand_in import StandInWorker
from vq_stage.encode.plan_updates import up_to_date_plan
from vq_stage.sources.open_source import open_source
from vq_stage.video.clips import ClipSampling


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vq_stage.encode.job.EncodeWorker", StandInWorker)


def encode(source: Path, dataset: Path, *options: str) -> Result:
    result = CliRunner().invoke(main, ["encode", str(source), str(dataset), *ENCODE, "--unit-rows", "2", *options])
    assert result.exit_code == 0, result.output
    return result


def texts(root: Path) -> dict[str, str | None]:
    dataset = Dataset.open(root)
    return {row.key: row.text for record in dataset.commit_records() for row in dataset.rows(record)}


def digest(root: Path) -> str:
    report = verify_dataset(Dataset.open(root))
    assert report.problems == []
    assert report.is_complete
    return report.digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of four pictures, of which the last has no caption."""
    source = tmp_path / "pictures"
    source.mkdir()
    for index in range(4):
        (source / f"{index}.png").write_bytes(png(index))
        (source / f"{index}.txt").write_text(f"caption {index}")
    (source / "3.txt").unlink()
    return source


def test_the_digest_is_that_of_a_new_dataset(folder: Path, tmp_path: Path) -> None:
    encode(folder, tmp_path / "codes")
    parts = {path.name: path.read_bytes() for path in (tmp_path / "codes/parts").iterdir()}
    (folder / "0.txt").write_text("another caption")
    (folder / "1.txt").unlink()
    (folder / "3.txt").write_text("a late caption")
    result = encode(folder, tmp_path / "codes", "--update-texts")
    assert "3 texts updated (first: 0)" in result.stderr
    assert "0 rows encoded" in result.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "codes/parts").iterdir()} == parts
    encode(folder, tmp_path / "new")
    assert texts(tmp_path / "codes") == texts(tmp_path / "new")
    assert digest(tmp_path / "codes") == digest(tmp_path / "new")


def test_new_items_are_encoded_in_the_same_run_and_a_second_run_changes_nothing(folder: Path, tmp_path: Path) -> None:
    encode(folder, tmp_path / "codes")
    (folder / "4.png").write_bytes(png(4))
    (folder / "4.txt").write_text("new")
    (folder / "0.txt").write_text("changed")
    assert "1 rows encoded" in encode(folder, tmp_path / "codes", "--update-texts").stderr
    assert texts(tmp_path / "codes") == {"0": "changed", "1": "caption 1", "2": "caption 2", "3": None, "4": "new"}
    assert "no text has changed" in encode(folder, tmp_path / "codes", "--update-texts").stderr
    assert len(Dataset(tmp_path / "codes").texts) == 1


def test_without_the_flag_a_folder_keeps_its_texts(folder: Path, tmp_path: Path) -> None:
    encode(folder, tmp_path / "codes")
    before = digest(tmp_path / "codes")
    (folder / "0.txt").write_text("changed")
    encode(folder, tmp_path / "codes")
    assert digest(tmp_path / "codes") == before


def write_list(path: Path, captions: dict[str, object]) -> None:
    entries = [{"image": name, "text": text} for name, text in captions.items()]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_a_list_reports_changed_texts_in_one_line(folder: Path, tmp_path: Path) -> None:
    listed = folder / "list.jsonl"
    write_list(listed, {"0.png": "a", "1.png": "b", "2.png": None})
    encode(listed, tmp_path / "codes")
    write_list(listed, {"0.png": "a", "1.png": "B", "2.png": "C", "3.png": "d"})
    lines = [line for line in encode(listed, tmp_path / "codes").stderr.splitlines() if "--update-texts" in line]
    assert [line.partition(";")[0] for line in lines] == ["2 texts differ from those in the dataset (first: 1)"]
    encode(listed, tmp_path / "codes", "--update-texts")
    assert texts(tmp_path / "codes") == {"0": "a", "1": "B", "2": "C", "3": "d"}
    assert "--update-texts" not in encode(listed, tmp_path / "codes").stderr


def test_conversations_change_too(folder: Path, tmp_path: Path) -> None:
    def write(answer: str) -> None:
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]
        (folder / "list.json").write_text(json.dumps([{"id": "k", "image": "0.png", "conversations": turns}]))

    write("A cat.")
    encode(folder / "list.json", tmp_path / "codes")
    write("A dog.")
    encode(folder / "list.json", tmp_path / "codes", "--update-texts")
    encode(folder / "list.json", tmp_path / "new")
    dataset = Dataset.open(tmp_path / "codes")
    (row,) = (row for record in dataset.commit_records() for row in dataset.rows(record))
    assert json.loads(row.extra_json or "")["answer"] == "A dog."
    assert digest(tmp_path / "codes") == digest(tmp_path / "new")


def test_all_clips_of_a_video_get_its_new_text(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/film.mp4").write_bytes(movie(16))
    dataset = Dataset(tmp_path / "codes")
    dataset.root.mkdir()
    for text in ("before", "after"):
        (tmp_path / "clips/film.txt").write_text(text)
        planning = planner(open_source(tmp_path / "clips"), update_texts=True, sampling=ClipSampling(frames=4))
        commit_missing(dataset, up_to_date_plan(dataset, planning, settings(), StopFlag()))
    assert len(texts(dataset.root)) == 4
    assert set(texts(dataset.root).values()) == {"after"}


@pytest.mark.parametrize("first_caption", [b"first", b"changed", b"\xff"])
def test_members_of_a_tar_with_one_name_keep_their_own_texts(first_caption: bytes, tmp_path: Path) -> None:
    def write(first: bytes) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for number, text in enumerate((first, b"second", b"third")):
                add_member(tar, "x.png", png(number))
                add_member(tar, "x.txt", text)

    write(b"first")
    encode(tmp_path / "a.tar", tmp_path / "codes")
    before = texts(tmp_path / "codes")
    assert before == {"x": "first", "a/x": "second", "a/x~2": "third"}
    write(first_caption)
    encode(tmp_path / "a.tar", tmp_path / "codes", "--update-texts")
    first = "changed" if first_caption == b"changed" else "first"
    assert texts(tmp_path / "codes") == {**before, "x": first}


def test_a_caption_that_cannot_be_read_keeps_the_old_text(folder: Path, tmp_path: Path) -> None:
    encode(folder, tmp_path / "codes")
    (folder / "0.txt").write_bytes(b"\xff\xfe\xff")
    result = encode(folder, tmp_path / "codes", "--update-texts")
    assert "kept: 1 texts cannot be read (first: 0.png)" in result.stderr
    assert texts(tmp_path / "codes")["0"] == "caption 0"


def test_an_input_without_a_row_has_no_text_to_update(folder: Path, tmp_path: Path) -> None:
    (folder / "0.png").write_bytes(b"no picture")
    encode(folder, tmp_path / "codes")
    (folder / "0.txt").write_text("another caption")
    assert "no text has changed" in encode(folder, tmp_path / "codes", "--update-texts").stderr
    (folder / "0.png").write_bytes(png(0))
    encode(folder, tmp_path / "codes", "--retry-quarantined", "not_an_image")
    assert texts(tmp_path / "codes")["0"] == "another caption"
