"""Draws a small data set in the real one's layout, for trying the procedure without the real photos.

    python -m utils.sample_data DIR --train 480 --val 120 --seed 0

Each attribute has its own visual cue: Daily is the kind of garment, Gender its colours and weave, Embellishment the
number of motifs on it. The labels are drawn independently, so none of them can be guessed from another.
"""

import argparse
import csv
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from utils.attributes import ATTRIBUTES, num_classes
from utils.errors import UserError

PARTS = ("train", "val")
BOX_COLUMNS = ("BBox_xmin", "BBox_ymin", "BBox_xmax", "BBox_ymax")
SUPERSAMPLING = 2  # outlines are drawn at twice the size and averaged, for smooth edges
PNG_EVERY = 20  # one photo in so many is a cut-out with an alpha channel


class Piece(NamedTuple):
    """A part of a garment. Garments are 1 high, y points down and x = 0 is the axis of symmetry.

    shape: "half" is the right half of a closed outline, "pair" a closed outline that is mirrored, "line" a seam
    that is mirrored, "dots" are buttons.
    """

    paint: str  # a key of palette()
    shape: str
    points: Tuple[Tuple[float, float], ...]


class Garment(NamedTuple):
    share: float  # of all photos
    folder: str
    prefix: str
    focus: Tuple[float, float]  # where a single motif sits
    pieces: Tuple[Piece, ...]  # from back to front


class Style(NamedTuple):
    share: float
    weave: str  # a key of WEAVES
    cloths: Tuple[Tuple[int, int, int], ...]  # RGB; one is picked per photo
    trim: Tuple[int, int, int]
    motifs: Tuple[Tuple[int, int, int], ...]


class Ornament(NamedTuple):
    share: float
    size: float  # radius of a motif in garment heights; 0 draws none
    spacing: float  # distance between motifs; 0 draws a single one


