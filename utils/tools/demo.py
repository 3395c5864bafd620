"""Build a static page that runs an exported student in the visitor's own browser.

python -m utils.tools.demo student.onnx --output demo/
python -m http.server --bind 127.0.0.1 --directory demo 8000      # then open http://localhost:8000
"""

import html
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from utils.base.cli import Parser, exit_code
from utils.base.errors import UserError
from utils.base.files import atomic, check_folder, record
from utils.data.folders import find_photos
from utils.data.photos import SIZE, SUFFIXES, read_photos
from utils.evaluation.confidence import KEY, Sure
from utils.evaluation.inference import load_classifier
from utils.evaluation.predictions import PredictionTable

HERE = Path(__file__).parent
PACKAGE = "onnxruntime-web@1.30.0"  # MIT licence
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
SCRIPTS = ("page.js", "worker.js", "photo.js")
TITLE = "Fashion attributes of a photo"  # of attributes without a name
SAMPLES = 6
SPACE = "---\ntitle: {}\nsdk: static\n---\n"  # head of a README.md by which the hub knows a Space
LONGEST = 800  # pixels, of a sample photo
SHARE = 0.95  # of the answers shown as sure that shall be right


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m utils.tools.demo", description="Build a static page that runs an exported student in the visitor's own browser.")
    p.add_argument("student", help="ONNX file of export.py; int8 is the quickest to load", metavar="FILE.onnx")
    p.add_argument("--output", default="demo", help="folder to write the page into", metavar="DIR")
    p.add_argument("--runtime", help=f"folder with the files of {PACKAGE}'s dist/; without it, npm fetches the package", metavar="DIR")
    p.add_argument("--samples", help=f"folder of photos, of which the first {SAMPLES} are offered as samples; without it six drawn ones", metavar="DIR")
    p.switch(p, "--space", "also write README.md, by which the folder is a static Space of the Hugging Face hub")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    if not args.student.endswith(".onnx"):
        raise UserError(f"{args.student}: the page runs an ONNX file; make one with export.py")
    student = load_classifier(args.student)
    attributes, measured = student.attributes, student.meta.get(KEY)
    sure = measured and Sure(measured["attributes"], SHARE)
    photos = read_samples(args.samples or HERE / "samples", attributes.layout.exif)
    folder = args.runtime
    runtime = {name: Path(folder, name).read_bytes() for name in RUNTIME} if folder else fetch_runtime()
    samples = {f"samples/{i}.jpg": photo for i, photo in enumerate(photos, 1)}
    files = {"student.onnx": Path(args.student).read_bytes(), **samples}
    files.update((f"ort/{name}", content) for name, content in runtime.items())
    files.update((name, (HERE / name).read_bytes()) for name in SCRIPTS)
    files["index.html"] = page(attributes, list(samples), sure).encode()
    if args.space:
        files["README.md"] = SPACE.format(json.dumps(attributes.content.get("name", TITLE))).encode()
    write_page(args.output, files)
    folder = shlex.quote(args.output)
    print(f"{args.output}: the page; to see it, run:")
    print(f"python -m http.server --bind 127.0.0.1 --directory {folder} 8000")
    if args.space:
        print(f"hf upload OWNER/NAME {folder} --repo-type space")


def write_page(folder, files):
    """Write a page's files, name -> bytes, into a folder, where others may be. Raises: UserError if some are not of an earlier
    page."""
    samples = [f"samples/{number}.jpg" for number in range(1, SAMPLES + 1)]
    check_folder(folder, dict.fromkeys([*files, *samples]), ("index.html", TITLE.encode()))
    for name, content in files.items():
        Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
        with atomic(Path(folder, name), binary=True) as file:
            file.write(content)
    for name in set(samples).difference(files):  # of an earlier page
        Path(folder, name).unlink(missing_ok=True)
    record(folder, files)


def page(attributes, samples, sure=None):
    """The page's text, page.html with what is this student's. Args: `samples`, addresses of the sample photos, relative to it;
    `sure`, a `utils.evaluation.confidence.Sure`; without, all answers are shown alike."""
    language = next(iter(attributes.languages()), None)
    described = []
    for name, attribute in attributes.items():
        names = [attribute.title, attributes.content["attributes"][name].get("names", {}).get(language)]
        classes = list(zip(attribute.classes, attribute.names.get(language, attribute.classes)))
        limits = sure and [sure.temperatures[name], sure.thresholds[name]]
        described.append({"names": names, "classes": classes, "sure": limits})
    data = {"size": SIZE, "exif": attributes.layout.exif, "samples": samples, "attributes": described}
    data.update(language=language, share=SHARE, endings=SUFFIXES, columns=PredictionTable(attributes).header)
    # A number of the scripts is part of their addresses: a browser keeps no earlier ones beside a new page.
    version = zlib.crc32(b"".join((HERE / script).read_bytes() for script in SCRIPTS))
    title = html.escape(attributes.content.get("name", TITLE))
    said = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    parts = {"TITLE": title, "DATA": said, "VERSION": str(version)}
    text = (HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"/\*([A-Z]+)\*/", lambda found: parts[found[1]], text)


def read_samples(folder, exif):
    """The first photos of a folder and its sub-folders as JPEG, at most 800 pixels long, turned by their EXIF or not."""
    photos = []
    paths = [os.path.join(folder, name) for name in find_photos(folder)[:SAMPLES]]
    for pixels, problem in read_photos(paths, exif, prepare=lambda image, path: np.rint(image)):
        if problem:
            raise UserError(f"--samples: photo {problem}")
        photo = Image.fromarray(pixels.astype(np.uint8))
        photo.thumbnail((LONGEST, LONGEST))
        jpeg = io.BytesIO()
        photo.save(jpeg, "JPEG", quality=90)
        photos.append(jpeg.getvalue())
    return photos


def fetch_runtime():
    """onnxruntime-web's files, name -> bytes, from the npm package, which npm keeps in its cache.

    Raises: UserError if npm is not installed or cannot fetch the package.
    """
    command = ["npm", "pack", "--prefer-offline", PACKAGE]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
            way_out = "install npm, or name the package's folder dist/ with --runtime"
            raise UserError(f"npm cannot fetch {PACKAGE} ({reason}); {way_out}") from error
        (packed,) = Path(scratch).glob("*.tgz")
        with tarfile.open(packed) as archive:
            return {name: archive.extractfile(f"package/dist/{name}").read() for name in RUNTIME}


if __name__ == "__main__":
    sys.exit(exit_code(main))
