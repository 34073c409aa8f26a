"""What one of two processes does; the first writes its findings to the file named on the way."""

import json
import sys

import torch
import torch.distributed as dist
import toys
from mmengine.model import MMDistributedDataParallel

FAST = dict(warmup=0)
DENSE = dict(type='DenseExit', tap='neck', schedule=FAST)
CASES = dict(
    retinanet=dict(
        student=toys.detector('RetinaNet'),
        teacher=toys.detector('RetinaNet', 16),
        terms=dict(
            kd=dict(type='LogitKD'),
            mse=dict(type='FeatureKD', tap='neck', loss=dict(type='FeatureMSE')),
            cwd=dict(type='FeatureKD', tap='neck', loss=dict(type='ChannelWiseDivergence')),
        ),
        exits=dict(
            backbone=dict(DENSE, tap='backbone'), down=dict(DENSE, tap='neck.fpn_convs.0:in')
        ),
    ),
    fcn=dict(
        student=toys.segmentor(),
        teacher=toys.segmentor(16),
        terms=dict(
            kd=dict(type='LogitKD'),
            mse=dict(type='FeatureKD', tap='backbone[3]', loss=dict(type='FeatureMSE')),
            cwd=dict(
                type='FeatureKD', tap='backbone[3]', loss=dict(type='ChannelWiseDivergence')
            ),
        ),
        exits=dict(
            backbone=dict(
                type='SegExit', tap='backbone[1:]', weight=[0.1, 0.2, 0.4], dropout=0.0,
                schedule=FAST,
            )
        ),
    ),
    **{
        kind.lower(): dict(
            student=toys.detector(kind),
            teacher=toys.detector(kind, 16),
            terms=dict(kd=dict(type='LogitKD')),
            exits=dict(neck=DENSE),
        )
        for kind in ('FCOS', 'ATSS', 'GFL')
    },
)  # fmt: skip


def batches(case: str) -> dict:
    """The case's concatenated batches of 4 by name."""
    if case == 'fcn':
        return {k: toys.segmentation_batch(v) for k, v in toys.SEGMENTATION_BATCHES.items()}
    return {k: toys.detection_batch(v) for k, v in toys.DETECTION_BATCHES.items()}


def taught(losses: dict, names) -> torch.Tensor:
    """What terms and exits add; the student's own losses count 0, their graph stays."""
    total = 0.0
    for key, value in losses.items():
        if 'loss' in key:
            value = sum(x.mean() for x in value) if isinstance(value, list) else value.mean()
            total = total + (value if key.split('.')[0] in names else value * 0)
    return total


def gradients(model, batch, wrapped=None) -> dict:
    """Every parameter's gradient of what terms and exits add."""
    model.zero_grad()
    model.distillation.shares.start(True)
    inputs, samples = batch
    if wrapped is None:
        losses = model.loss(inputs, samples)
    else:
        losses = wrapped(inputs, samples, mode='loss')
    names = [part.name for part in model.distillation.parts]
    taught(losses, names).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def half(batch) -> tuple:
    """This process's half of a batch."""
    inputs, samples = batch
    mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    return inputs[mine], samples[mine]


def compare(case: str, reference: dict) -> dict:
    """How far two processes are from one, relative to each batch's largest gradient."""
    model = toys.distilled(**CASES[case])
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    found = {}
    for name, batch in batches(case).items():
        mine, one = gradients(model, half(batch), wrapped), reference[name]
        largest = max(float(g.abs().max()) for g in one.values())
        gap = max(float((mine[n] - g).abs().max()) for n, g in one.items())
        silent = [n for n, g in mine.items() if 'distillation' in n and not g.any()]
        found[name] = dict(gap=gap / largest, same=mine.keys() == one.keys(), silent=silent)
    return found


def parts_changed(case: str, **changes) -> dict:
    """The case with the same changes in each term and exit."""
    cfg = dict(CASES[case])
    for kind in ('terms', 'exits'):
        cfg[kind] = {name: dict(part, **changes) for name, part in cfg[kind].items()}
    return cfg


PARTIAL_FEATURE = dict(gt=0.0, kd=0.0, feat=1.0)
TRAININGS = dict(
    on={case: CASES[case] for case in CASES},
    off={case: parts_changed(case, weight=0.0) for case in ('retinanet', 'fcn')},
    scheduled={
        case: parts_changed(case, schedule=dict(begin=1, warmup=0, end=3, fade=0))
        for case in ('retinanet', 'fcn')
    },
    partly_used=dict(
        retinanet=dict(
            CASES['retinanet'],
            exits=dict(
                logits=dict(DENSE, gt=0.0, kd=1.0, kd_losses=dict(loss_bbox=None)),
                feature=dict(DENSE, **PARTIAL_FEATURE),
            ),
        ),
        fcn=dict(
            CASES['fcn'],
            exits=dict(
                feature=dict(CASES['fcn']['exits']['backbone'], **PARTIAL_FEATURE),
            ),
        ),
    ),
)


def train(case: str, cfg: dict) -> list[float]:
    """Five steps under DDP that finds no unused parameters; what the terms and exits added."""
    # the ranks start from other seeds, as a runner's ranks do without one
    model = toys.distilled(**cfg, seed=dist.get_rank())
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    batch = half(next(iter(batches(case).values())))
    names = [part.name for part in model.distillation.parts]
    values = []
    for iteration in range(5):
        model.distillation.iteration = iteration
        total, logged = model.parse_losses(wrapped(*batch, mode='loss'))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(sum(float(v) for k, v in logged.items() if k.split('.')[0] in names))
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    both = [torch.zeros_like(weights) for _ in range(2)]
    dist.all_gather(both, weights)
    assert torch.equal(*both), 'the ranks have drifted apart'
    return values


def attempt(function, *args):
    """What a function returns, or the error it raises."""
    try:
        return function(*args)
    except Exception as error:
        return f'{type(error).__name__}: {error}'


def main() -> None:
    """One process first, then the same in two."""
    torch.set_num_threads(1)
    references = {}
    for case in CASES:
        model = toys.distilled(**CASES[case])
        references[case] = {k: gradients(model, batch) for k, batch in batches(case).items()}
    dist.init_process_group('gloo')
    found = dict(gradients={}, training={})
    for case, reference in references.items():
        found['gradients'][case] = attempt(compare, case, reference)
    for name, cases in TRAININGS.items():
        for case, cfg in cases.items():
            found['training'][f'{name}-{case}'] = attempt(train, case, cfg)
    if dist.get_rank() == 0:
        with open(sys.argv[1], 'w') as file:
            json.dump(found, file)
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