ROBE = (
    Piece("shade", "pair", ((0.17, 0.03), (0.25, 0.06), (0.44, 0.50), (0.30, 0.56), (0.17, 0.30))),
    Piece("trim", "pair", ((0.425, 0.46), (0.45, 0.51), (0.30, 0.575), (0.285, 0.525))),
    Piece("cloth", "half", ((0, 0.03), (0.08, 0), (0.23, 0.04), (0.24, 0.45), (0.32, 1), (0, 1))),
    Piece("shade", "half", ((0, 0), (0.07, 0), (0.02, 0.36), (0, 0.42))),
    Piece("trim", "pair", ((0.05, 0), (0.12, 0.01), (0.13, 0.14), (0.02, 0.44), (-0.02, 0.42), (0.06, 0.16))),
    Piece("line", "line", ((-0.02, 0.48), (-0.01, 0.99))),
    Piece("trim", "half", ((0, 0.43), (0.245, 0.43), (0.25, 0.49), (0, 0.49))),
    Piece("trim", "pair", ((0.0, 0.46), (0.035, 0.47), (0.075, 0.71), (0.03, 0.72))),
)
T_SHIRT = (
    Piece("shade", "pair", ((0.20, 0.03), (0.33, 0.05), (0.58, 0.33), (0.45, 0.47), (0.28, 0.33))),
    Piece("cloth", "half", ((0, 0.10), (0.08, 0.08), (0.13, 0), (0.34, 0.06), (0.33, 0.4), (0.35, 1), (0, 1))),
    Piece("trim", "half", ((0, 0.11), (0.08, 0.085), (0.13, 0), (0.17, 0.01), (0.11, 0.13), (0, 0.16))),
    Piece("line", "line", ((0.33, 0.08), (0.31, 0.22), (0.33, 0.38))),
    Piece("line", "line", ((0, 0.955), (0.34, 0.95))),
)
BLOUSE_AND_SKIRT = (
    Piece("tint", "pair", ((0.11, 0.03), (0.20, 0.06), (0.29, 0.48), (0.22, 0.50), (0.13, 0.2))),
    Piece("trim", "pair", ((0.28, 0.45), (0.295, 0.50), (0.22, 0.52), (0.21, 0.47))),
    Piece("tint", "half", ((0, 0.03), (0.07, 0.01), (0.19, 0.05), (0.15, 0.30), (0.15, 0.48), (0, 0.48))),
    Piece("line", "line", ((-0.02, 0.08), (-0.02, 0.46))),
    Piece("trim", "dots", ((0, 0.14), (0, 0.21), (0, 0.28), (0, 0.35), (0, 0.42))),
    Piece("white", "pair", ((0, 0.07), (0.05, 0), (0.09, 0.02), (0.08, 0.12))),
    Piece("cloth", "half", ((0, 0.46), (0.15, 0.46), (0.21, 0.66), (0.17, 1), (0, 1))),
    Piece("line", "line", ((0, 0.86), (0, 1))),
    Piece("trim", "half", ((0, 0.45), (0.155, 0.45), (0.16, 0.49), (0, 0.49))),
)
SUIT = (
    Piece("deep", "pair", ((0, 0.46), (0.16, 0.46), (0.17, 1), (0.06, 1), (0.015, 0.58), (0, 0.58))),
    Piece("line", "line", ((0.10, 0.58), (0.115, 0.99))),
    Piece("shade", "pair", ((0.11, 0.03), (0.20, 0.05), (0.27, 0.50), (0.19, 0.52), (0.14, 0.2))),
    Piece("cloth", "half", ((0, 0), (0.07, 0), (0.19, 0.04), (0.155, 0.3), (0.185, 0.56), (0, 0.55))),
    Piece("white", "half", ((0, 0), (0.075, 0), (0.07, 0.1), (0, 0.33))),
    Piece("trim", "half", ((0, 0.03), (0.025, 0.03), (0.012, 0.07), (0.028, 0.23), (0, 0.28))),
    Piece("deep", "pair", ((0.055, 0), (0.085, 0), (0.14, 0.12), (0.10, 0.15), (0.11, 0.17), (0, 0.36))),
    Piece("line", "line", ((0, 0.34), (0, 0.55))),
    Piece("line", "line", ((0.08, 0.42), (0.15, 0.41))),
    Piece("trim", "dots", ((0, 0.39), (0, 0.46))),
)
GOWN = (
    Piece("line", "line", ((0.08, 0.13), (0.06, 0))),
    Piece("cloth", "half", ((0, 0.13), (0.07, 0.09), (0.13, 0.14), (0.09, 0.36), (0.38, 0.97), (0.2, 1), (0, 1))),
    Piece("shade", "pair", ((0.02, 0.38), (0.05, 0.38), (0.21, 0.98), (0.10, 0.99))),
    Piece("trim", "half", ((0, 0.33), (0.1, 0.32), (0.105, 0.38), (0, 0.39))),
    Piece("line", "line", ((0.07, 0.38), (0.29, 0.98))),
)
TANK_AND_SHORTS = (
    Piece("trim", "half", ((0, 0.17), (0.10, 0.13), (0.11, 0), (0.2, 0), (0.21, 0.17), (0.28, 0.25), (0, 0.4))),
    Piece("cloth", "half", ((0, 0.2), (0.11, 0.16), (0.13, 0), (0.18, 0), (0.19, 0.18), (0.27, 0.27), (0.27, 0.55), (0, 0.56))),
    Piece("trim", "pair", ((0.2, 0.27), (0.235, 0.28), (0.235, 0.55), (0.2, 0.55))),
    Piece("deep", "pair", ((0, 0.63), (0.24, 0.63), (0.34, 0.98), (0.07, 1), (0, 0.83))),
    Piece("trim", "pair", ((0.215, 0.63), (0.245, 0.63), (0.34, 0.98), (0.29, 0.985))),
    Piece("trim", "half", ((0, 0.61), (0.24, 0.61), (0.245, 0.66), (0, 0.66))),
    Piece("line", "line", ((0, 0.66), (0, 0.83))),
)
# One row per class, in label order.
GARMENTS = (
    Garment(0.10, "ROBE 2019", "RO", (0.17, 0.25), ROBE),
    Garment(0.34, "T-SHIRT 2019", "TS", (0.0, 0.42), T_SHIRT),
    Garment(0.16, "BLOUSE 2019", "BL", (0.1, 0.68), BLOUSE_AND_SKIRT),
    Garment(0.18, "SUIT 2019", "SU", (0.1, 0.24), SUIT),
    Garment(0.11, "DRESS 2019", "DR", (0.1, 0.62), GOWN),
    Garment(0.11, "SPORTS 2019", "SP", (0.0, 0.37), TANK_AND_SHORTS),
)
STYLES = (
    Style(0.13, "pinstripe", ((36, 50, 86), (60, 64, 72), (54, 66, 50)), (168, 178, 192), ((240, 240, 236), (238, 172, 60))),
    Style(0.24, "heather", ((196, 180, 146), (158, 162, 164), (172, 172, 140)), (92, 80, 66), ((44, 56, 92), (160, 66, 40))),
    Style(0.24, "gingham", ((246, 160, 188), (250, 186, 172), (222, 176, 236)), (255, 248, 250), ((206, 36, 108), (122, 70, 190))),
    Style(0.27, "satin", ((98, 40, 124), (16, 112, 104)), (214, 178, 96), ((240, 206, 120), (250, 244, 226))),
    Style(0.12, "sequins", ((214, 18, 34), (184, 6, 52)), (26, 20, 24), ((22, 16, 20), (255, 236, 214))),
)
ORNAMENTS = (Ornament(0.40, 0, 0), Ornament(0.33, 0.085, 0), Ornament(0.27, 0.042, 0.125))
LOOKS = {"daily": GARMENTS, "gender": STYLES, "embellishment": ORNAMENTS}

