"""VGG: blocks of 3x3 convolutions and pooling, of 11, 13, 16 or 19 layers with weights.

Source: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
configurations A, B, D and E. The rate falls tenfold when the error stops falling. The paper starts deep
networks from a shallow one's weights; first weights as He et al. draw them need no such start.
"""

from __future__ import annotations

from cconvnet.nets.blocks import vgg_blocks
from cconvnet.nets.builder import image
from cconvnet.nets.recipe import NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

# Convolutions in each block, by the number of layers with weights.
BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
DECAY = 0.0005
RECIPE = TrainRecipe(batch=256, epochs=74, lr=0.01, plateau=5, crop=True, mirror=True)


def build(
    image_shape: Shape = (256, 256, 3), classes: int = 1000, depth: int = 16, bn: bool = False
) -> NetSpec:
    """Return the network for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256.

    `depth` is the number of layers with weights, one of BLOCKS. With `bn` each convolution is normalised.
    """
    h, w, channels = image_shape
    x = image(h * 7 // 8, w * 7 // 8, channels, stored=(h, w), scale=1 / 58)  # a deviation of about 1
    *_, x = vgg_blocks(x, BLOCKS[depth], DECAY, bn)
    for i in (6, 7):
        x = x.fc(4096, weight_decay=DECAY, name=f"fc{i}").relu().dropout(0.5, inverted=True)
    return x.fc(classes, weight_decay=DECAY, name="fc8").softmax(f"vgg{depth}{'-bn' if bn else ''}", RECIPE)
