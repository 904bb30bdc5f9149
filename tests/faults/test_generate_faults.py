"""`emu3 generate` and `emu3 understand` killed, resumed, given other settings, bad prompts and broken models."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file, save_file

from pipelines.cli import main
from shared.dataset.dataset import Dataset
from tests.support.command import (
    INTERRUPTED,
    TOKENIZER,
    assert_rows_once,
    emu3,
    finish,
    leftovers,
    start,
    verified_digest,
    wait_until,
)
from tests.support.file_digests import file_digests
from tests.support.flip import flip_bit
from tests.support.step_by_step import stand_in_tokenizer
from vq_stage.model.weights import EMBEDDED_TOKENIZER, codec_fingerprint

HEIGHT, WIDTH = 8, 16  # in codes, of an image that takes long enough to be killed while it is generated
CODES = HEIGHT * WIDTH
PROMPTS = {f"k{index}": "a red apple " * index + "and a pear" for index in range(5)}
GENERATE = ("--height", HEIGHT * 8, "--width", WIDTH * 8, "--batch-size", 2, "--unit-rows", 2, "--journal-rows", 1)
SMALL = ("--height", "16", "--width", "24")
QUESTIONS = {f"q{index}": "what is " * (index + 1) + "an apple?" for index in range(8)}
UNDERSTAND = ("--max-new-tokens", 80, "--batch-size", 1)

Damage = Callable[[Path], None]


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def write_prompts(folder: Path, prompts: Mapping[str, str] = PROMPTS) -> Path:
    return write_lines(folder / "prompts.jsonl", ({"key": key, "prompt": text} for key, text in prompts.items()))


def run(*arguments: object, exit_code: int = 0) -> str:
    """Run `emu3 …` in this process and return what it printed. Errors that are not ours are raised."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output


@pytest.fixture
def without_mindspore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the import of MindSpore fail, so that no model can load."""
    monkeypatch.setitem(sys.modules, "mindspore", None)


def codes_by_key(dataset: Path) -> dict[str, list[int]]:
    opened = Dataset.open(dataset)
    return {
        row.key: row.codes_THW.flatten().tolist() for record in opened.commit_records() for row in opened.rows(record)
    }


def reasons_by_uri(dataset: Path) -> dict[str, tuple[str, str]]:
    opened = Dataset.open(dataset)
    refusals = (refusal for record in opened.commit_records() for refusal in opened.refusals(record))
    return {refusal.uri: (refusal.reason, refusal.detail) for refusal in refusals}


def copy_model(model: Path, folder: Path, **config: Any) -> Path:
    """Copy a model with changes to its config.json; None removes a key."""
    shutil.copytree(model, folder)
    described = {**json.loads((model / "config.json").read_text()), **config}
    described = {name: value for name, value in described.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def journal(dataset: Path, unit: int = 0) -> Path:
    return Dataset(dataset).journal_path(unit)


def journaled_codes(dataset: Path, unit: int = 0) -> dict[int, int]:
    """Return the number of codes by `src_index`, from the complete lines."""
    counts: dict[int, int] = {}
    for line in journal(dataset, unit).read_bytes().split(b"\n")[1:-1]:
        entry = json.loads(line.partition(b" ")[2])
        counts[entry["src_index"]] = entry["begin"] + len(base64.b64decode(entry["codes"])) // 2
    return counts


def has_lines(path: Path, lines: int) -> bool:
    return path.is_file() and path.read_bytes().count(b"\n") >= lines


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts"))


@pytest.fixture(scope="module")
def generated(small_lm: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of one undisturbed run; tests must not modify it."""
    dataset = tmp_path_factory.mktemp("generated") / "dataset"
    emu3("generate", prompts, dataset, "--model", small_lm, *GENERATE)
    return dataset


