"""A trained network for other Python programs: `from predict import load`."""

import numpy as np
from PIL import Image

from utils.base.errors import UserError
from utils.data.photos import PATH
from utils.evaluation.confidence import Sure, find_measured
from utils.evaluation.inference import answered, joined, load_classifier
from utils.evaluation.predictions import answers, distinct


class Model:
    """A trained network that takes photos: `load("model/shop/best.pt")(["a.jpg", "b.jpg"])`. It writes and prints nothing.

    Photos are a list of paths, images of Pillow, and RGB arrays, uint8 `(H, W, 3)` of any size, also mixed; or one of these.

    Args:
        path: checkpoint (.pt), exported file (.onnx), or folder of export.py --format hub, also as `owner/name` of the hub.
        sure: share of right answers, 0.5 to below 1, such as 0.95: an answer that is not so sure is None. It takes what evaluate.py
            has measured.
        batch_size: photos per step of the network.
        prior, device, how: as of `utils.evaluation.inference.load_classifier`, such as `threads` of an `.onnx`.
    Attributes: `classify`, the `utils.evaluation.inference.Classifier`; `attributes`; `sure`, a
        `utils.evaluation.confidence.Sure` or None; `measured`, what it is made of.
    Raises: utils.base.errors.UserError of one line, for what is wrong with a file, an option, or a photo, which it names.
    """

    def __init__(self, path, sure=None, batch_size=8, prior="trained", device="auto", **how):
        if not (sure is None or (isinstance(sure, (float, np.floating)) and 0.5 <= sure < 1)):
            raise UserError(f"sure {sure}: a share of right answers is from 0.5 to below 1")
        if not (isinstance(batch_size, (int, np.integer)) and batch_size >= 1):
            raise UserError(f"batch_size {batch_size}: a whole number from 1 on is needed")
        self.classify = load_classifier(path, prior=prior, device=device, **how)
        self.attributes, self.batch_size = self.classify.attributes, batch_size
        self.measured = None if sure is None else find_measured(self.classify, prior)
        self.sure = None if sure is None else Sure(self.measured, sure)

    def __call__(self, photos):
        """A pandas.DataFrame, a row for each photo: `photo`, its path, or else its number in the list; for each attribute (`kind`) the
        name of its class; and how likely that is, float from 0 to 1 (`kind_confidence`)."""
        import pandas  # here, since predict.py does without it

        names, parts = self._asked(photos, self.classify)
        results, said = answers(joined(parts), self.sure)
        shorts = [attribute.short for attribute in self.attributes.values()]
        titles = ["photo", *shorts, *(f"{short}_confidence" for short in shorts)]
        classes = (np.array([*one.classes, None], object)[said[key]] for key, one in self.attributes.items())
        columns = [names, *classes, *(results[key].max(axis=1) for key in self.attributes)]
        return pandas.DataFrame(dict(zip(distinct(titles), columns)))

    def embed(self, photos):
        """What a checkpoint's network sees in photos, float32 `(N, width)`: those that are near each other look alike. It is what the heads
        of a student see, and FashionCLIP's embedding. Raises: UserError for an `.onnx`."""
        return np.concatenate(self._asked(photos, self.classify.features)[1])

    def _asked(self, photos, ask):
        """(List of the photos' names, list of what `ask` says of them by the batch)."""
        is_one = isinstance(photos, (*PATH, Image.Image)) or getattr(photos, "ndim", 0) == 3
        photos = [photos] if is_one else photos
        named = [(str(one) if isinstance(one, PATH) else number, one) for number, one in enumerate(photos)]
        if not named:
            raise UserError("no photos: a list of paths, images or arrays is needed")

        def refuse(name, problem):
            raise UserError(problem if isinstance(name, str) else f"photos[{name}]: {problem}")

        parts = answered(named, ask, self.batch_size, self.attributes.layout.exif, refuse)
        return [name for name, _ in named], [said for _, said in parts]


load = Model
