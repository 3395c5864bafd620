"""Draws a small data set in the real one's layout, for trying the procedure without the real photos.

    python -m utils.tools.sample DIR --train 480 --val 120 --seed 0

Each attribute has its own visual cue: Daily is the kind of garment, Gender its colours and weave,
Embellishment the number of motifs on it. The labels are independent, so none can be guessed from another.
"""

import functools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas
from PIL import Image, ImageColor, ImageDraw, ImageFilter

from utils.base.cli import Parser, exit_code, number
from utils.base.errors import UserError
from utils.base.log import progress

NOTE = "sample.json"  # tells how the sample was drawn
SUPERSAMPLING = 2  # outlines are drawn at twice the size and averaged, for smooth edges
PNG_EVERY = 20  # one photo in so many is a cut-out with an alpha channel
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


@functools.lru_cache(maxsize=1)
def looks():
    """What the classes look like, of sample_looks.json: attribute -> list of dicts, one per class in label order.

    Each has its `share` of all photos. A garment has the `folder` of its photos, whose first two letters begin the
    file names; `focus`, where a single motif sits; and `pieces` from back to front: paint, shape, points in hundredths
    of its height, x from the axis of symmetry and y from the top. Shapes: `half` is the right half of a closed
    outline, `pair` a closed outline drawn on both sides, `line` a seam on both sides, `dots` buttons. A style has
    colours, of which one is picked per photo, and a key of WEAVES. An ornament has its radius and the distance between
    motifs, 0 for a single one, in garment heights; a radius of 0 draws none.
    """
    return json.loads(Path(__file__).with_name("sample_looks.json").read_text(encoding="utf-8"))


def palette(rng, style):
    """Paint name -> RGB: cloth and motif are picked from the style, all under one slightly tinted light."""
    names = (rng.choice(style["cloths"]), rng.choice(style["motifs"]), style["trim"])
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


def outlines(pieces):
    """Yields (paint, shape, outline) on both sides of the axis; complex [n], x + iy in garment heights."""
    for paint, shape, points in pieces:
        points = np.array([complex(x, y) for x, y in points]) / 100
        mirrored = -points.conj()
        sides = [np.concatenate([points, mirrored[::-1]])] if shape == "half" else [points, mirrored]
        for side in sides:
            yield paint, shape, soften(side) if shape in ("half", "pair") else side


def placement(rng, pieces, size):
    """Puts a garment somewhere in a photo of `size` pixels, a little turned, stretched and swayed.

    Returns a function from garment heights to pixels, both complex [n], and the pixels per garment height.
    """
    stretch, turn, phase = rng.uniform(0.92, 1.1), rng.uniform(-0.09, 0.09), rng.uniform(0, 6)
    width = stretch * 2 * max(outline.real.max() for _, _, outline in pieces)
    scale = float(rng.uniform(0.82, 0.94) * min(size[1], size[0] / width))
    slack = np.array(size) - scale * np.array([width, 1])
    centre = complex(*np.array(size) / 2 + rng.uniform(-0.25, 0.25, 2) * slack)

    def to_pixels(points):
        x, y = stretch * points.real, points.imag - 0.5
        swayed = x + 0.012 * np.sin(6 * y + phase) + 1j * (y + 0.012 * np.sin(6 * x + phase))
        return swayed * scale * np.exp(1j * turn) + centre

    return to_pixels, scale