def stop_when(
    condition: Callable[[], bool], number: signal.Signals, *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Run `emu3 …` and send it a signal when the condition holds."""
    process = start(*arguments)
    wait_until(condition, process)
    process.send_signal(number)
    done = finish(process)
    assert done.returncode == (-number if number == signal.SIGKILL else INTERRUPTED), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def killed(small_lm: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose job was killed inside the images of its first unit; tests must not modify it."""
    dataset = tmp_path_factory.mktemp("killed") / "dataset"
    command = ("generate", prompts, dataset, "--model", small_lm, *GENERATE)
    stop_when(lambda: has_lines(journal(dataset), 5), signal.SIGKILL, *command)
    assert any(0 < count < CODES for count in journaled_codes(dataset).values())
    assert not Dataset(dataset).is_committed(0)
    return dataset


def test_killed_inside_images_and_run_again(
    killed: Path, generated: Path, small_lm: Path, prompts: Path, tmp_path: Path
) -> None:
    """The job is killed in the first unit and stopped by SIGTERM in the last, then it finishes."""
    dataset = tmp_path / "dataset"
    shutil.copytree(killed, dataset)
    path = journal(dataset)
    path.write_bytes(path.read_bytes()[:-7])  # a line truncated by the kill
    command = ("generate", prompts, dataset, "--model", small_lm, *GENERATE)
    stopped = stop_when(lambda: has_lines(journal(dataset, 2), 2), signal.SIGTERM, *command)
    assert "stopped by SIGTERM" in stopped.stderr
    assert "resumes" in stopped.stderr
    assert 0 < journaled_codes(dataset, 2)[4] < CODES
    run(*command)
    assert verified_digest(dataset) == verified_digest(generated)
    assert_rows_once(dataset, len(PROMPTS))
    assert leftovers(dataset) == []
    assert not (dataset / "partial").exists()


def with_checksum(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def entry_of(line: bytes) -> dict[str, Any]:
    return json.loads(line.partition(b" ")[2])


def zeros(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry with codes that this model did not generate."""
    return {**entry, "codes": base64.b64encode(bytes(2 * WIDTH)).decode()}


def other_codes(path: Path) -> None:
    """Replace a row by zeros but keep its checksum, and truncate the last line."""
    header, first, *lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + first[:9] + with_checksum(zeros(entry_of(first)))[9:] + b"".join(lines)[:-7])


def other_plan(path: Path) -> None:
    """Write a row of zeros that belongs to another plan."""
    header, first, *_ = path.read_bytes().splitlines(keepends=True)
    described = entry_of(header)
    described["belongs"]["plan_sha256"] = "0" * 64
    path.write_bytes(with_checksum(described) + with_checksum(zeros(entry_of(first))))


@pytest.mark.parametrize("damage", [other_codes, other_plan], ids=lambda damage: damage.__name__)
def test_a_damaged_journal_is_not_used(
    damage: Damage, killed: Path, generated: Path, small_lm: Path, prompts: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path / "dataset")
    damage(journal(tmp_path / "dataset"))
    run("generate", prompts, tmp_path / "dataset", "--model", small_lm, *GENERATE)
    assert verified_digest(tmp_path / "dataset") == verified_digest(generated)
    assert leftovers(tmp_path / "dataset") == []


def test_journaled_codes_are_not_generated_again(killed: Path, small_lm: Path, prompts: Path, tmp_path: Path) -> None:
    """A row of zeros that this model did not generate stays, and generation continues after it."""
    shutil.copytree(killed, tmp_path / "dataset")
    path = journal(tmp_path / "dataset")
    header, first, *_ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + with_checksum(zeros(entry_of(first))))
    run("generate", prompts, tmp_path / "dataset", "--model", small_lm, *GENERATE)
    codes = codes_by_key(tmp_path / "dataset")[f"k{entry_of(first)['src_index']}"]
    assert codes[:WIDTH] == [0] * WIDTH
    assert any(codes[WIDTH:])


def generate_in(batch_size: int, prompts: Mapping[str, str], model: Path, folder: Path) -> dict[str, list[int]]:
    """Generate images of 4 × 4 codes.

    Batches of different sizes differ in rounding, by about 1e-4 in guided logits, so two nearly equal candidates may
    change places. With few codes that is unlikely on any machine.
    """
    folder.mkdir()
    dataset, size = folder / "dataset", ("--height", 32, "--width", 32)
    run("generate", write_prompts(folder, prompts), dataset, "--model", model, *size, "--batch-size", batch_size)
    return codes_by_key(dataset)


def test_codes_do_not_depend_on_what_is_beside_them(small_lm: Path, tmp_path: Path) -> None:
    together = generate_in(2, PROMPTS, small_lm, tmp_path / "two")
    assert len(set(map(tuple, together.values()))) == len(PROMPTS), "all images differ"
    assert generate_in(4, PROMPTS, small_lm, tmp_path / "four") == together
    two = ("k3", "k1")
    alone = generate_in(1, {key: PROMPTS[key] for key in two}, small_lm, tmp_path / "one")
    assert alone == {key: together[key] for key in two}


# Prompts, each with the reason of its refusal and a part of the detail.
MIXED: list[tuple[dict[str, Any], tuple[str, str] | None]] = [
    ({"key": "plain", "prompt": "a red apple"}, None),
    ({"key": "empty", "prompt": "  "}, ("empty_prompt", "'  '")),
    ({"key": "none"}, ("empty_prompt", "None")),
    ({"key": "flat", "prompt": "x", "ratio": "0:1"}, ("bad_ratio", "0.0:1.0|two positive")),
    ({"key": "odd", "prompt": "x", "height": 17, "width": 24}, ("bad_size", "17×24")),
    ({"key": "long", "prompt": "y" * 500}, ("too_long", "400 positions")),
    ({"key": "unknown", "prompt": "x", "sede": 1}, ("bad_entry", "'sede'")),
    ({"key": "plain", "prompt": "a green pear"}, ("duplicate_key", "taken by prompts.jsonl#1")),
    ({"key": "special", "prompt": "<|image start|>2*3<|image token|><|extra_204|>"}, None),
    ({"key": "image", "prompt": "like this", "images": ["k0"]}, ("missing_image", "--images")),
    ({"key": "marked", "prompt": "like <image>"}, ("bad_images", "0 images")),
    ({"key": "seed", "prompt": "x", "seed": "1"}, ("bad_entry", "`seed`")),
    ({"key": "folder/last", "prompt": "日本 \u0000"}, None),
]


def test_bad_prompts_are_quarantined_and_the_others_become_pictures(
    small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_tokenizer(monkeypatch)
    entries = write_lines(tmp_path / "prompts.jsonl", (fields for fields, _ in MIXED))
    dataset, good = tmp_path / "dataset", [fields["key"] for fields, refusal in MIXED if refusal is None]
    printed = run("generate", entries, dataset, "--model", small_lm, *SMALL, "--batch-size", 2)
    assert f"{len(good)} images generated, {len(MIXED) - len(good)} refused" in printed
    assert sorted(codes_by_key(dataset)) == sorted(good)
    reasons = reasons_by_uri(dataset)
    expected = {f"prompts.jsonl#{number}": refusal for number, (_, refusal) in enumerate(MIXED, 1) if refusal}
    assert set(reasons) == set(expected)
    for uri, (reason, shown) in expected.items():
        assert reasons[uri][0] == reason, uri
        assert any(part in reasons[uri][1] for part in shown.split("|")), reasons[uri]
    (planned,) = (item for item in Dataset(dataset).plan().unit(0).inputs if item.key == "special")
    assert json.loads(planned.extra_json or "")["prompt_tokens"] > 30, "control tokens in a prompt are text"
    assert verified_digest(dataset)
    assert leftovers(dataset) == []
    run("decode", dataset, tmp_path / "out", "--batch-pixels", 1)
    written = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png")}
    assert written == {Path(f"{key}.png") for key in good}
    pixels = [np.asarray(Image.open(tmp_path / "out" / path)) for path in written]
    assert {picture.shape for picture in pixels} == {(16, 24, 3)}
    assert len({picture.tobytes() for picture in pixels}) == len(good)


def start_without_model(*arguments: object) -> None:
    """Start a job that fails when it loads the model."""
    with pytest.raises(ImportError, match="mindspore"):
        run(*arguments)


def other_weights(model: Path, folder: Path) -> Path:
    """Copy a model and flip one bit of one weight."""
    copy_model(model, folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    return folder


OTHER_GENERATION = {
    "--seed 1": "generation.defaults.seed: recorded 0, given 1",
    "--guidance-scale 2": "generation.guidance_scale: recorded 3.0, given 2.0",
    "--temperature 0.5": "generation.sampling.temperature: recorded 1.0, given 0.5",
    "--top-k 5": "generation.sampling.top_k: recorded 2048, given 5",
    "--top-p 0.5": "generation.sampling.top_p: recorded 1.0, given 0.5",
    "--greedy": "generation.sampling.greedy: recorded false, given true",
    "--suffix best": 'generation.suffix: recorded "", given "best"',
    "--negative-prompt bad": 'generation.defaults.negative_prompt: recorded "", given "bad"',
    "--height 24": "generation.defaults.height: recorded 16, given 24",
    "--samples 2": "generation.defaults.samples: recorded 1, given 2",
    "--unit-rows 3": "units.rows: recorded 64, given 3",
    "prompts": "prompts.jsonl#1: prompt 'k0': text: recorded 'and a pear', given 'a green pear'",
    "model": "generation.model: recorded",
}


@pytest.mark.usefixtures("without_mindspore")
@pytest.mark.parametrize("change", OTHER_GENERATION)
def test_other_generation_settings_are_refused_with_the_difference(change: str, small_lm: Path, tmp_path: Path) -> None:
    dataset, entries = tmp_path / "dataset", write_prompts(tmp_path)
    start_without_model("generate", entries, dataset, "--model", small_lm, *SMALL)
    before, model, options = file_digests(dataset), small_lm, change.split()
    if change == "prompts":
        write_prompts(tmp_path, {**PROMPTS, "k0": "a green pear"})
    if change == "model":
        model = other_weights(small_lm, tmp_path / "model")
    given = options if change.startswith("--") else []
    printed = run("generate", entries, dataset, "--model", model, *SMALL, *given, exit_code=2)
    differences = [line for line in printed.splitlines() if ": recorded " in line]
    assert len(differences) == 1, printed
    assert OTHER_GENERATION[change] in differences[0]
    assert "new dataset" in printed
    assert file_digests(dataset) == before
    start_without_model("generate", write_prompts(tmp_path), dataset, "--model", small_lm, *SMALL)


def test_other_numerics_are_refused_or_allowed(generated: Path, small_lm: Path, prompts: Path, tmp_path: Path) -> None:
    """The batch size is recorded among the numerics (as `slots`); here it changes no code."""
    dataset = tmp_path / "dataset"
    shutil.copytree(generated, dataset)
    for path in (dataset / "parts").glob("part-000001.*"):
        path.unlink()
    command = ("generate", prompts, dataset, "--model", small_lm, *GENERATE, "--batch-size", 3)
    assert "numerics.slots: recorded 2, given 3" in run(*command, exit_code=2)
    assert Dataset(dataset).committed_units() == [0, 2]
    run(*command, "--allow-numerics-change")
    assert verified_digest(dataset) == verified_digest(generated)


def test_weights_that_are_nan_stop_the_job(generated: Path, small_lm: Path, tmp_path: Path) -> None:
    """The embedding of the second token of an image is NaN, which is detected at the third token."""
    entries, dataset = write_prompts(tmp_path, {"k2": PROMPTS["k2"]}), tmp_path / "dataset"
    model = copy_model(small_lm, tmp_path / "model")
    tensors = load_file(small_lm / "model.safetensors")
    first, second = codes_by_key(generated)["k2"][:2]
    assert first != second
    layout = json.loads((model / "config.json").read_text())["token_layout"]
    tensors["model.embed_tokens.weight"][layout["first_visual_token"] + second] = np.nan
    save_file(tensors, model / "model.safetensors")
    printed = run("generate", entries, dataset, "--model", model, *GENERATE, exit_code=1)
    assert "k2, offset 2 of the image: logits are not finite" in printed
    assert "weights" in printed
    assert Dataset(dataset).committed_units() == []
    assert journaled_codes(dataset) == {0: 2}


def surfaces_without(described: dict[str, Any], word: str) -> dict[str, Any]:
    kept = [token for token in described["added_tokens"] if word not in token["content"]]
    return {**described, "added_tokens": kept}


@pytest.mark.usefixtures("without_mindspore")
@pytest.mark.parametrize(
    ("config", "layout", "missing_surface", "shown"),
    [
        ({"token_layout": None}, {}, "", "expected a token layout"),
        ({"vocab_size": 2000}, {}, "", "vocabulary ends at 1999"),
        ({}, {"codebook_size": 0}, "", "no visual tokens"),
        ({}, {"codebook_size": 2000}, "", "different token layouts"),
        ({}, {"first_visual_token": 100}, "", "lie within the visual tokens"),
        ({}, {"eoi": 272}, "", "distinct ids"),
        ({}, {}, "visual token", "lacks <|visual token 000000|>"),
        ({}, {}, "image start", "lacks <|image start|>"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "understand"])
def test_a_model_that_cannot_generate_images_is_refused(
    command: str,
    config: dict[str, Any],
    layout: dict[str, int],
    missing_surface: str,
    shown: str,
    small_lm: Path,
    tmp_path: Path,
) -> None:
    described = json.loads((small_lm / "config.json").read_text())["token_layout"]
    model = copy_model(small_lm, tmp_path / "model", **{"token_layout": {**described, **layout}, **config})
    if missing_surface:
        vocabulary = json.loads((model / "tokenizer.json").read_text())
        (model / "tokenizer.json").write_text(json.dumps(surfaces_without(vocabulary, missing_surface)))
    out = tmp_path / "out" / "here"
    questions = write_lines(tmp_path / "questions.jsonl", [{"question": "why?"}])
    given = (write_prompts(tmp_path), out) if command == "generate" else ("-", out, "--questions", questions)
    printed = run(command, *given, "--model", model, exit_code=2)
    assert shown in printed
    assert str(model) in printed or "token layout:" in printed
    assert not out.parent.exists()


@pytest.mark.usefixtures("without_mindspore")
def test_decode_with_another_tokenizer_names_both(generated: Path, tmp_path: Path) -> None:
    printed = run("decode", generated, tmp_path / "out", "--vision-tokenizer", TOKENIZER, exit_code=2)
    assert codec_fingerprint(TOKENIZER)[:12] in printed
    assert codec_fingerprint(EMBEDDED_TOKENIZER)[:12] in printed
    assert not (tmp_path / "out").exists()
    start_without_model("decode", generated, tmp_path / "out")


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_questions(folder: Path, questions: Mapping[str, str] = QUESTIONS) -> Path:
    lines = ({"key": key, "question": text} for key, text in questions.items())
    return write_lines(folder / "questions.jsonl", lines)


def test_understand_interrupted_resumes(small_lm: Path, tmp_path: Path) -> None:
    """The questions are about text, so the dataset is `-`. Leftovers of a kill are put beside the saved answers."""
    folders = [tmp_path / "unbroken", tmp_path / "broken"]
    for folder in folders:
        folder.mkdir()
    questions = write_questions(tmp_path)
    unbroken, out = (folder / "answers.jsonl" for folder in folders)
    options = ("--questions", questions, "--model", small_lm, *UNDERSTAND)
    printed = run("understand", "-", unbroken, *options)
    assert f"{len(QUESTIONS)} answered, 0 already present, 0 refused" in printed
    partial = out.with_name("answers.jsonl.partial")
    stopped = stop_when(lambda: has_lines(partial, 2), signal.SIGTERM, "understand", "-", out, *options)
    kept = partial.read_bytes().count(b"\n")
    assert 2 <= kept < len(QUESTIONS)
    assert f"stopped by SIGTERM: {kept} of {len(QUESTIONS)} answers kept" in stopped.stderr
    assert not out.exists()
    partial.write_bytes(partial.read_bytes()[:-5])  # a truncated line
    kept -= 1
    for name in ("answers.jsonl.lock", "answers.jsonl.123-0123abcd.tmp"):
        out.with_name(name).touch()
    printed = run("understand", "-", out, *options)
    assert f"{len(QUESTIONS) - kept} answered, {kept} already present" in printed
    assert out.read_bytes() == unbroken.read_bytes()
    assert [answer["key"] for answer in answers(out)] == list(QUESTIONS)
    assert len({answer["answer"] for answer in answers(out)}) > 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["answers.jsonl", "answers.jsonl.settings.json"]


def test_questions_that_cannot_be_asked_get_a_line(generated: Path, small_lm: Path, tmp_path: Path) -> None:
    entries = [
        {"key": "image", "question": "what is it?", "images": ["k1"]},
        {"key": "nowhere", "question": "what is it?", "images": ["k1", "k9"]},
        {"key": "empty", "question": " "},
        {"key": "two", "question": "<image> or <image>?", "images": ["k1"]},
        {"key": "long", "question": "y" * 500},
        {"key": "other image", "question": "what is it?", "images": ["k2"]},
        {"key": "text", "question": "what is it?"},
    ]
    errors = {"nowhere": "'k9'", "empty": "line 3", "two": "2 <image> marks", "long": "400 positions"}
    questions = write_lines(tmp_path / "questions.jsonl", entries)
    options = ("--questions", questions, "--model", small_lm, "--max-new-tokens", 12)
    printed = run("understand", generated, tmp_path / "answers.jsonl", *options)
    assert "3 answered, 0 already present, 4 refused" in printed
    written = answers(tmp_path / "answers.jsonl")
    assert [answer["key"] for answer in written] == [entry["key"] for entry in entries]
    for answer in written:
        if answer["key"] in errors:
            assert errors[answer["key"]] in answer["error"]
            assert answer["answer"] is None
        else:
            assert answer["error"] is None
            assert answer["answer"]
    by_key = {answer["key"]: answer["answer"] for answer in written}
    assert len({by_key["image"], by_key["other image"], by_key["text"]}) == 3, "the answers depend on the image"


@pytest.mark.usefixtures("without_mindspore")
def test_image_questions_without_a_dataset_get_a_line(small_lm: Path, tmp_path: Path) -> None:
    questions = write_lines(tmp_path / "questions.jsonl", [{"question": "what is it?", "image": "k1"}])
    command = ("understand", "-", tmp_path / "answers.jsonl", "--questions", questions, "--model", small_lm)
    printed = run(*command, exit_code=1)
    assert "0 answered, 0 already present, 1 refused" in printed
    assert "every question was refused: missing_image (1)" in printed.splitlines()[-1]
    assert "DATASET" in answers(tmp_path / "answers.jsonl")[0]["error"]


OTHER_UNDERSTANDING = {
    "--seed 1": "seed: recorded 0, given 1",
    "--template stage1": 'template: recorded "chat", given "stage1"',
    "--max-new-tokens 5": "max_new_tokens: recorded 1024, given 5",
    "--sample": "sampling.greedy: recorded true, given false",
    "--top-k 5": "sampling.top_k: recorded 2048, given 5",
    "dataset": "images: recorded",
    "model": "model: recorded",
}


@pytest.mark.usefixtures("without_mindspore")
@pytest.mark.parametrize("change", OTHER_UNDERSTANDING)
def test_other_understanding_settings_are_refused_with_the_difference(
    change: str, generated: Path, small_lm: Path, tmp_path: Path
) -> None:
    out, questions = tmp_path / "answers" / "answers.jsonl", write_questions(tmp_path)
    command: Sequence[object] = ("understand", generated, out, "--questions", questions, "--model", small_lm)
    start_without_model(*command)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    others = {"dataset": (generated, "-"), "model": (small_lm, other_weights(small_lm, tmp_path / "model"))}
    old, new = others.get(change, (None, None))
    changed = [new if argument == old else argument for argument in command]
    printed = run(*changed, *(change.split() if change.startswith("--") else []), exit_code=2)
    differences = [line for line in printed.splitlines() if ": recorded " in line]
    assert len(differences) == 1, printed
    assert differences[0].strip().startswith(OTHER_UNDERSTANDING[change])
    assert "another file" in printed
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


@pytest.mark.usefixtures("without_mindspore")
def test_damaged_part_is_named_before_anything_is_answered(generated: Path, small_lm: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(generated, dataset)
    (part,) = (dataset / "parts").glob("part-000001.*.arrow")
    flip_bit(part, np.array(codes_by_key(generated)["k2"], "<u2").tobytes())
    printed = run("understand", dataset, tmp_path / "answers.jsonl", "--model", small_lm, exit_code=1)
    assert part.name in printed
    assert "damaged rows: 'k2'" in printed
    assert not (tmp_path / "answers.jsonl").exists()
