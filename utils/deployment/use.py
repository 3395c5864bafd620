"""Attributes of photos, a line of JSON for each: python use.py PHOTO… It needs numpy, pillow and onnxruntime."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def letterbox(path):  # the longer side becomes 224, centred on black: uint8 (1, 224, 224, 3)
    with Image.open(path, formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")) as photo:
        photo = ImageOps.exif_transpose(photo) if told.get("exif") else photo
        if photo.mode.startswith("I"):  # 16-bit grey
            photo = Image.fromarray((np.asarray(photo) / 257).round().clip(0, 255).astype(np.uint8))
        rgba = np.asarray(photo.convert("RGBA"), np.float32)
    pixels = rgb = rgba[:, :, :3] * (rgba[:, :, 3:] / 255) + 255 - rgba[:, :, 3:]  # over white
    for length in rgb.shape[:2]:  # each axis as in training: a Gaussian blur, then linear interpolation
        size = max(1, 224 * length // max(rgb.shape[:2]))
        sigma, reach = max((length / size - 1) / 2, 1e-3), int(2 * max(length / size, 1) - 1.5)
        bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        apart = abs((np.arange(size)[:, None] + 0.5) * length / size - 0.5 - np.arange(length)).clip(max=1)
        weights = [np.convolve(row, bell / bell.sum())[reach : reach + length] for row in 1 - apart]
        pixels = np.tensordot(np.array(weights, np.float32), pixels, (1, 0)).swapaxes(0, 1)  # now the other
    out, (h, w, _) = np.zeros((1, 224, 224, 3), np.uint8), pixels.shape
    out[0, 112 - h // 2 :, 112 - w // 2 :][:h, :w] = pixels.clip(rgb.min(), rgb.max()).round()
    return out


model, problems = onnxruntime.InferenceSession(str(Path(__file__).with_name("student.onnx"))), []
told = json.loads(model.get_modelmeta().custom_metadata_map["meta"])["attributes"]
for path in sys.argv[1:]:
    try:
        pairs = zip(told["attributes"].items(), model.run(None, {"pixels": letterbox(path)}))
        said = {"photo": path, **{key: list(a["classes"])[p.argmax()] for (key, a), p in pairs}}
        print(json.dumps(said, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))
    except Exception as error:  # whatever a file that is no photo makes Pillow raise
        problems.append(f"{path}: {error!r}")
sys.exit("\n".join(problems) or None)
