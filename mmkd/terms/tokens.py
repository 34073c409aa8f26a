"""Tokens of a vision transformer as maps."""

from torch import Size, Tensor

_PATCHES = range(1, 33)  # pixels
_MOST_EXTRA = 8  # class and register tokens


class TokenGrid:
    """Where the tokens ``[B, N, C]`` of one tap lie on the images: the true grid of patches.

    The patch is found in the dry run: one that divides its images and leaves the fewest tokens
    over. Other images then have ``ceil(H / patch)`` x ``ceil(W / patch)`` tokens, row by row. Those
    left over (class and register tokens) come first and are dropped. What is no such grid, the
    queries of a decoder say, stays as it is.

    Args:
        x: what the tap gave in the dry run.
        canvas: height and width of the dry run's images in pixels.
    """

    def __init__(self, x: Tensor, canvas) -> None:
        found = []
        for patch in _PATCHES if x.dim() == 3 else ():
            extra = x.shape[1] - _size(patch, canvas).numel()
            if 0 <= extra <= _MOST_EXTRA and not any(side % patch for side in canvas):
                found.append((extra, patch))
        self.extra, self.patch = min(found, default=(0, None))

    def __call__(self, x: Tensor, canvas) -> Tensor:
        """``[B, N, C] -> [B, C, h, w]`` of images of this height and width; maps as they are.

        Raises:
            ValueError: if these images have another number of tokens than patches.
        """
        if self.patch is None:
            return x
        size = _size(self.patch, canvas)
        if x.shape[1] != size.numel() + self.extra:
            raise ValueError(
                f'a tap gives {x.shape[1]} tokens on images of {canvas[0]}x{canvas[1]} pixels, but '
                f'{size[0]}x{size[1]} patches of {self.patch} and {self.extra} more are '
                f'{size.numel() + self.extra}; tap a module that returns maps'
            )
        return x[:, self.extra :].transpose(1, 2).unflatten(2, size)


def _size(patch: int, canvas) -> Size:
    return Size(-(-side // patch) for side in canvas)
