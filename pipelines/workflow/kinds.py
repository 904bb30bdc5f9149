"""What the steps of a pipeline write and read: every output has a kind, and every input accepts some kinds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

from lm_stage.generate.options import GenerateOptions
from pipelines.workflow.step import Step, producer_of, resolved
from shared.dataset.dataset import Dataset
from shared.dataset.settings import ANSWER_FORMAT, SEQUENCE_FORMAT
from shared.errors import RelayError
from shared.storage.small_files import read_json_object


class Kind(Enum):
    """The kind of a file or folder; its value is what messages call it."""

    MEDIA = "pictures or videos"
    CODES = "a codes dataset"
    SEQUENCES = "a dataset of generated sequences"
    INTERLEAVED = "a dataset of text and images in one sequence"
    RUN = "a training run"
    LANGUAGE_MODEL = "a language model"
    ADAPTER = "a LoRA adapter"
    VISION_TOKENIZER = "a vision tokenizer"
    ANSWERS = "an answer file"
    FILE = "a file"
    OTHER = "a folder that is none of these"


OUTPUT_KINDS = {
    "encode": Kind.CODES,
    "sft": Kind.RUN,
    "generate": Kind.SEQUENCES,
    "understand": Kind.ANSWERS,
    "decode": Kind.MEDIA,
    "init-lm": Kind.LANGUAGE_MODEL,
    "train-vq": Kind.VISION_TOKENIZER,
    "inspect": Kind.MEDIA,
}
RUN_FOLDERS = {"model": Kind.LANGUAGE_MODEL, "adapter": Kind.ADAPTER}

DATASETS = (Kind.CODES, Kind.SEQUENCES)
INTERLEAVED_READERS = ("decode", "verify")  # commands whose dataset may also be of Kind.INTERLEAVED
FORMAT_KINDS = {SEQUENCE_FORMAT: Kind.SEQUENCES, ANSWER_FORMAT: Kind.INTERLEAVED}  # others are Kind.CODES
# The kinds that an option accepts.
ACCEPTED_KINDS: Mapping[str, tuple[Kind, ...]] = {
    "source": (Kind.MEDIA, Kind.FILE, Kind.OTHER),
    "dataset": DATASETS,
    "datasets": (*DATASETS, Kind.ANSWERS, Kind.FILE),  # files are for task=text and task=document
    "held_out": (*DATASETS, Kind.ANSWERS, Kind.FILE),
    "images": DATASETS,
    "prompts": (Kind.FILE, *DATASETS),
    "sample_prompts": (Kind.FILE, *DATASETS),
    "questions": (Kind.FILE,),
    "layout": (Kind.FILE,),
    "config": (Kind.FILE,),
    "model": (Kind.LANGUAGE_MODEL,),
    "vision_tokenizer": (Kind.VISION_TOKENIZER,),
    "init_from": (Kind.VISION_TOKENIZER,),
}


def kind_problems(steps: Sequence[Step]) -> Iterator[str]:
    """Describe each input of the wrong kind, with what to give instead. Each step comes after those that it needs."""
    outputs = {step.name: step.output for step in steps}
    for step in steps:
        for given in step.inputs:
            name = producer_of(given.location, outputs)
            producer = next((one for one in steps if one.name == name), None)
            kind = _kind_of_output(producer, given.location) if producer else kind_of_path(given.location)
            accepted = accepted_kinds(step.command, given.option)
            if kind is not None and kind not in accepted:
                *others, last = [one.value for one in accepted]
                expected = f"{', '.join(others)} or {last}" if others else last
                yield (
                    f"step {step.name}: {given.option}: {given.location}: expected {expected}, got {kind.value};"
                    f" {_advice(kind, accepted, given.location, producer, _not_needing(step, steps))}"
                )


def accepted_kinds(command: str, option: str) -> tuple[Kind, ...]:
    """Return the kinds that an option of a command accepts."""
    kinds = ACCEPTED_KINDS[option]
    return (*kinds, Kind.INTERLEAVED) if option == "dataset" and command in INTERLEAVED_READERS else kinds


def output_kind(step: Step) -> Kind | None:
    """Return the kind of what a step writes, None if it writes nothing."""
    if isinstance(step.options, GenerateOptions) and step.options.makes_answers:
        return Kind.INTERLEAVED
    return OUTPUT_KINDS.get(step.command)


def _not_needing(step: Step, steps: Sequence[Step]) -> list[Step]:
    """Return the steps that can run before `step`."""
    needing = {step.name}
    for one in steps:
        if needing & set(one.needs):
            needing.add(one.name)
    return [one for one in steps if one.name not in needing]


def _kind_of_output(producer: Step, location: str) -> Kind | None:
    """Return the kind of a step's output, or of a folder inside a training run; None for anything else inside it."""
    assert producer.output is not None
    inside = resolved(location).relative_to(resolved(producer.output)).as_posix()
    if inside == ".":
        return output_kind(producer)
    return RUN_FOLDERS.get(inside) if producer.command == "sft" else None


def kind_of_path(location: str) -> Kind | None:
    """Return the kind of a local file, or of a local folder by the files in it; None if it is remote or missing."""
    path = Path(location)
    if "://" in location or not os.path.exists(path):
        return None
    if not os.path.isdir(path):
        return Kind.FILE
    if os.path.exists(path / "plan.arrow"):
        return _kind_of_dataset(location)
    if os.path.exists(path / "adapter_config.json"):
        return Kind.ADAPTER
    if os.path.isdir(path / "checkpoints") and os.path.exists(path / "options.json"):
        return Kind.RUN
    return _kind_of_model(path / "config.json") or Kind.OTHER


def _kind_of_dataset(location: str) -> Kind:
    try:
        return FORMAT_KINDS.get(Dataset.open(location).plan().settings.format, Kind.CODES)
    except RelayError:
        return Kind.CODES  # the check of codecs reports a dataset that cannot be read


def _kind_of_model(path: Path) -> Kind | None:
    try:
        config = read_json_object(path) if os.path.isfile(path) else {}
    except RelayError:
        return None
    if "num_hidden_layers" in config or "text_config" in config:
        return Kind.LANGUAGE_MODEL
    return Kind.VISION_TOKENIZER if "codebook_size" in config else None


def _advice(
    kind: Kind, accepted: tuple[Kind, ...], location: str, producer: Step | None, others: Sequence[Step]
) -> str:
    """Return what to give: the model of a run, or the steps that write what the option accepts."""
    reference = f"${{{producer.name}}}" if producer else location.rstrip("/")
    if Kind.LANGUAGE_MODEL in accepted and kind is Kind.RUN:
        return f"give {reference}/model"
    if Kind.LANGUAGE_MODEL in accepted and kind is Kind.ADAPTER:
        run = reference if producer else str(Path(location).parent)
        return f"give {run}/model, into which the adapter is merged"
    fitting = [f"${{{one.name}}}" for one in others if output_kind(one) in accepted]
    if Kind.LANGUAGE_MODEL in accepted:
        fitting += [f"${{{one.name}}}/model" for one in others if one.command == "sft"]
    return f"give {' or '.join(fitting)}" if fitting else "give another path"
