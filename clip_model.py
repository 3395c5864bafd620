"""The teacher: FashionCLIP (CLIP ViT-B/32) as a prompt classifier."""

import os
import re
import zlib
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from utils.base.errors import LibraryError, UserError, first_line, shortened
from utils.data.photos import SIZE
from utils.layers import Normalize, attend, keep_norms_float
from utils.nets.checkpoint import read_file
from utils.nets.hub import CONFIG, WEIGHTS, out_of_reach, silence

MAX_SIZE = 1_000_000  # of a checkpoint's CLIP, of whatever: tokens, pixels, features

FILES = CONFIG, WEIGHTS, "vocab.json", "merges.txt"
# It is also told where nothing is to be taught.
WAY_OUT = f"--clip-model FOLDER takes a whole one: {', '.join(FILES)}; as --teacher any other checkpoint does"

# What a CLIP's shape depends on, under the same names in every version of transformers.
_SHAPE_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_TOKEN_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size", "max_position_embeddings")
_TOWER_FIELDS = (*_SHAPE_FIELDS, *_TOKEN_FIELDS, "hidden_act", "layer_norm_eps", "image_size", "patch_size")


def clip_config(text, vision, projection, vocabulary):
    """The configuration of a CLIP for photos of 224 x 224 in patches of 32, as plain values.

    Args: `text`, `vision`: hidden size, intermediate size, layers and heads of each tower; `projection`, size of the
        embeddings; `vocabulary`, number of tokens, the last two of which begin and end a sentence.
    """
    begin, end = vocabulary - 2, vocabulary - 1
    tokens = dict(bos_token_id=begin, eos_token_id=end, pad_token_id=end, vocab_size=vocabulary)
    text = dict(zip(_SHAPE_FIELDS, text), max_position_embeddings=77, **tokens)
    vision = dict(zip(_SHAPE_FIELDS, vision), image_size=224, patch_size=32)
    return {"text_config": text, "vision_config": vision, "projection_dim": projection}


# With random weights, for trying the procedure; FashionCLIP's shape is in the benchmarks.
_SMALL = clip_config((128, 256, 2, 2), (192, 384, 4, 3), projection=128, vocabulary=4096)


