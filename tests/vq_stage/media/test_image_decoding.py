"""Valid, unusual and damaged image files give RGB pixels or a refusal, never another exception."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import RefusedInput
from tests.support.bad_pictures import (
    ACCEPTED,
    GRAY,
    HEIGHT,
    REFUSED,
    WIDTH,
    cut,
    encoded,
    gray16,
    palette,
    picture,
    png_header,
    rgba,
    turned,
)
from vq_stage.media.image_decoding import MAX_PIXELS, check_size, decode_rgb, read_bytes, read_size
from vq_stage.sources.files import open_file
from vq_stage.video.open_video import open_video

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
PILLOW_LIMIT = 1024 * 1024 * 1024 // 4 // 3
JPEG_TOLERANCE = 3  # gray levels, on flat colors at quality 95


def pixels(data: bytes) -> np.ndarray:
    image = decode_rgb(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def content_of(path: Path) -> bytes:
    with open_file(path) as file:
        return read_bytes(file)


def size_of(path: Path) -> tuple[int, int]:
    with open_file(path) as file:
        return read_size(file)


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    expected = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    expected[:, : WIDTH // 2], expected[:, WIDTH // 2 :] = left, right
    return expected


def refusal_of(call: Callable[[], object]) -> RefusedInput | None:
    try:
        call()
    except RefusedInput as refused:
        return refused
    return None


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedInput) as refused:
        call()
    assert refused.value.detail, "a refusal has a detail"
    return refused.value.reason


def reasons_as_image(reasons: str) -> list[str]:
    """Return the reasons as the image decoder gives them: it refuses animations, which planning takes for videos."""
    return ["animated" if reason == "too_short" else reason for reason in reasons.split("|")]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    content, reasons = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content())
    assert reason_of(lambda: decode_rgb(content_of(path))) in reasons_as_image(reasons)


@pytest.mark.parametrize("name", REFUSED)
def test_size_of_a_refused_image(name: str, tmp_path: Path) -> None:
    """Problems in the header are refused for the same reason; damage after it may be found later."""
    content, reasons = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content())
    found = refusal_of(lambda: size_of(path))
    if found is None:
        assert set(reasons.split("|")) <= {"truncated", "not_an_image", "unsupported_mode"}
    else:
        assert found.reason in reasons_as_image(reasons)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_as_upright_rgb(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(ACCEPTED[name]())
    assert pixels(content_of(path)).shape == (HEIGHT, WIDTH, 3)
    assert size_of(path) == (HEIGHT, WIDTH)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    """A dangling link and a folder named like an image: permissions would not stop root."""
    (tmp_path / "link.png").symlink_to("nowhere.png")
    (tmp_path / "folder.png").mkdir()
    for read in (content_of, size_of):
        assert reason_of(lambda read=read: read(tmp_path / "link.png")) == "missing"
        assert reason_of(lambda read=read: read(tmp_path / "folder.png")) == "unreadable"


def test_lossless_pixels_are_exact() -> None:
    image = picture(21)
    for data in (encoded(image, "PNG"), encoded(image, "WEBP", lossless=True), encoded(image, "TIFF")):
        np.testing.assert_array_equal(pixels(data), np.asarray(image))


@pytest.mark.parametrize("value", [0, 255, 256, 40_000, 65_535])
def test_16_bit_gray_is_scaled(value: int) -> None:
    assert set(np.unique(pixels(gray16(value)))) == {value >> 8}


def test_16_bit_gray_tiff_is_scaled() -> None:
    wide = np.linspace(0, 65_535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    data = encoded(Image.fromarray(wide), "TIFF")
    np.testing.assert_array_equal(pixels(data)[..., 0], wide >> 8)


def test_transparent_pixels_become_white() -> None:
    np.testing.assert_array_equal(pixels(encoded(rgba(), "PNG")), halves(GRAY, WHITE))
    np.testing.assert_array_equal(pixels(palette(is_transparent=True)), halves(GRAY, WHITE))
    np.testing.assert_array_equal(pixels(palette(is_transparent=False)), halves(GRAY, BLACK))


def test_half_transparent_is_blended() -> None:
    data = encoded(Image.new("LA", (WIDTH, HEIGHT), (0, 128)), "PNG")
    np.testing.assert_allclose(pixels(data), 255 * (1 - 128 / 255), atol=1)


def test_rgb_with_a_transparent_color() -> None:
    image = Image.new("RGB", (WIDTH, HEIGHT), GRAY)
    image.paste(BLACK, (WIDTH // 2, 0, WIDTH, HEIGHT))
    np.testing.assert_array_equal(pixels(encoded(image, "PNG", transparency=BLACK)), halves(GRAY, WHITE))


def test_cmyk_jpeg_keeps_its_colors() -> None:
    flat = Image.new("RGB", (WIDTH, HEIGHT), GRAY)
    data = encoded(flat.convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(pixels(data), np.asarray(flat), atol=JPEG_TOLERANCE)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int, tmp_path: Path) -> None:
    """Quadrants of four colors end up where Exif puts them; the header gives the same size as the pixels."""
    colours = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [250, 250, 10]]], np.uint8)
    stored = Image.fromarray(colours.repeat(16, axis=0).repeat(32, axis=1))  # 32 high, 64 wide
    turns = [lambda x: x, np.fliplr, lambda x: np.rot90(x, 2), np.flipud, lambda x: np.swapaxes(x, 0, 1)]
    turns += [lambda x: np.rot90(x, -1), lambda x: np.rot90(np.swapaxes(x, 0, 1), 2), np.rot90]
    data = turned(orientation, format, stored, quality=95, lossless=True)
    shown = pixels(data)
    height, width = (64, 32) if orientation > 4 else (32, 64)
    assert shown.shape == (height, width, 3)
    centres = shown[height // 4 :: height // 2, width // 4 :: width // 2].astype(int)
    np.testing.assert_allclose(centres, turns[orientation - 1](colours), atol=12)
    path = tmp_path / "turned"
    path.write_bytes(data)
    assert size_of(path) == (height, width)


def test_20000_pixels_wide(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(png_header(20_000, 4_000))
    assert reason_of(lambda: decode_rgb(path.read_bytes())) == "truncated"
    path.write_bytes(png_header(20_000, 3_999))
    assert reason_of(lambda: size_of(path)) == "aspect_ratio"
    path.write_bytes(encoded(Image.new("1", (20_000, 4_000)), "TIFF", compression="group4"))
    assert size_of(path) == (4_000, 20_000)


def damaged(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield about 60 evenly spaced truncations, and 200 copies with one byte changed."""
    for length in sorted({len(data) * step // 60 for step in range(60)}):
        yield f"cut at {length}", data[:length]
    chooser = random.Random(seed)
    for _ in range(200):
        place, value = chooser.randrange(len(data)), chooser.randrange(1, 256)
        yield f"byte {place} xor {value}", data[:place] + bytes([data[place] ^ value]) + data[place + 1 :]


def escaped(call: Callable[[], object]) -> str | None:
    """Return the exception that should have been a refusal, or None."""
    try:
        call()
    except RefusedInput:
        return None
    except Exception as error:
        return repr(error)
    return None


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("has_exif", [False, True], ids=["plain", "exif"])
def test_damaged_bytes_are_refused_or_decoded(format: str, has_exif: bool, tmp_path: Path) -> None:
    if has_exif and format in ("GIF", "BMP", "JPEG2000"):
        pytest.skip("Pillow writes no Exif into this format")
    data = turned(6, format) if has_exif else encoded(picture(), format)
    path, problems = tmp_path / "picture", []
    for what, bad in damaged(data, seed=len(data)):
        path.write_bytes(bad)
        calls = {"decode_rgb": lambda bad=bad: decode_rgb(bad), "read_size": lambda: size_of(path)}
        problems += [f"{name}, {what}: {error}" for name, call in calls.items() if (error := escaped(call))]
    assert not problems, f"{len(problems)} of 520 escaped: {problems[:6]}"


def test_truncated_files_of_every_format_are_refused() -> None:
    """A truncated image must not be decoded as if it were complete."""
    for format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        data = cut(encoded(picture(0, 96, 96), format))
        assert reason_of(lambda data=data: decode_rgb(data)) in ("truncated", "not_an_image")


def test_the_global_limit_of_pillow_stays_as_it_is() -> None:
    """Other code in the process relies on it, also while several threads decode."""
    assert Image.MAX_IMAGE_PIXELS == PILLOW_LIMIT
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda data: decode_rgb(data).size, [encoded(picture(), "PNG")] * 32)) == {(WIDTH, HEIGHT)}
    assert reason_of(lambda: decode_rgb(png_header(60_000, 60_000))) == "too_large"
    assert Image.MAX_IMAGE_PIXELS == PILLOW_LIMIT


