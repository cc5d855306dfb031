"""The images that features were made from, by the rows of the feature file."""

from pathlib import Path

import numpy as np
from PIL import Image

from backbench import UserError
from backbench.data import of_features


class Images:
    """The images of a data set, by the rows of a feature file that was made from it, whose ``ids`` (N,) are given."""

    def __init__(self, imageset, ids: list[str]):
        self.imageset, self.ids = imageset, ids
        self.place = {id: i for i, id in enumerate(imageset.ids)}

    @classmethod
    def of(cls, file, name: str | None, *, data_root: Path) -> "Images":
        """Find those of a feature file. Raises UserError where its data set isn't there, or isn't as it was."""
        more = [] if name is None else [name]
        return cls(of_features.load(file.identity, more, data_root=data_root, kept=file.path.parent), file.ids)

    def array(self, row: int) -> np.ndarray:
        """Read the image of a row as pixels (H, W, 3) uint8. Thread safe. Raises UserError where it can't be read."""
        return self.of_id(self.ids[row])

    def image(self, id: str) -> Image.Image:
        """Read an image by its id, as PIL RGB."""
        return Image.fromarray(self.of_id(id))

    def of_id(self, id: str) -> np.ndarray:
        """Read an image by its id, as ``array`` does."""
        if id not in self.place:
            raise UserError(f"{id} is not in {self.imageset.name}")
        found = self.imageset.array(self.place[id])
        assert found is not None  # only contents that were asked for to be passed over give None
        return found
