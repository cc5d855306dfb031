"""Parameters and multiply-adds of the backbones that backbench knows by name: writes report/costs.csv.

    python benchmarks/costs.py

Counted by torch's FlopCounterMode (two FLOPs a multiply-add) on tensors without data, without the classifier, one image
of the size that the weights' own preprocessing gives. report reads the file, since it must not import timm.
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from backbench.extract.names import PACKAGED, STUDY, timm_name

OUT = Path(__file__).parent.parent / "report" / "costs.csv"


def cost(name: str) -> dict:
    """One line of the file."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    size = PACKAGED[name].img_size if name in PACKAGED else None
    timm.layers.set_fused_attn(False)  # attention as plain products, which are counted
    with torch.device("meta"):
        model = timm.create_model(timm_name(name), num_classes=0, **({"img_size": size} if size else {})).eval()
        side = size or timm.data.resolve_model_data_config(model)["input_size"][1]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, side, side))
    parameters = sum(p.numel() for p in model.parameters())
    return {"model": name, "side": side, "parameters": parameters, "macs": counter.get_total_flops() // 2}


def main():
    """Write the file."""
    with OUT.open("w", newline="") as file:
        lines = csv.DictWriter(file, ("model", "side", "parameters", "macs"), lineterminator="\n")
        lines.writeheader()
        lines.writerows(cost(name) for name in (*STUDY, *PACKAGED))


if __name__ == "__main__":
    main()