def test_a_bomb_is_refused_where_pillow_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert reason_of(lambda: decode_rgb(png_header(60_000, 60_000))) == "too_large"
    assert reason_of(lambda: open_video(io.BytesIO(png_header(60_000, 60_000))).info) == "too_large"


def test_the_limit_is_the_one_at_which_pillow_refuses() -> None:
    assert MAX_PIXELS == 2 * PILLOW_LIMIT


LARGE_IMAGE = """
import io
from PIL import Image
from vq_stage.media.image_decoding import read_size
file = io.BytesIO()
Image.new("1", (12_000, 10_000)).save(file, "PNG")
print(read_size(file))
"""


def test_large_images_within_the_limit_print_no_warning() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE_IMAGE], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("(10000, 12000)", "")


def test_a_filter_of_the_application_takes_precedence() -> None:
    """Where the warning is an error, the image is refused by the reason that fits."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        assert reason_of(lambda: decode_rgb(png_header(12_000, 10_000))) == "too_large"


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 40), (1000, 200)])
def test_sizes_within_the_limits_pass(height: int, width: int) -> None:
    check_size(height, width)


@pytest.mark.parametrize(
    ("height", "width", "reason"),
    [(7, 8, "too_small"), (8, 41, "aspect_ratio"), (41, 8, "aspect_ratio"), (MAX_PIXELS // 2, 3, "too_large")],
)
def test_sizes_outside_the_limits_are_refused(height: int, width: int, reason: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        check_size(height, width)
    assert refused.value.reason == reason


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n"
OTHER_FORMATS: dict[str, bytes] = {
    "EPS": POSTSCRIPT,
    "EPS in a DOS file": b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + bytes(24) + POSTSCRIPT,
    "PSD": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x40\0\0\0\x40\0\x08\0\3" + bytes(12),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0\x40\0\x40\0\xa0\5" + bytes(30),
    "FITS": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
    "GRIB": b"GRIB\0\0\0\1" + bytes(30),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(30),
    "BUFR": b"BUFR" + bytes(30),
    "OLE": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "XPM": b'/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c #000000",\n"a"\n};',
    "IM": b"Image type: RGB image\r\nImage size (x*y): 64*64\r\n" + bytes(500),
    "PDF": b"%PDF-1.4\n1 0 obj",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "MVG": b"push graphic-context\nviewbox 0 0 640 480\nimage over 0,0 0,0 'https://127.0.0.1/x'\n",
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_formats_that_are_not_listed_are_not_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suffix plays no part: Pillow looks at the content. EPS would start Ghostscript."""

    def start(*arguments: object, **options: object) -> None:
        pytest.fail(f"another program was started: {arguments}")

    for function in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, function, start)
    assert reason_of(lambda: decode_rgb(OTHER_FORMATS[name])) == "not_an_image"
    assert reason_of(lambda: read_size(io.BytesIO(OTHER_FORMATS[name]))) == "not_an_image"


