"""Say what images show, by model.onnx, which lies beside this file: python classify.py IMAGE..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
how = about["preprocessing"]


def pixels(path):
    image = ImageOps.exif_transpose(Image.open(path)) if how["exif"] == "apply" else Image.open(path)
    if image.has_transparency_data:  # it is laid on white
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    (height, width), (tall, wide) = how["input_size"][1:], how["resized"]
    sides = (wide, tall) if how["crop_mode"] == "squash" else [int(wide * n / min(image.size)) for n in image.size]
    image = image.convert("RGB").resize(sides, Image.Resampling[how["interpolation"].upper()])
    left, top = (round((a - b) / 2) if a > b else (a - b + 1) // 2 for a, b in zip(sides, (width, height), strict=True))
    return np.asarray(image.crop((left, top, left + width, top + height)))


for path in sys.argv[1:]:
    probability = session.run(["probabilities"], {"pixels": pixels(path)[None]})[0][0]
    print(path, about["classes"][probability.argmax()], f"{probability.max():.3f}", sep="\t")
