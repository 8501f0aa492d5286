"""A decoded picture, wherever it comes from -> upright RGB of 8 bits: the one place where colours are converted.

FrameConverter takes what PyAV decodes (files, live streams); `upright_rgb` and `rgb_array` take PIL images and arrays
(stills, folders, animations, uploads, pushed frames). All turn and mirror as the picture says and lay it over white
where it is transparent. Pixels that are not square stay as they are stored, as in FFmpeg's own output: boxes in pixels
count stored ones, and every encoder here stretches a frame to a square.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from .source import A_WHOLE_IMAGE, MediaError, reading, warn

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Size = tuple[int, int]
"""(W, H) in pixels."""
Steps = tuple[tuple[str, str], ...]
"""FFmpeg filters, each with its arguments."""
NO_CONVERSION = "cannot be converted to RGB"
SAFE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What PIL may open. Of its other formats some start programs (EPS: Ghostscript), and few files have them."""
MAX_PIXELS = 8192 * 4320
"""Of a frame of a video or an animation, and of a picture that is sent: the largest films there are."""
JPEG_END = b"\xff\xd9"
JPEG_SCAN = b"\xff\xda"


class FrameConverter:
    """Frames of one stream, as PyAV decodes them -> uint8 (H, W, 3), equal to what FFmpeg's own programs make of them.

    Colour matrix, range, size and which way is up are each frame's own and may change within a stream. A colour matrix
    that is not said is BT.601, as in FFmpeg. Not thread-safe.
    """

    def __init__(self, name: str, fit: Callable[[Size], Size] = lambda size: size) -> None:
        """`fit`: the upright size of a frame -> the size to scale it to."""
        self.name, self.fit = name, fit
        self._kind: object = None
        """What the graph was made for."""
        self._graph: Any = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """MediaError where FFmpeg cannot convert it."""
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, upright_steps(frame))
        if kind != self._kind:
            self._graph, self._kind = self._new_graph(frame), kind
        try:
            with reading(self.name, NO_CONVERSION, "an undamaged picture"):
                self._graph.vpush(frame)
                pixels = self._graph.vpull().to_ndarray()
        except MediaError:
            self._kind = None  # the graph may still hold this frame
            raise
        return pixels if pixels.shape[2] == 3 else np.array(_over_white(Image.fromarray(pixels)))

    def _new_graph(self, frame: VideoFrame) -> Any:
        from av.filter import Graph

        width, height = self.fit(upright_size(frame))
        filters = [
            *upright_steps(frame),
            ("scale", f"{width}:{height}:flags=bilinear"),
            ("format", "rgba" if has_alpha(frame) else "rgb24"),
        ]
        with reading(self.name, NO_CONVERSION, "an undamaged picture"):
            graph = Graph()
            nodes = [graph.add(kind, arguments) for kind, arguments in filters]
            start = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
            )
            graph.link_nodes(start, *nodes, graph.add("buffersink")).configure()
            return graph


def has_alpha(frame: VideoFrame) -> bool:
    """Whether a decoded frame may be transparent."""
    return any(component.is_alpha for component in frame.format.components)


def upright_size(frame: VideoFrame) -> Size:
    """(W, H) of a decoded frame once it stands upright."""
    is_turned = any(name == "transpose" for name, _ in upright_steps(frame))
    return (frame.height, frame.width) if is_turned else (frame.width, frame.height)


def upright_steps(frame: VideoFrame) -> Steps:
    """What FFmpeg's programs do by a frame's display matrix (ffmpeg_filter.c); a degenerate matrix says nothing."""
    matrix = _display_matrix(frame)
    if matrix is None or matrix[0] * matrix[4] == matrix[1] * matrix[3]:
        return ()
    a, b, _, c, d = (int(number) for number in matrix[:5])
    angle = round(math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))) % 360
    if angle == 90:
        return (("transpose", "cclock_flip" if c > 0 else "clock"),)
    if angle == 270:
        return (("transpose", "clock_flip" if c < 0 else "cclock"),)
    if angle not in (0, 180):
        return (("rotate", f"{angle}*PI/180"),)
    flips = (("hflip", angle == 180 and a < 0), ("vflip", d < 0))
    return tuple((name, "") for name, is_needed in flips if is_needed)