def test_formats_of_plug_ins_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is imported for other reasons may register formats of its own."""

    def factory(*arguments: object) -> Image.Image:
        pytest.fail("the format of a plug-in was opened")

    Image.init()
    monkeypatch.setattr(Image, "ID", ["OTHER", *Image.ID])
    monkeypatch.setattr(Image, "OPEN", {"OTHER": (factory, None), **Image.OPEN})
    assert reason_of(lambda: decode_rgb(b"content of another format")) == "not_an_image"


def test_images_are_opened_in_one_place_only() -> None:
    root = Path(__file__).parents[3]
    files = [
        path for package in ("shared", "vq_stage", "lm_stage", "pipelines") for path in (root / package).rglob("*.py")
    ]
    assert [path.name for path in files if "Image.open(" in path.read_text()] == ["image_decoding.py"]


@pytest.mark.parametrize("size", [(13_000, 13_000), (60_000, 60_000)])
def test_a_large_image_in_a_small_icon(size: tuple[int, int]) -> None:
    """An icon contains whole PNG files, whose sizes may differ from the one that the icon states."""
    inner = png_header(*size)
    icon = b"\0\0\1\0\1\0\x20\x20\0\0\1\0\x20\0" + struct.pack("<II", len(inner), 22) + inner
    assert reason_of(lambda: read_size(io.BytesIO(icon))) in ("too_large", "truncated", "not_an_image")
    assert reason_of(lambda: decode_rgb(icon)) in ("too_large", "truncated", "not_an_image")
