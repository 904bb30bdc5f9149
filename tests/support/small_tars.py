"""Small WebDataset shards: samples with captions in every form, and the bytes of a tar."""

from __future__ import annotations

import io
import tarfile

SAMPLES = {
    "0001.jpg": b"first picture",
    "0001.txt": b" a cat \n",
    "0001.json": b'{"caption": "unused", "width": 640, "score": 0.5, "nsfw": false, "exif": {"a": 1}, "note": null}',
    "sub/0002.WebP": b"second picture",
    "sub/0002.json": b'{"prompt": "a dog", "url": "https://host/2"}',
    "0003.mp4": b"a video",
    "0003.caption": b"it moves",
    "0004.txt": b"a caption of nothing",
    "0005.left.png": b"left",
    "0005.right.png": b"right",
    "README": b"no sample",
    "0006.pth": b"never unpickled",
}


def tar_bytes(files: dict[str, bytes]) -> bytes:
    """Return an uncompressed tar of these files by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            add_member(tar, name, content)
    return buffer.getvalue()


def add_member(tar: tarfile.TarFile, name: str, content: bytes = b"", type: bytes = tarfile.REGTYPE) -> None:
    """Append a member; a link points to /etc/passwd."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), type, "/etc/passwd"
    tar.addfile(info, io.BytesIO(content))
