"""The published procedure, written anew: what the project is measured against.

Each photo is read and letterboxed with scikit-image in every epoch. Each batch goes through the teacher's image
tower once per attribute, by way of CLIP's own processor, and each attribute's prompts are tokenized and encoded
again; a student's teacher runs on every batch. All in float32, with PyTorch's plain optimizers.
"""

import numpy as np
import skimage.io
import skimage.transform
import torch
import torch.nn.functional as F
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

SIZE = 224


def read(path):
    """A photo, letterboxed: float64 `(224, 224, 3)` in 0..1."""
    image = skimage.io.imread(path)
    if image.shape[2] == 4:
        alpha = image[:, :, 3:] / 255
        image = image[:, :, :3] / 255 * alpha + 1 - alpha
    height, width = image.shape[:2]
    longer = max(height, width)
    new_height, new_width = SIZE * height // longer, SIZE * width // longer
    resized = skimage.transform.resize(image, (new_height, new_width), mode="constant", anti_aliasing=True)
    top, left = SIZE // 2 - new_height // 2, SIZE // 2 - new_width // 2
    canvas = np.zeros((SIZE, SIZE, 3))
    canvas[top : top + new_height, left : left + new_width] = resized
    return canvas


class Teacher:
    """A CLIP asked anew for every attribute of every batch.

    Args: `config`, of a CLIP that gets random weights and the logit scale of a trained one; `attributes` with one prompt a
        class, whose words are the vocabulary: the hub's is not needed to measure time.
    """

    def __init__(self, config, attributes):
        torch.manual_seed(0)
        self.clip, self.text = CLIPModel(CLIPConfig.from_dict(config)).float(), config["text_config"]
        self.clip.logit_scale.data.fill_(np.log(100))
        self.prompts = {key: [sentence for (sentence,) in one.prompts] for key, one in attributes.items()}
        self.words = sorted({word for one in self.prompts.values() for s in one for word in s.split()})
        # Images in 0..1 become whole grey levels in the pinned 4.27, which must be divided by 255. Later versions
        # leave them as they are, and must be told not to divide again; the published code forgets that.
        self.processor = CLIPImageProcessor(do_rescale=transformers.__version__.startswith("4.27."))

    def tokenize(self, sentence):
        """List of token ids, from the begin to the end."""
        words = [self.words.index(word) for word in sentence.split()]
        return [self.text["bos_token_id"], *words, self.text["eos_token_id"]]

    def logits(self, images):
        """List of letterboxed images -> dict attribute -> logits."""
        logits = {}
        for key, sentences in self.prompts.items():
            tokens = [torch.tensor(self.tokenize(sentence)) for sentence in sentences]
            pixels = self.processor(list(images), return_tensors="pt")["pixel_values"].float()
            logits[key] = self.clip(
                input_ids=pad_sequence(tokens, True, self.text["pad_token_id"]),
                attention_mask=pad_sequence([torch.ones_like(row) for row in tokens], True),
                pixel_values=pixels,
            ).logits_per_image
        return logits


def teacher_losses(teacher, images, labels, weights):
    """Of one batch, by attribute."""
    logits = teacher.logits(images)
    return {key: F.cross_entropy(logits[key], labels[key], weight=weights[key]) for key in logits}


def student_losses(student, teacher, images, labels, weights, args):
    """Of one batch, by attribute, with soft distillation. Args: `args`, options of train.py."""
    # The project's student takes float32 `(B, 3, 224, 224)` in 0..255.
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() * 255
    class_logits, distillation_logits = student(pixels)
    with torch.no_grad():
        taught = teacher.logits(images)
    alpha, tau, losses = args.distillation_alpha, args.distillation_tau, {}
    for key, logits in class_logits.items():
        labelled = F.cross_entropy(logits, labels[key], weight=weights[key], label_smoothing=args.ls)
        own, others = distillation_logits[key] / tau, taught[key] / tau
        divergence = F.kl_div(own.log_softmax(1), others.log_softmax(1), reduction="sum", log_target=True)
        losses[key] = (1 - alpha) * labelled + alpha * divergence * tau**2 / own.numel()
    return losses


def step(losses, optimizer):
    """Change the weights; returns the losses as numbers."""
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    return {key: loss.item() for key, loss in losses.items()}
