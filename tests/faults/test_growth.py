"""Whole commands on datasets that grow, break and are sealed; a stand-in for the model makes them quick.

They run in this process: what a kill does is for `test_every_step` and `test_video_faults`.
"""

from __future__ import annotations

import io
import json
import re
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import click.testing
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.cli import main
from shared.codec import EMU3
from shared.dataset.dataset import Dataset
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.readers import RowReader
from shared.dataset.rows import CodeRecord
from shared.dataset.settings import DatasetSettings
from shared.storage.paths import as_path
from tests.support.command import INTERRUPTED, MODEL, leftovers
from tests.support.flip import flip_bit
from tests.support.small_sources import gif, movie, png
from tests.support.step_by_step import StandInTokenizer, stand_in_tokenizer

ENCODE = (*MODEL, "--resize", "none", "--unit-rows", "4")


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_tokenizer(monkeypatch)


def emu3(*arguments: object, exit_code: int = 0, stdin: bytes | None = None) -> click.testing.Result:
    """Run `emu3 …`, which must exit with `exit_code`."""
    done = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    unexpected = not (done.exception is None or isinstance(done.exception, SystemExit))
    if unexpected or done.exit_code != exit_code:
        raise AssertionError(f"exit {done.exit_code}, expected {exit_code}: {done.output}") from done.exception
    return done


def encode(source: object, dataset: object, *options: object, stdin: bytes | None = None) -> click.testing.Result:
    return emu3("encode", source, dataset, *ENCODE, *options, stdin=stdin)


def digest(dataset: object) -> str:
    """Return the digest of a complete, undamaged dataset."""
    done = emu3("verify", dataset)
    assert "; complete" in done.output, done.output
    return done.output.splitlines()[-1]


