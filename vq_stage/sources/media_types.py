"""Which files are images or videos, by the suffixes of their names. A new format needs one entry here."""

from __future__ import annotations

from importlib.util import find_spec

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
    | {".pnm", ".jp2", ".apng", ".tga", ".ico"}
    | ({".avif"} if find_spec("PIL._avif") else set())  # not in every build of Pillow
)
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"}
    | {".flv", ".wmv", ".asf", ".ogv"}
)
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
FRAME_FOLDER_SUFFIX = ".frames"
_OF_VIDEOS = VIDEO_SUFFIXES | {FRAME_FOLDER_SUFFIX}
TAR_SUFFIX = ".tar"
TABLE_SUFFIXES = (".parquet", ".arrow")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Files and folders of operating systems and file servers, in lower case; names that start with a dot are hidden too.
SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "system volume information"}
    | {"lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)


def suffix_of(uri: str) -> str:
    """Return the suffix in lower case with its dot; the query of a URL is not part of the name."""
    return split_suffix(uri.partition("?")[0] if "://" in uri else uri)[1].lower()


def stem_of(uri: str) -> str:
    """Return a path without its suffix; a URL also loses its scheme and query."""
    return split_suffix(uri.partition("://")[2].partition("?")[0] if "://" in uri else uri)[0]


def split_suffix(path: str) -> tuple[str, str]:
    """Return what `os.path.splitext` returns, in a third of its time: listing calls this several times a file."""
    stem, _, suffix = path.rpartition(".")
    is_plain = stem[-1:] not in ("", ".", "/")
    if "/" in suffix or not (is_plain or stem.rpartition("/")[2].strip(".")):  # dots before a name begin no suffix
        return path, ""
    return stem, f".{suffix}"


def is_system_name(path: str) -> bool:
    """Return whether any part of a relative path is hidden, or belongs to an operating system or a file server."""
    if "/" not in path and "\\" not in path:
        return _is_system_part(path.lower())
    return any(map(_is_system_part, path.replace("\\", "/").lower().split("/")))


def _is_system_part(part: str) -> bool:
    return part in SYSTEM_NAMES or (part.startswith(".") and part not in (".", ".."))


def is_frame_folder(uri: str) -> bool:
    """Return whether a path names a folder whose images are the frames of one video."""
    return suffix_of(uri.rstrip("/")) == FRAME_FOLDER_SUFFIX


def is_image(uri: str) -> bool:
    """Return whether a file is an image by its suffix; GIF, WebP and PNG count, animated or not."""
    return suffix_of(uri) in IMAGE_SUFFIXES


def is_frame(name: str) -> bool:
    """Return whether a file in a folder of frames is one of them."""
    return is_image(name) and not is_system_name(name)


def is_media(uri: str) -> bool:
    """Return whether a file is an image or a video by its suffix."""
    return suffix_of(uri) in MEDIA_SUFFIXES


def kind_of(uri: str) -> str:
    """Return `video` or `image`, by the suffix; a file with an unknown suffix counts as an image."""
    return "video" if suffix_of(uri.rstrip("/")) in _OF_VIDEOS else "image"