# Weave: (u, v) in garment heights, noise -> relative brightness to add.
WEAVES = {
    "pinstripe": lambda u, v, noise: 0.35 * (np.sin(150 * u) > 0.9),
    "heather": lambda u, v, noise: 0.07 * noise,
    "gingham": lambda u, v, noise: 0.05 * (np.sign(np.sin(120 * u)) + np.sign(np.sin(120 * v))),
    "satin": lambda u, v, noise: 0.22 * np.sin(14 * u + 5 * np.sin(5 * v)) ** 3,
    "sequins": lambda u, v, noise: 0.16 * np.sin(130 * (u + v)) * np.sin(130 * (u - v)),
}
# Motif: angle [n] -> outline (x [n], y [n]) within the unit circle.
MOTIFS = (
    lambda t: ((0.72 + 0.28 * np.cos(5 * t)) * np.cos(t), (0.72 + 0.28 * np.cos(5 * t)) * np.sin(t)),  # flower
    lambda t: (np.sin(t) ** 3, (-13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t)) / 16),  # heart
    lambda t: (np.cos(t) ** 3, np.sin(t) ** 3 * 1.1),  # four-pointed star
)


def palette(rng, style):
    """Paint name -> RGB, with the cloth picked from the style and all colours under the same slightly coloured light."""
    light = rng.uniform(0.88, 1.08) * rng.uniform(0.95, 1.05, 3)
    cloth = np.array(style.cloths[rng.integers(len(style.cloths))])
    motif = style.motifs[rng.integers(len(style.motifs))]
    paints = {
        "cloth": cloth,
        "shade": 0.86 * cloth,
        "deep": 0.72 * cloth,
        "line": 0.5 * cloth,
        "tint": 0.5 * cloth + 125,
        "white": (244, 244, 242),
        "trim": style.trim,
        "motif": motif,
    }
    return {name: tuple(int(x) for x in np.clip(light * colour, 0, 255)) for name, colour in paints.items()}


def outlines(piece):
    """The polygons [n, 2] of a piece in garment units, mirrored as its shape asks."""
    points = np.array(piece.points, float)
    mirrored = points * (-1, 1)
    if piece.shape == "half":
        return [soften(np.concatenate([points, mirrored[::-1]]))]
    if piece.shape == "pair":
        return [soften(points), soften(mirrored)]
    return [points, mirrored]


def soften(points):
    """Cuts the corners of a closed polygon twice, because cloth has no sharp ones: [n, 2] -> [4n, 2]."""
    for cut in (0.12, 0.2):
        following = np.roll(points, -1, axis=0)
        pairs = [(1 - cut) * points + cut * following, cut * points + (1 - cut) * following]
        points = np.stack(pairs, axis=1).reshape(-1, 2)
    return points


def placement(rng, garment, size):
    """Where the garment lies in a photo of `size` pixels: a function from points [n, 2] in garment units to pixels,
    and the pixels per garment height."""
    half_width = max(x for piece in garment.pieces for x, _ in piece.points)
    stretch = rng.uniform(0.92, 1.1)
    scale = rng.uniform(0.78, 0.93) * min(size[1], size[0] / (2 * half_width * stretch))
    angle = np.deg2rad(rng.uniform(-7, 7))
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slack = np.array(size) - scale * np.array([2 * half_width * stretch, 1])
    centre = np.array(size) / 2 + rng.uniform(-0.35, 0.35, 2) * slack
    phase = rng.uniform(0, 2 * np.pi, 2)

    def place(points):
        x, y = points[:, 0] * stretch, points[:, 1] - 0.5
        swayed = np.stack([x + 0.012 * np.sin(6 * y + phase[0]), y + 0.012 * np.sin(6 * x + phase[1])], axis=1)
        return swayed @ rotation.T + centre

    return place, scale


