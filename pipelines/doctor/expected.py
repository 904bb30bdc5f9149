"""What the embedded models compute on a CPU in float32, kept as small data in expected.npz.

After a change of the embedded models or of these inputs: python -m pipelines.doctor.compute_expected
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("expected.npz")
SIDE = 64  # of a picture in pixels
PROMPT = "a red apple"
GRID = 8  # rows and columns of codes of the generated image
LOGIT_STEP = 37  # every 37th logit of a position is kept


@cache
def expected() -> dict[str, np.ndarray]:
    """Return the arrays by name.

    `pictures` (B, 64, 64, 3), their `codes` and the `pixels` of those; `canary`, the codes of the canary; `token_ids`
    of a prompt with a generated image; every 37th of their `logits`; `tokens`, the codes of the image, with the
    `margins` between the best two logits of each; ten `losses` of a training.
    """
    with np.load(FILE) as file:
        return {name: file[name] for name in file.files}
