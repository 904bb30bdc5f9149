"""`emu3 generate --task`: answers of text and images, interrupted and resumed, verified, and decoded to pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_stage import LanguageModel
from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions, TextSampling
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from lm_stage.inference.answer_generator import AnswerGenerator
from lm_stage.inference.options import SamplingOptions
from lm_stage.text.answer_grammar import AnswerGrammar
from lm_stage.text.prompting import EMU35
from lm_stage.text.renderer import SequenceRenderer
from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.dataset.rows import AnswerRecord
from shared.errors import ConfigMismatchError, UsageError
from shared.exchange.export import export
from shared.exchange.options import ExportOptions
from shared.maintenance.options import SealOptions
from shared.maintenance.seal import seal
from shared.maintenance.summary import summarize
from shared.maintenance.verify import verify_dataset
from shared.tokens.layout import OPTIONAL_SURFACES
from tests.support.answers import ChattyCache
from tests.support.interrupted_generation import interrupted_after
from tests.support.models import write_language_model
from tests.support.prompts import write_entries
from tests.support.sft_samples import image_row, write_dataset
from tests.support.step_by_step import stand_in_tokenizer
from vq_stage.decode.job import decode
from vq_stage.decode.options import DecodeOptions

ENTRIES = [
    {"prompt": "a red apple", "key": "free"},
    {"prompt": "a <b>pear</b>", "key": "sized", "height": 16, "width": 24},
    {"prompt": "of this", "key": "like/it", "images": ["one"]},
    {"prompt": "of these", "key": "two", "images": ["one", "two"]},
]


@pytest.fixture(scope="module")
def emu35_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose vocabulary has Emu3.5's control tokens, with the embedded vision tokenizer's codec."""
    return write_language_model(tmp_path_factory.mktemp("models") / "emu35", roles=tuple(OPTIONAL_SURFACES))