class FashionCLIP(nn.Module):
    """CLIP whose logits are exp(logit_scale) * cosine(image, prompt), split by attribute.

    Radford et al., arXiv:2103.00020, section 3.1.4; Chia et al., "FashionCLIP" (arXiv:2204.03972).

    A class with several prompts has the mean of their embeddings, of length 1 before and after.

    Args:
        attributes: `utils.data.attributes.Attributes`, with the prompts of each class.
        name_or_path: a hub name, a local folder in Hugging Face layout (model and tokenizer), or
            "random": a small CLIP with random weights and a built-in tokenizer.
    Raises: UserError if the model cannot be had.
    """

    role, title = "teacher", "FashionCLIP"
    taught = ()  # no attribute has a head that learns from another network

    def __init__(self, attributes, name_or_path):
        super().__init__()
        sentences = {key: [s for prompts in a.prompts for s in prompts] for key, a in attributes.items()}
        if name_or_path == "random":
            clip, self.title = _build(_SMALL), "a small CLIP with random weights"
            token_ids = {key: [_hash_words(s) for s in texts] for key, texts in sentences.items()}
        else:
            clip, token_ids = _load_pretrained(name_or_path, sentences)
        self._assemble(clip, attributes, token_ids)

    @classmethod
    def from_meta(cls, meta, attributes, source="checkpoint"):
        """The network of a checkpoint (without its weights): neither hub nor tokenizer is needed.

        Raises: UserError that names `source` if the meta describe no CLIP, or an enormous one.
        """
        try:
            config, known = meta["clip_config"], {"projection_dim": meta["clip_config"]["projection_dim"]}
            for name in ("text_config", "vision_config"):
                known[name] = {field: config[name][field] for field in _TOWER_FIELDS if field in config[name]}
                sizes = [known["projection_dim"], *(known[name][field] for field in _SHAPE_FIELDS)]
                # That the network is none too large, `fitting` sees to.
                if not all(type(size) is int and 0 < size <= MAX_SIZE for size in sizes):
                    raise ValueError(f"sizes that are no whole numbers from 1 to {MAX_SIZE:,}")
            clip = _build(known)
        except Exception as error:  # whatever transformers raises at values that make no sense
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{source}: its meta describe no CLIP that can be built ({reason})") from error
        token_ids = _checked_tokens(meta.get("token_ids"), attributes, clip, source)
        net = cls.__new__(cls)
        nn.Module.__init__(net)
        net._assemble(clip, attributes, token_ids)
        return net

    def _assemble(self, clip, attributes, token_ids):
        for module in clip.modules():  # 4.27 saves the positions 0, 1, 2 ... with the weights, 5.x does not
            if "position_ids" in dict(module.named_buffers(recurse=False)):
                module.register_buffer("position_ids", module.position_ids, persistent=False)
        keep_norms_float(clip)
        self.clip = clip
        self.attributes = attributes
        self.token_ids = token_ids  # attribute -> the tokens of each prompt, class by class
        # CLIP's own mean and standard deviation.
        self.normalize = Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
        rows = [row for rows in token_ids.values() for row in rows]
        longest = max(map(len, rows))
        limit = clip.config.text_config.max_position_embeddings
        if longest > limit:
            raise UserError(f"a prompt has {longest} tokens, the text tower takes {limit}: shorten it")
        # The tower is causal and is read at the end token: what is filled in behind it has no effect.
        padded = torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])
        self.register_buffer("tokens", padded, persistent=False)
        self.register_buffer("ends", torch.tensor([len(row) - 1 for row in rows]), persistent=False)
        self.prompts_per_class = [len(p) for attribute in attributes.values() for p in attribute.prompts]

    def forward(self, pixels, prompt_embeddings=None):
        """Letterboxed RGB pixels, uint8 `(B, 3, 224, 224)` -> dict attribute -> float32 logits `(B, classes)`.

        `prompt_embeddings` are those of `encode_prompts`, for callers that keep them over many batches.
        """
        text = self.encode_prompts() if prompt_embeddings is None else prompt_embeddings
        image = self.features(pixels)
        with torch.autocast(image.device.type, enabled=False):
            logits = self.clip.logit_scale.exp() * _unit(image) @ text.t()
        return dict(zip(self.attributes, logits.split(list(self.attributes.sizes.values()), dim=1)))

    def features(self, pixels):
        """The embedding of the same pixels, `(B, projection)`."""
        return self.clip.visual_projection(_encode_images(self.clip.vision_model, self.normalize(pixels)))

    def encode_prompts(self):
        """The classes' embeddings, float32 `(classes of all attributes, projection)`, of length 1."""
        embeddings = self.clip.text_projection(_encode_texts(self.clip.text_model, self.tokens, self.ends))
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = _unit(embeddings)
            if max(self.prompts_per_class) == 1:
                return embeddings
            return _unit(torch.stack([part.mean(dim=0) for part in embeddings.split(self.prompts_per_class)]))

    def inference(self):
        """A function of pixels for many batches with unchanged weights: the prompts are encoded once."""
        embeddings = self.encode_prompts()
        return lambda pixels: self(pixels, embeddings)

    def describe(self):
        """Plain values from which the network can be built again (see `from_meta`)."""
        config = {"projection_dim": self.clip.config.projection_dim}
        for name in ("text_config", "vision_config"):
            fields = {f: getattr(getattr(self.clip.config, name), f, None) for f in _TOWER_FIELDS}
            config[name] = {field: value for field, value in fields.items() if value is not None}
        return {"role": self.role, "clip_config": config, "token_ids": self.token_ids}

    def own_names(self, state):
        """A state dict of ours, a published teacher's or Hugging Face's CLIPModel's, under this class's names."""
        kept = {name: value for name, value in state.items() if not name.endswith(".position_ids")}
        return {re.sub(r"^(base_model\.)?(clip\.)?", "clip.", name): value for name, value in kept.items()}


# --- the meta of a checkpoint ------------------------------------------------------------------------


def _checked_tokens(token_ids, attributes, clip, source):
    """A checkpoint's token ids, if there are some for each prompt, all of them in the text tower's vocabulary."""
    vocabulary, found = range(clip.config.text_config.vocab_size), {}
    for key, attribute in attributes.items():
        rows = token_ids.get(key) if isinstance(token_ids, dict) else None
        fits = isinstance(rows, list) and len(rows) == sum(map(len, attribute.prompts))
        fits = fits and all(isinstance(row, list) and row for row in rows)
        if not (fits and all(type(i) is int and i in vocabulary for row in rows for i in row)):
            raise UserError(f"{source}: its meta hold no token ids that fit the classes of {key}")
        found[key] = rows
    return found


# --- the towers --------------------------------------------------------------------------------------
# Hugging Face's modules and weights, in a forward pass of our own. It computes what theirs does, with less: one
# product for queries, keys and values, no pass over the activations for quick GELU's factors, and in the last
# layer of the image tower only the one row that is read.


def _encode_images(tower, images):
    """Normalised `(B, 3, h, w)` -> what the tower says at its class token, float32 `(B, hidden)`."""
    hidden = tower.pre_layrnorm(tower.embeddings(images))
    *layers, last = tower.encoder.layers
    for layer in layers:
        hidden = _layer(layer, hidden)
    return tower.post_layernorm(_layer(last, hidden, rows=slice(0, 1))[:, 0])