def motif_centres(rng, ornament, focus):
    """Centres of the motifs, complex [n] in garment heights: none, one, or a lattice for the cloth to clip."""
    step = ornament["spacing"]
    if not ornament["size"]:
        return np.zeros(0, complex)
    if not step:
        return np.array([complex(focus[0] * rng.choice((-1, 1)), focus[1])])
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
    garment, style, ornament = (classes[labels[key]] for key, classes in looks().items())
    short = int(rng.integers(300, 601))
    sides = short, int(short * rng.choice((1, 1.25, 4 / 3, 1.5)))
    size = tuple(SUPERSAMPLING * side for side in (sides if rng.random() < 0.9 else sides[::-1]))
    paints, pieces = palette(rng, style), list(outlines(garment["pieces"]))
    to_pixels, scale = placement(rng, pieces, size)
    image, mask = Image.new("RGB", size, paints["cloth"]), Image.new("L", size)
    draw, draw_mask = ImageDraw.Draw(image), ImageDraw.Draw(mask)

    def dot(centre, radius, paint):
        x, y = centre.real, centre.imag
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=paints[paint])

    for paint, shape, outline in pieces:
        points = to_pixels(outline)
        corners = points.view(float).tolist()  # x, y, x, y, …, as Pillow takes them
        if shape == "line":
            draw.line(corners, fill=paints[paint], width=max(2, round(0.006 * scale)))
        elif shape == "dots":
            for point in points:
                dot(point, 0.011 * scale, paint)
        else:  # cloth, which alone counts as part of the garment's outline
            draw.polygon(corners, fill=paints[paint])
            draw_mask.polygon(corners, fill=255)
    motif = MOTIFS[rng.choice(list(MOTIFS))](np.linspace(0, 2 * np.pi, 40))
    for centre in to_pixels(motif_centres(rng, ornament, garment["focus"])):
        radius = rng.uniform(0.9, 1.15) * ornament["size"] * scale
        outline = centre + radius * motif * np.exp(1j * rng.uniform(-0.4, 0.4))
        draw.polygon(outline.view(float).tolist(), fill=paints["motif"])
        dot(centre, 0.25 * radius, "trim")

    image, mask = image.reduce(SUPERSAMPLING), mask.reduce(SUPERSAMPLING)
    lit = np.asarray(image) * brightness(rng, mask, style["weave"], scale / SUPERSAMPLING)
    return Image.fromarray(np.dstack([np.clip(lit, 0, 255).astype(np.uint8), np.asarray(mask)]))


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


def write_photo(folder, index, rng):
    """Draws a photo of random labels into a part's folder; returns its row of the CSV."""
    shares = {key: [one["share"] for one in classes] for key, classes in looks().items()}
    labels = {key: int(rng.choice(len(each), p=each)) for key, each in shares.items()}
    kind = looks()["daily"][labels["daily"]]["folder"]
    is_cutout = index % PNG_EVERY == 3
    name = f"{kind}/{kind[:2]}{index + 1:05d}-1.{'png' if is_cutout else 'jpg'}"
    cutout = draw_garment(rng, labels)
    (folder / kind).mkdir(parents=True, exist_ok=True)
    if is_cutout:
        cutout.save(folder / name, compress_level=3)
    else:
        photograph(rng, cutout).save(folder / name, quality=90)
    box = zip(("BBox_xmin", "BBox_ymin", "BBox_xmax", "BBox_ymax"), cutout.getchannel("A").getbbox())
    return {"image_name": name, **dict(box), **{key.capitalize(): label for key, label in labels.items()}}


def make_sample(directory, train=480, val=120, seed=0):
    """Draws the sample into a new or empty directory. Returns False and draws nothing if it is there already.

    It is drawn beside the directory and renamed at the end, so that an interrupted run leaves no half sample.
    """
    directory, counts = Path(directory).resolve(), {"train": train, "val": val}
    note = json.dumps({**counts, "seed": seed})
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        found = directory / NOTE
        same = found.is_file() and found.read_text(encoding="utf-8") == note
        if same and sum(path.is_file() for path in directory.rglob("*")) == train + val + 3:
            return False
        raise UserError(f"{directory} exists and is not this sample: remove it or name another")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
        drawn = Path(temporary) / "sample"
        for number_of_part, (part, count) in enumerate(counts.items()):
            # A generator per photo: the first photos are the same however many follow.
            seeds = [(seed, number_of_part, index) for index in range(count)]
            bar = progress(seeds, f"drawing {part}", unit=" photos")
            rows = [write_photo(drawn / part, one[-1], np.random.default_rng(one)) for one in bar]
            pandas.DataFrame(rows).to_csv(drawn / f"Fashion-How24_sub1_{part}.csv", index=False)
        (drawn / NOTE).write_text(note, encoding="utf-8")
        if not (directory / NOTE).exists():  # of another program, which has drawn it meanwhile
            drawn.replace(directory)
    return True


# fmt: off
def main(argv=None):
    p = Parser(prog="python -m utils.tools.sample", description=__doc__.splitlines()[0])
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