@pytest.fixture(autouse=True)
def chatty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models draw often: replace their logits."""

    def answer_generator(
        model: LanguageModel, batch_size: int, length: int, sampling: Any, text_sampling: Any, guidance_scale: float
    ) -> AnswerGenerator:
        grammar = AnswerGrammar.of(SequenceRenderer(model.text_tokenizer, model.layout, prompting=model.prompting))
        rows = batch_size * (1 if guidance_scale == 1 else 2)
        return AnswerGenerator(ChattyCache(rows, grammar), grammar, sampling, text_sampling, guidance_scale)

    monkeypatch.setattr(LanguageModel, "answer_generator", answer_generator)


Run = Callable[..., dict[str, AnswerRecord]]


@pytest.fixture
def run(emu35_lm: Path, tmp_path: Path) -> Run:
    """Generate the answers to ENTRIES; return them by key."""
    prompts, square = write_entries(tmp_path / "p.jsonl", ENTRIES), np.arange(4, dtype=np.uint16).reshape(1, 2, 2)
    rows = [image_row(number, key=key, codes_THW=square) for number, key in enumerate(("one", "two"))]
    images = write_dataset(tmp_path / "codes", [rows], codec=Codec(None, 2048, 8, 4))

    def run(name: str, **changes: Any) -> dict[str, AnswerRecord]:
        settings: dict[str, Any] = {"task": "story", "images": str(images), "max_new_tokens": 120, **changes}
        generate(GenerateOptions(str(prompts), str(tmp_path / name), model=str(emu35_lm), **settings))
        index = KeyReader(Dataset.open(tmp_path / name))
        return {key: row for key in index if isinstance(row := index.row(key), AnswerRecord)}

    return run


def test_rows_hold_the_sequence_and_each_image(run: Run, emu35_lm: Path, tmp_path: Path) -> None:
    rows = run("answers")
    assert rows.keys() == {entry["key"] for entry in ENTRIES}
    layout = LanguageModel.from_pretrained(emu35_lm).layout
    for row in rows.values():
        visual = [token - layout.first_visual_token for token in row.tokens or () if layout.is_visual(token)]
        of_images = row.codes_THW.reshape(-1).tolist()
        assert of_images == visual[len(visual) - len(of_images) :] or row.finish_reason == "length"
        assert row.finish_reason in ("complete", "length")
    shapes = {key: {image.shape for image in row.images()} for key, row in rows.items()}
    assert shapes["sized"] == {(2, 3)}
    assert shapes["like/it"] == {(2, 2)}, "the size of the image in the prompt"
    assert len(shapes["free"]) == 1
    assert sum(len(list(row.images())) for row in rows.values()) > 4


def assert_equal(found: dict[str, AnswerRecord], expected: dict[str, AnswerRecord]) -> None:
    assert {key: row.digest() for key, row in found.items()} == {key: row.digest() for key, row in expected.items()}


def test_a_prompt_is_rendered_once_while_planning_and_once_to_generate(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered, prompt_ids = Counter[str](), PromptRenderer.prompt_ids

    def counting(renderer: PromptRenderer, prompt: Prompt) -> list[int]:
        rendered[prompt.key] += 1
        return prompt_ids(renderer, prompt)

    monkeypatch.setattr(PromptRenderer, "prompt_ids", counting)
    rows = run("answers")
    assert rendered == dict.fromkeys(rows, 2)


def test_answers_do_not_depend_on_the_batch(run: Run) -> None:
    assert_equal(run("alone", batch_size=1), run("together"))


@pytest.mark.parametrize("steps", [1, 60])
def test_interrupted_answers_are_continued(run: Run, tmp_path: Path, steps: int) -> None:
    unbroken = run("unbroken")
    with interrupted_after(steps, AnswerGenerator):
        run("resumed", batch_size=2)
    assert list((tmp_path / "resumed").rglob("*.journal")), "nothing was journaled"
    resumed = run("resumed", batch_size=2)
    assert_equal(resumed, unbroken)
    assert verify_dataset(Dataset.open(tmp_path / "resumed")).problems == []
    assert seal(SealOptions(str(tmp_path / "resumed"))).rows == len(ENTRIES)
    sealed = Dataset.open(tmp_path / "resumed")
    assert verify_dataset(sealed).digest == verify_dataset(Dataset.open(tmp_path / "unbroken")).digest
    assert summarize(sealed).codebook_used > 0


def test_pages_show_text_and_pictures_in_their_order(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_tokenizer(monkeypatch)
    rows = run("answers")
    options = DecodeOptions(str(tmp_path / "answers"), str(tmp_path / "pages"))
    assert decode(options).written == len(ENTRIES)
    assert decode(options).skipped == len(ENTRIES)
    page = (tmp_path / "pages" / "sized.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt;pear&lt;/b&gt;" in page
    for key, row in rows.items():
        path = tmp_path / "pages" / f"{key}.html"
        sources = re.findall(r'<img src="([^"]+)"', path.read_text(encoding="utf-8"))
        assert len(sources) == len(list(row.images()))
        assert all((path.parent / source).is_file() for source in sources)


def test_answers_are_neither_exported_nor_continued_as_images(run: Run, tmp_path: Path) -> None:
    run("answers")
    with pytest.raises(UsageError, match="holds answers of text and images"):
        export(ExportOptions(str(tmp_path / "answers"), str(tmp_path / "out"), "parquet"))
    with pytest.raises(ConfigMismatchError, match="format"):
        run("answers", task="image", max_new_tokens=None)
    with pytest.raises(ConfigMismatchError, match="max_new_tokens"):
        run("answers", max_new_tokens=151)


def test_published_settings_of_answers() -> None:
    story = GenerateOptions("p", "d", task="story").prompt_settings(EMU35)
    assert (story.guidance_scale, story.sampling.top_k) == (3.0, 10240)
    assert (story.text_sampling.top_k, story.text_sampling.top_p) == (1024, 0.9)
    drawing = GenerateOptions("p", "d", task="t2i").prompt_settings(EMU35)
    assert (drawing.guidance_scale, drawing.sampling.top_k) == (5.0, 5120)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 5}, "--max-new-tokens, --text-temperature"),
        ({"text_sampling": TextSampling(text_top_k=5)}, "expected with --task only"),
        ({"task": "story", "max_new_tokens": 0}, "--max-new-tokens 0"),
        ({"task": "story", "window": 2}, "neither --frames nor --window"),
        ({"task": "story", "frames": 2}, "neither --frames nor --window"),
        ({"task": "bare"}, "--task bare: expected one of image, chat, t2i, x2i"),
    ],
)
def test_options_that_answers_do_not_have_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GenerateOptions("p", "d", **changes)


def test_bad_sampling_of_text_is_named_by_its_flag() -> None:
    with pytest.raises(UsageError, match="--text-top-p 2"):
        TextSampling(text_top_p=2.0)
    assert TextSampling(text_top_k=5).options(greedy=True) == SamplingOptions(top_k=5, greedy=True)


def test_a_task_that_the_model_does_not_have_is_refused(small_lm: Path, tmp_path: Path) -> None:
    prompts = write_entries(tmp_path / "p.jsonl", ENTRIES[:1])
    with pytest.raises(UsageError, match="--task story: expected one of image, chat with --prompting plain"):
        generate(GenerateOptions(str(prompts), str(tmp_path / "d"), model=str(small_lm), task="story"))


def test_a_prompt_whose_answer_does_not_fit_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        run("answers", max_new_tokens=390)["free"]
    dataset = Dataset.open(tmp_path / "answers")
    [refused] = [one for record in dataset.commit_records() for one in dataset.refusals(record) if one.key == "free"]
    assert (refused.reason, "answer (390)" in refused.detail) == ("too_long", True)


def test_sizes_that_no_answer_can_have_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"given size: an image of 512×512 codes takes \d+ tokens.* at most 120"):
        run("large", height=4096, width=4096)
    assert run("short", max_new_tokens=9).keys() == {"free", "like/it", "two"}
    dataset = Dataset.open(tmp_path / "short")
    [refused] = [one for record in dataset.commit_records() for one in dataset.refusals(record)]
    assert (refused.key, refused.reason) == ("sized", "too_long")
    assert re.search(
        r"image of 2×3 codes takes \d+ tokens; after the prompt \(\d+\) there is room for 9", refused.detail
    )


def test_codes_of_images_are_stored_once(run: Run) -> None:
    row = run("answers")["free"]
    assert row.codes_THW.dtype == np.uint16
    assert row.codes_THW.size == sum(image.size for image in row.images())
