"""What is fuzzed: for each target, folders of intact inputs, and how one of them is read."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import features
from safetensors.numpy import save_file

from lm_stage.generate.prompt_files import list_prompts
from lm_stage.generate.prompts import PromptDefaults
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.understand.questions import list_questions
from pipelines.cli import main as commands
from pipelines.workflow.pipeline import load_pipeline
from shared.codec import EMU3
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader, RowReader
from shared.errors import RelayError
from shared.maintenance.seal import SealOptions, seal
from shared.maintenance.summary import summarize
from shared.maintenance.verify import verify_dataset
from shared.storage.safetensors_reader import read_checkpoint
from shared.tokens.sequence_form import SequenceForm
from tests.support import handmade
from tests.support.bad_pictures import encoded, picture, rgba, turned
from tests.support.sealed import five_units
from tests.support.small_datasets import SEQUENCE_SETTINGS, sequence_rows, write_dataset
from tests.support.small_videos import VIDEOS
from vq_stage.encode.estimate import forecast
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.planner import Planner
from vq_stage.media.image_decoding import decode_rgb, read_size
from vq_stage.model.weights import codec_fingerprint
from vq_stage.video.clips import ClipSampling, cut_clips, read_clip
from vq_stage.video.open_video import open_video

GOLDEN = Path(__file__).parents[1] / "golden"
EXAMPLES = Path(__file__).parents[2] / "pipelines" / "examples"
Make, Read = Callable[[Path], object], Callable[[Path, Path], object]


@dataclass(frozen=True)
class Target:
    """`make` writes intact inputs into an empty folder; `read` is given such a folder and the file that was mutated.

    Only files whose names end with one of `suffixes` are mutated.
    """

    make: Make
    read: Read
    suffixes: tuple[str, ...] = ("",)

    def is_mutated(self, file: str) -> bool:
        return file.lower().endswith(self.suffixes)


def make_templates(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    for name in names:
        (folder / name).mkdir()
        TARGETS[name].make(folder / name)
    return {name: folder / name for name in names}


def _write(folder: Path, files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def _make_pictures(folder: Path) -> None:
    color, large = picture(1), picture(2, 96, 128)
    files: dict[str, bytes | str] = {
        "rgb.png": encoded(color, "PNG"),
        "rgba.png": encoded(rgba(), "PNG"),
        "palette.png": encoded(color.convert("P"), "PNG", bits=4),
        "turned.png": turned(6, "PNG"),
        "baseline.jpg": encoded(large, "JPEG"),
        "progressive.jpg": encoded(large, "JPEG", progressive=True),
        "turned.jpg": turned(6, "JPEG"),
        "cmyk.jpg": encoded(color.convert("CMYK"), "JPEG"),
        "lossy.webp": encoded(large, "WEBP"),
        "lossless.webp": encoded(rgba(), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        "plain.gif": encoded(color, "GIF"),
        "plain.bmp": encoded(color, "BMP"),
        "plain.tif": encoded(color, "TIFF"),
        "lzw.tif": encoded(color, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": encoded(large, "TIFF", compression="jpeg"),
        "deflate.tif": turned(6, "TIFF", compression="tiff_adobe_deflate"),
        "plain.ppm": encoded(color, "PPM"),
        "plain.jp2": encoded(large, "JPEG2000"),
        "plain.tga": encoded(color, "TGA", compression="tga_rle"),
        "plain.ico": encoded(picture(3, 32, 32), "ICO"),
    }
    if features.check("avif"):
        files["plain.avif"] = encoded(large, "AVIF")
    _write(folder, files)


def _try_all(*reads: Callable[[], object]) -> None:
    """Try every reader, whatever the others find; raise the first refusal."""
    refusals = []
    for read in reads:
        try:
            read()
        except RelayError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _read_picture(folder: Path, file: Path) -> None:
    content = file.read_bytes()
    _try_all(lambda: read_size(io.BytesIO(content)), lambda: decode_rgb(content))


def _make_videos(is_chosen: Callable[[str], bool]) -> Make:
    def make(folder: Path) -> None:
        _write(folder, {name.replace(" ", "-"): content() for name, content in VIDEOS.items() if is_chosen(name)})

    return make


ANIMATIONS = ("gif", "apng", "webp")


def _read_video(folder: Path, file: Path) -> None:
    samplings = (ClipSampling(frames=4), ClipSampling(frames=4, stride=1))
    _try_all(*(partial(_read_clips, file, sampling) for sampling in samplings))


def _read_clips(file: Path, sampling: ClipSampling) -> None:
    with file.open("rb") as opened:
        video = open_video(opened)
        clips = cut_clips(video.info, sampling, EMU3)
        for clip in (clips[0], clips[len(clips) // 2], clips[-1]):
            read_clip(video, clip, sampling, lambda image: np.asarray(image.resize((32, 32))))


def _small_picture(number: int) -> bytes:
    return encoded(picture(number), "JPEG")


def _make_tars(folder: Path) -> None:
    for name, format_ in (
        ("pax.tar", tarfile.PAX_FORMAT),
        ("gnu.tar", tarfile.GNU_FORMAT),
        ("ustar.tar", tarfile.USTAR_FORMAT),
    ):
        with tarfile.open(folder / name, "w", format=format_) as tar:
            for number in range(3):
                long = "long-" * 30 if name == "pax.tar" and number == 1 else ""
                for suffix, content in (
                    (".jpg", _small_picture(number)),
                    (".txt", b"a text"),
                    (".json", b'{"caption": "a"}'),
                ):
                    info = tarfile.TarInfo(f"dir/{long}{number:04d}{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def _make_tables(folder: Path) -> None:
    images = [{"bytes": _small_picture(number), "path": f"{number}.jpg"} for number in range(4)]
    table = pa.table({"image": images, "text": ["a", None, "b", "c"], "id": list(range(4))})
    pq.write_table(table, folder / "snappy.parquet")
    pq.write_table(table, folder / "groups.parquet", row_group_size=2, compression="zstd")
    pq.write_table(pa.table({"jpg": [_small_picture(1)] * 2, "captions": [["a", "b"], []]}), folder / "binary.parquet")
    with pa.OSFile(str(folder / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with pa.OSFile(str(folder / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)


def _make_lists(folder: Path) -> None:
    talk = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}]
    entries = [
        {"image": "0.jpg", "text": "a"},
        {"image": "1.jpg", "id": "one", "conversations": talk},
        {"file_name": "0.jpg", "caption": "b", "key": "other", "width": 24},
        {"image": "clip.frames", "fps": 12, "text": None},
    ]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    pictures: dict[str, bytes | str] = {f"{number}.jpg": _small_picture(number) for number in range(2)}
    frames: dict[str, bytes | str] = {f"clip.frames/{number}.jpg": _small_picture(1) for number in range(9)}
    metadata = 'file_name,text\n0.jpg,a\n1.jpg,"b, c"\n'
    _write(folder, {"l.json": json.dumps(entries), "l.jsonl": lines, "m/metadata.csv": metadata, **pictures, **frames})
    _write(folder / "m", pictures)


def _plan_source(folder: Path, file: Path) -> None:
    source = file.parent if file.name.startswith("metadata.") else file
    options = EncodeOptions(str(source), str(folder / "dataset"), sampling=ClipSampling(frames=4))
    forecast(Planner(options, EMU3), SequenceForm())


def _make_safetensors(folder: Path) -> None:
    tensors = {"a.weight": np.zeros((4, 3), np.float32), "b": np.ones(7, np.float16), "c": np.zeros((0, 2), np.int64)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _read_safetensors(folder: Path, file: Path) -> None:
    for tensor in read_checkpoint(folder).values():
        tensor.float32()
        tensor.sha256()


def _copy(source: Path, *names: str) -> Make:
    def make(folder: Path) -> None:
        for name in names:
            shutil.copy(source / name, folder / name)

    return make


def _make_pipelines(folder: Path) -> None:
    for path in EXAMPLES.glob("*.yaml"):
        shutil.copy(path, folder)


def _make_prompts(folder: Path) -> None:
    prompts = [
        {"prompt": "a cat", "key": "one", "samples": 2, "seed": 3, "ratio": "4:3"},
        {"prompt": "b", "guidance_scale": 2.0},
    ]
    questions = [{"question": "what?", "image": "one", "key": "q"}, {"question": "why?", "images": ["one", "two"]}]
    files: dict[str, bytes | str] = {
        "prompts.txt": "a cat\na dog\n",
        "prompts.json": json.dumps(prompts),
        "prompts.jsonl": "".join(json.dumps(entry) + "\n" for entry in prompts),
        "questions.jsonl": "".join(json.dumps(entry) + "\n" for entry in questions),
    }
    _write(folder, files)


def _read_prompts(folder: Path, file: Path) -> None:
    if file.name.startswith("questions"):
        list_questions(None, str(file), None)
    else:
        list_prompts(file, PromptDefaults(4096))


def _make_sealed(folder: Path) -> None:
    five_units(folder)
    seal(SealOptions(str(folder)))


def _read_dataset(folder: Path, file: Path) -> None:
    dataset = Dataset.open(folder)
    _try_all(*(partial(read, dataset) for read in (verify_dataset, summarize, _read_rows, _read_keys)))


def _read_rows(dataset: Dataset) -> None:
    reader = RowReader(dataset)
    for row in range(len(reader)):
        reader.codes_THW(row)


def _read_keys(dataset: Dataset) -> None:
    reader = KeyReader(dataset)
    for key in list(reader):
        assert reader.row(key).key == key


TARGETS: dict[str, Target] = {
    "pictures": Target(_make_pictures, _read_picture),
    "animations": Target(_make_videos(lambda name: name in ANIMATIONS), _read_video),
    "videos": Target(_make_videos(lambda name: name not in ANIMATIONS), _read_video),
    "tars": Target(_make_tars, _plan_source),
    "tables": Target(_make_tables, _plan_source),
    "lists": Target(_make_lists, _plan_source, (".json", ".jsonl", ".csv")),
    "safetensors": Target(_make_safetensors, _read_safetensors),
    "vq-config": Target(
        _copy(GOLDEN / "baai_vq_small", "config.json", "model.safetensors"),
        lambda folder, file: codec_fingerprint(folder),
        ("config.json",),
    ),
    "lm-config": Target(
        _copy(GOLDEN / "written_by_0.1" / "model", "config.json", "tokenizer.json", "model.safetensors"),
        lambda folder, file: ModelDirectory.open(folder),
        (".json",),
    ),
    "yaml": Target(_make_pipelines, lambda folder, file: load_pipeline(str(file), {}, None, commands)),
    "prompts": Target(_make_prompts, _read_prompts),
    "dataset": Target(handmade.make, _read_dataset),
    "sealed": Target(_make_sealed, _read_dataset),
    "sequences": Target(
        lambda folder: write_dataset(folder / "d", sequence_rows(), SEQUENCE_SETTINGS),
        lambda folder, file: _read_dataset(folder / "d", file),
    ),
}
