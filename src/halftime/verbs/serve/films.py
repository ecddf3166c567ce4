"""Video files: frames to an MP4 (H.264), or one frame as a picture of it. Needs the extra
`video`."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image

from halftime.base.extras import optional

PURPOSE = "making video files"
VIDEO_TYPE, THUMBNAIL_TYPE = "video/mp4", "image/webp"
# Plays everywhere, and from its beginning while it still loads.
_OPTIONS = ["-movflags", "+faststart", "-crf", "18", "-preset", "veryfast"]


def mp4(pixels: bytes, width: int, height: int, fps: float) -> bytes:
    """The file of these frames, uint8 frames x height x width x 3. Raises MissingExtra."""
    ffmpeg = optional("imageio_ffmpeg", "video", PURPOSE)
    size = width * height * 3
    with tempfile.TemporaryDirectory(prefix="halftime-") as folder:
        path = Path(folder, "video.mp4")
        writer = ffmpeg.write_frames(
            str(path),
            (width, height),
            fps=fps,
            codec="libx264",
            macro_block_size=2,
            quality=None,
            output_params=_OPTIONS,
            ffmpeg_log_level="error",
        )
        writer.send(None)
        for start in range(0, len(pixels), size):
            writer.send(pixels[start : start + size])
        writer.close()
        return path.read_bytes()


def thumbnail(pixels: bytes, width: int, height: int) -> bytes:
    """The frame in the middle."""
    size = width * height * 3
    middle = len(pixels) // size // 2 * size
    file = io.BytesIO()
    picture = Image.frombytes("RGB", (width, height), pixels[middle : middle + size])
    picture.save(file, "WEBP", quality=90)
    return file.getvalue()
