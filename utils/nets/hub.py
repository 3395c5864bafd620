"""The Hugging Face hub: files of its repositories, from its local cache or fetched into it."""

import functools
import os
from multiprocessing.pool import ThreadPool

from utils.base.errors import UserError, first_line

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # of a checkpoint that is a folder
BEST = "best.pt"  # in the folder of a version
FILE_ENDS = (".pth", ".pt", ".bin", ".safetensors", ".onnx", ".tar", ".ckpt")
CLIP_MODEL = "patrickjohncyh/fashion-clip"  # the hub's FashionCLIP
ZERO_SHOT = "zero-shot"  # in place of a checkpoint: FashionCLIP as it comes
STUDENT = "tiny_vit_5m_224"  # timm's name of the recipe's backbone
ANSWERS_WITHIN = 5  # seconds, the hub


def is_hub_id(name):
    """Whether a name has the form `owner/name`, and is not a file's."""
    return name.count("/") == 1 and name[0] not in "./~" and name[-1] != "/" and not name.endswith(FILE_ENDS)


@functools.lru_cache(maxsize=None)
def silence():
    """Why the hub does not answer, on one line; "" if it does. It is asked once, for a few seconds: its own client, and that of
    transformers, would try again for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        with ThreadPool(1) as pool:  # since the lookup of a name takes no timeout
            reply = pool.apply_async(get_session().head, [constants.ENDPOINT], {"timeout": ANSWERS_WITHIN})
            reply.get(ANSWERS_WITHIN)
    except Exception as error:  # the hub client's, the HTTP library's or the system's, which says most
        while error.__context__:
            error = error.__context__
        return f"{constants.ENDPOINT} does not answer: {first_line(error)}"
    return ""


def out_of_reach(hub_id, names, what, way_out):
    """The UserError for files of a repository that are not in the cache while the hub is silent. Args: as of `fetch`."""
    command = f"hf download {hub_id} {' '.join(names)} --local-dir {hub_id.rpartition('/')[2]}"
    problem = f"{what} {hub_id} cannot be fetched ({silence()})"
    return UserError(f"{problem}; elsewhere, `{command}` makes a folder to copy to this machine; {way_out}")


def fetch(hub_id, names, what, way_out, needed=()):
    """Path of the first of the files `names` that a hub repository has; without a network, that the cache has.

    Args: `what`, such as "checkpoint", with which an error's line begins, and the `way_out`, with which it ends; files that are
        `needed`, if these are more than the first of the names.
    Raises: UserError if it has none of them, is none, or cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    reason, is_silent = f"it holds no {' and no '.join(names)}", bool(silence())
    try:
        for name in names:
            try:
                return hf_hub_download(hub_id, name, local_files_only=is_silent)
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError) and not is_silent:  # the network has gone
                    raise
    except RepositoryNotFoundError:
        reason = "there is no such repository, or it is not public"
    except Exception as error:  # the hub client's, the HTTP library's or the system's
        reason = first_line(error)
    if is_silent:
        raise out_of_reach(hub_id, needed or names[:1], what, way_out)
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
    found = [fetch(path, [name], "checkpoint", way_out, [CONFIG, WEIGHTS]) for name in (CONFIG, WEIGHTS)]
    return os.path.dirname(found[-1])


def weights_file(path):
    """The file with the weights of a checkpoint that `find_checkpoint` takes."""
    found = find_checkpoint(path)
    return os.path.join(found, WEIGHTS) if os.path.isdir(found) else found
