"""Draws a small data set in the real one's layout, for trying the procedure without the real photos.

    python -m utils.sample_data DIR --train 480 --val 120 --seed 0

Each attribute has its own visual cue: Daily is the kind of garment, Gender its colours and weave,
Embellishment the number of motifs on it. The labels are independent, so none can be guessed from another.
"""

import csv
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, Tuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter
from tqdm import tqdm

from utils.cli import Parser, exit_code, number
from utils.errors import UserError

NOTE = "sample.json"  # tells how the sample was drawn
BOX_COLUMNS = ("BBox_xmin", "BBox_ymin", "BBox_xmax", "BBox_ymax")
SUPERSAMPLING = 2  # outlines are drawn at twice the size and averaged, for smooth edges
PNG_EVERY = 20  # one photo in so many is a cut-out with an alpha channel

# A garment is a list of pieces from back to front: paint, shape, points x,y in hundredths of its height.
# y goes down from the top, x right from the axis of symmetry. Shapes: `half` is the right half of a closed
# outline, `pair` a closed outline drawn on both sides, `line` a seam on both sides, `dots` buttons.
ROBE = """
    shade half 0,0 7,0 9,10 0,42
    shade pair 17,3 25,6 44,50 30,56 17,30
    trim  pair 42.5,46 45,51 30,57.5 28.5,52.5
    cloth half 0,3 8,0 23,4 24,45 32,100 0,100
    shade half 0,0 7,0 2,36 0,42
    trim  pair 5,0 12,1 13,14 2,44 -2,42 6,16
    line  line -2,48 -1,99
    trim  half 0,43 24.5,43 25,49 0,49
    trim  pair 0,46 3.5,47 7.5,71 3,72"""
T_SHIRT = """
    shade pair 20,3 33,5 58,33 45,47 28,33
    cloth half 0,10 8,8 13,0 34,6 33,40 35,100 0,100
    trim  half 0,11 8,8.5 13,0 17,1 11,13 0,16
    line  line 33,8 31,22 33,38
    line  line 0,95.5 34,95"""
BLOUSE_AND_SKIRT = """
    tint  pair 11,3 20,6 29,48 22,50 13,20
    trim  pair 28,45 29.5,50 22,52 21,47
    tint  half 0,3 7,1 19,5 15,30 15,48 0,48
    line  line -2,8 -2,46
    trim  dots 0,14 0,21 0,28 0,35 0,42
    white pair 0,7 5,0 9,2 8,12
    cloth half 0,46 15,46 21,66 17,100 0,100
    line  line 0,86 0,100
    trim  half 0,45 15.5,45 16,49 0,49"""
SUIT = """
    deep  pair 0,46 16,46 17,100 6,100 1.5,58 0,58
    line  line 10,58 11.5,99
    shade pair 11,3 20,5 27,50 19,52 14,20
    cloth half 0,0 7,0 19,4 15.5,30 18.5,56 0,55
    white half 0,0 7.5,0 7,10 0,33
    trim  half 0,3 2.5,3 1.2,7 2.8,23 0,28
    deep  pair 5.5,0 8.5,0 14,12 10,15 11,17 0,36
    line  line 0,34 0,55
    line  line 8,42 15,41
    trim  dots 0,39 0,46"""
GOWN = """
    cloth half 0,5 8,0 14,6 9,32 39,97 20,100 0,100
    shade pair 2,34 5,34 21,98 10,99
    line  line 7,34 29,98
    trim  half 0,28 10.5,27.5 11,34 0,35"""
TANK_AND_SHORTS = """
    trim  half 0,17 10,13 11,0 20,0 21,17 28,25 0,40
    cloth half 0,20 11,16 13,0 18,0 19,18 27,27 27,55 0,56
    trim  pair 20,27 23.5,28 23.5,55 20,55
    deep  pair 0,63 24,63 34,98 7,100 0,83
    trim  pair 21.5,63 24.5,63 34,98 29,98.5
    trim  half 0,61 24,61 24.5,66 0,66
    line  line 0,66 0,83"""


class Garment(NamedTuple):
    share: float  # of all photos
    folder: str  # of the photos; the file name begins with the first two letters
    focus: Tuple[float, float]  # where a single motif sits, in garment heights
    pieces: str


class Style(NamedTuple):
    share: float
    weave: str  # a key of WEAVES
    cloths: Tuple[str, ...]  # colours, one of which is picked per photo
    trim: str
    motifs: Tuple[str, ...]


