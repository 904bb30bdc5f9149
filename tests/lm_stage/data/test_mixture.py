"""What SFT reads: sources as given, samples with their lengths, and what cannot be trained on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_stage.data.mixture import Mixture, MixtureEntry
from lm_stage.data.samples import SampleSet, open_samples
from lm_stage.data.sequences import TASKS, LossWeights, SequenceBuilder
from lm_stage.text.parts import CodeGrid
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.text.templates import CHAT, DEFAULT_QUESTION, DEFAULT_VIDEO_QUESTION
from lm_stage.training.options import SftOptions
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.rows import SEQUENCE_FORMAT, CodeRecord, SequenceRecord
from shared.errors import DatasetError, UsageError
from shared.tokens.visual_tokens import ROWS
from tests.support import handmade
from tests.support.renderers import small_renderer

MANY = 3000
CAPTIONS = ("a red apple", "", None, "a green pear, é \u2028 again " * 3, "a red apple", "7")
LARGE = np.arange(12 * 10, dtype=np.uint16).reshape(1, 12, 10)


@pytest.fixture(scope="module")
def builder() -> SequenceBuilder:
    renderer = small_renderer(["a red apple", "a green pear"] * 3, handmade.CODEBOOK_SIZE)
    return SequenceBuilder(renderer, LossWeights())


def row(index: int, **changes: Any) -> CodeRecord:
    return replace(handmade.record(index, f"k{index}"), **changes)


def sequence(index: int, **changes: Any) -> SequenceRecord:
    codes = np.random.default_rng(index).integers(0, 512, (1, 2, 3)).astype(np.uint16)
    written = SequenceRecord(f"k{index}", index, "image", codes, "a pear", f"p#{index}", bytes(32), 16, 24)
    return replace(written, **changes)


def clip(index: int, frames: int, **changes: Any) -> SequenceRecord:
    codes = np.random.default_rng(index).integers(0, 512, (frames, 2, 3)).astype(np.uint16)
    return sequence(index, **{"kind": "video", "codes_THW": codes, **changes})


def broken(index: int) -> SequenceRecord:
    nothing = np.zeros((0, 0, 0), np.uint16)
    return sequence(index, codes_THW=nothing, valid=False, error="row 0", tokens=(300, 70000))


def write(root: Path, units: Sequence[Sequence[CodeRecord]], commit: bool = True, **settings: Any) -> Path:
    """A dataset of these units, and one of a refused input."""
    root.mkdir()
    planned = [
        Unit(number, 16, 24, tuple(PlannedInput(row.src_index, row.key, row.src_uri) for row in rows))
        for number, rows in enumerate(units)
    ]
    bad = PlannedInput(900, "refused-900", "900.png", None, "empty", "the file has no bytes")
    planned.append(Unit(len(units), 0, 0, (bad,)))
    freeze_plan(
        root / "plan.arrow",
        planned,
        replace(handmade.settings(), **settings),
        sum(len(unit.inputs) for unit in planned),
    )
    dataset = Dataset(root)
    plan = dataset.plan()
    for number, rows in enumerate(units if commit else ()):
        dataset.commit(UnitResult(number, rows, numerics=handmade.NUMERICS), plan)
    dataset.commit(UnitResult(len(units), refusals=[handmade.refusal(900)]), plan)
    return root


def mixed_units() -> list[list[CodeRecord]]:
    """Two parts; captions and sizes of all sorts."""
    rows = [row(index, text=text) for index, text in enumerate(CAPTIONS)]
    rows[1] = replace(rows[1], codes_THW=LARGE)
    rows[4] = replace(rows[4], codes_THW=LARGE[:, :1, :])
    return [rows[:2], rows[2:]]


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def extra(index: int, text: str | None = "a caption", **values: Any) -> CodeRecord:
    return row(index, text=text, extra_json=json.dumps(values))


def opened(path: Path, builder: SequenceBuilder, task: str = "image") -> SampleSet:
    return open_samples(str(path), task, builder)


def assert_lengths_are_true(samples: SampleSet) -> None:
    assert len(samples.keys) == len(samples.lengths) == len(samples.captionless_lengths) > 0
    for index in range(len(samples.keys)):
        for is_bare, lengths in ((False, samples.lengths), (True, samples.captionless_lengths)):
            built = samples.sequence(index, is_bare)
            assert len(built.token_ids) == len(built.weights) == lengths[index], samples.keys[index]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("codes", MixtureEntry("codes", "image", 1.0)),
        ("a b/c=d", MixtureEntry("a b/c=d", "image", 1.0)),
        ("codes,task=understand", MixtureEntry("codes", "understand", 1.0)),
        ("codes,weight=0.5", MixtureEntry("codes", "image", 0.5)),
        ("t.jsonl,weight=2,task=text", MixtureEntry("t.jsonl", "text", 2.0)),
        ("clips,task=video", MixtureEntry("clips", "video", 1.0)),
    ],
)
def test_sources(text: str, source: MixtureEntry) -> None:
    assert MixtureEntry.parse(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",task=image",
        "codes,",
        "codes,,task=image",
        "codes,image",
        "codes,tsk=image",
        "codes,task",
        "codes,task=",
        "codes,task=clip",
        "codes,path=other",
        "codes,weight",
        "codes,weight=",
        "codes,weight=heavy",
        "codes,weight=0",
        "codes,weight=-1",
        "codes,weight=nan",
        "codes,weight=inf",
    ],
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        MixtureEntry.parse(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("task", ["image", "understand", "text"])
def test_lengths_are_those_of_the_sequences(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    samples = opened(write(tmp_path / "codes", mixed_units()), builder, task)
    assert_lengths_are_true(samples)
    captioned = [f"k{index}" for index, text in enumerate(CAPTIONS) if text or task == "image"]
    assert samples.keys == captioned
    assert len(set(samples.lengths.tolist())) > 2


def test_lengths_of_questions_and_answers_are_those_of_the_sequences(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [extra(0), extra(1, question="what is this?"), extra(2, answer="é" * 20), extra(3, question="", answer="b")]
    path = write(tmp_path / "codes", [rows])
    for task in ("understand", "text"):
        assert_lengths_are_true(opened(path, builder, task))


def test_lengths_of_lines_are_those_of_the_sequences(tmp_path: Path, builder: SequenceBuilder) -> None:
    lines = [{"text": "a red apple"}, {"question": "what?", "answer": "a pear"}, {"text": "é"}]
    samples = opened(write_lines(tmp_path / "t.jsonl", *lines, {"question": "", "answer": "b"}), builder, "text")
    assert_lengths_are_true(samples)


def test_images_are_those_of_the_rows(tmp_path: Path, builder: SequenceBuilder) -> None:
    units = mixed_units()
    samples = opened(write(tmp_path / "codes", units), builder)
    for index, given in enumerate([row for rows in units for row in rows]):
        for is_bare in (False, True):
            caption = "" if is_bare else given.text or ""
            expected = builder.captioned(builder.encode(caption), CodeGrid(given.codes_THW, is_video=False))
            built = samples.sequence(index, is_bare)
            assert built.token_ids.tolist() == expected.token_ids.tolist()
            assert built.weights.tolist() == expected.weights.tolist()


def test_questions_and_answers_come_from_the_row_or_are_its_caption(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [
        row(0),
        extra(1, None, question="no answer"),
        extra(2, question="what is this?", answer="a pear"),
        row(3, text=None),
        extra(4, None, answer="a green pear"),
        extra(5, question="where?"),
        extra(6, answer=""),
        extra(7, prompt_tokens=3),
    ]
    expected = {
        "k0": (DEFAULT_QUESTION, "caption 0"),
        "k2": ("what is this?", "a pear"),
        "k4": (DEFAULT_QUESTION, "a green pear"),
        "k5": ("where?", "a caption"),
        "k7": (DEFAULT_QUESTION, "a caption"),
    }
    path = write(tmp_path / "codes", [rows[:3], rows[3:]])
    asked, told = opened(path, builder, "understand"), opened(path, builder, "text")
    assert asked.keys == told.keys == list(expected)
    for index, (key, (question, answer)) in enumerate(expected.items()):
        ids = builder.encode(answer)
        grid = CodeGrid(rows[int(key[1:])].codes_THW, is_video=False)
        question_ids = builder.encode(CHAT.question_text(question, follows_grid=True))
        answered = builder.conversation([(question_ids, ids)], grid)
        assert asked.sequence(index, False).token_ids.tolist() == answered.token_ids.tolist()
        assert asked.sequence(index, True).token_ids.tolist() == answered.token_ids.tolist(), "only images are bare"
        assert told.sequence(index, False).token_ids.tolist() == builder.text(ids).token_ids.tolist()


KINDS_OF_TASKS = {"image": [2, 4], "video": [1, 5], "understand": [1, 2, 4, 5], "text": [1, 2, 4, 5]}


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_taken_by_kind_and_failed_sequences_left_out(
    task: str, tmp_path: Path, builder: SequenceBuilder
) -> None:
    """A clip of one frame is a video too."""
    rows = [broken(0), clip(1, 2), sequence(2), replace(broken(3), kind="video"), sequence(4, text="a red apple")]
    rows.append(clip(5, 1))
    path = write(tmp_path / "d", [rows[:3], rows[3:4], rows[4:]], format=SEQUENCE_FORMAT)
    samples = opened(path, builder, task)
    assert samples.keys == [f"k{index}" for index in KINDS_OF_TASKS[task]]
    assert samples.has_videos == (task in ("video", "understand"))
    assert_lengths_are_true(samples)
    for index, number in enumerate(KINDS_OF_TASKS[task]):
        tokens = samples.sequence(index, False).token_ids
        visual = tokens[(tokens >= builder.layout.first_visual_token) & (tokens < builder.layout.end_of_visual)]
        codes = [] if task == "text" else rows[number].codes_THW.reshape(-1).tolist()
        assert (visual - builder.layout.first_visual_token).tolist() == codes


def test_videos_stand_behind_their_captions_in_the_form_of_the_builder(
    tmp_path: Path, builder: SequenceBuilder
) -> None:
    rows = [clip(0, 2), clip(1, 3, text="a red apple"), clip(2, 1, text=None)]
    path = write(tmp_path / "d", [rows], format=SEQUENCE_FORMAT)
    with_eol = SequenceBuilder(SequenceRenderer(builder.renderer.text_tokenizer, builder.layout, ROWS), builder.loss)
    for built in (builder, with_eol):
        samples = opened(path, built, "video")
        assert_lengths_are_true(samples)
        for index, given in enumerate(rows):
            expected = built.captioned(built.encode(given.text or ""), CodeGrid.video(given.codes_THW))
            assert samples.sequence(index, False).token_ids.tolist() == expected.token_ids.tolist()
            bare = built.captioned(built.encode(""), CodeGrid.video(given.codes_THW))
            assert samples.sequence(index, True).token_ids.tolist() == bare.token_ids.tolist()
    assert (opened(path, with_eol, "video").lengths - opened(path, builder, "video").lengths).tolist() == [4, 6, 2]


def test_questions_about_clips(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [clip(0, 2), clip(1, 1, extra_json=json.dumps({"question": "who?", "answer": "a pear"}))]
    samples = opened(write(tmp_path / "d", [rows], format=SEQUENCE_FORMAT), builder, "understand")
    pairs = [(DEFAULT_VIDEO_QUESTION, "a pear"), ("who?", "a pear")]
    for index, (question, answer) in enumerate(pairs):
        asked, answer_ids = builder.encode(CHAT.question_text(question, follows_grid=True)), builder.encode(answer)
        expected = builder.conversation([(asked, answer_ids)], CodeGrid.video(rows[index].codes_THW))
        assert samples.sequence(index, False).token_ids.tolist() == expected.token_ids.tolist()


def said(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]


def test_every_turn_of_a_conversation_is_in_the_sequence(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [
        extra(0, conversations=said("<image>\nwhat?", "a pear", "and now?", "a red apple")),
        extra(1),
        extra(2, conversations=said("what is <image> this?", "7"), question="never asked"),
        extra(3, conversations=[]),
        extra(4, conversations=said("what?", "<image>")),
    ]
    path = write(tmp_path / "codes", [rows])
    samples = opened(path, builder, "understand")
    assert samples.keys == ["k0", "k1", "k2"], "no answer, no sample"
    assert_lengths_are_true(samples)
    expected = [
        [
            (builder.encode(CHAT.question_text("what?", follows_grid=True)), "a pear"),
            (builder.encode(CHAT.question_text("and now?", turn=1, follows_grid=True)), "a red apple"),
        ],
        [(builder.encode(CHAT.question_text(DEFAULT_QUESTION, follows_grid=True)), "a caption")],
        [(builder.encode(CHAT.question_text("what is  this?", follows_grid=True)), "7")],
    ]
    for index, turns in enumerate(expected):
        encoded = [(asked, builder.encode(answer)) for asked, answer in turns]
        built = builder.conversation(encoded, CodeGrid(rows[index].codes_THW, is_video=False))
        sequence = samples.sequence(index, False)
        assert sequence.token_ids.tolist() == built.token_ids.tolist()
        assert sequence.weights.tolist() == built.weights.tolist()
    texts = opened(path, builder, "text")
    assert_lengths_are_true(texts)
    lines = builder.text(builder.encode("a pear\na red apple"))
    assert texts.sequence(0, False).token_ids.tolist() == lines.token_ids.tolist()


@pytest.mark.parametrize(
    "conversation",
    [
        5,
        "human",
        {"from": "human"},
        ["human", "gpt"],
        [{"from": "human", "value": "what?"}],
        [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}],
        [*said("what?", "a"), {"from": "human", "value": "b"}],
        [{"from": "human", "value": 5}, {"from": "gpt", "value": "a"}],
        [{"from": "human"}, {"from": "gpt", "value": "a"}],
        [{"from": "system", "value": "b"}, *said("what?", "a"), {"from": "human", "value": "b"}],
        [*said("what?", "a"), {"from": "system", "value": "b"}, *said("what?", "a")],
    ],
)
def test_a_conversation_of_another_form_is_named(conversation: Any, tmp_path: Path, builder: SequenceBuilder) -> None:
    path = write(tmp_path / "codes", [[row(0), extra(1, conversations=conversation)]])
    for task in ("understand", "text"):
        with pytest.raises(DatasetError, match=rf"{path}: row 'k1': (`conversations`|turn \d): expected "):
            opened(path, builder, task)


def test_a_system_turn_replaces_the_published_system_prompt(tmp_path: Path, builder: SequenceBuilder) -> None:
    turns = said("what?", "a pear", "and now?", "a red apple")
    rows = [extra(0, conversations=[{"from": "system", "value": "Be brief."}, *turns]), extra(1, conversations=turns)]
    samples = opened(write(tmp_path / "codes", [rows]), builder, "understand")
    assert_lengths_are_true(samples)
    for index, opening in enumerate(("Be brief. USER: ", CHAT.opening())):
        image = builder.renderer.render([CodeGrid(rows[index].codes_THW, is_video=False)])
        begin = [builder.layout.bos, *builder.encode(opening).tolist(), *image]
        assert samples.sequence(index, False).token_ids[: len(begin)].tolist() == begin


def test_questions_are_encoded_only_where_they_are_asked(tmp_path: Path, builder: SequenceBuilder) -> None:
    encoded: list[str] = []

    class Listening(SequenceBuilder):
        def encode(self, text: str) -> np.ndarray:
            encoded.append(text)
            return super().encode(text)

    listening = Listening(builder.renderer, builder.loss)
    encoded.clear()
    opened(write(tmp_path / "codes", [[extra(0, question="who?", answer="a pear")]]), listening, "text")
    opened(write_lines(tmp_path / "t.jsonl", {"text": "a red apple"}), listening, "text")
    assert encoded == ["a pear", "a red apple"]


def test_lines_of_text_end_at_newlines_only(tmp_path: Path, builder: SequenceBuilder) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes('{"text": "a\u2028b"}\r\n \n{"question": "q", "answer": "c", "source": "x"}'.encode())
    samples = opened(path, builder, "text")
    question, answer = builder.encode(CHAT.question_text("q")), builder.encode("c")
    expected = [builder.text(builder.encode("a\u2028b")), builder.conversation([(question, answer)], None)]
    assert [samples.sequence(i, False).token_ids.tolist() for i in range(2)] == [e.token_ids.tolist() for e in expected]
    assert samples.keys == ["t.jsonl#1", "t.jsonl#3"], "numbers are those of the lines"


@pytest.mark.parametrize(
    "line",
    [
        b"nope",
        b"5",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"text": "a"',
        b'{"text": "\xff"}',
        b'{"text": ""}',
        b'{"text": 5}',
        b'{"text": null}',
        b'{"text": ["a"]}',
        b'{"answer": "a"}',
        b'{"question": "q"}',
        b'{"question": "q", "text": "a"}',
        b'{"question": "q", "answer": ""}',
        b'{"question": "q", "answer": 5}',
        b'{"question": 5, "answer": "a"}',
    ],
)
def test_a_bad_line_of_text_is_named(line: bytes, tmp_path: Path, builder: SequenceBuilder) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}\n')
    with pytest.raises(UsageError, match=rf"{path}: line 3: "):
        opened(path, builder, "text")


@pytest.mark.parametrize("task", ["image", "understand"])
def test_lines_of_text_are_for_task_text(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    path = write_lines(tmp_path / "t.jsonl", {"text": "a"})
    with pytest.raises(UsageError, match=rf"{path}.*task=text"):
        opened(path, builder, task)


@pytest.mark.parametrize("task", TASKS)
def test_a_dataset_of_no_samples_is_refused(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    paths = [write(tmp_path / "refused", []), write(tmp_path / "failed", [[broken(0)]], format=SEQUENCE_FORMAT)]
    paths += [write(tmp_path / "silent", [[row(0, text=None)]])] if task != "image" else []
    paths += [write(tmp_path / "images", [[row(0)]])] if task == "video" else []
    paths += [write(tmp_path / "clips", [[clip(0, 1)]], format=SEQUENCE_FORMAT)] if task == "image" else []
    paths += [tmp_path / "empty.jsonl"] if task == "text" else []
    for path in paths:
        with pytest.raises(UsageError, match=rf"{path}: holds no sample for task {task}"):
            opened(path, builder, task)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_no_dataset_is_refused(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    for name in ("nothing", "nothing.jsonl", "."):
        with pytest.raises(DatasetError, match=str(tmp_path)):
            opened(tmp_path / name, builder, task)


def test_an_unfinished_dataset_is_refused(tmp_path: Path, builder: SequenceBuilder) -> None:
    path = write(tmp_path / "codes", [[row(0)], [row(1)]], commit=False)
    with pytest.raises(DatasetError, match=rf"{path}: 2 of 3 units are missing"):
        opened(path, builder)
    dataset = Dataset(path)
    dataset.commit(UnitResult(1, [row(1)], numerics=handmade.NUMERICS), dataset.plan())
    with pytest.raises(DatasetError, match="1 of 3 units are missing"):
        opened(path, builder)
    dataset.commit(UnitResult(0, [row(0)], numerics=handmade.NUMERICS), dataset.plan())
    assert opened(path, builder).keys == ["k0", "k1"]


@pytest.mark.parametrize("task", TASKS)
def test_a_damaged_part_is_named(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [row(0), row(1)]
    dataset = Dataset(write(tmp_path / "codes", [[rows[0]], [rows[1]]]))
    part = dataset.parts / dataset.record(1).part
    content = bytearray(part.read_bytes())
    content[content.index(rows[1].codes_bytes)] ^= 1
    part.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{part.name}.*damaged rows: 'k1'"):
        opened(dataset.root, builder, task)


def test_codes_beyond_the_codebook_are_named(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [row(0, codes_THW=np.array([[[511]]], np.uint16)), row(1, codes_THW=np.array([[[3, 512]]], np.uint16))]
    path = write(tmp_path / "codes", [rows])
    for task in ("image", "understand"):
        samples = opened(path, builder, task)
        assert builder.layout.end_of_visual - 1 in samples.sequence(0, False).token_ids
        with pytest.raises(DatasetError, match=rf"{path}: row 'k1': code 512"):
            samples.sequence(1, False)


def test_samples_longer_than_a_row_are_listed_and_left_out(tmp_path: Path, builder: SequenceBuilder) -> None:
    codes = write(tmp_path / "codes", mixed_units())
    lines = write_lines(tmp_path / "t.jsonl", {"text": "b"}, {"text": "b" * 200})
    images, texts = opened(codes, builder), opened(lines, builder, "text")
    row_length = int(images.lengths[0])
    mixture = Mixture([MixtureEntry(str(codes)), MixtureEntry(str(lines), "text")], builder, row_length)
    assert images.lengths[[1, 3, 4]].min() > row_length
    expected = [(str(codes), f"k{index}", int(images.lengths[index])) for index in (1, 3, 4)]
    assert mixture.too_long == [*expected, (str(lines), texts.keys[1], int(texts.lengths[1]))]
    assert [members.tolist() for members in mixture.sample_indices] == [[0, 2, 5], [0]]


def test_a_row_too_short_for_every_sample_of_a_source_is_refused(tmp_path: Path, builder: SequenceBuilder) -> None:
    codes, lines = write(tmp_path / "codes", [[row(0), row(1)]]), write_lines(tmp_path / "t.jsonl", {"text": "b"})
    shortest = int(opened(codes, builder).lengths.min())
    sources = [MixtureEntry(str(lines), "text"), MixtureEntry(str(codes))]
    assert not Mixture(sources, builder, shortest).too_long
    message = rf"{codes}: no sample fits a row of {shortest - 1} tokens, the shortest has {shortest}.*--seq-length"
    with pytest.raises(UsageError, match=message):
        Mixture(sources, builder, shortest - 1)


def test_fingerprints_change_with_content_task_and_weight(tmp_path: Path, builder: SequenceBuilder) -> None:
    plain = [row(0), row(1)]
    other = [replace(plain[0], codes_THW=plain[0].codes_THW ^ 1), plain[1]]
    paths = [write(tmp_path / name, [rows]) for name, rows in (("a", plain), ("b", other))]
    lines = [write_lines(tmp_path / name, {"text": text}) for name, text in (("a.jsonl", "a"), ("b.jsonl", "b"))]
    sources = [MixtureEntry(str(path)) for path in paths] + [
        MixtureEntry(str(path), "text") for path in [*lines, paths[0]]
    ]
    sources.append(MixtureEntry(str(paths[0]), "image", 2.0))
    described = [str(entry) for entry in Mixture(sources, builder, 100).fingerprints()]
    assert len(set(described)) == len(sources)
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    moved = [replace(source, path=source.path.replace("/a", "/elsewhere")) for source in sources[:1]]
    assert str(Mixture(moved, builder, 100).fingerprints()[0]) == described[0]


def test_the_form_of_videos_is_recorded_where_there_are_some(tmp_path: Path, builder: SequenceBuilder) -> None:
    path = write(tmp_path / "d", [[sequence(0), clip(1, 2)]], format=SEQUENCE_FORMAT)
    sources = [MixtureEntry(str(path), task) for task in TASKS]
    recorded = [one.get("video_template") for one in Mixture(sources, builder, 100).fingerprints()]
    univla = {"name": "univla", "size": "T*H*W", "has_eol": False}
    assert recorded == [None, univla, univla, None]
    options = SftOptions((str(path),), "run", video_template="rows").recorded(1)
    assert options == SftOptions((str(path),), "run").recorded(1), "runs on images have the settings they always had"
    assert "video_template" not in options
    with pytest.raises(UsageError, match="--video-template: expected one of univla, rows, got emu3"):
        SftOptions((str(path),), "run", video_template="emu3")


def test_samples_of_a_dataset_know_its_codec(tmp_path: Path, builder: SequenceBuilder) -> None:
    samples = opened(write(tmp_path / "codes", [[row(0)]]), builder)
    assert samples.codec == handmade.settings().codec
    assert opened(write_lines(tmp_path / "t.jsonl", {"text": "a"}), builder, "text").codec is None


def test_thousands_of_sequences_are_built_in_a_second(tmp_path: Path, builder: SequenceBuilder) -> None:
    samples = opened(write(tmp_path / "codes", [[row(index) for index in range(MANY)]]), builder)
    best_s = float("inf")
    for _ in range(3):  # the machine may have other work
        began = time.process_time()
        for index in range(MANY):
            samples.sequence(index, False)
        best_s = min(best_s, time.process_time() - began)
    assert MANY / best_s > 5000, "measured: 27 000 a second"
