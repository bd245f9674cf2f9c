"""A multilayer perceptron."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ..schema import model as schema


class MLP(nn.Sequential):
    """Linear layers with ReLU (and dropout) between them."""

    def __init__(self, node: schema.MLP) -> None:
        if len(node.sizes) < 2:
            raise ValueError(f"model.sizes={node.sizes} needs at least an input and an output size")
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(node.sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            if node.dropout:
                layers.append(nn.Dropout(node.dropout))
        while not isinstance(layers[-1], nn.Linear):
            layers.pop()
        super().__init__(*layers)
