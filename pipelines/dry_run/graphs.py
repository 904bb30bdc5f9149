"""Every compiled graph that a command runs for each token, image, batch or step, as something that can be built alone.

The dry run compiles these graphs for Ascend, and so does the audit in the tests, without a device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.device import Device

if TYPE_CHECKING:
    from lm_stage.model.config import DecoderConfig
    from vq_stage.model.emu3_config import Emu3Config
    from vq_stage.model.ibq_config import IbqConfig

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class GraphSizes:
    """The sizes that graphs are built for: models, and what one call of a graph processes.

    `tokenizer` is Emu3's, `image_tokenizer` Emu3.5's. `side` is that of pictures in pixels, `pictures` their number.
    `rows` and `cache_length` are those of the KV cache, `seq_length` is that of one training row. `visual_tokens` are
    the first token id of a code, and the end of them.
    """

    decoder: DecoderConfig
    tokenizer: Emu3Config
    image_tokenizer: IbqConfig
    side: int
    pictures: int
    rows: int
    cache_length: int
    seq_length: int
    visual_tokens: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph by name. `build` returns the call that compiles it, and runs it once unless only compiling is on.

    `dtypes` are the number types that the command offers on Ascend, `cards` the number of NPUs that it is built for.
    """

    name: str
    build: Callable[[GraphSizes, Device], Call]
    dtypes: tuple[str, ...]
    cards: int = 1


def published_sizes() -> GraphSizes:
    """Return the sizes of the published models: pictures of 720², 16 of them with guidance at once."""
    from lm_stage.model.config import DecoderConfig
    from vq_stage.model.emu3_config import Emu3Config
    from vq_stage.model.ibq_config import IbqConfig

    return GraphSizes(
        decoder=DecoderConfig(),
        tokenizer=Emu3Config(),
        image_tokenizer=IbqConfig(),
        side=720,
        pictures=1,
        rows=32,
        cache_length=8256,
        seq_length=9216,
        visual_tokens=(151854, 184622),
    )
