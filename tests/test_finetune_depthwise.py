"""Gradients of depthwise convolutions: in float32 where bfloat16's are slow, untouched everywhere else."""

import pytest
import torch

from backbench.finetune.depthwise import FastDepthwise


def gradients(kernel: int, stride: int, groups: int, *, dtype=torch.bfloat16, outside: int = 24, mask=(True, True)):
    """Of input, weight and bias, for inputs that bfloat16 holds exactly."""
    torch.manual_seed(0)
    pad = kernel // 2
    x, weight = torch.randn(4, 24, 17, 17).bfloat16(), torch.randn(outside, 24 // groups, kernel, kernel).bfloat16()
    y = torch.nn.functional.conv2d(x, weight, stride=stride, padding=pad, groups=groups)
    tensors = [
        t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (torch.randn(y.shape).bfloat16(), x, weight)
    ]
    how = ([outside], [stride, stride], [pad, pad], [1, 1], False, [0, 0], groups, [*mask, True])
    return torch.ops.aten.convolution_backward(*tensors, *how)


def equal(a, b) -> bool:
    return a is b is None or (a.dtype == b.dtype and torch.equal(a, b))


@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "outside", "exact"),
    [
        (3, 1, 24, 24, (False, False)),
        (3, 2, 24, 24, (True, False)),
        (5, 1, 24, 24, (False, True)),
        (7, 2, 24, 24, (True, True)),
        (5, 2, 1, 24, (False, False)),
        (5, 2, 12, 24, (False, False)),  # grouped, not depthwise
        (3, 2, 24, 48, (False, False)),  # two filters a channel
    ],
)
def test_only_the_slow_ones_are_float32s_rounded(kernel, stride, groups, outside, exact):
    shape = {"outside": outside}
    plain = gradients(kernel, stride, groups, **shape)
    true = [g.bfloat16() for g in gradients(kernel, stride, groups, dtype=torch.float32, **shape)]
    with FastDepthwise():
        found = gradients(kernel, stride, groups, **shape)
    for place, of in enumerate((*exact, exact[1])):  # a bias's comes with the weight's
        assert equal(found[place], (true if of else plain)[place])


def test_what_is_not_asked_for_is_not_computed():
    with FastDepthwise():
        x, weight, _ = gradients(5, 2, 24, mask=(False, True))
    assert x is None
    assert weight is not None


def test_float32_stays_as_it_is():
    plain = gradients(5, 2, 24, dtype=torch.float32)
    with FastDepthwise():
        found = gradients(5, 2, 24, dtype=torch.float32)
    assert all(map(equal, found, plain))
