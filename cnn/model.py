"""The CIFAR network under its names in timm: ``cnn_small``, ``cnn_base``, ``cnn_large`` and ``cnn_reference``.

Importing this module registers them with timm. README has the figure of the layers and the reason for each. The network
follows K. Jordan (2024), 94 % on CIFAR-10 in 3.29 seconds on a single GPU, arXiv:2404.00498, and its repository
KellerJordan/cifar10-airbench. It is written anew, for images of any size and with timm's interface.
"""

import copy
from dataclasses import dataclass

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

PREFIX = "cnn_"
"""The prefix of these networks' names."""

WHITENING = 2
"""Side in pixels of the patches that the first layer decorrelates. It has 24 filters, two for each of 12 components."""

LEAST_SIDE = 9
"""Smallest side of an image in pixels. Below it the third block has no pixels left."""

FEWEST, ROW = 4, 40
"""Smallest number of images laid side by side, and largest width of their row in pixels, see ``Convolution``."""

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Mean and standard deviation of CIFAR-10's channels, for networks without a data set. Trained ones have their own."""


@dataclass(frozen=True)
class Size:
    """The size of a network: ``widths`` are the channels of its three blocks, ``depth`` the convolutions in each.

    From depth 3 on, blocks have a residual connection.
    """

    widths: tuple[int, int, int]
    depth: int = 2


SIZES = {
    "small": Size((32, 96, 192)),
    "base": Size((64, 256, 256)),
    "large": Size((128, 384, 512), depth=3),
    # airbench94's network, which the benchmark holds ours against.
    "reference": Size((64, 256, 256)),
}


