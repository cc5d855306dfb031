"""Where and in what number format the forward pass runs."""

from backbench.devices import has_amx

LEAST_COSINE = 0.95
"""Least cosine between the centred float32 and reduced-precision features of an image in the first batch."""


def fastest(device) -> str:
    """The format with matrix units of its own on this device: bfloat16, float16, or float32 where there is none."""
    import torch

    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if device.type == "cpu" and has_amx() else "float32"


def forward(model, batch, precision: str):
    """Features (B, D) float32 of a normalised batch; reduced precision by autocast, weights stay float32."""
    import torch

    if precision == "float32":
        return model(batch)
    with torch.autocast(batch.device.type, getattr(torch, precision)):
        return model(batch).float()


def agreement(model, batch, precision: str) -> float:
    """Least cosine, over the batch, between the centred float32 and ``precision`` features of an image."""
    import torch

    exact, reduced = forward(model, batch, "float32"), forward(model, batch, precision)
    centre = exact.mean(0)
    return torch.cosine_similarity(exact - centre, reduced - centre).nan_to_num(0).min().item()
