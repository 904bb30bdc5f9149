"""Every reason for which an input is refused, with its explanation.

`RefusedInput` carries one of these codes, quarantine files and reports count them, and `--retry-quarantined` accepts
them. A test checks that no code is used without an entry here. Codes are part of the dataset format: datasets on disk
contain them, so they are never renamed.
"""

from __future__ import annotations

from collections.abc import Mapping

WORKER_DIED = "worker_died"
READ_TIMEOUT = "read_timeout"
DUPLICATE_KEY = "duplicate_key"
DUPLICATE_CONTENT = "duplicate_content"
IMAGES_ONLY = "images_only"

# Refused while listing a source, or its entries, captions and containers.
LISTING_REASONS: Mapping[str, str] = {
    "bad_name": "The name of a file or its caption is not valid Unicode, or leads out of its WebDataset shard.",
    "bad_entry": "An entry of a list, a table row or a prompt file lacks a field or has one of the wrong type.",
    "caption_unreadable": "The caption file is not UTF-8, not JSON, too large or cannot be read.",
    DUPLICATE_KEY: "Another input already has this key; the first one is kept.",
    DUPLICATE_CONTENT: "The file equals an earlier one, and --duplicates once keeps only the first.",
}
# Refused while reading a file, whatever it contains.
FILE_REASONS: Mapping[str, str] = {
    "missing": "The file, the tar member or the table row does not exist, or the row contains no image.",
    "unreadable": "The file cannot be opened or read, for example for lack of permission or a failing store.",
    "empty": "The file has no bytes.",
    "truncated": "The file ends or becomes unreadable before its content does.",
    "changed": "The input no longer has the size or the name with which it was planned.",
    READ_TIMEOUT: "Reading the input took longer than --read-timeout, for example from a mount that does not respond.",
    WORKER_DIED: "The worker process died each time it reached this input.",
}
# Refused because of what an image or a video contains.
MEDIA_REASONS: Mapping[str, str] = {
    "not_an_image": "No supported image format matches the content.",
    "not_a_video": "No supported video or animation format matches the content.",
    "no_video": "The file is a media container without a video stream.",
    IMAGES_ONLY: "The vision tokenizer encodes images only; save the frames of the video as images and encode those.",
    "animated": "The file is an animation where a still image is required.",
    "unsupported_mode": "The pixel format or the timestamps cannot be interpreted, such as floating-point pixels.",
    "too_large": "More pixels than the limits against decompression bombs (178 956 970 in an image), or over 512 MiB.",
    "too_small": "One side is shorter than 8 pixels.",
    "too_short": "The video is too short for one clip of as many frames as a code covers (4 for Emu3).",
    "aspect_ratio": "The long side is more than 5 times the short side.",
    "bad_size": "The size cannot be encoded or generated, such as sides that are not multiples of a code's.",
}
ENCODE_REASONS: Mapping[str, str] = {**LISTING_REASONS, **FILE_REASONS, **MEDIA_REASONS}
# Refused by `emu3 generate` and `emu3 understand`, beside those above.
PROMPT_REASONS: Mapping[str, str] = {
    "empty_prompt": "The prompt has no text.",
    "too_long": "The sequence has more tokens than the model has positions.",
    "bad_ratio": "The ratio is not of the form width:height, or gives no size.",
    "bad_frames": "The number of frames is out of range, or not larger than that of the clip to continue.",
    "bad_images": "The number of <image> marks differs from the number of images.",
    "missing_image": "The dataset of images has no row of this key, or its row is not an image.",
}
# Refused by `emu3 import`, beside those above.
IMPORT_REASONS: Mapping[str, str] = {
    "bad_codes": "The codes are not integers of shape (h, w) or (t, h, w) within the codebook.",
    "unsupported": "The file is not a zip archive of torch.save with a plain dictionary.",
    "unsafe_pickle": "The file contains objects other than arrays and text, which are not unpickled.",
}
QUARANTINE_REASONS: Mapping[str, str] = {
    **ENCODE_REASONS,
    **PROMPT_REASONS,
    **IMPORT_REASONS,
}
