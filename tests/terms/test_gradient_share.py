"""Weights that hold a share of the gradient: where they settle, when they move, resuming."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from toys import det_batch, detector, distil, random_teacher

from mmkd import testing
from mmkd.terms import GradientShare


def shares_of(runner, name, key='grad_share'):
    return runner.message_hub.get_scalar(f'train/{name}.{key}').data[0]


def held(share, **schedule):
    weight = dict(type='GradientShare', share=share, interval=2, gain=0.3)
    return testing.toy_distiller(
        'seg',
        terms=dict(
            kd=dict(type='LogitKD', weight=weight),
            feature=dict(
                type='FeatureKD', tap='backbone[2:4]', weight=dict(weight, share=share / 2)
            ),
        ),
        exits=dict(stages=dict(type='SegExit', tap='backbone[1:3]', weight=weight, **schedule)),
    )


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return testing.write_toy_data(tmp_path_factory.mktemp('toy'))


def test_terms_and_exits_settle_at_their_share(data, tmp_path):
    model = held(0.2, schedule=dict(warmup=4))
    runner, _ = testing.train(testing.toy_config('seg', data, tmp_path, model, 60))
    for name, share in (('kd', 0.2), ('feature', 0.1), ('stages', 0.2)):
        late = shares_of(runner, name)[-8:]
        assert sum(late) / len(late) == pytest.approx(share, rel=0.25), name
        # and the plain weight of 1 is far from it
        assert abs(shares_of(runner, name)[0] / share - 1) > 0.4, name
    weights = shares_of(runner, 'kd', 'weight')
    controller = runner.model.distillation.parts[0].controller
    assert weights[-1] == pytest.approx(controller.value.item())


def test_the_logged_loss_is_the_weighted_one():
    model = distil(
        detector(), teacher=random_teacher(detector(width=16)),
        terms=dict(f=dict(type='FeatureKD', tap='neck', weight=dict(type='GradientShare'))),
    )  # fmt: skip
    batch = det_batch(model)
    plain = model.loss(*batch)['f.loss']
    model.distillation.parts[0].controller.value.fill_(3.0)
    torch.testing.assert_close(model.loss(*batch)['f.loss'], 3 * plain)


def test_steps_written_out():
    weight = GradientShare(share=0.1, gain=0.5, start=8.0)
    weight.update(None)
    assert weight() == 8
    weight.update(0.4)  # sqrt(1/4)
    assert weight().item() == pytest.approx(4)
    weight.update(0.001)  # sqrt(100) is more than the 2 that is allowed
    assert weight().item() == pytest.approx(8)
    weight.update(0.9)  # sqrt(1/9) is less than 1/2
    assert weight().item() == pytest.approx(4)


def moved_on_a_rank(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    weight = GradientShare(share=0.1, gain=0.5)
    values = []
    for measured in ((0.2, 0.6), (None, 0.4), (None, None)):
        weight.update(measured[rank])
        values.append(weight().item())
    torch.save(values, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_ranks_move_together(tmp_path):
    mp.start_processes(moved_on_a_rank, (str(tmp_path),), nprocs=2, start_method='fork')
    # the mean of 0.2 and 0.6 is 0.4: sqrt(1/4); then 0.4 of one rank alone; then nothing to measure
    for rank in (0, 1):
        assert torch.load(tmp_path / f'{rank}.pt') == pytest.approx([0.5, 0.25, 0.25])


def test_it_rests_during_warm_up_and_resumes_bit_for_bit(data, tmp_path):
    model = held(0.2, schedule=dict(warmup=6))

    def run(folder, iters, **changes):
        cfg = testing.toy_config(
            'seg', data, tmp_path / folder, model, iters, flip=False, save_interval=8, ema={},
            **changes,
        )  # fmt: skip
        cfg.model.student.decode_head.dropout_ratio = 0.1
        return testing.train(cfg)[0]

    whole = run('whole', 16)
    # measured at 1, 3, ..., 15, and moved from 5 on, where the warm-up is over
    weights = shares_of(whole, 'stages', 'weight')
    assert len(weights) == 6 and len({1.0, *weights.tolist()}) == 7
    run('first', 8)
    resumed = run('second', 16, resume=True, load_from=str(tmp_path / 'first' / 'iter_8.pth'))
    states = testing.run_state(whole), testing.run_state(resumed)
    assert any('controller.value' in name for name in states[0])
    assert testing.differences(*states) == []


@pytest.mark.parametrize(
    'weight, message',
    [
        (dict(type='GradientShare', share=1.5), 'share=1.5 must lie between 0 and 1'),
        (dict(type='GradientShare', interval=0), 'interval=0 must be a number of iterations'),
        (dict(type='GradientShare', start=0), 'start=0 must be a positive finite number'),
        (dict(type='GradientShare', gain=2), 'gain=2 must lie between 0 and 1'),
        (dict(type='PKDLoss'), "'PKDLoss' is not a type of weight; write one of GradientShare"),
        (dict(type='GradientShare', shaer=0.1), "unknown argument 'shaer'"),
    ],
)
def test_mistakes_are_one_line(weight, message):
    with pytest.raises(ValueError, match=message) as error:
        distil(
            detector(), teacher=random_teacher(detector()),
            terms=dict(f=dict(type='FeatureKD', tap='neck', weight=weight)),
        )  # fmt: skip
    assert '\n' not in str(error.value)
