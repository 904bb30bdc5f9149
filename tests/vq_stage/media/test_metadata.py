"""Metadata never decide whether an image is accepted: only its pixels do, and a readable orientation is applied."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from shared.errors import RefusedInput
from tests.support.bad_pictures import HEIGHT, WIDTH, chunk, cut, encoded, picture, turned
from vq_stage.media.image_decoding import decode_rgb, read_size
from vq_stage.media.metadata import exif_orientation, without_metadata

# Pillow warns about the broken metadata, which the application ignores, and the tests turn warnings into errors
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

BIG = b"x" * (3 << 20)
BOMB = zlib.compress(bytes(100 << 20))
EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
JPEG, PNG, GIF = (encoded(picture(3), name) for name in ("JPEG", "PNG", "GIF"))
WEBP = encoded(picture(3), "WEBP", lossless=True)


def with_chunk(name: bytes, body: bytes, before: bytes = b"IDAT", is_valid: bool = True) -> bytes:
    """Return a PNG with one more chunk, perhaps with a wrong checksum."""
    at = PNG.index(before) - 4
    new = chunk(name, body)
    return PNG[:at] + (new if is_valid else new[:-1] + bytes((new[-1] ^ 1,))) + PNG[at:]


def with_segment(marker: int, body: bytes) -> bytes:
    return JPEG[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + JPEG[2:]


def icc_segments(size: int) -> bytes:
    """Return a JPEG with a color profile of `size` bytes whose numbering is wrong."""
    parts = [b"ICC_PROFILE\0" + bytes((7, 3)) + bytes(65000) for _ in range(size // 65000)]
    return JPEG[:2] + b"".join(b"\xff\xe2" + struct.pack(">H", len(part) + 2) + part for part in parts) + JPEG[2:]


def tiff(**tags: object) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        number = int(name.removeprefix("tag"))
        info[number] = value
        info.tagtype[number] = 7 if isinstance(value, bytes) else 4
    return encoded(picture(3), "TIFF", tiffinfo=info)


def tiff_with_bad_pointer(tag: int) -> bytes:
    """Return a TIFF whose Exif or GPS directory is nonsense."""
    data = bytearray(tiff(**{f"tag{tag}": 8}))
    at = data.index(struct.pack("<HH", tag, 4))
    data[at + 8 : at + 12] = struct.pack("<I", len(data) - 3)
    return bytes(data)


def with_riff_chunk(name: bytes, body: bytes) -> bytes:
    extended = encoded(picture(3), "WEBP", lossless=True, exif=EXIF + b"II*\0\x08\0\0\0\0\0")
    at = extended.index(b"EXIF")
    data = extended[:at] + name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def gif_comment(blocks: int) -> bytes:
    return GIF[:-1] + b"!\xfe" + (b"\xff" + b"c" * 255) * blocks + b"\0;"


def avif(exif: bytes) -> bytes:
    """Return an AVIF whose valid Exif data are replaced by others of the same length."""
    valid = b"II*\0\x08\0\0\0\1\0\x0e\1\2\0\4\0\0\0abc\0\0\0\0\0"
    return encoded(picture(3), "AVIF", exif=valid, quality=100).replace(valid, exif.ljust(len(valid), b"\0"))


INTACT: dict[str, Callable[[], bytes]] = {
    "png zTXt bomb": lambda: with_chunk(b"zTXt", b"workflow\0\0" + BOMB),
    "png zTXt bomb behind the pixels": lambda: with_chunk(b"zTXt", b"workflow\0\0" + BOMB, b"IEND"),
    "png iTXt bomb": lambda: with_chunk(b"iTXt", b"workflow\0\1\0\0\0" + BOMB),
    "png iCCP bomb": lambda: with_chunk(b"iCCP", b"profile\0\0" + BOMB),
    "png iCCP with an unknown method": lambda: with_chunk(b"iCCP", b"profile\0\7" + BIG),
    "png iCCP without a name": lambda: with_chunk(b"iCCP", b""),
    "png tEXt of 3 MB": lambda: with_chunk(b"tEXt", b"workflow\0" + BIG),
    "png many zTXt": lambda: PNG[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(BIG[:1000000])) * 70 + PNG[33:],
    "png zTXt with a wrong checksum": lambda: with_chunk(b"zTXt", b"a\0\0abc", is_valid=False),
    "png zTXt with an unknown method": lambda: with_chunk(b"zTXt", b"a\0\7abc"),
    "png pHYs too short": lambda: with_chunk(b"pHYs", b"\0"),
    "png gAMA too short": lambda: with_chunk(b"gAMA", b"\0"),
    "png sRGB empty": lambda: with_chunk(b"sRGB", b""),
    "png eXIf garbage": lambda: with_chunk(b"eXIf", b"not a tiff header"),
    "png raw profile garbage": lambda: with_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 8\n45zz\n"),
    "png cut in a text behind the pixels": lambda: with_chunk(b"tEXt", b"a\0" + BIG, b"IEND")[: len(PNG) + 5000],
    "png XMP not UTF-8": lambda: with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xa8\xff"),
    "jpeg Exif empty": lambda: with_segment(0xE1, EXIF),
    "jpeg Exif garbage": lambda: with_segment(0xE1, EXIF + b"\x13\x37" * 20),
    "jpeg Exif outside": lambda: with_segment(0xE1, EXIF + b"II*\0\xff\xff\xff\x7f"),
    "jpeg XMP garbage": lambda: with_segment(0xE1, XMP + b"\xa8\xa9"),
    "jpeg JFIF too short": lambda: with_segment(0xE0, b"JFIF\0"),
    "jpeg Adobe too short": lambda: with_segment(0xEE, b"Adobe"),
    "jpeg Photoshop garbage": lambda: with_segment(0xED, b"Photoshop 3.0\x008BIM" + b"\xff" * 30),
    "jpeg MPF garbage": lambda: with_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
    "jpeg MPF empty": lambda: with_segment(0xE2, b"MPF\0"),
    "jpeg ICC numbered wrongly": lambda: icc_segments(1 << 20),
    "jpeg ICC cut": lambda: with_segment(0xE2, b"ICC_PROFILE\0"),
    "jpeg comment": lambda: with_segment(0xFE, b"\xff" * 60000),
    "webp Exif garbage": lambda: encoded(picture(3), "WEBP", lossless=True, exif=b"junk" * 5),
    "webp Exif empty": lambda: encoded(picture(3), "WEBP", lossless=True, exif=EXIF),
    "webp XMP garbage": lambda: encoded(picture(3), "WEBP", lossless=True, xmp=b"\xa8\xa9\xff"),
    "webp ICC garbage": lambda: encoded(picture(3), "WEBP", lossless=True, icc_profile=BIG),
    "webp cut in the Exif": lambda: with_riff_chunk(b"EXIF", BIG)[:-1000],
    "webp unknown chunk": lambda: with_riff_chunk(b"abcd", BIG[:5]),
    "gif comment": lambda: gif_comment(20000),
    "gif cut in a comment": lambda: gif_comment(3)[:-400],
    "gif cut behind an introducer": lambda: GIF[:-1] + b"!",
    "tiff Exif outside": lambda: tiff_with_bad_pointer(34665),
    "tiff GPS outside": lambda: tiff_with_bad_pointer(34853),
    "tiff ICC and XMP garbage": lambda: tiff(tag34675=BIG, tag700=b"\xff" * 99, tag34377=b"8BIM"),
    "tiff resolution of a wrong type": lambda: tiff(tag282=b"abcdefgh"),
}


@pytest.mark.parametrize("name", INTACT)
def test_accepted_despite_its_metadata(name: str) -> None:
    data = INTACT[name]()
    image = decode_rgb(data)
    assert read_size(io.BytesIO(data)) == (HEIGHT, WIDTH) == (image.height, image.width)
    expected = {"jpeg": JPEG, "gif": GIF}.get(name.split()[0], PNG)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(decode_rgb(expected)))


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
@pytest.mark.parametrize("exif", [b"junk", b"", b"II*\0\xff\xff\xff\x7f"])
def test_avif_with_broken_exif(exif: bytes) -> None:
    assert read_size(io.BytesIO(avif(exif))) == (HEIGHT, WIDTH)
    assert decode_rgb(avif(exif)).size == (WIDTH, HEIGHT)


XMP_TURNED = b'<x:xmpmeta tiff:Orientation="6"></x:xmpmeta>'
TURNED: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: turned(6, "JPEG"),
    "png": lambda: turned(6, "PNG"),
    "webp": lambda: turned(6, "WEBP", lossless=True),
    "tiff": lambda: turned(6, "TIFF"),
    "png behind the pixels": lambda: exif_behind_the_pixels(turned(6, "PNG")),
    "png raw profile": lambda: tall_png(b"tEXt", b"Raw profile type exif\0\nexif\n 26\n" + short_exif().hex().encode()),
    "png XMP": lambda: tall_png(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_TURNED),
    "png compressed XMP": lambda: tall_png(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP_TURNED)),
    "png with a bomb": lambda: (
        turned(6, "PNG")[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(BIG)) + turned(6, "PNG")[33:]
    ),
    "jpeg with a broken JFIF": lambda: (
        turned(6, "JPEG")[:2] + b"\xff\xe0\0\x07JFIF\0" + turned(6, "JPEG")[2:]
    ),
    "webp cut in the XMP": lambda: turned(6, "WEBP", lossless=True, xmp=b"x" * 9000)[:-100],
}  # fmt: skip


def short_exif() -> bytes:
    return struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, 0x0112, 3, 1, 6, 0, 0)


def tall_png(name: bytes, body: bytes) -> bytes:
    tall = encoded(picture(3, WIDTH, HEIGHT), "PNG")
    return tall[:33] + chunk(name, body) + tall[33:]


def exif_behind_the_pixels(data: bytes) -> bytes:
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    return data[:at] + data[end:-12] + data[at:end] + data[-12:]


@pytest.mark.parametrize("name", TURNED)
def test_a_readable_orientation_is_applied(name: str) -> None:
    data = TURNED[name]()
    image = decode_rgb(data)
    assert read_size(io.BytesIO(data)) == (HEIGHT, WIDTH) == (image.height, image.width)
    if not name.startswith("jpeg"):
        expected = picture(3, WIDTH, HEIGHT).transpose(Image.Transpose.ROTATE_270)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_orientations_that_mean_nothing() -> None:
    for value in (0, 9, 65535):
        data = struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, 0x0112, 3, 1, value, 0, 0)
        assert exif_orientation(data) == value
        assert decode_rgb(encoded(picture(3), "JPEG", exif=EXIF + data)).size == (WIDTH, HEIGHT)
    assert exif_orientation(b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\5") == 5, "big-endian, and cut"
    assert exif_orientation(b"II*\0\x08\0\0\0\1\0\x12\1\2\0\2\0\0\x006\0\0\0") is None, "a text"


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP, tiff()], ids=["png", "jpeg", "webp", "tiff"])
def test_damaged_pixels_are_still_refused(data: bytes) -> None:
    """Neither is an incomplete image accepted, nor does a second attempt hide the first refusal."""
    with pytest.raises(RefusedInput, match=r"truncated|not_an_image"):
        decode_rgb(cut(data))
    for length in range(0, 200, 7):
        without_metadata(data[:length])  # raises nothing


def test_pixels_are_the_same_without_metadata() -> None:
    for mode in ("RGB", "L", "P", "RGBA", "1"):
        data = encoded(picture(3).convert(mode), "PNG")
        bare = without_metadata(data)
        assert bare is not None
        assert decode_rgb(bare).tobytes() == decode_rgb(data).tobytes()
    cmyk = encoded(picture(3).convert("CMYK"), "JPEG")
    bare = without_metadata(cmyk)
    assert bare is not None
    assert decode_rgb(bare).tobytes() == decode_rgb(cmyk).tobytes()