def motif_centres(rng, ornament, focus):
    """Centres [n, 2] of the motifs in garment units. A lattice covers the whole height; the cloth clips it later."""
    if not ornament.size:
        return np.zeros((0, 2))
    if not ornament.spacing:
        return np.array([focus]) * (rng.choice((-1, 1)), 1) + rng.uniform(-0.015, 0.015, (1, 2))
    step = ornament.spacing
    x, y = np.meshgrid(np.arange(-0.65, 0.65, step), np.arange(0.02, 1.02, step * 0.85))
    x[::2] += step / 2
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    return centres + rng.uniform(-0.2, 0.2, centres.shape) * step


def paint_piece(colours, mask, piece, colour, place, scale):
    """Paints one piece; areas also become part of the garment's mask, seams and buttons only lie on it."""
    for points in outlines(piece):
        pixels = [tuple(point) for point in place(points)]
        if piece.shape == "line":
            colours.line(pixels, fill=colour, width=max(2, round(0.006 * scale)))
        elif piece.shape == "dots":
            for x, y in pixels:
                dot(colours, x, y, 0.011 * scale, colour)
        else:
            colours.polygon(pixels, fill=colour)
            mask.polygon(pixels, fill=255)


def dot(colours, x, y, radius, colour):
    colours.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def paint_motifs(rng, colours, ornament, focus, paints, place, scale):
    """One kind of motif at every centre, each turned a little, with a dot of trim in the middle."""
    motif = MOTIFS[rng.integers(len(MOTIFS))]
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for x, y in place(motif_centres(rng, ornament, focus)):
        turn, radius = rng.uniform(-0.4, 0.4), rng.uniform(0.9, 1.15) * ornament.size * scale
        u, v = motif(angles)
        outline = np.stack([u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)], axis=1)
        colours.polygon([tuple(point) for point in outline * radius + (x, y)], fill=paints["motif"])
        dot(colours, x, y, 0.25 * radius, paints["trim"])


def brightness(rng, mask, weave, scale):
    """Relative brightness [height, width, 1] of the cloth under `mask`: folds, darker rims, and the weave."""
    width, height = mask.size
    u = np.arange(width, dtype=np.float32)[None, :] / scale
    v = np.arange(height, dtype=np.float32)[:, None] / scale
    rim = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.03 * scale)), np.float32) / 255
    phase = rng.uniform(0, 6, 3).astype(np.float32)
    folds = np.sin(9 * u + 3 * v + phase[0] + np.sin(5 * v + phase[1])) * np.sin(4 * v + phase[2])
    noise = rng.standard_normal((height, width), dtype=np.float32)
    return (0.66 + 0.38 * rim + 0.09 * folds + WEAVES[weave](u, v, noise))[:, :, None]


def draw_garment(rng, labels):
    """One garment, cut out: an RGBA image, transparent around it. `labels` is attribute key -> class id."""
    garment, style, ornament = (table[labels[key]] for key, table in LOOKS.items())
    size = photo_size(rng)
    large = tuple(SUPERSAMPLING * side for side in size)
    place, scale = placement(rng, garment, large)
    paints = palette(rng, style)
    image, mask = Image.new("RGB", large, paints["cloth"]), Image.new("L", large)
    colours, mask_draw = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    for piece in garment.pieces:
        paint_piece(colours, mask_draw, piece, paints[piece.paint], place, scale)
    paint_motifs(rng, colours, ornament, garment.focus, paints, place, scale)
    image, mask = image.reduce(SUPERSAMPLING), mask.reduce(SUPERSAMPLING)
    lit = np.asarray(image, np.float32) * brightness(rng, mask, style.weave, scale / SUPERSAMPLING)
    rgba = np.dstack([np.clip(lit, 0, 255).astype(np.uint8), np.asarray(mask)])
    return Image.fromarray(rgba)


def photo_size(rng):
    """(width, height) in pixels, within 300 to 900; four photos in five are upright."""
    short = rng.integers(300, 601)
    long = int(short * rng.choice((1.0, 1.25, 4 / 3, 1.5)))
    return (int(short), long) if rng.random() < 0.8 else (long, int(short))


