"""What `emu3 verify` finds in datasets of sequences; `tests/faults/test_damage.py` damages every byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.codec import Codec
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.rows import DatasetDigest
from shared.maintenance.options import SealOptions
from shared.maintenance.seal import seal
from shared.maintenance.verify import verify_dataset
from tests.support import handmade
from tests.support.sequences import SETTINGS, broken, damage, sequence, write


def test_a_sound_dataset_verifies_to_the_digest_of_its_rows(tmp_path: Path) -> None:
    rows = [sequence(0, "a"), broken(1, "b"), sequence(2, "c")]
    dataset = write(tmp_path / "d", [rows[:2], rows[2:]], refused=2)
    report = verify_dataset(dataset)
    assert report.problems == []
    assert (report.units, report.planned_units, report.rows, report.quarantined) == (3, 3, 3, 2)
    assert report.is_complete
    digest = DatasetDigest(SETTINGS.fingerprints())
    digest.add(row.digest() for row in rows)
    assert report.digest == digest.hexdigest()


def test_the_digest_tells_rows_and_settings_apart_but_not_cuts(tmp_path: Path) -> None:
    rows = [sequence(0, "a"), broken(1, "b"), sequence(2, "c")]
    whole = verify_dataset(write(tmp_path / "whole", [rows])).digest
    assert verify_dataset(write(tmp_path / "cut", [[rows[2]], rows[:2]])).digest == whole
    others = [
        write(tmp_path / "row", [[*rows[:2], sequence(2, "c", seed=6)]]),
        write(tmp_path / "generation", [rows], generation={"guidance_scale": 4.0}),
        write(tmp_path / "codec", [rows], codec=Codec("0ther", 512, 8, 4)),
    ]
    assert len({whole, *(verify_dataset(other).digest for other in others)}) == 4


def test_verify_names_the_row_whose_codes_changed(tmp_path: Path) -> None:
    rows = [sequence(0, "a"), sequence(1, "changed"), broken(2, "c")]
    others = [sequence(3, "d")]
    dataset = write(tmp_path / "d", [rows, others])
    part = damage(dataset, 0, rows[1].codes_bytes)
    report = verify_dataset(dataset)
    [problem] = report.problems
    assert part in problem
    assert problem.endswith("damaged rows: 'changed'")
    undamaged = DatasetDigest(SETTINGS.fingerprints())
    undamaged.add(row.digest() for row in others)
    assert report.digest == undamaged.hexdigest()


def test_verify_names_the_part_whose_tokens_changed(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [[sequence(0, "a"), broken(1, "b")]])
    part = damage(dataset, 0, np.array([300, 70000, 184621], "<u4").tobytes())
    [problem] = verify_dataset(dataset).problems
    assert part in problem
    assert "the damage is elsewhere" in problem


def test_verify_names_codes_outside_the_codebook(tmp_path: Path) -> None:
    rows = [sequence(0, "a", codes_THW=np.array([[[511, 512]]], np.uint16))]
    [problem] = verify_dataset(write(tmp_path / "d", [rows])).problems
    assert "code 512 is outside the codebook" in problem
    rows = [sequence(0, "a", codes_THW=np.array([[[0, 511]]], np.uint16))]
    assert verify_dataset(write(tmp_path / "e", [rows])).problems == []


def test_what_a_running_job_writes_is_in_progress(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [[sequence(0, "a"), sequence(1, "b")], [sequence(2, "c")]])
    record = dataset.record_path(0).read_bytes()
    dataset.record_path(0).unlink()
    dataset.manifest_path.unlink()
    report = verify_dataset(dataset)
    assert report.problems == []
    assert ["part-000000." in name for name in report.unfinished] == [True]
    assert (report.units, report.intact_units, report.planned_units, report.missing_inputs) == (1, 1, 2, 2)
    dataset.record_path(0).write_bytes(record)
    assert verify_dataset(dataset).unfinished == []


def test_what_is_committed_meanwhile_is_no_problem(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [[sequence(0, "a")], [sequence(1, "b")]])
    record = dataset.record_path(1).read_bytes()
    dataset.record_path(1).unlink()
    report = verify_dataset(dataset, on_unit=lambda: dataset.record_path(1).write_bytes(record) and None)
    assert (report.problems, report.unfinished) == ([], [])
    assert verify_dataset(dataset).is_complete


def test_a_seal_meanwhile_is_no_problem(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [[sequence(0, "a")], [sequence(1, "b")]])
    before = verify_dataset(dataset).digest
    calls = iter([lambda: seal(SealOptions(str(dataset.root))), lambda: None])
    report = verify_dataset(Dataset(dataset.root), on_unit=lambda: next(calls)() and None)
    assert (report.problems, report.digest) == ([], before)


def test_verify_counts_the_planned_inputs(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [[sequence(0, "a"), sequence(1, "b")], [sequence(2, "c")]])
    dataset.record_path(0).unlink()
    for path in dataset.parts.glob("part-000000.*"):
        path.unlink()
    report = verify_dataset(dataset)
    assert not report.is_complete
    plan = dataset.plan()
    dataset.commit(UnitResult(0, [sequence(0, "a")], numerics=handmade.NUMERICS), plan)
    dataset.write_manifest(plan)
    [problem] = verify_dataset(dataset).problems
    assert "1 rows and 0 quarantined do not add up" in problem
