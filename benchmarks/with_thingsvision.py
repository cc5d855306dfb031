"""thingsvision's extractor, for benchmarks/extract.py, run by the Python of an environment that has it.

    PYTHON benchmarks/with_thingsvision.py FOLDER MODEL

It pins torch 2.0.1 (thingsvision 2.7.3), so it can't lie in ours. FOLDER has a folder of images a class; MODEL is
timm's, with random weights. Prints images/s of the pass, without loading.
"""

import contextlib
import sys
import tempfile
import time

from thingsvision import get_extractor
from thingsvision.utils.data import DataLoader, ImageDataset

folder, model = sys.argv[1:]
with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(sys.stderr):
    extractor = get_extractor(model_name=model, source="timm", device="cpu", pretrained=False)
    transforms = extractor.get_transformations(resize_dim=256, crop_dim=224)
    images = ImageDataset(root=folder, out_path=out, backend="pt", transforms=transforms)
    batches = DataLoader(dataset=images, batch_size=32, backend="pt")
    started = time.perf_counter()
    features = extractor.extract_features(
        batches=batches, module_name="global_pool", flatten_acts=True, output_type="ndarray"
    )
    seconds = time.perf_counter() - started
print(len(features) / seconds)
