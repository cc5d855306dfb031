import base64
import io

import pytest
from PIL import Image

from backbench.data.thumbnails import thumbnail


@pytest.mark.parametrize(
    ("size", "side", "wanted"),
    [((500, 200), 72, (72, 29)), ((200, 500), 144, (58, 144)), ((30, 20), 72, (30, 20)), ((1, 900), 72, (1, 72))],
)
def test_the_longest_side_shrinks_to_the_limit_and_nothing_grows(size, side, wanted):
    uri = thumbnail(Image.new("RGB", size, (200, 30, 30)), side)
    kind, _, data = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/webp;base64"
    assert (image.format, image.size) == ("WEBP", wanted)
    red, green, blue = image.convert("RGB").getpixel((0, 0))
    assert abs(red - 200) + abs(green - 30) + abs(blue - 30) < 30