class Convolution(nn.Conv2d):
    """A 3x3 convolution without bias, which starts as the identity on as many channels as its input has.

    In bfloat16 on a CPU, small images are laid side by side with a zero column between, which gives the same result.
    oneDNN's kernels for Intel's AMX take the pixels of one row together, 32 for a gradient of weights. With images 3
    pixels wide they reach a tenth of the processor's peak, and with ten side by side four times that.
    """

    def __init__(self, inside: int, outside: int):
        super().__init__(inside, outside, 3, padding=1, bias=False)
        nn.init.dirac_(self.weight[:inside])

    def forward(self, x):
        (b, c, h, w), k = x.shape, 1
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            k = max((k for k in range(FEWEST, ROW // (w + 1) + 1) if b % k == 0), default=1)
        if k == 1:
            return super().forward(x)
        x = x.permute(0, 2, 3, 1).reshape(b // k, k, h, w, c).transpose(1, 2)
        x = nn.functional.pad(x, (0, 0, 0, 1)).view(b // k, h, k * (w + 1), c)
        x = super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x.reshape(b // k, h, k, w + 1, self.out_channels)[:, :, :, :w].transpose(1, 2)
        return x.reshape(b, h, w, self.out_channels).permute(0, 3, 1, 2)


def norm(width: int, momentum: float) -> nn.BatchNorm2d:
    """Return batch normalisation with a bias only. It needs no learnt scale, since Muon fixes the filters' norms."""
    layer = nn.BatchNorm2d(width, momentum=momentum)
    layer.weight.requires_grad_(False)
    return layer


class Block(nn.Module):
    """Maps (B, C, H, W) to (B, width, H // 2, W // 2): convolution, pooling, norm, GELU; convolution, norm, GELU.

    With depth 3 a third convolution and norm follow, and the block's first activation is added before the last GELU.
    """

    def __init__(self, inside: int, width: int, depth: int, momentum: float):
        super().__init__()
        self.convs = nn.ModuleList([Convolution(inside if k == 0 else width, width) for k in range(depth)])
        self.norms = nn.ModuleList([norm(width, momentum) for _ in range(depth)])

    def forward(self, x):
        x = nn.functional.max_pool2d(self.convs[0](x), 2)
        x = first = nn.functional.gelu(self.norms[0](x))
        for k in range(1, len(self.convs)):
            x = self.norms[k](self.convs[k](x))
            x = nn.functional.gelu(x if k == 1 else x + first)
        return x


class CifarNet(nn.Module):
    """Maps normalised images (B, 3, H, W), with sides of at least ``LEAST_SIDE``, to logits (B, K).

    The first layer's filters are fixed by ``cnn.whitening``, and only its bias trains. The features are max-pooled.
    """

    global_pool = "max"

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        widths: tuple[int, int, int],
        depth: int = 2,
        momentum: float = 0.4,
        global_pool: str = "max",
    ):
        super().__init__()
        if (in_chans, global_pool) != (3, "max"):
            raise ValueError("this network takes colour images and uses max pooling only")
        filters = 2 * in_chans * WHITENING**2
        self.num_classes, self.num_features = num_classes, widths[-1]
        self.head_hidden_size = self.num_features
        self.whiten = nn.Conv2d(in_chans, filters, WHITENING)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)
        inside = (filters, *widths)
        self.blocks = nn.Sequential(*(Block(inside[k], inside[k + 1], depth, momentum) for k in range(3)))
        self.reset_classifier(num_classes)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None):
        """Replace the head by a new linear layer to ``num_classes``; with 0, ``forward`` returns the features."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes, bias=False) if num_classes else nn.Identity()
        if num_classes:
            nn.init.normal_(self.head.weight)

    def forward_features(self, x):
        """Map images (B, 3, H, W) to feature maps (B, D, H', W')."""
        return self.blocks(nn.functional.gelu(self.whiten(x)))

    def forward_head(self, x, pre_logits: bool = False):
        """Map feature maps (B, D, H', W') to logits (B, K) or, with ``pre_logits``, to features (B, D).

        The logits are divided by D, so that the same learning rate fits any width.
        """
        # max keeps the position of the maximum. Compiled in bfloat16, amax's backward looks for the value instead,
        # which was rounded differently, and divides by zero where it finds none (torch 2.14).
        # Channels stay last, as they lie in memory, since the gradients would be slow otherwise.
        x = x.permute(0, 2, 3, 1).flatten(1, 2).max(1).values
        return x if pre_logits or not self.num_classes else self.head(x) / self.num_features

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def _cfg():
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": MEAN,
        "std": STD,
        "first_conv": "whiten",
        "classifier": "head",
    }


default_cfgs = generate_default_cfgs({f"{PREFIX}{size}.untrained": _cfg() for size in SIZES})


def _make(size: str, pretrained: bool, **arguments):
    shape = SIZES[size]
    arguments = {"widths": shape.widths, "depth": shape.depth} | arguments
    return build_model_with_cfg(CifarNet, f"{PREFIX}{size}", pretrained, **arguments)


@register_model
def cnn_small(pretrained: bool = False, **arguments):
    return _make("small", pretrained, **arguments)


@register_model
def cnn_base(pretrained: bool = False, **arguments):
    return _make("base", pretrained, **arguments)


@register_model
def cnn_large(pretrained: bool = False, **arguments):
    return _make("large", pretrained, **arguments)


@register_model
def cnn_reference(pretrained: bool = False, **arguments):
    return _make("reference", pretrained, **arguments)


def forward_macs(model, side: int) -> int:
    """Return the multiply-adds for one image of ``side`` pixels in eval mode, as torch counts them."""
    return training_flops(model, side, backward=False) // 2


def training_flops(model, side: int, *, backward: bool = True) -> int:
    """Return the floating point operations for one image, forward and backward, of convolutions and matrix products.

    They are counted on the meta device, without computing anything.
    """
    from torch.utils.flop_counter import FlopCounterMode

    ghost, images = copy.deepcopy(model).to("meta").train(backward), 2
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        logits = ghost(torch.empty(images, 3, side, side, device="meta"))
        if backward:
            logits.sum().backward()
    return counter.get_total_flops() // images