class Ornament(NamedTuple):
    share: float
    size: float  # radius of a motif in garment heights; 0 draws none
    spacing: float  # distance between motifs; 0 draws a single one


# Per attribute: one look per class, in label order.
LOOKS = {
    "daily": (
        Garment(0.10, "ROBE 2019", (0.17, 0.25), ROBE),
        Garment(0.34, "T-SHIRT 2019", (0.0, 0.42), T_SHIRT),
        Garment(0.16, "BLOUSE 2019", (0.09, 0.68), BLOUSE_AND_SKIRT),
        Garment(0.18, "SUIT 2019", (0.12, 0.3), SUIT),
        Garment(0.11, "DRESS 2019", (0.1, 0.6), GOWN),
        Garment(0.11, "SPORTS 2019", (0.0, 0.37), TANK_AND_SHORTS),
    ),
    "gender": (
        Style(0.13, "pinstripe", ("#243256", "#3c4048", "#364232"), "#a8b2c0", ("#f0f0ec", "#eeac3c")),
        Style(0.24, "heather", ("#c4b492", "#9ea2a4", "#acac8c"), "#5c5042", ("#2c385c", "#a04228")),
        Style(0.24, "gingham", ("#f6a0bc", "#faaaa8", "#deb0ec"), "#fff8fa", ("#ce246c", "#7a46be")),
        Style(0.27, "satin", ("#62287c", "#107068"), "#d6b260", ("#f0ce78", "#faf4e2")),
        Style(0.12, "sequins", ("#d61222", "#b80634"), "#1a1418", ("#161014", "#ffecd6")),
    ),
    "embellishment": (Ornament(0.40, 0, 0), Ornament(0.33, 0.1, 0), Ornament(0.27, 0.048, 0.14)),
}
# Brightness added by the weave, from x and y in garment heights and noise: three arrays that broadcast.
WEAVES = {
    "pinstripe": lambda x, y, noise: 0.3 * (np.sin(150 * x) > 0.9),
    "heather": lambda x, y, noise: 0.07 * noise,
    "gingham": lambda x, y, noise: 0.04 * (np.sign(np.sin(120 * x)) + np.sign(np.sin(120 * y))),
    "satin": lambda x, y, noise: 0.22 * np.sin(14 * x + 5 * np.sin(5 * y)) ** 3,
    "sequins": lambda x, y, noise: 0.12 * np.sin(110 * x) * np.sin(110 * y) + 0.3 * (noise > 2.3),
}
# Outline of a motif: angle [n] -> complex points [n] within the unit circle.
MOTIFS = {
    "flower": lambda t: (0.72 + 0.28 * np.cos(5 * t)) * np.exp(1j * t),
    "heart": lambda t: np.sin(t) ** 3 + 1j * (5 * np.cos(2 * t) + 2 * np.cos(3 * t) - 13 * np.cos(t)) / 16,
    "star": lambda t: np.cos(t) ** 3 + 1j * np.sin(t) ** 3,
}


def palette(rng, style):
    """Paint name -> RGB: cloth and motif are picked from the style, all under one slightly tinted light."""
    names = (rng.choice(style.cloths), rng.choice(style.motifs), style.trim)
    cloth, motif, trim = (np.array(ImageColor.getrgb(name)) for name in names)
    paints = {"cloth": cloth, "shade": 0.86 * cloth, "deep": 0.72 * cloth, "line": 0.5 * cloth}
    paints.update({"tint": 125 + 0.5 * cloth, "white": np.full(3, 244), "trim": trim, "motif": motif})
    light = rng.uniform(0.88, 1.08) * rng.uniform(0.95, 1.05, 3)
    return {name: tuple(int(x) for x in np.clip(light * paint, 0, 255)) for name, paint in paints.items()}


def soften(points):
    """Cuts the corners of a closed outline twice, because cloth has no sharp ones: complex [n] -> [4n]."""
    for cut in (0.12, 0.2):
        edges = np.roll(points, -1) - points
        points = np.stack([points + cut * edges, points + (1 - cut) * edges], axis=1).ravel()
    return points


def parse_pieces(pieces):
    """Yields (paint, shape, outline) on both sides of the axis; complex [n], x + iy in garment heights."""
    for line in pieces.split("\n")[1:]:
        paint, shape, *pairs = line.split()
        points = np.array([complex(*map(float, pair.split(","))) for pair in pairs]) / 100
        mirrored = -points.conj()
        if shape == "half":
            yield paint, shape, soften(np.concatenate([points, mirrored[::-1]]))
        else:
            for side in (points, mirrored):
                yield paint, shape, soften(side) if shape == "pair" else side


