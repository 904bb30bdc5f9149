"""Settings of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from shared.codec import Codec
from shared.errors import UsageError
from vq_stage.model.weights import codec_fingerprint

MIN_CROP = 32
CLIP_SHARE = 0.2  # for tokenizers that encode video
SAVE_DTYPES = ("float32", "float16")
# Settings that change neither the weights nor their order, so a resumed run may change them.
NOT_RECORDED = {"source", "out", "save_every", "save_dtype", "reader_threads", "device", "kernels"}


@dataclass(frozen=True, slots=True)
class TrainVQOptions:
    """Settings of one run of `emu3 train-vq`; fields are named like the command's options.

    `config` trains a tokenizer of that config file from random weights, `init_from` fine-tunes that directory.
    `crop` is the side of a training crop in pixels, `batch` the number of crops per step, `clip_share` the share of
    steps on clips, by default 0.2 for a tokenizer that encodes video and 0 for any other. Quantization is blended in
    from step `quantize_from` to `quantize_fully_from`.
    Raises UsageError, naming the command-line options, for values that cannot work.
    """

    source: str
    out: str
    config: str | None = None
    init_from: str | None = None
    steps: int = 20_000
    crop: int = 64
    batch: int = 8
    clip_share: float | None = None
    learning_rate: float = 3e-4
    warmup: int = 100
    commitment: float = 0.25
    codebook_decay: float = 0.98
    quantize_from: int = 20
    quantize_fully_from: int = 200
    seed: int = 0
    save_every: int = 200
    save_dtype: str = "float32"
    reader_threads: int = 2
    device: str = "auto"
    kernels: str = "auto"

    def __post_init__(self) -> None:
        problems = []
        if (self.config is None) == (self.init_from is None):
            problems.append("give either --config (train from random weights) or --init-from (fine-tune)")
        if self.crop < MIN_CROP:
            problems.append(f"--crop {self.crop}: expected at least {MIN_CROP}")
        if self.save_dtype not in SAVE_DTYPES:
            problems.append(f"--save-dtype {self.save_dtype}: expected {' or '.join(SAVE_DTYPES)}")
        if self.clip_share is not None and not 0.0 <= self.clip_share <= 1.0:
            problems.append(f"--clip-share {self.clip_share}: expected 0 to 1")
        if min(self.steps, self.batch, self.save_every, self.reader_threads) < 1:
            problems.append("--steps, --batch, --save-every and --reader-threads must be at least 1")
        if problems:
            raise UsageError("; ".join(problems))

    def fitted(self, codec: Codec) -> TrainVQOptions:
        """Return the options with what the codec decides.

        Raises UsageError, naming the command-line option, for values that do not suit it.
        """
        if self.crop % codec.spatial_factor:
            raise UsageError(f"--crop {self.crop}: expected a multiple of {codec.spatial_factor}, the pixels per code")
        if codec.supports_video:
            return replace(self, clip_share=CLIP_SHARE if self.clip_share is None else self.clip_share)
        if self.clip_share:
            raise UsageError(f"--clip-share {self.clip_share}: expected 0, because this tokenizer encodes images only")
        return replace(self, clip_share=0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share with the original run."""
        values = {name: value for name, value in asdict(self).items() if name not in NOT_RECORDED}
        if self.init_from is not None:
            values["init_from"] = codec_fingerprint(self.init_from)
        return values
