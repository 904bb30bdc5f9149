"""The families of vision tokenizers: which config and which network a `config.json` selects.

A new family is an entry of `FAMILIES`. Nothing here imports MindSpore until a network is built.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import CheckpointError, UsageError
from shared.storage.paths import local_directory
from shared.storage.small_files import read_json_object
from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.ibq_config import IbqConfig
from vq_stage.model.spatial_config import SpatialConfig
from vq_stage.model.tensor_names import NamedArray, as_hugging_face, as_taming

if TYPE_CHECKING:
    import numpy as np

    from vq_stage.model.autoencoder import Autoencoder
    from vq_stage.model.kernels import Kernels
    from vq_stage.model.mindone import MindoneBackend

TokenizerConfig = Emu3Config | IbqConfig
MAX_CONFIG_BYTES = 1 << 20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Family:
    """One family of tokenizers.

    `model_types` are what its config.json may name; without a known one, a config belongs to the first family whose
    `keys` it has. `network` is the module and the class of the network, `mindone` those of mindone's network behind the
    same interface, if there is one. `saved` gives the published name and shape of a parameter of the network.
    """

    model_types: tuple[str, ...]
    keys: tuple[str, ...]
    config: type[Emu3Config] | type[IbqConfig]
    network: tuple[str, str]
    saved: Callable[[str, np.ndarray], NamedArray]
    mindone: tuple[str, str] | None = None


FAMILIES = (
    Family(
        ("emu3_vqgan", "Emu3VisionVQ"),
        ("temporal_downsample_factor",),
        Emu3Config,
        ("vq_stage.model.emu3", "Emu3Network"),
        as_hugging_face,
        ("vq_stage.model.mindone", "MindoneBackend"),
    ),
    Family(("Emu3p5VisionVQ",), ("ch", "resolution"), IbqConfig, ("vq_stage.model.ibq", "IbqNetwork"), as_taming),
)


def family_of(config: SpatialConfig) -> Family:
    """Return the family of a config."""
    return next(family for family in FAMILIES if family.config is type(config))


def build_network(config: TokenizerConfig, kernels: Kernels) -> Autoencoder:
    """Return the network of a config, without weights. Imports MindSpore."""
    network: Autoencoder = _imported(family_of(config).network)(config, kernels)
    return network


def load_mindone(directory: str | Path, config: TokenizerConfig) -> MindoneBackend:
    """Return mindone's network with the weights of a checkpoint directory. Imports MindSpore.

    Raises UsageError if mindone has no network of this family, and what `MindoneBackend.from_pretrained` raises.
    """
    family = family_of(config)
    if family.mindone is None:
        raise UsageError(f"{directory}: --backend mindone has no network of this family; use --backend native")
    backend: MindoneBackend = _imported(family.mindone).from_pretrained(directory, config)
    return backend


def _imported(path: tuple[str, str]) -> Any:
    module, name = path
    return getattr(import_module(module), name)


def config_from_dict(raw: Mapping[str, Any], where: str = "config") -> TokenizerConfig:
    """Return the config of the family that the keys belong to.

    Raises CheckpointError, starting with `where`, if a key is missing or its value is not supported.
    """
    model_type = raw.get("model_type")
    named = [family for family in FAMILIES if model_type in family.model_types]
    fitting = [family for family in FAMILIES if all(key in raw for key in family.keys)]
    return [*named, *fitting, *FAMILIES][0].config.from_dict(raw, where)


def read_config(directory: str | Path) -> TokenizerConfig:
    """Read a checkpoint directory's `config.json`. Raises CheckpointError."""
    path = local_directory(directory) / "config.json"
    if not os.path.isfile(path):  # False for a name that is too long too, where Path.is_file raises OSError
        raise CheckpointError(f"{directory}: expected the directory of a vision tokenizer, {_found(path.parent)}")
    return read_config_file(path)


def read_config_file(path: str | Path) -> TokenizerConfig:
    """Read a config file. Raises CheckpointError."""
    return config_from_dict(read_json_object(Path(path), MAX_CONFIG_BYTES, CheckpointError), str(path))


def _found(directory: Path) -> str:
    """Describe what is in place of a checkpoint directory, and what to do."""
    if os.path.isfile(directory):
        return "found a file; give the directory that holds config.json and the weights"
    if os.path.isfile(directory / "plan.arrow"):
        return "found a dataset of codes"
    if os.path.isfile(directory / "model" / "config.json") or os.path.isdir(directory / "adapter"):
        return "found a run of `emu3 sft`, whose model is a language model"
    if os.path.isdir(directory):
        return "found no config.json"
    if _HUB_ID.fullmatch(str(directory)):
        return (
            f"found none; if {directory} is a model of the Hugging Face Hub, download it, for example with"
            f" `hf download {directory} --local-dir DIR`, and give DIR"
        )
    return "found nothing there"
