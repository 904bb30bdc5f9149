"""Which folders and files below a root are entered: hidden ones, links, loops and output of this program are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.small_folders import fill
from vq_stage.sources.folder import FolderSource
from vq_stage.sources.folder_walk import BROKEN_LINKS, HIDDEN_FILES, HIDDEN_FOLDERS, LOOPS, MAX_LISTINGS, own_output
from vq_stage.sources.open_source import open_source


def listed(root: Path) -> tuple[list[str], dict[str, tuple[int, str]]]:
    """Return the keys of a folder, and what was skipped with counts and first examples."""
    source = FolderSource(root)
    keys = [item.key for item in source if item.refusal is None]
    return keys, {kind: (tally.count, tally.first) for kind, tally in source.report.skipped.items()}


def test_hidden_and_system_files_are_skipped_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, "cat.png", "._cat.png", ".DS_Store", "sub/Thumbs.db", "sub/dog.png", ".hidden.png", "desktop.ini")
    fill(tmp_path, "__MACOSX/._cat.png", ".ipynb_checkpoints/cat.png", "@eaDir/cat.png/THUMB.png", ".Trash-1/f/a.png")
    assert listed(tmp_path) == (
        ["cat", "sub/dog"],
        {HIDDEN_FILES: (5, ".DS_Store"), HIDDEN_FOLDERS: (4, ".Trash-1/")},
    )


def test_a_hidden_folder_can_be_the_source_itself(tmp_path: Path) -> None:
    assert [item.key for item in open_source(fill(tmp_path / ".photos", "a.png"))] == ["a"]


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    source = FolderSource(fill(tmp_path, "walk.frames/1.png", "walk.frames/._1.png", "empty.frames/.1.png"))
    assert [item.key for item in source] == ["walk"]
    assert source.frames("walk.frames") == ["walk.frames/1.png"]


def test_linked_folders_are_followed_and_loops_cut(tmp_path: Path) -> None:
    """A folder that two links lead to is no loop: it is listed under both paths."""
    root = fill(tmp_path / "root", "own.png", "sub/b.png")
    fill(tmp_path / "real", "r.png")
    for name, target in {"part1": "../real", "part2": "../real", "linked.png": "../real/r.png", "loop": "."}.items():
        (root / name).symlink_to(target)
    (root / "sub" / "up").symlink_to("..")
    (tmp_path / "real" / "around").symlink_to(tmp_path)
    keys, skipped = listed(root)
    assert keys == ["linked", "own", "part1/r", "part2/r", "sub/b"]
    assert skipped == {LOOPS: (6, "loop/")}


def test_links_between_folders_do_not_multiply_without_end(tmp_path: Path) -> None:
    """Thirty folders, each with two links to the next one, have a thousand million paths."""
    for number in range(30):
        folder = fill(tmp_path, f"{number}/a.png") / str(number)
        for link in "xy":
            (folder / link).symlink_to(f"../{number + 1}" if number < 29 else "../end")
    fill(tmp_path / "end", "z.png")
    keys, _ = listed(tmp_path / "0")
    assert keys[0] == "a"
    assert 30 <= len(keys) <= 31 * MAX_LISTINGS


def test_broken_links_are_reported(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "nowhere").symlink_to("gone")
    keys, skipped = listed(tmp_path)
    assert (keys, skipped[BROKEN_LINKS][0]) == (["a"], 2)


def test_broken_links_to_images_are_quarantined(tmp_path: Path) -> None:
    """They are listed as images, and refused when they are opened."""
    fill(tmp_path, "a.png")
    (tmp_path / "itself.png").symlink_to("itself.png")
    (tmp_path / "nowhere.png").symlink_to("gone.png")
    assert listed(tmp_path)[0] == ["a", "itself", "nowhere"]


def test_special_files_are_listed_and_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    assert listed(tmp_path) == (["pipe"], {"files without a suffix": (1, "pipe")})


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["plan.arrow", "parts/"], "datasets of codes"),
        (["plan.arrow", "shards/", "manifest.json"], "datasets of codes"),
        (["parts/", "events.jsonl"], "datasets of codes"),
        ([".emu3-decode.json", "a.png"], "folders of decoded files"),
        (["options.json", "checkpoints/", "loss.png"], "training runs"),
        (["manifest.json", "codes-00000.tar"], "exported datasets"),
        (["__emu3__/", "codes-00000.tar"], "exported datasets"),
        (["plan.arrow", "a.png"], None),
        (["parts/", "a.png"], None),
        (["options.json", "a.png"], None),
        (["options.json", "model/"], None),
        (["manifest.json", "parts/"], None),
        ([], None),
    ],
)
def test_output_of_this_program(names: list[str], kind: str | None) -> None:
    assert own_output(names) == kind


def test_output_of_this_program_is_no_input(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "codes/plan.arrow", "codes/parts/x.png", "out/.emu3-decode.json", "out/a.png")
    fill(tmp_path, "run/options.json", "run/train_log.jsonl", "run/loss.png")
    keys, skipped = listed(tmp_path)
    assert keys == ["a"]
    assert sorted(skipped) == [
        "datasets of codes of this program",
        "folders of decoded files of this program",
        "training runs of this program",
    ]


def test_other_files_are_counted_by_suffix(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "a.png",
        "b.HEIC",
        "c.heic",
        "d.jxl",
        "sub/e.rmvb",
        "f.pdf",
        "a.txt",
        "notes.txt",
        "README",
        "s.tar.gz",
    )
    source = FolderSource(tmp_path)
    assert [item.key for item in source] == ["a"]
    assert list(source.report.lines()) == [
        "captions: 1 unused captions (first: notes.txt)",
        "skipped: 2 .heic files (first: b.HEIC)",
        "skipped: 1 .jxl files (first: d.jxl)",
        "skipped: 1 .pdf files (first: f.pdf)",
        "skipped: 1 .rmvb files (first: sub/e.rmvb)",
        "skipped: 1 compressed tars, which must be decompressed first (first: s.tar.gz)",
        "skipped: 1 files without a suffix (first: README)",
    ]
    list(source)
    assert "skipped: 2 .heic files (first: b.HEIC)" in source.report.lines(), "every listing counts anew"


@pytest.mark.parametrize("name", ["cat.TXT", "cat.caption", "cat.png.txt", "cat.Caption"])
def test_caption_files_in_any_spelling(name: str, tmp_path: Path) -> None:
    fill(tmp_path, "cat.png")
    (tmp_path / name).write_text("a cat")
    assert [item.text for item in open_source(tmp_path)] == ["a cat"]


def test_accents_in_either_form(tmp_path: Path) -> None:
    fill(tmp_path, "cafe\u0301.png")
    (tmp_path / "caf\u00e9.txt").write_text("coffee")
    assert [item.text for item in open_source(tmp_path)] == ["coffee"]


def test_a_huge_caption_file_is_not_read(tmp_path: Path) -> None:
    fill(tmp_path, "cat.png")
    with (tmp_path / "cat.txt").open("wb") as file:
        file.truncate(1 << 40)
    assert [item.refusal and item.refusal[0] for item in open_source(tmp_path)] == ["caption_unreadable"]
