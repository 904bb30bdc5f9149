"""Containers: what is never opened, and files that are cut short."""

from __future__ import annotations

import io
import os
import socket
from functools import partial
from pathlib import Path

import av
import pytest

from shared.codec import EMU3
from tests.support.small_videos import (
    FRAMES,
    HEIGHT,
    VIDEOS,
    WIDTH,
    attempt,
    frame_number_of,
    index_first_mp4,
    refusal_reason,
    to_pixels,
)
from vq_stage.video.clips import ClipSampling, cut_clips, read_clip
from vq_stage.video.open_video import open_video

PLAYLISTS: dict[str, str] = {
    "concat": "ffconcat version 1.0\nfile {path}\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.5,\n{path}\n#EXT-X-ENDLIST\n",
    "HLS of an address": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.5,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
    "HLS of a key": '#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXT-X-KEY:METHOD=AES-128,URI="{path}"\n#EXTINF:2,\n{path}\n',
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet'
    ' mimeType="video/mp4"><Representation id="0"><BaseURL>{path}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "RTSP": "[Reference]\nRef1=http://127.0.0.1:{port}/a\n",
    "ASX": '<ASX version="3.0"><ENTRY><REF HREF="http://127.0.0.1:{port}/a" /></ENTRY></ASX>',
    "smooth streaming": '<SmoothStreamingMedia><StreamIndex Url="http://127.0.0.1:{port}/"/></SmoothStreamingMedia>',
    "AVISynth": 'DirectShowSource("{path}")\n',
    "VapourSynth": "import vapoursynth as vs\nopen('{path}')\n",
    "image list": "%05d.png",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_nothing_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(VIDEOS["mp4"]())
    os.utime(secret, (1, 1))
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        text = PLAYLISTS[name].format(path="secret.mp4", port=server.getsockname()[1])
        for path in ("playlist.mp4", "playlist.m3u8"):
            (tmp_path / path).write_text(text)
            with open(path, "rb") as file:
                assert refusal_reason(lambda file=file: open_video(file)) == "not_a_video"
        with pytest.raises(BlockingIOError):
            server.accept()


def test_an_mp4_that_refers_to_another_file_does_not_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data reference of a QuickTime file may name the file that holds the frames."""
    data = VIDEOS["mp4"]()
    (tmp_path / "other.mp4").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    at = data.index(b"url \0\0\0\1")
    external = data[:at] + b"url \0\0\0\0" + data[at + 8 :]
    opened = attempt(lambda: list(open_video(io.BytesIO(external)).frames_at([0.0])))
    assert opened[1] is not None or opened[0] is not None, "the reference is ignored, or the file refused"


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = VIDEOS["mp4"]()
    monkeypatch.setattr("vq_stage.video.container.MAX_FRAME_PIXELS", HEIGHT * WIDTH - 1)
    assert refusal_reason(lambda: open_video(io.BytesIO(data))) == "too_large"


def test_frames_before_the_cut_are_still_read() -> None:
    data = index_first_mp4()
    video, sampling = open_video(io.BytesIO(data[:-200])), ClipSampling(frames=8, stride=1)
    assert video.info.frame_count == FRAMES, "the header is complete"
    first, *_, last = cut_clips(video.info, sampling, EMU3)
    assert [frame_number_of(frame) for frame in read_clip(video, first, sampling, to_pixels)] == list(range(8))
    assert refusal_reason(lambda: read_clip(video, last, sampling, to_pixels)) == "truncated"


def test_a_cut_between_packets_skips_no_frame() -> None:
    """A frame that refers to a later one is stored after it, so the frames before the cut have gaps."""
    data = index_first_mp4()
    with av.open(io.BytesIO(data), "r") as container:
        ends = [entry.pos for entry in container.streams.video[0].index_entries][21:33]
    sampling = ClipSampling(frames=4, fps=24)
    for end in ends:
        video = open_video(io.BytesIO(data[:end]))
        for clip in cut_clips(video.info, sampling, EMU3)[3:9]:
            clip_THWC, refusal = attempt(partial(read_clip, video, clip, sampling, to_pixels))
            assert refusal == (None if clip_THWC is not None else "truncated")
            if clip_THWC is not None:
                found = [frame_number_of(frame) for frame in clip_THWC]
                assert found == [*range(clip.frame_start, clip.frame_start + 4)]
