"""The Hugging Face hub: files of its repositories, from its local cache or fetched into it."""

import os

from utils.base.errors import UserError, first_line

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # of a checkpoint that is a folder
BEST = "best.pt"  # in the folder of a version
FILE_ENDS = (".pth", ".pt", ".bin", ".safetensors", ".onnx", ".tar", ".ckpt")
CLIP_MODEL = "patrickjohncyh/fashion-clip"  # the hub's FashionCLIP
ZERO_SHOT = "zero-shot"  # in place of a checkpoint: FashionCLIP as it comes
STUDENT = "tiny_vit_5m_224"  # timm's name of the recipe's backbone


def is_hub_id(name):
    """Whether a name has the form `owner/name`, and is not a file's."""
    return name.count("/") == 1 and name[0] not in "./~" and name[-1] != "/" and not name.endswith(FILE_ENDS)


def fetch(hub_id, names, what, way_out):
    """Path of the first of the files `names` that a hub repository has.

    Raises: UserError if it has none of them, is none, or cannot be reached. Its line begins with `what`, such as
        "checkpoint", and ends with the `way_out`.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    reason = f"it holds no {' and no '.join(names)}"
    try:
        for name in names:
            try:
                return hf_hub_download(hub_id, name)
            except LocalEntryNotFoundError:  # no network: a kind of the next, but no answer about the file
                raise
            except EntryNotFoundError:
                continue
    except RepositoryNotFoundError:
        reason = "there is no such repository, or it is not public"
    except Exception as error:  # without a network: the hub client's, the HTTP library's or the system's
        reason = first_line(error)
    raise UserError(f"{what} {hub_id} cannot be fetched from the hub ({reason}); {way_out}")


def find_checkpoint(path):
    """A checkpoint's local path: a file, or a folder to share, as it is; of a version's folder its best.pt; and of
    `owner/name` the folder that the hub's is kept in."""
    best = os.path.join(path, BEST)
    if os.path.isfile(best):
        return best
    if os.path.exists(path) or not is_hub_id(path):
        return path
    way_out = "there is no file or folder of that name either; name one"
    fetch(path, [CONFIG], "checkpoint", way_out)
    return os.path.dirname(fetch(path, [WEIGHTS], "checkpoint", way_out))


def weights_file(path):
    """The file with the weights of a checkpoint that `find_checkpoint` takes."""
    found = find_checkpoint(path)
    return os.path.join(found, WEIGHTS) if os.path.isdir(found) else found