def photograph(rng, cutout):
    """The cut-out in front of a wall with a soft shadow: an RGB image."""
    width, height = cutout.size
    tint = rng.uniform(150, 248) * rng.uniform(0.95, 1.03, 3)
    slope = rng.uniform(-0.12, 0.12, 2)
    wall = 1 + slope[0] * np.linspace(-1, 1, width)[None, :] + slope[1] * np.linspace(-1, 1, height)[:, None]
    alpha = cutout.getchannel("A")
    shadow = Image.new("L", cutout.size)
    shadow.paste(alpha, (width // 50, height // 50))
    shadow = np.asarray(shadow.filter(ImageFilter.GaussianBlur(height / 50)), np.float32) / 255
    background = np.clip((wall * (1 - 0.35 * shadow))[:, :, None] * tint, 0, 255).astype(np.uint8)
    photo = Image.fromarray(background)
    photo.paste(cutout, mask=alpha)
    return photo


def draw_labels(rng):
    """Attribute key -> class id, each drawn on its own with the shares of its table."""
    labels = {}
    for key, table in LOOKS.items():
        labels[key] = int(rng.choice(len(table), p=[look.share for look in table]))
    return labels


def write_photo(directory, part, index, seed):
    """Draws photo `index` of a part, and returns its CSV row. It depends on nothing but part, index and seed."""
    rng = np.random.default_rng((seed, PARTS.index(part), index))
    labels = draw_labels(rng)
    garment = GARMENTS[labels["daily"]]
    cutout = draw_garment(rng, labels)
    transparent = index % PNG_EVERY == 3
    name = f"{garment.folder}/{garment.prefix}{index + 1:05d}-1.{'png' if transparent else 'jpg'}"
    path = directory / part / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if transparent:
        cutout.save(path, compress_level=3)
    else:
        photograph(rng, cutout).save(path, quality=90)
    row = dict(zip(BOX_COLUMNS, cutout.getchannel("A").getbbox()), image_name=name)
    row.update({ATTRIBUTES[key].column: label for key, label in labels.items()})
    return row


def csv_path(directory, part):
    return directory / f"Fashion-How24_sub1_{part}.csv"


def write_sample(directory, arguments):
    """Both parts, their CSVs, and the arguments in sample.json, into a directory that is made for it."""
    columns = ["image_name", *BOX_COLUMNS, *(ATTRIBUTES[key].column for key in LOOKS)]
    jobs = [(part, index) for part in PARTS for index in range(arguments[part])]
    rows = {part: [] for part in PARTS}
    for part, index in tqdm(jobs, desc="drawing", unit="photo", disable=None):
        rows[part].append(write_photo(directory, part, index, arguments["seed"]))
    for part in PARTS:
        with open(csv_path(directory, part), "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[part])
    (directory / "sample.json").write_text(json.dumps(arguments) + "\n")


def is_complete(directory, arguments):
    """Whether the directory holds the whole sample of exactly these arguments."""
    try:
        if json.loads((directory / "sample.json").read_text()) != arguments:
            return False
        for part in PARTS:
            with open(csv_path(directory, part), newline="", encoding="utf-8") as file:
                names = [row["image_name"] for row in csv.DictReader(file)]
            if len(names) != arguments[part] or not all((directory / part / name).is_file() for name in names):
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def make_sample(directory, train=480, val=120, seed=0):
    """Draws the sample into `directory`, which must be new or empty. Returns False if it is already there.

    It is drawn beside the directory and renamed at the end, so an interrupted run leaves no half sample.
    """
    directory = Path(directory).resolve()
    arguments = {"train": train, "val": val, "seed": seed}
    if min(train, val) < 1 or seed < 0:
        raise UserError(f"train and val must be at least 1 and seed at least 0, not {train}, {val} and {seed}")
    if num_classes() != {key: len(table) for key, table in LOOKS.items()}:
        raise UserError("utils/attributes.py has other attributes than the garments drawn by utils/sample_data.py")
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            if is_complete(directory, arguments):
                return False
            raise UserError(f"{directory} is not empty and does not hold this sample; name a new directory")
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
            drawn = Path(temporary) / directory.name
            drawn.mkdir()
            write_sample(drawn, arguments)
            os.replace(drawn, directory)
    except OSError as error:
        raise UserError(f"the sample cannot be written to {directory}: {error.strerror}") from error
    return True


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m utils.sample_data", description=__doc__.splitlines()[0])
    parser.add_argument("directory", metavar="DIR", help="new or empty directory, used as the data set")
    parser.add_argument("--train", type=int, default=480, help="photos to train on")
    parser.add_argument("--val", type=int, default=120, help="photos to validate on")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other photos")
    args = parser.parse_args(argv)
    try:
        is_new = make_sample(args.directory, args.train, args.val, args.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    state = "drawn into" if is_new else "already in"
    print(f"{args.train} + {args.val} photos {state} {args.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
