"""Gradients of depthwise convolutions on a CPU, taken in float32 where oneDNN's bfloat16 falls back to slow code."""

from torch import bfloat16, ops
from torch.utils._python_dispatch import TorchDispatchMode

_backward = ops.aten.convolution_backward.default

INPUT, WEIGHT, BIAS = 0, 1, 2
"""Positions of the three gradients in the result of ``convolution_backward``."""


class FastDepthwise(TorchDispatchMode):
    """A context that computes the slow bfloat16 gradients of depthwise convolutions in float32, and rounds them.

    The input's gradient is slow from stride 2 on, and the weight's gradient from kernel size 5 on. For the shapes of
    EfficientNet-Lite0 at 224 pixels they take 3 to 76 times and 3 to 6 times as long as in float32. Together they take
    two thirds of a training step (torch 2.14.1, 2 cores with AVX-512 bfloat16). All other operations are unchanged.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is not _backward or args[0].dtype != bfloat16:
            return func(*args, **(kwargs or {}))
        gradient, x, weight, bias_sizes, stride, *options, mask = args
        slow = [False, False, False]
        if weight.shape[1] == 1 and weight.shape[0] == x.shape[1]:
            slow[INPUT] = mask[INPUT] and max(stride) > 1
            slow[WEIGHT] = mask[WEIGHT] and max(weight.shape[2:]) > 3
            slow[BIAS] = mask[BIAS] and slow[WEIGHT]  # oneDNN computes the two together, asked or not
        fast = [asked and not taken for asked, taken in zip(mask, slow, strict=True)]
        found = func(gradient, x, weight, bias_sizes, stride, *options, fast) if any(fast) else [None] * 3
        if not any(slow):
            return found
        exact = func(gradient.float(), x.float(), weight.float(), bias_sizes, stride, *options, slow)
        return tuple(b.to(bfloat16) if taken else a for a, b, taken in zip(found, exact, slow, strict=True))