def _encode_texts(tower, tokens, ends):
    """Tokens `(sentences, length)`, index of the end token of each -> float32 `(sentences, hidden)`."""
    hidden = tower.embeddings(tokens)
    for layer in tower.encoder.layers:
        hidden = _layer(layer, hidden, causal=True)
    return tower.final_layer_norm(hidden[torch.arange(len(ends), device=ends.device), ends])


def _layer(layer, hidden, rows=slice(None), causal=False):
    """One pre-norm transformer layer, `(B, N, hidden)` -> its output at these rows."""
    attention, normed = layer.self_attn, layer.layer_norm1(hidden)
    key_value = [attention.k_proj, attention.v_proj]
    if rows == slice(None):
        projected = _linears(normed, [attention.q_proj, *key_value])
    else:
        projected = [attention.q_proj(normed[:, rows]), *_linears(normed, key_value)]
        hidden = hidden[:, rows]
    heads = [p.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for p in projected]
    hidden = hidden + attention.out_proj(attend(*heads, causal=causal).transpose(1, 2).flatten(2))
    return hidden + _mlp(layer.mlp, layer.layer_norm2(hidden))


def _linears(inputs, linears):
    """The outputs of several linear layers with the same input, from one matrix product."""
    weight, bias = torch.cat([one.weight for one in linears]), torch.cat([one.bias for one in linears])
    return F.linear(inputs, weight, bias).chunk(len(linears), dim=-1)


def _mlp(mlp, inputs):
    if mlp.config.hidden_act != "quick_gelu":
        return mlp(inputs)
    # x sigmoid(1.702 x) = silu(1.702 x) / 1.702, with the factors on the weights, which are fewer than activations.
    inner = F.silu(F.linear(inputs, 1.702 * mlp.fc1.weight, 1.702 * mlp.fc1.bias))
    return F.linear(inner, mlp.fc2.weight / 1.702, mlp.fc2.bias)


def _unit(embeddings):
    embeddings = embeddings.float()
    return embeddings / embeddings.norm(dim=-1, keepdim=True)


def _build(config):
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig.from_dict(config)).float()


def _hash_words(sentence):
    """The built-in tokenizer of the random CLIP: begin, a hash of each word, end."""
    text = _SMALL["text_config"]
    words = re.findall(r"\w+", sentence.lower())
    hashes = [zlib.crc32(word.encode()) % text["bos_token_id"] for word in words]
    return [text["bos_token_id"], *hashes, text["eos_token_id"]]


def _load_pretrained(name_or_path, prompts):
    """(CLIPModel in float32, token ids of the prompts by attribute) from the hub or a local folder."""
    from transformers import CLIPModel, CLIPTokenizerFast, modeling_utils
    from transformers.utils import logging

    # No notes about unused weights: what is missing is an error of our own.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    how = {"local_files_only": not os.path.exists(name_or_path) and bool(silence())}
    try:
        # It reads pytorch_model.bin as we read checkpoints: by itself, 4.27 runs what a pickle says.
        with mock.patch.object(modeling_utils, "load_state_dict", lambda path, *_, **__: read_file(path)):
            clip, info = CLIPModel.from_pretrained(name_or_path, output_loading_info=True, **how)
            # The slow tokenizer of 4.27 splits apostrophes differently.
            tokenizer = CLIPTokenizerFast.from_pretrained(name_or_path, **how)
    except Exception as error:  # a dozen kinds: no network, no such repository, a broken file, a wrong layout
        if how["local_files_only"]:
            raise out_of_reach(name_or_path, FILES, "CLIP model", WAY_OUT) from error
        problem = f"cannot be loaded ({first_line(error)})"
        raise LibraryError(f"CLIP model {name_or_path} {problem}; {WAY_OUT}") from error
    tokens, side = clip.config.text_config.vocab_size, clip.config.vision_config.image_size
    if len(tokenizer) != tokens:  # 5.x makes an empty tokenizer where there is no vocab.json
        problem = f"its tokenizer knows {len(tokenizer)} tokens, its text tower {tokens}"
        raise UserError(f"CLIP model {name_or_path}: {problem}; {WAY_OUT}")
    if side != SIZE:
        raise UserError(f"CLIP model {name_or_path}: takes {side} pixels a side; choose one of {SIZE}")
    missing = [name for name in info["missing_keys"] if not name.endswith("position_ids")]
    missing += map(str, info["mismatched_keys"])
    if missing:
        raise UserError(f"CLIP model {name_or_path}: missing or differing weights:\n{shortened(missing)}")
    return clip.float(), {key: tokenizer(list(sentences))["input_ids"] for key, sentences in prompts.items()}
