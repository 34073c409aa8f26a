"""One step of everything at once: a term on features, one on predictions, an exit; and its end."""

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from toys import batch_for, distil, plain, random_teacher, total


def takes_a_step(
    student: dict,
    teacher: dict,
    tap: str,
    early: str,
    teacher_tap: str | None = None,
    side: int = 64,
) -> torch.nn.Module:
    """Distils, steps, predicts, and loads the result into the stock student.

    Args:
        student: config of the student.
        teacher: config of the teacher.
        tap: of the features.
        early: tap of the exit.
        teacher_tap: where it differs.
        side: of the images in pixels.
    """
    kind = 'DenseExit' if 'bbox_head' in student else 'SegExit'
    student, teacher = ConfigDict(student), ConfigDict(teacher)
    model = distil(
        student, teacher=random_teacher(teacher), exits=dict(early=dict(type=kind, tap=early)),
        terms=dict(
            kd=dict(type='LogitKD'),
            f=dict(type='FeatureKD', tap=tap, teacher_tap=teacher_tap),
        ),
    )  # fmt: skip
    inputs, samples = batch_for(model, shapes=((side, side),) * 2)
    for sample in samples:
        if 'gt_sem_seg' in sample:  # PIDNet learns edges too
            sample.gt_edge_map = PixelData(data=torch.zeros_like(sample.gt_sem_seg.data))
    losses = model.loss(inputs, samples)
    trained = [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith('distillation.')
    ]
    assert [part.name for part in model.distillation.parts] == ['kd', 'f', 'early']
    for part in model.distillation.parts:
        own = [x for name, x in losses.items() if name.startswith(f'{part.name}.')]
        assert own and all(x.isfinite() for x in own) and sum(own) > 0, part.name
        gradients = torch.autograd.grad(sum(own), trained, retain_graph=True, allow_unused=True)
        squares = torch.stack([g.square().sum() for g in gradients if g is not None])
        assert squares.isfinite().all() and squares.sum() > 0, part.name
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    total(losses).backward()
    optimizer.step()
    model.eval()
    stock = plain(student, seed=7).eval()
    stock.load_state_dict(model.state_dict(), strict=True)
    found = []
    for each in (model, stock):
        torch.manual_seed(0)  # some heads draw in prediction
        with torch.no_grad():
            found.append(each.predict(inputs, [sample.clone() for sample in samples]))
    field = 'pred_instances' if 'bbox_head' in student else 'seg_logits'
    for ours, theirs in zip(*found, strict=True):
        first, second = (getattr(x, field) for x in (ours, theirs))
        for name, value in first.items():
            value = getattr(value, 'tensor', value)  # of boxes
            other = getattr(second.get(name), 'tensor', second.get(name))
            assert value.isfinite().all() and torch.equal(value, other), name
    return model