def placement(rng, pieces, size):
    """Puts a garment somewhere in a photo of `size` pixels, a little turned, stretched and swayed.

    Returns a function from garment heights to pixels, both complex [n], and the pixels per garment height.
    """
    stretch, turn, phase = rng.uniform(0.92, 1.1), rng.uniform(-0.09, 0.09), rng.uniform(0, 6)
    width = stretch * 2 * max(outline.real.max() for _, _, outline in pieces)
    scale = float(rng.uniform(0.82, 0.94) * min(size[1], size[0] / width))
    slack = np.array(size) - scale * np.array([width, 1])
    centre = complex(*np.array(size) / 2 + rng.uniform(-0.25, 0.25, 2) * slack)

    def place(points):
        x, y = stretch * points.real, points.imag - 0.5
        swayed = x + 0.012 * np.sin(6 * y + phase) + 1j * (y + 0.012 * np.sin(6 * x + phase))
        return swayed * scale * np.exp(1j * turn) + centre

    return place, scale


def motif_centres(rng, ornament, focus):
    """Centres of the motifs, complex [n] in garment heights: none, one, or a lattice for the cloth to clip."""
    if not ornament.size:
        return np.zeros(0, complex)
    if not ornament.spacing:
        return np.array([complex(focus[0] * rng.choice((-1, 1)), focus[1])])
    step = ornament.spacing
    x, y = np.meshgrid(np.arange(-0.65, 0.65, step), np.arange(0.02, 1.02, step))
    x[::2] += step / 2
    jitter = rng.uniform(-0.2, 0.2, (2, *x.shape)) * step
    return (x + jitter[0] + 1j * (y + jitter[1])).ravel()


def brightness(rng, mask, weave, scale):
    """Relative brightness [height, width, 1] of the cloth under `mask`: rounded rims, folds, weave."""
    x = np.arange(mask.width, dtype=np.float32)[None, :] / scale
    y = np.arange(mask.height, dtype=np.float32)[:, None] / scale
    rim = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.03 * scale)), np.float32) / 255
    a, b, c = rng.uniform(0, 6, 3).astype(np.float32)
    folds = np.sin(9 * x + 3 * y + a + np.sin(5 * y + b)) * np.sin(4 * y + c)
    noise = rng.standard_normal(rim.shape, dtype=np.float32)
    return (0.66 + 0.38 * rim + 0.09 * folds + WEAVES[weave](x, y, noise))[:, :, None]


def draw_garment(rng, labels):
    """One garment, cut out: an RGBA image, transparent around it. `labels` is attribute key -> class id."""
    garment, style, ornament = (table[labels[key]] for key, table in LOOKS.items())
    short = int(rng.integers(300, 601))
    sides = short, int(short * rng.choice((1, 1.25, 4 / 3, 1.5)))
    size = tuple(SUPERSAMPLING * side for side in (sides if rng.random() < 0.9 else sides[::-1]))
    paints, pieces = palette(rng, style), list(parse_pieces(garment.pieces))
    place, scale = placement(rng, pieces, size)
    image, mask = Image.new("RGB", size, paints["cloth"]), Image.new("L", size)
    draw, draw_mask = ImageDraw.Draw(image), ImageDraw.Draw(mask)

    def dot(centre, radius, paint):
        x, y = centre.real, centre.imag
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=paints[paint])

    for paint, shape, outline in pieces:
        points = place(outline)
        if shape == "line":
            draw.line(pixels(points), fill=paints[paint], width=max(2, round(0.006 * scale)))
        elif shape == "dots":
            for point in points:
                dot(point, 0.011 * scale, paint)
        else:  # cloth, which alone counts as part of the garment's outline
            draw.polygon(pixels(points), fill=paints[paint])
            draw_mask.polygon(pixels(points), fill=255)
    motif = MOTIFS[rng.choice(list(MOTIFS))](np.linspace(0, 2 * np.pi, 40))
    for centre in place(motif_centres(rng, ornament, garment.focus)):
        radius = rng.uniform(0.9, 1.15) * ornament.size * scale
        outline = centre + radius * motif * np.exp(1j * rng.uniform(-0.4, 0.4))
        draw.polygon(pixels(outline), fill=paints["motif"])
        dot(centre, 0.25 * radius, "trim")

    image, mask = image.reduce(SUPERSAMPLING), mask.reduce(SUPERSAMPLING)
    lit = np.asarray(image) * brightness(rng, mask, style.weave, scale / SUPERSAMPLING)
    return Image.fromarray(np.dstack([np.clip(lit, 0, 255).astype(np.uint8), np.asarray(mask)]))


