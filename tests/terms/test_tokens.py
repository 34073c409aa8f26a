"""Tokens become the map whose patches they are."""

import pytest
import torch
from toys import distil, random_teacher, seg_batch, vit

from mmkd.terms.tap import Capture, Tap
from mmkd.terms.tokens import TokenGrid


@pytest.mark.parametrize('extra', [0, 1, 5])
def test_the_true_grid_of_images_that_are_not_square(extra):
    grid = TokenGrid(torch.zeros(2, 16 + extra, 3), (64, 64))
    tokens = torch.arange(6 + extra).view(1, -1, 1).expand(2, 6 + extra, 3)
    found = grid(tokens, (32, 44))  # 2 rows of 3, the last patch padded
    assert torch.equal(found[1, 2], extra + torch.tensor([[0, 1, 2], [3, 4, 5]]))
    assert found.shape == (2, 3, 2, 3)
    with pytest.raises(
        ValueError, match=f'{6 + extra} tokens on images of 64x64.*4x4 patches of 16'
    ):
        grid(tokens, (64, 64))


@pytest.mark.parametrize('shape', [(2, 100, 8), (2, 900, 8), (100, 2, 8), (2, 8, 4, 4), (2, 8)])
def test_what_is_no_grid_of_patches_stays(shape):
    x = torch.zeros(shape)
    assert TokenGrid(x, (256, 256))(x, (256, 256)) is x


def test_tokens_of_a_layer_teach_as_the_map_that_the_backbone_makes_of_them():
    values = []
    for tap, teacher_tap in (
        ('backbone.layers.1', 'backbone.layers.1'), ('backbone[1]', 'backbone[1]'),
        ('backbone.layers.1', 'backbone[1]'),
    ):  # fmt: skip
        term = dict(type='FeatureKD', tap=tap, teacher_tap=teacher_tap, loss=dict(type='ATLoss'))
        model = distil(vit(), teacher=random_teacher(vit(12)), terms=dict(f=term))
        batch = seg_batch(model, [torch.zeros(32, 64)] * 2, shapes=((32, 64),) * 2)
        assert batch[0].shape[-2:] == (32, 64)
        seen = Capture(model, [Tap.parse('backbone.layers.1')], 'model')
        with seen:
            losses = model.loss(*batch)
        assert seen.calls(Tap.parse('backbone.layers.1'))[0].shape == (2, 1 + 2 * 4, 8)
        values.append(losses['f.loss'].item())
        losses['f.loss'].backward()
        assert model.backbone.layers[0].attn.attn.in_proj_weight.grad.abs().sum() > 0
    assert values[0] > 0
    assert values == pytest.approx([values[0]] * 3)