def _display_matrix(frame: VideoFrame) -> np.ndarray | None:
    """int64 (9,), row by row (libavutil/display.h); None where the frame has none."""
    from av.sidedata.sidedata import SideDataContainer

    try:
        # not frame.side_data, which the frame keeps: both would stay in memory until Python looks for cycles, and it
        # rarely does for what is old
        data: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # PyAV 15 does not know all kinds of side data, but reads the angle beside them
        cos, sin = (round(part(math.radians(-frame.rotation)) * 0x10000) for part in (math.cos, math.sin))
        return np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 1])
    return None if data is None else np.frombuffer(bytes(data), dtype=np.int32).astype(np.int64)


def begin_image(file: Any, name: object, *, expected: str = "an image file") -> Image.Image:
    """The image called `name` (a path or a readable object) with its size; its pixels are not read yet.

    MediaError where it is no image, or a bomb: of more pixels than PIL takes.
    """
    with reading(name, "is broken or not an image", expected):
        try:
            Image.init()
            image = Image.open(file, formats=[kind for kind in SAFE_FORMATS if kind in Image.OPEN])
            num_bits = _bits_of_jpeg2000(image) if image.format == "JPEG2000" else 8
        except Image.DecompressionBombError as error:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise MediaError.about(name, f"is too large ({error})", f"at most {most:,} pixels") from error
        except Image.UnidentifiedImageError as error:  # whose text names the file again, or an object in memory
            raise MediaError.about(name, "is broken or not an image", expected) from error
    if num_bits > 8 and image.mode != "I;16":  # PIL 12 lets their brightest values overflow to black
        raise MediaError.about(name, f"is a coloured JPEG 2000 of {num_bits} bits a channel", "8 bits a channel")
    return image


def _bits_of_jpeg2000(image: Image.Image) -> int:
    """Of the first channel (ISO/IEC 15444-1, A.5.1); 8 where it is not near the beginning."""
    file: Any = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    head = file.read(1 << 16)
    file.seek(place)
    size = head.find(b"\xff\x4f\xff\x51")
    return (head[size + 42] & 0x7F) + 1 if size >= 0 else 8


def rgb_array(picture: Any, name: str = "a frame") -> np.ndarray:
    """uint8 (H, W, 3) of a PIL image of any mode, or of an array that is that already; MediaError for anything else."""
    pixels = np.asarray(upright_rgb(picture)) if isinstance(picture, Image.Image) else picture
    is_array = isinstance(pixels, np.ndarray)
    if not is_array or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        got = f"{pixels.dtype} {pixels.shape}" if is_array else type(picture).__name__
        raise MediaError.about(name, f"is {got}", "a PIL image or uint8 (H, W, 3) RGB with at least one pixel")
    return pixels


def upright_rgb(image: Image.Image, name: object = None, *, strict: bool = False) -> Image.Image:
    """A PIL image of any mode as RGB: upright by its EXIF data, in sRGB by its ICC profile, laid over white.

    16-bit greys and floats of 0 to 1 are scaled. MediaError for numbers whose range is unknown, and where the file,
    which PIL reads no sooner than here, is broken. A JPEG whose end is missing is read with a warning, or refused
    where `strict`.
    """
    name = name or getattr(image, "filename", "") or "an image"
    loaded = _loaded(image, name, strict=strict)
    with reading(name, NO_CONVERSION, A_WHOLE_IMAGE):
        image = ImageOps.exif_transpose(loaded)
    if image.mode[0] in "IF":
        grey = _eight_bits(np.asarray(image), _bits(loaded), name)
        grey[np.asarray(image) == image.info.get("transparency")] = 255
        return Image.fromarray(grey).convert("RGB")
    image = _in_srgb(image, name)
    with reading(name, NO_CONVERSION, A_WHOLE_IMAGE):
        return _over_white(image)