def pixels(points):
    """Complex [n] -> the list of (x, y) that Pillow takes."""
    return list(zip(points.real, points.imag))


def photograph(rng, cutout):
    """The cut-out in front of a wall, with a soft shadow: an RGB image."""
    width, height = cutout.size
    alpha, shadow = cutout.getchannel("A"), Image.new("L", cutout.size)
    shadow.paste(alpha, (width // 50, height // 50))
    shadow = np.asarray(shadow.filter(ImageFilter.GaussianBlur(height / 50)), np.float32) / 255
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    wall = (1 + rng.uniform(-0.12, 0.12) * x + rng.uniform(-0.12, 0.12) * y) * (1 - 0.35 * shadow)
    tint = rng.uniform(150, 240) * rng.uniform(0.96, 1.02, 3)
    photo = Image.fromarray(np.clip(wall[:, :, None] * tint, 0, 255).astype(np.uint8))
    photo.paste(cutout, mask=alpha)
    return photo


def write_photo(directory, index, rng):
    """Draws a photo of random labels into a part's directory; returns its row of the CSV."""
    labels = {}
    for key, looks in LOOKS.items():
        labels[key] = int(rng.choice(len(looks), p=[look.share for look in looks]))
    folder = LOOKS["daily"][labels["daily"]].folder
    is_cutout = index % PNG_EVERY == 3
    name = f"{folder}/{folder[:2]}{index + 1:05d}-1.{'png' if is_cutout else 'jpg'}"
    cutout = draw_garment(rng, labels)
    (directory / folder).mkdir(parents=True, exist_ok=True)
    if is_cutout:
        cutout.save(directory / name, compress_level=3)
    else:
        photograph(rng, cutout).save(directory / name, quality=90)
    box = zip(BOX_COLUMNS, cutout.getchannel("A").getbbox())
    return {"image_name": name, **dict(box), **{key.capitalize(): label for key, label in labels.items()}}


def write_sample(directory, counts, seed):
    """The photos and the CSV of each part; `counts` is part -> photos."""
    for place, (part, count) in enumerate(counts.items()):
        # A generator per photo: the first photos are the same however many follow.
        generators = (np.random.default_rng((seed, place, index)) for index in range(count))
        drawn = enumerate(tqdm(generators, f"drawing {part}", count, unit="photo", disable=None))
        rows = [write_photo(directory / part, index, rng) for index, rng in drawn]
        with open(directory / f"Fashion-How24_sub1_{part}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def holds_sample(directory, note):
    """Whether the directory holds the sample that this note describes, and nothing else."""
    found = directory / NOTE
    if not found.is_file() or found.read_text(encoding="utf-8") != json.dumps(note):
        return False
    return sum(path.is_file() for path in directory.rglob("*")) == note["train"] + note["val"] + 3


def make_sample(directory, train=480, val=120, seed=0):
    """Draws the sample into a new or empty directory. Returns False and draws nothing if it is there already.

    It is drawn beside the directory and renamed at the end, so that an interrupted run leaves no half sample.
    """
    directory, note = Path(directory).resolve(), {"train": train, "val": val, "seed": seed}
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            if directory.is_dir() and holds_sample(directory, note):
                return False
            raise UserError(f"{directory} exists and is not this sample: remove it or name another")
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
            drawn = Path(temporary) / "sample"
            write_sample(drawn, {"train": train, "val": val}, seed)
            (drawn / NOTE).write_text(json.dumps(note), encoding="utf-8")
            os.replace(drawn, directory)
    except OSError as error:
        raise UserError(f"cannot write the sample to {directory}: {error}") from error
    return True


# fmt: off
def main(argv=None):
    p = Parser(prog="python -m utils.sample_data", description=__doc__.splitlines()[0])
    p.add_argument("directory", metavar="DIR", help="new or empty directory")
    p.add_argument("--train", type=number(int, 1), default=480, help="photos to train on", metavar="N")
    p.add_argument("--val", type=number(int, 1), default=120, help="photos to validate on", metavar="N")
    p.add_argument("--seed", type=number(int, 0), default=0, help="other seeds draw other photos", metavar="N")
    args = p.parse_args(argv)
    drawn = make_sample(args.directory, args.train, args.val, args.seed)
    print(f"{args.train} + {args.val} photos {'drawn into' if drawn else 'are already in'} {args.directory}")
# fmt: on


if __name__ == "__main__":
    sys.exit(exit_code(main))
