"""The networks of Tables 1 and 3 by name. The other tables vary options: kernel_size, position, content, stem_values.

The baseline `resnet26` has 1, 2, 4, 1 blocks, as in the paper; timm's network of that name differs.
"""

from typing import Any

LAYERS = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3)}

VARIANTS: dict[str, dict[str, Any]] = {}
for _depth, _layers in LAYERS.items():
    VARIANTS[f"resnet{_depth}"] = {"layers": _layers, "stem": "conv", "groups": "cccc"}
    VARIANTS[f"sasa_resnet{_depth}_convstem"] = {"layers": _layers, "stem": "conv", "groups": "aaaa"}
    VARIANTS[f"sasa_resnet{_depth}"] = {"layers": _layers, "stem": "attention", "groups": "aaaa"}

# Table 3: groups of convolution (c) and of attention (a), all with the convolutional stem. Its first row is
# sasa_resnet50_convstem and its fifth row resnet50.
for _name, _groups in {
    "c1a234": "caaa",
    "c12a34": "ccaa",
    "c123a4": "ccca",
    "c234a1": "accc",
    "c34a12": "aacc",
    "c4a123": "aaac",
}.items():
    VARIANTS[f"sasa_resnet50_{_name}"] = {"layers": LAYERS[50], "stem": "conv", "groups": _groups}