def _loaded(image: Image.Image, name: object, *, strict: bool) -> Image.Image:
    """The image with its pixels in memory. Of a JPEG that is cut off: what is there, if that is half of its rows."""
    try:
        with reading(name, NO_CONVERSION, A_WHOLE_IMAGE):
            image.load()
        return image
    except MediaError:
        file: Any = getattr(image, "fp", None)
        if strict or image.format not in ("JPEG", "MPO") or file is None:
            raise
        # As in FFmpeg: the decoder is given an end, and fills what is missing.
        with reading(name, NO_CONVERSION, A_WHOLE_IMAGE):
            file.seek(0)
            data = file.read()
            whole = begin_image(io.BytesIO(data + JPEG_END), name)
            pixels = np.asarray(whole)
            image.tile = []  # type: ignore[attr-defined] # what was decoded stays, the rest is black
            num_missing = int((np.asarray(image) != pixels).reshape(len(pixels), -1).any(axis=1).sum())
        is_coarse = bool(whole.info.get("progressive")) and data.count(JPEG_SCAN) > 1
        if not is_coarse and num_missing > len(pixels) // 2:
            raise
    missing = "fine details" if is_coarse else f"up to {num_missing} of {len(pixels)} rows"
    warn(name, f"is cut off: {missing} are missing")
    return whole


def _bits(image: Image.Image) -> int | None:
    """Bits of a grey that PIL keeps in more than 8; None where its file does not say, or nobody knows."""
    if image.format == "PPM":
        return 16
    said = getattr(image, "tag_v2", {}).get(258)  # TIFF: BitsPerSample
    bits = said[0] if isinstance(said, tuple) and said[0] in range(9, 16) else 16
    return bits if image.mode.startswith("I;16") else None


def _eight_bits(pixels: np.ndarray, bits: int | None, name: object) -> np.ndarray:
    """uint8 (H, W) of integers of so many bits, or of floats from 0 to 1."""
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.dtype.kind == "f" and low >= 0 and high <= 1:
        return (pixels * 255).round().astype(np.uint8)
    # Numbers of 32 bits are mostly of 16; not where 8 would do, which would be black as 16.
    is_known = pixels.dtype.kind != "f" and low >= 0 and (bits is not None or high == 0 or 255 < high < 2**16)
    if not is_known:
        what = f"holds {pixels.dtype} values from {low:g} to {high:g}, whose range nobody knows"
        raise MediaError.about(name, what, "8 or 16 bits a channel, or floats from 0 to 1")
    return (pixels >> ((bits or 16) - 8)).clip(0, 255).astype(np.uint8)


def _in_srgb(image: Image.Image, name: object) -> Image.Image:
    """The image in the colours that its ICC profile says; transparency stays. A broken profile counts as none."""
    data = image.info.get("icc_profile")
    if not data and image.mode != "LAB":
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data) if data else ImageCms.createProfile("LAB"))
        if "sRGB" in (profile.profile.profile_description or ""):
            return image
        colors = image
        if image.has_transparency_data:
            colors = _with_alpha(image).convert("L" if image.mode[0] == "L" else "RGB")
        if colors.mode in ("1", "L", "P"):
            colors = colors.convert("L" if profile.profile.xcolor_space.strip() == "GRAY" else "RGB")
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colors, profile, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        warn(name, f"has an ICC profile that cannot be used ({error}): its colours are taken for sRGB")
        return image
    assert converted is not None
    if image.has_transparency_data:
        converted.putalpha(_with_alpha(image).getchannel("A"))
    return converted


def _with_alpha(image: Image.Image) -> Image.Image:
    """RGBA"""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _over_white(image: Image.Image) -> Image.Image:
    """RGB"""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = _with_alpha(image)
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white
