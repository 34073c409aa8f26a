"""Layers in plain Python on nested lists ``[B][C][H][W]``, and weights for them."""

import math

import torch
from torch import nn


def randomised(module: nn.Module, scale: float = 0.5) -> nn.Module:
    """The module with all of its parameters drawn, so that none of its parts does nothing."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale)
    return module


def values(layer: nn.Module) -> tuple[list, list]:
    """Weight and bias (0 where there is none) as nested lists."""
    weight = layer.weight.double()
    bias = getattr(layer, 'bias', None)
    bias = torch.zeros(len(weight)) if bias is None else bias
    return weight.tolist(), bias.double().flatten().tolist()


def conv(x: list, layer: nn.Module) -> list:
    """A convolution with an odd square kernel, padded with zeros to the same size."""
    weight, bias = values(layer)
    reach = len(weight[0][0]) // 2

    def at(image, kernel, shift, i, j):
        height, width = len(image[0]), len(image[0][0])
        total = shift
        for plane, window in zip(image, kernel):
            for u, row in enumerate(window):
                for v, factor in enumerate(row):
                    y, z = i + u - reach, j + v - reach
                    if 0 <= y < height and 0 <= z < width:
                        total += factor * plane[y][z]
        return total

    return [
        [
            [[at(image, k, b, i, j) for j in range(len(row))] for i, row in enumerate(image[0])]
            for k, b in zip(weight, bias)
        ]
        for image in x
    ]


def linear(x: list, layer: nn.Module) -> list:
    """A vector through a linear layer."""
    return [sum(w * v for w, v in zip(row, x)) + b for row, b in zip(*values(layer))]


def softmax(x: list) -> list:
    exps = [math.exp(v - max(x)) for v in x]
    return [v / sum(exps) for v in exps]


def mean(x) -> float:
    x = list(x)
    return sum(x) / len(x)


def each(f, x: list):
    """``f`` of every number of nested lists."""
    return [each(f, v) for v in x] if isinstance(x, list) else f(x)


def cells(mask: list) -> list[tuple[int, int]]:
    """Where an image's mask ``[H][W]`` is not 0."""
    return [(i, j) for i, row in enumerate(mask) for j, v in enumerate(row) if v]


def masked(x: list, mask: list) -> list:
    """A map that is 0 where the mask ``[B][H][W]`` is."""
    return [
        [[[v if m else 0.0 for v, m in zip(*rows)] for rows in zip(plane, own)] for plane in image]
        for image, own in zip(x, mask)
    ]


def batch_norm(x: list, layer: nn.Module, mask: list) -> list:
    """Standardised over the cells of the batch that count; 0 in the others."""
    weight, bias = layer.weight.double().flatten().tolist(), values(layer)[1]
    out = masked(x, [each(lambda v: 0.0, own) for own in mask])
    for c in range(len(x[0])):
        own = [image[c][i][j] for image, m in zip(x, mask) for i, j in cells(m)]
        centre = mean(own)
        spread = math.sqrt(mean((v - centre) ** 2 for v in own) + 1e-5)
        for image, result, m in zip(x, out, mask):
            for i, j in cells(m):
                result[c][i][j] = (image[c][i][j] - centre) / spread * weight[c] + bias[c]
    return out


def attentions(image: list, own: list[tuple[int, int]], tau: float) -> tuple[list, list]:
    """FGD's and FBKD's attention of an image's cells, and of its channels."""
    channels = range(len(image))
    space = softmax([mean(abs(image[c][i][j]) for c in channels) / tau for i, j in own])
    depth = softmax([mean(abs(image[c][i][j]) for i, j in own) / tau for c in channels])
    return [len(own) * v for v in space], [len(image) * v for v in depth]


def two_levels(x) -> list:
    """Two levels packed in one map, a tensor or nested lists: 4 x 4, and 2 x 2 to its right."""
    if isinstance(x, torch.Tensor):
        return [x[..., :4], x[..., :2, 4:]]
    return [
        [[[row[:4] for row in plane] for plane in image] for image in x],
        [[[row[4:] for row in plane[:2]] for plane in image] for image in x],
    ]
