"""Pictures of images: grids of samples, and labelled rows of them."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import files
from .data import to_rgb

MIN_CELL = 56  # pixels; smaller images are enlarged by a whole factor, so that a person can see them


def grid(images: Tensor, columns: int | None = None, gap: int = 2) -> Image.Image:
    """Images [N, C, H, W] in [-1, 1] as a picture of about as many rows as columns."""
    pixels = to_rgb(images.detach().cpu()).permute(0, 2, 3, 1).numpy()
    count, height, width, _ = pixels.shape
    zoom = max(1, math.ceil(MIN_CELL / min(height, width)))
    pixels = pixels.repeat(zoom, 1).repeat(zoom, 2)
    height, width = height * zoom, width * zoom
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas)


def labelled_rows(rows: list[tuple[str, Tensor]], title: str = "") -> Image.Image:
    """A row of images for each (label, images [N, C, H, W]), the label to its left, under a title."""
    strips = [grid(images, columns=len(images), gap=4) for _, images in rows]
    font, margin = ImageFont.load_default(16), 12
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = margin + max(int(measure.textlength(line, font)) for label, _ in rows for line in label.split("\n")) + margin
    top = margin + (28 if title else 0)
    height = top + sum(strip.height + margin for strip in strips)
    picture = Image.new("RGB", (left + max(strip.width for strip in strips) + margin, height), "white")
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((margin, margin), title, "black", font)
    for (label, _), strip in zip(rows, strips, strict=True):
        draw.text((margin, top + strip.height / 2), label, "black", font, anchor="lm")
        picture.paste(strip, (left, top))
        top += strip.height + margin
    return picture


def save_grid(images: Tensor, path: Path) -> None:
    save(grid(images), path)


def save(picture: Image.Image, path: Path) -> None:
    with files.atomic_file(path) as temporary:
        picture.save(temporary, format="PNG")