def rows(dataset: object) -> dict[str, CodeRecord]:
    opened = Dataset.open(str(dataset))
    return {row.key: row for record in opened.commit_records() for row in opened.rows(record)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of six pictures, a film of two clips, an animation and a broken file: three units and a refusal."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(6):
        (folder / f"picture-{number}.png").write_bytes(png(number))
        (folder / f"picture-{number}.txt").write_text(f"caption {number}")
    (folder / "film.mp4").write_bytes(movie(32))
    (folder / "moving.gif").write_bytes(gif(8))
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def grow(folder: Path) -> None:
    (folder / "a-new.png").write_bytes(png(40))
    (folder / "new-film.mp4").write_bytes(movie(32, seed=4))
    (folder / "new-bad.mp4").write_bytes(b"no film")


def test_only_new_rows_are_encoded_and_the_dataset_is_whole(source: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    assert "9 rows encoded, 1 quarantined" in encode(source, dataset).output
    before = rows(dataset)
    assert "9 files written" in emu3("decode", dataset, tmp_path / "out", *MODEL).output
    assert "0 rows encoded, 0 quarantined" in encode(source, dataset).output
    grow(source)
    assert "3 rows encoded, 1 quarantined" in encode(source, dataset).output
    after = rows(dataset)
    assert set(after) - set(before) == {"a-new", "new-film#00000", "new-film#00001"}
    assert {key: after[key].digest() for key in before} == {key: row.digest() for key, row in before.items()}
    assert "12 rows, 2 quarantined; complete" in emu3("verify", dataset).output
    assert json.loads(emu3("inspect", dataset, "--json").output)["planned_rows"] == 14
    assert "3 files written, 9 already present" in emu3("decode", dataset, tmp_path / "out", *MODEL).output
    assert leftovers(dataset) == []


def test_interrupted_growth_is_not_reported_as_damage(source: Path, tmp_path: Path) -> None:
    """After a kill, the manifest describes the previous state until the next run writes it again."""
    dataset = tmp_path / "dataset"
    encode(source, dataset)
    opened = Dataset.open(dataset)
    old_manifest, old_units = opened.manifest_path.read_bytes(), opened.committed_units()
    grow(source)
    encode(source, dataset)
    complete, whole = digest(dataset), files(dataset)
    opened.manifest_path.write_bytes(old_manifest)
    assert digest(dataset) == complete, "killed right before the manifest"
    added = next(record for record in opened.commit_records() if record.unit not in old_units and record.rows)
    opened.record_path(added.unit).unlink()
    (opened.parts / added.part).unlink()
    assert "NOT complete" in emu3("verify", dataset).output
    assert f"{added.rows} rows encoded" in encode(source, dataset).output
    assert files(dataset) == whole


def test_stopped_inside_a_unit_of_clips_and_resumed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished clip is not encoded again, and the dataset is that of an undisturbed run."""
    dataset, unbroken = tmp_path / "dataset", tmp_path / "unbroken"
    encode(source, unbroken)
    encode_video, calls = StandInTokenizer.encode_video, []

    def noted(self: StandInTokenizer, frames_THWC: np.ndarray, batch: int = 1) -> np.ndarray:
        calls.append(len(frames_THWC))
        if len(calls) == 1:
            signal.raise_signal(signal.SIGTERM)
        return encode_video(self, frames_THWC, batch)

    monkeypatch.setattr(StandInTokenizer, "encode_video", noted)
    one_clip = ("--batch-pixels", 16 * 16 * 24)
    stopped = emu3("encode", source, dataset, *ENCODE, *one_clip, exit_code=INTERRUPTED)
    assert "stopped by SIGTERM" in stopped.output
    assert calls == [16]
    assert len(list((dataset / "partial").iterdir())) == 1
    encode(source, dataset, *one_clip)
    assert calls == [16, 16, 4]
    assert digest(dataset) == digest(unbroken)
    assert leftovers(dataset) == []


def test_a_missing_file_is_retried_after_it_has_appeared(source: Path, tmp_path: Path) -> None:
    listed, dataset = tmp_path / "list.jsonl", tmp_path / "dataset"
    entries = [{"key": "a", "image": "source/picture-0.png"}, {"key": "late", "image": "late.png", "text": "came"}]
    listed.write_text("\n".join(map(json.dumps, [*entries, {"key": "late-film", "video": "late.mp4"}])))
    assert "1 rows encoded, 2 quarantined" in encode(listed, dataset).output
    (tmp_path / "late.png").write_bytes(png(7))
    (tmp_path / "late.mp4").write_bytes(movie(32))
    assert "0 rows encoded, 0 quarantined" in encode(listed, dataset).output
    unused = encode(listed, dataset, "--retry-quarantined", "truncated").output
    assert "--retry-quarantined truncated: no input is quarantined for it; found: missing" in unused
    assert "3 rows encoded, 0 quarantined" in encode(listed, dataset, "--retry-quarantined", "missing").output
    found = {key: (row.src_index, row.text) for key, row in rows(dataset).items()}
    assert found == {
        "a": (0, None),
        "late": (1, "came"),
        "late-film#00000": (2, None),
        "late-film#00001": (3, None),
    }
    assert "4 rows, 0 quarantined; complete" in emu3("verify", dataset).output
    refused = emu3("encode", listed, dataset, *ENCODE, "--retry-quarantined", "duplicate_key", exit_code=2)
    assert "fix the source" in refused.output


def files(dataset: Path) -> dict[str, bytes]:
    """Return all files except the progress log."""
    paths = (path for path in dataset.rglob("*") if path.is_file() and path.name != "events.jsonl")
    return {str(path.relative_to(dataset)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("key", ["picture-1", "film#00001"])
def test_a_flipped_byte_is_repaired_to_the_same_bytes(key: str, source: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    encode(source, dataset)
    before, whole = digest(dataset), files(dataset)
    opened = Dataset.open(dataset)
    unit = next(record for record in opened.commit_records() if key in [row.key for row in opened.rows(record)])
    flip_bit(opened.parts / unit.part, rows(dataset)[key].codes_bytes)
    assert re.search(rf"damaged rows: '{key}'", emu3("verify", dataset, exit_code=1).output)
    done = emu3("repair", dataset, source, *MODEL)
    assert f"unit {unit.unit}: {unit.rows - 1} of {unit.rows} rows kept" in done.output
    assert f"unit {unit.unit}: encoded again, the same bytes as before" in done.output
    assert digest(dataset) == before
    assert files(dataset) == whole
    assert "nothing is damaged" in emu3("repair", dataset, source, *MODEL).output


def test_repair_plans_nothing_new(source: Path, tmp_path: Path) -> None:
    """The list was encoded with an image root and keys of its own; only its image root is needed to encode again."""
    dataset, listed = tmp_path / "dataset", tmp_path / "list.jsonl"
    entries = [{"image": f"picture-{number}.png", "code": f"k{number}"} for number in range(6)]
    listed.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    encode(listed, dataset, "--image-root", source, "--key", "code")
    before = digest(dataset)
    opened = Dataset.open(dataset)
    flip_bit(opened.parts / opened.record(0).part, rows(dataset)["k1"].codes_bytes)
    assert "the same bytes as before" in emu3("repair", dataset, source, *MODEL).output
    assert digest(dataset) == before


def test_repair_without_a_source_leaves_the_unit_to_the_next_run(source: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    encode(source, dataset)
    before, whole = digest(dataset), files(dataset)
    opened = Dataset.open(dataset)
    (opened.parts / opened.record(1).part).unlink()
    assert "1 units are missing" in emu3("repair", dataset).output
    encode(source, dataset)
    assert digest(dataset) == before
    assert "the same bytes" in emu3("repair", dataset).output
    assert files(dataset) == whole


def test_what_encode_did_not_make_is_not_encoded_again(source: Path, tmp_path: Path) -> None:
    freeze_plan(tmp_path / "plan.arrow", [], DatasetSettings(EMU3, 4, imported={}), 0)
    assert "not created by `emu3 encode`" in emu3("repair", tmp_path, source, *MODEL, exit_code=2).output


def test_a_sealed_dataset_grows_and_is_sealed_again(source: Path, tmp_path: Path) -> None:
    dataset, fresh = tmp_path / "dataset", tmp_path / "fresh"
    encode(source, dataset)
    before = digest(dataset)
    emu3("seal", dataset)
    assert digest(dataset) == before
    grow(source)
    assert "3 rows encoded" in encode(source, dataset).output
    grown = digest(dataset)
    assert "12 rows in 1 shards" in emu3("seal", dataset).output
    assert digest(dataset) == grown != before
    encode(source, fresh)
    assert codes(fresh) == codes(dataset)
    assert len(RowReader(Dataset(dataset))) == 12


def test_a_damaged_shard_is_repaired(source: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    encode(source, dataset)
    before = digest(dataset)
    emu3("seal", dataset)
    (shard,) = (dataset / "shards").glob("codes-*")
    flip_bit(shard, rows(dataset)["picture-2"].codes_bytes)
    emu3("verify", dataset, exit_code=1)
    assert "the same bytes as before" in emu3("repair", dataset, source, *MODEL).output
    assert digest(dataset) == before
    emu3("seal", dataset)
    assert digest(dataset) == before


def codes(dataset: Path) -> dict[str, bytes]:
    return {key: row.codes_bytes for key, row in rows(dataset).items()}


def test_tar_table_list_and_standard_input_give_the_codes_of_the_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(source, tmp_path / "from-folder")
    expected = codes(tmp_path / "from-folder")
    names = [path.name for path in sorted(source.iterdir())]
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in names:
            tar.add(source / name, name)
    pictures = [name for name in names if name.endswith((".png", ".gif"))]
    table = {
        "key": [Path(name).stem for name in pictures],
        "image": [(source / name).read_bytes() for name in pictures],
    }
    pq.write_table(pa.table(table), tmp_path / "table.parquet", row_group_size=2)
    encode(tmp_path / "shard.tar", tmp_path / "from-tar")
    assert codes(tmp_path / "from-tar") == expected
    assert rows(tmp_path / "from-tar")["picture-3"].text == "caption 3"
    encode(tmp_path / "table.parquet", tmp_path / "from-table")
    assert codes(tmp_path / "from-table") == {key: code for key, code in expected.items() if "film" not in key}
    monkeypatch.chdir(source)
    lines = "\n".join(name for name in names if not name.endswith(".txt")).encode()
    encode("-", tmp_path / "from-stdin", stdin=lines)
    assert codes(tmp_path / "from-stdin") == expected
    resumed = encode("-", tmp_path / "from-stdin", stdin=b'{"key": "more", "image": "picture-0.png"}\n')
    assert "1 rows encoded" in resumed.output
    assert codes(tmp_path / "from-stdin")["more"] == expected["picture-0"]


def test_plan_predicts_what_encode_does(source: Path, tmp_path: Path) -> None:
    done = emu3("plan", source, "--resize", "none", "--unit-rows", "4", "--megapixels-per-s", "2")
    assert "10: 9 rows in 5 units, 6 captions" in done.output
    assert "16×24 (6), 16×16×24 (2), 4×16×24 (1)" in done.output
    assert "not_an_image (1)" in done.output
    encode(source, tmp_path / "dataset")
    assert len(Dataset(tmp_path / "dataset").committed_units()) == 5
    measured = emu3("plan", source, "--resize", "none", "--measured-in", tmp_path / "dataset")
    assert "megapixels/s" in measured.output


def test_one_of_two_equal_files_is_encoded_if_asked(source: Path, tmp_path: Path) -> None:
    (source / "z-copy.png").write_bytes((source / "picture-0.png").read_bytes())
    encode(source, tmp_path / "dataset", "--duplicates", "once")
    found = json.loads(emu3("inspect", tmp_path / "dataset", "--json").output)
    assert found["quarantined"] == {"duplicate_content": 1, "not_an_image": 1}


@pytest.mark.parametrize("format", ["webp", "frames"])
def test_decoded_to_frames_and_animations(format: str, source: Path, tmp_path: Path) -> None:
    dataset, out = tmp_path / "dataset", tmp_path / "out"
    encode(source, dataset, "--fps", "5")
    assert "9 files written" in emu3("decode", dataset, out, *MODEL, "--video-format", format).output
    if format == "webp":
        with Image.open(out / "film#00000.webp") as film:
            assert film.n_frames == 4, "the stand-in repeats each frame four times, and equal frames are merged"
            film.load()
            assert film.info["duration"] == 4 * 1000 / 5
    else:
        assert sorted(path.name for path in (out / "film#00000.frames").iterdir())[-1] == "000015.png"
    again = emu3("decode", dataset, out, *MODEL, "--video-format", format)
    assert "0 files written, 9 already present" in again.output


def test_from_bucket_to_bucket(s3: Callable[[str], str], source: Path, tmp_path: Path) -> None:
    """Encode, grow, verify, seal and decode by URL; the digest is that of a local run."""
    bucket = s3("growth")
    for path in source.iterdir():
        as_path(f"{bucket}/source/{path.name}").write_bytes(path.read_bytes())
    dataset = f"{bucket}/dataset"
    encode(f"{bucket}/source", dataset)
    encode(source, tmp_path / "local")
    assert digest(dataset) == digest(tmp_path / "local")
    as_path(f"{bucket}/source/a-new.png").write_bytes(png(40))
    assert "1 rows encoded" in encode(f"{bucket}/source", dataset).output
    emu3("seal", dataset)
    assert "10 rows, 1 quarantined; complete" in emu3("verify", dataset).output
    assert "10 files written" in emu3("decode", dataset, f"{bucket}/out", *MODEL).output
    content = as_path(f"{bucket}/out/a-new.png").read_bytes()
    assert Image.open(io.BytesIO(content)).size == (24, 16)
