"""Decoded frames of a container to upright RGB images with square pixels.

Interlaced frames and the tone curve of HDR videos are left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Colorspace, Interpolation
from PIL import Image

from shared.errors import RefusedInput
from vq_stage.media.image_decoding import check_size, flatten_on_white

# The same pixels on every processor architecture; without full chroma, images come out two gray levels too dark.
EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
SCALING = int(Interpolation.BICUBIC | EXACT)
UNSPECIFIED_COLORSPACE = 2
MAX_FRAME_PIXELS = 8192 * 4352  # the largest frame of H.264; a decoder holds up to 16 of them

Transpose = Image.Transpose
# Where a display matrix sends a step right and a step down: (right_x, right_y, down_x, down_y).
ORIENTATIONS: dict[tuple[float, float, float, float], Transpose | None] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Transpose.ROTATE_180,
    (0, 1, -1, 0): Transpose.ROTATE_270,
    (0, -1, 1, 0): Transpose.ROTATE_90,
    (0, 1, 1, 0): Transpose.TRANSPOSE,
    (0, -1, -1, 0): Transpose.TRANSVERSE,
}
SWAPS_SIDES = {Transpose.ROTATE_90, Transpose.ROTATE_270, Transpose.TRANSPOSE, Transpose.TRANSVERSE}


@dataclass(frozen=True, slots=True)
class FrameRenderer:
    """Renders the frames of one stream: scales to (height, width) in pixels, then applies `transpose`."""

    height: int
    width: int
    transpose: Transpose | None

    @classmethod
    def for_frame(cls, frame: av.VideoFrame, pixel_aspect: float) -> FrameRenderer:
        """Build from a stream's first frame; pixels `pixel_aspect` times as wide as high are stretched in width.

        Raises RefusedInput: `too_large`, `too_small`, `aspect_ratio` or `unsupported_mode`.
        """
        renderer = cls(frame.height, max(1, round(frame.width * pixel_aspect)), _orientation(frame))
        check_size(*renderer.displayed_size, MAX_FRAME_PIXELS)
        return renderer

    @property
    def displayed_size(self) -> tuple[int, int]:
        """(height, width) of rendered images."""
        return (self.width, self.height) if self.transpose in SWAPS_SIDES else (self.height, self.width)

    def render(self, frame: av.VideoFrame) -> Image.Image:
        """Convert to RGB; transparent pixels are blended with white."""
        has_alpha = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
        is_untagged_hd = frame.colorspace == UNSPECIFIED_COLORSPACE and (frame.width >= 1280 or frame.height > 576)
        rgb = frame.reformat(
            self.width,
            self.height,
            "rgba" if has_alpha else "rgb24",
            src_colorspace=Colorspace.ITU709 if is_untagged_hd else None,  # what players assume
            interpolation=SCALING,
            threads=1,
        )
        image = Image.fromarray(np.asarray(rgb.to_ndarray()))
        image = flatten_on_white(image) if has_alpha else image
        return image if self.transpose is None else image.transpose(self.transpose)


def _orientation(frame: av.VideoFrame) -> Transpose | None:
    """Return how to turn a frame upright, from its display matrix.

    Raises RefusedInput `unsupported_mode` unless it is a combination of quarter turns and flips.
    """
    side_data: Any = frame.side_data  # PyAV's type stubs cover one kind of side data only
    if SideDataType.DISPLAYMATRIX not in side_data:
        return None
    values = np.frombuffer(bytes(side_data[SideDataType.DISPLAYMATRIX]), np.int32)[[0, 1, 3, 4]].tolist()
    scale = max(abs(value) for value in values) or 1
    right_x, right_y, down_x, down_y = (round(value / scale, 2) for value in values)
    try:
        return ORIENTATIONS[right_x, right_y, down_x, down_y]
    except KeyError as error:
        raise RefusedInput("unsupported_mode", f"display matrix {values}: expected quarter turns and flips") from error
