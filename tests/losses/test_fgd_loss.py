import pytest
import torch
from plain_maths import attentions, cells, linear, masked, mean, randomised, softmax

from mmkd.losses import FGDLoss
from mmkd.losses.functional import object_weights

RATIOS = dict(tau=0.5, alpha=0.3, beta=0.2, gamma=0.7, lambda_=0.1)


def prepared(channels, **arguments):
    loss = FGDLoss(**arguments)
    loss.prepare(torch.zeros(1, channels, 1, 1), torch.zeros(1, channels, 1, 1))
    return loss


def weights(boxes, canvas, mask):
    """Objects and background of one image, cell by cell."""
    height, width = len(mask), len(mask[0])
    objects = [[0.0] * width for _ in range(height)]
    for x1, y1, x2, y2 in boxes:
        own = []
        for i, j in cells(mask):
            # a cell's far edge lies beyond the floor of the first corner, and so on
            left, top = j * canvas[1] / width, i * canvas[0] / height
            step_x, step_y = canvas[1] / width, canvas[0] / height
            if x1 - step_x < left < x2 + step_x and y1 - step_y < top < y2 + step_y:
                own.append((i, j))
        for i, j in own:
            objects[i][j] = max(objects[i][j], 1 / len(own))
    rest = [(i, j) for i, j in cells(mask) if objects[i][j] == 0]
    background = [
        [1 / len(rest) if (i, j) in rest else 0.0 for j in range(width)] for i in range(height)
    ]
    return objects, background


def related(image, block, own):
    scores = [linear([plane[i][j] for plane in image], as_linear(block.attend))[0] for i, j in own]
    context = [sum(p * plane[i][j] for p, (i, j) in zip(softmax(scores), own)) for plane in image]
    hidden = linear(context, block.squeeze)
    centre = mean(hidden)
    spread = (mean((v - centre) ** 2 for v in hidden) + 1e-5) ** 0.5
    scale, shift = block.norm.weight.double().tolist(), block.norm.bias.double().tolist()
    hidden = [(v - centre) / spread * a + b for v, a, b in zip(hidden, scale, shift)]
    added = linear([max(v, 0.0) for v in hidden], block.expand)
    return [[[v + a for v in row] for row in plane] for plane, a in zip(image, added)]


def as_linear(layer):
    flat = torch.nn.Linear(layer.in_channels, layer.out_channels)
    flat.weight.data, flat.bias.data = layer.weight.data[:, :, 0, 0], layer.bias.data
    return flat


def fgd(loss, boxes, canvas, mask):
    def reference(student, teacher):
        total = 0.0
        student, teacher = masked(student, mask), masked(teacher, mask)
        for s, t, own_boxes, m in zip(student, teacher, boxes, mask):
            own = cells(m)
            if not own:
                continue
            objects, background = weights(own_boxes, canvas, m)
            (space_s, depth_s), (space_t, depth_t) = (attentions(x, own, 0.5) for x in (s, t))
            relation = related(s, loss.relate_student, own), related(t, loss.relate_teacher, own)
            for n, (i, j) in enumerate(own):
                focus = 0.3 * objects[i][j] + 0.2 * background[i][j]
                for c in range(len(s)):
                    gap = (s[c][i][j] - t[c][i][j]) ** 2
                    total += focus * space_t[n] * depth_t[c] * gap
                    total += 0.1 * (relation[0][c][i][j] - relation[1][c][i][j]) ** 2
                total += 0.7 * abs(space_s[n] - space_t[n])
            total += 0.7 * sum(abs(a - b) for a, b in zip(depth_s, depth_t))
        return total / len(student)

    return reference


BOXES = [[[1.0, 2.0, 10.0, 9.0], [9.0, 3.0, 22.0, 14.0]], []]


@pytest.mark.parametrize('with_mask', [False, True])
def test_against_python(agrees_with, with_mask):
    mask = torch.ones(2, 2, 3)
    if with_mask:
        mask[0, :, 2] = mask[1] = 0
        mask[0, 1, 0] = 0
    loss = randomised(prepared(4, **RATIOS))
    boxes = [torch.tensor(own).reshape(-1, 4) for own in BOXES]
    context = dict(boxes=boxes, canvas=(16, 24), mask=mask if with_mask else None)
    agrees_with(
        lambda s, t: loss.to(s.dtype)(s, t, **context),
        fgd(loss, BOXES, (16, 24), mask.tolist()),
        torch.randn(2, 4, 2, 3),
        torch.randn(2, 4, 2, 3),
    )


