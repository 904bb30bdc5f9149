"""Vision tokenizer weights: reading any published naming, and the codec fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import CheckpointError
from shared.storage.digests import digest_of
from vq_stage.model.families import read_config
from vq_stage.model.spatial_config import SpatialConfig
from vq_stage.model.tensor_names import hugging_face_name

if TYPE_CHECKING:
    from mindspore import nn

    from shared.storage.safetensors_reader import StoredTensor

EMBEDDED_TOKENIZER = Path(__file__).parents[1] / "embedded" / "emu3-tiny"

_COUNTER = ".num_batches_tracked"  # of batch norms; not used in inference
# Checkpoints of SEED-Voken's training also hold its discriminator and losses, and averages of all weights.
_LOSSES, _AVERAGES = "loss.", "model_ema."


def read_weights(directory: str | Path) -> dict[str, StoredTensor]:
    """Return the tensors of a tokenizer checkpoint under Hugging Face names, without batch counters.

    Of a checkpoint of SEED-Voken's training these are the averaged weights, as in its own validation.
    Raises CheckpointError if a file is missing or damaged.
    """
    from shared.storage.safetensors_reader import read_checkpoint, rename_tensors

    tensors = rename_tensors(_inference_tensors(read_checkpoint(directory)), hugging_face_name)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_COUNTER)}


def _inference_tensors(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the weights of the network, each replaced by its average if there is one.

    The average of `a.b.weight` is named `model_ema.abweight`.
    """
    weights = {name: tensor for name, tensor in stored.items() if not name.startswith((_LOSSES, _AVERAGES))}
    return {name: stored.get(_AVERAGES + name.replace(".", ""), tensor) for name, tensor in weights.items()}


def check_dimensions(directory: str | Path, config: SpatialConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Compare the dimensions that decide how large the network is with the weights, before it is built.

    Raises CheckpointError.
    """
    last_block, width = config.num_res_blocks - 1, config.level_channels(-1)
    expected: dict[str, tuple[int, ...]] = {
        "encoder.conv_in.weight": (config.base_channels, config.in_channels, 3, 3),
        "encoder.conv_out.weight": (config.latent_channels, width, 3, 3),
        "quantize.embedding.weight": (config.codebook_size, config.embed_dim),
    }
    for level in range(config.levels):
        channels = config.level_channels(level)
        expected[f"encoder.down_block.down.{level}.block.{last_block}.conv2.weight"] = (channels, channels, 3, 3)
    for name, shape in expected.items():
        found = tensors[name].shape if name in tensors else "no such tensor"
        if found != shape:
            raise CheckpointError(
                f"{directory}: config.json does not fit the weights: {name}: expected {shape}, got {found}"
            )


def load_weights(model: nn.Cell, directory: str | Path) -> None:
    """Copy a checkpoint into one of our networks, or into mindone's, whose parameters have the same names.

    Raises CheckpointError naming tensors that are missing, unexpected or of another shape.
    """
    from mindspore import Tensor

    from shared.storage.safetensors_reader import check_tensors

    tensors = read_weights(directory)
    parameters = {name: p for name, p in model.parameters_and_names() if not name.endswith(_COUNTER)}
    check_tensors(str(directory), tensors, {name: p.shape for name, p in parameters.items()})
    for name, p in parameters.items():
        p.set_data(Tensor(tensors[name].float32().reshape(p.shape), p.dtype))


def codec_fingerprint(directory: str | Path) -> str:
    """Return the SHA-256 digest over the config and every tensor's name, shape, dtype and bytes, in 64 hex digits.

    It is the same for the same weights under either naming. Does not import MindSpore. Raises CheckpointError.
    """
    config, tensors = read_config(directory), read_weights(directory)
    check_dimensions(directory, config, tensors)
    described = {name: [t.dtype, [n for n in t.shape if n != 1], t.sha256()] for name, t in sorted(tensors.items())}
    return digest_of({"config": config.to_dict(), "tensors": described})