def test_objects_written_out():
    # 8 pixels a cell: the first box has columns 0 to 2 and row 0 to 1, the second column 2 to 3.
    boxes = [torch.tensor([[4.0, 0.0, 12.0, 8.0], [16.0, 9.0, 24.0, 10.0]]), torch.zeros(0, 4)]
    objects, background = object_weights(boxes, (16, 32), torch.ones(2, 1, 2, 4))
    # the second: row 1 to 2, of which the map has one
    expected = torch.tensor([[1 / 6, 1 / 6, 1 / 6, 0], [1 / 6, 1 / 6, 1 / 2, 1 / 2]])
    torch.testing.assert_close(objects[0, 0], expected)
    torch.testing.assert_close(background[0, 0], torch.tensor([[0, 0, 0, 1.0], [0, 0, 0, 0]]))
    assert not objects[1].any()
    torch.testing.assert_close(background[1], torch.full((1, 2, 4), 1 / 8))


def test_padding_does_not_stretch_the_objects():
    """A batch's smaller image: cells lie where the padded canvas has them."""
    box = torch.tensor([[32.0, 0.0, 47.0, 15.0]])
    weight = torch.ones(1, 1, 4, 8)
    weight[..., 4:] = 0  # the image is 32 x 32 of a canvas of 32 x 64
    objects, background = object_weights([box], (32, 64), weight)
    assert not objects.any()  # its first cell is the padding's first
    torch.testing.assert_close(background, weight / 16)
    objects, _ = object_weights([box - 8], (32, 64), weight)
    assert objects[0, 0].nonzero().tolist() == [[0, 3], [1, 3]]


def test_many_boxes_take_the_smallest():
    side = torch.rand(200) * 30 + 2
    corner = torch.rand(200, 2) * 32
    boxes = torch.cat([corner, corner + side[:, None]], 1)
    mask = torch.ones(1, 1, 8, 8)
    objects, background = object_weights([boxes], (64, 64), mask)
    expected = weights(boxes.tolist(), (64, 64), mask[0, 0].tolist())
    torch.testing.assert_close(objects[0, 0], torch.tensor(expected[0]))
    torch.testing.assert_close(background[0, 0], torch.tensor(expected[1]))


def test_without_objects_only_background_teaches():
    loss = prepared(2, alpha=5.0, beta=1.0, gamma=0.0, lambda_=0.0)
    student, teacher = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    boxes = [torch.zeros(0, 4)]
    # Uniform attention is 1; each cell weighs 1/4 and differs by 1 in 2 channels.
    assert loss(student, teacher, boxes=boxes, canvas=(16, 16)).item() == pytest.approx(2.0)


def test_equal_maps_teach_nothing_at_the_start():
    loss, x = prepared(4), torch.randn(2, 4, 5, 6)
    boxes = [torch.tensor([[3.0, 3.0, 20.0, 30.0]])] * 2
    assert loss(x, x, boxes=boxes, canvas=(40, 48)).item() == 0


def test_masked_map_equals_the_cropped_map():
    loss = randomised(prepared(3, **RATIOS))
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    mask = torch.zeros(2, 4, 6)
    mask[:, :3, :4] = 1
    boxes = [torch.tensor([[3.0, 2.0, 31.0, 17.0]]), torch.tensor([[0.0, 9.0, 14.0, 24.0]])]
    torch.testing.assert_close(
        loss(student, teacher, mask=mask, boxes=boxes, canvas=(32, 48)),
        loss(student[:, :, :3, :4], teacher[:, :, :3, :4], boxes=boxes, canvas=(24, 32)),
    )


def test_the_teachers_block_is_trained_too():
    loss = prepared(4)
    boxes = [torch.zeros(0, 4)] * 2
    loss(torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), boxes=boxes, canvas=(9, 9)).backward()
    for block in (loss.relate_student, loss.relate_teacher):
        assert block.expand.weight.grad.abs().sum() > 0


def test_bad_argument():
    with pytest.raises(ValueError, match='FGDLoss: tau=0 must be a positive'):
        FGDLoss(tau=0)
