"""tools/export_student.py on toy students that a real run trained, and stock use of its files."""

import copy
from pathlib import Path

import cv2
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from safetensors.torch import load_file

from mmkd.testing import (
    CLASSES,
    toy_batch,
    toy_config,
    toy_distiller,
    toy_model,
    train,
    write_toy_data,
)

PALETTE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


class Run:
    """A distillation of 2 steps: its kind, runner, folder and last checkpoint."""

    def __init__(self, kind: str, folder: Path, ema: dict | None) -> None:
        self.kind, self.folder = kind, folder / 'run'
        data = write_toy_data(folder / 'data')
        self.picture = str(data / 'images' / '0.png')
        library = dict(det='Det', seg='Seg')[kind]
        cfg = toy_config(
            kind, data, self.folder, toy_distiller(kind), iters=2, val_interval=2,
            save_interval=2, ema=ema, test_cfg=dict(type='TestLoop'),
            visualizer=dict(
                type=f'{library}LocalVisualizer', name=folder.name,
                vis_backends=[dict(type='LocalVisBackend')],
            ),
        )  # fmt: skip
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.metainfo['palette'] = PALETTE[: len(CLASSES[kind])]
        self.runner, _ = train(cfg)
        self.checkpoint = self.folder / 'iter_2.pth'
        assert (self.folder / 'student.student.py').is_file()


@pytest.fixture(scope='module')
def det(tmp_path_factory) -> Run:
    """A detector with an average."""
    return Run('det', tmp_path_factory.mktemp('det'), dict(update_buffers=True))


@pytest.fixture(scope='module')
def seg(tmp_path_factory) -> Run:
    """A segmentor without."""
    return Run('seg', tmp_path_factory.mktemp('seg'), None)


@pytest.fixture
def export(load_tool):
    """A function that runs the tool in this process and gives its exit code."""
    tool, common = load_tool('export_student'), load_tool('_common')
    return lambda *words: common.run_tool(tool.main, tool.parse_args([str(w) for w in words]))


def stock(config, kind: str, weights):
    init_default_scope(f'mm{kind}')
    model = MODELS.build(Config.fromfile(str(config)).model)
    if weights.suffix == '.safetensors':
        model.load_state_dict(load_file(weights), strict=True)
    else:
        load_checkpoint(model, str(weights), strict=True)
    return model.eval()


def predicted(model) -> list[torch.Tensor]:
    """All that a model predicts on a batch whose pixels no preprocessor has touched."""
    torch.manual_seed(0)
    inputs, samples = toy_batch(model)
    with torch.no_grad():
        found = model.eval().predict(inputs, copy.deepcopy(samples))
    if hasattr(found[0], 'pred_instances'):
        boxes = [sample.pred_instances for sample in found]
        assert all(len(b) for b in boxes)
        return [b[key] for b in boxes for key in ('bboxes', 'scores', 'labels')]
    return [sample.seg_logits.data for sample in found]


def equal(first: list, second: list) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def last_line(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert 'Traceback' not in ''.join(lines)
    return lines[-1]


def averaged(run: Run):
    """The average itself, as the hook of the finished run still has it."""
    (hook,) = [h for h in run.runner.hooks if hasattr(h, 'ema_model')]
    return hook.ema_model.module


def test_detector_exports_the_average_for_the_inferencer(det, export, tmp_path, capsys):
    from mmdet.apis import DetInferencer

    out = tmp_path / 'new' / 'student.pth'
    assert export(det.checkpoint, out) == 0
    printed = capsys.readouterr().out
    model = stock(out.with_suffix('.py'), 'det', out)
    assert equal(predicted(model), predicted(averaged(det)))
    assert not equal(predicted(model), predicted(det.runner.model))
    assert 'the average that EMAHook kept' in printed and 'bit-identical' in printed
    count = sum(p.numel() for p in model.parameters())
    assert f'RetinaNet, {count:,} parameters' in printed
    sizes = [f'{path.stat().st_size / 1e6:.2f} MB' for path in (det.checkpoint, out)]
    assert f'{sizes[0]} -> {sizes[1]}' in printed
    assert out.stat().st_size < det.checkpoint.stat().st_size / 3

    written = torch.load(out, weights_only=True)
    assert set(written) == {'meta', 'state_dict'}
    meta = dict(classes=CLASSES['det'], palette=PALETTE[:2])
    assert written['meta'] == dict(dataset_meta=meta)
    assert 'mmkd' not in out.with_suffix('.py').read_text()
    assert sorted(p.name for p in out.parent.iterdir()) == ['student.pth', 'student.py']

    files = [str(path) for path in (out.with_suffix('.py'), out)]
    inferencer = DetInferencer(*files, device='cpu', show_progress=False)
    assert inferencer.model.dataset_meta == meta
    found = inferencer(det.picture, return_vis=True)
    assert found['visualization'][0].shape == (64, 64, 3)
    pixels = torch.from_numpy(cv2.imread(det.picture)).permute(2, 0, 1)
    shape = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0))
    batch = dict(inputs=[pixels], data_samples=[DetDataSample(metainfo=shape)])
    (ours,) = averaged(det).eval().test_step(batch)
    assert found['predictions'][0]['scores'] == ours.pred_instances.scores.tolist()
    assert found['predictions'][0]['bboxes'] == ours.pred_instances.bboxes.tolist()


def test_the_last_step_as_safetensors_is_a_teacher(det, export, tmp_path, capsys):
    out, config = tmp_path / 'student.safetensors', tmp_path / 'student.py'
    source = tmp_path / 'distillation.py'
    det.runner.cfg.dump(str(source))
    with source.open('a') as file:  # as what a base written `mmkd::...` brings is marked
        file.write("\ntest_dataloader['dataset']['_scope_'] = 'mmkd'\n")
    words = ['--without-ema', '--config', source]
    assert export(det.checkpoint, out, *words) == 0
    assert 'of the last step, without EMA' in capsys.readouterr().out
    assert equal(predicted(stock(config, 'det', out)), predicted(det.runner.model))
    assert 'mmkd' not in config.read_text()

    teacher = dict(config=str(config), checkpoint=str(out))
    distilled = MODELS.build(toy_distiller('det', teacher=teacher))
    distilled.distillation.start(CLASSES['det'])
    (held,) = distilled.distillation.teachers.values()
    assert equal(predicted(held.model), predicted(det.runner.model))
    with pytest.raises(ValueError, match='no class in common'):
        distilled.distillation.start(('green', 'yellow'))


def test_segmentor_in_the_inferencer_and_the_proof_notices_one_bit(
    seg, export, load_tool, tmp_path, capsys
):
    from mmseg.apis import MMSegInferencer

    out, config = tmp_path / 'student.pth', tmp_path / 'student.py'
    assert export(seg.checkpoint, out) == 0
    assert 'no EMA took part' in capsys.readouterr().out
    student = stock(config, 'seg', out)
    assert equal(predicted(student), predicted(seg.runner.model))

    inferencer = MMSegInferencer(str(config), str(out), device='cpu', show_progress=False)
    found = inferencer(seg.picture, return_vis=True)
    assert found['visualization'].shape == (64, 64, 3)
    assert inferencer.model.dataset_meta == dict(classes=CLASSES['seg'], palette=PALETTE)
    pixels = torch.from_numpy(cv2.imread(seg.picture)).permute(2, 0, 1)
    (ours,) = seg.runner.model.eval().test_step(dict(inputs=[pixels]))
    assert torch.equal(torch.from_numpy(found['predictions']), ours.pred_sem_seg.data[0])

    written = torch.load(out, weights_only=True)
    written['state_dict']['decode_head.conv_seg.bias'].view(torch.int32)[0] ^= 1
    torch.save(written, out)
    with pytest.raises(ValueError, match=r'outputs of .* differ .*decode_head\.conv_seg'):
        load_tool('export_student').prove(student, config, out)


def test_what_needs_mmkd_is_not_exported(seg, export, tmp_path, capsys):
    text = (seg.folder / 'student.student.py').read_text()
    (tmp_path / 'needs.py').write_text(text + "custom_imports = dict(imports=['mmkd.hooks'])\n")
    words = ['--config', tmp_path / 'needs.py']
    assert export(seg.checkpoint, tmp_path / 'student.pth', *words) == 1
    assert 'without mmkd the two files give no model' in last_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ['needs.py']


def test_mistakes_are_one_line_and_leave_no_file(det, seg, export, tmp_path, capsys):
    def refused(*words) -> str:
        assert export(*words) == 1
        line = last_line(capsys)
        assert line.startswith('mmkd: error: ')
        return line

    out, source = tmp_path / 'out.pth', seg.checkpoint
    config = seg.folder / 'student.student.py'
    content = source.read_bytes()
    lonely, other = tmp_path / 'lonely.pth', tmp_path / 'det.py'
    lonely.write_bytes(content)
    Config(dict(model=toy_model('det'))).dump(str(other))

    assert "no *.student.py: name the run's config by --config" in refused(lonely, out)
    assert "the config 'gone.py' does not exist" in refused(lonely, out, '--config', 'gone.py')
    assert 'the student cannot be filled' in refused(lonely, out, '--config', other)
    assert 'does not exist' in refused(tmp_path / 'gone.pth', out, '--config', config)
    assert '.safetensors' in refused(source, tmp_path / 'out.onnx')
    assert 'holds no average' in refused(source, out, '--without-ema')
    lonely.write_bytes(content[: len(content) // 2])
    assert 'truncated' in refused(lonely, out, '--config', config)
    torch.save(dict(state_dict=Evil()), lonely)
    assert 'holds code instead of tensors' in refused(lonely, out, '--config', config)
    out.touch()
    assert '--force' in refused(source, out)
    assert out.stat().st_size == 0
    out.unlink()
    (tmp_path / 'out.py').touch()  # a config of the user's own
    assert 'out.py exists' in refused(source, out)
    assert 'is what is to be exported' in refused(source, source, '--force')
    assert source.read_bytes() == content
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ['det.py', 'lonely.pth', 'out.py']


class Evil:
    def __reduce__(self):
        return print, ('run',)


def test_tied_weights_and_what_is_kept_of_the_meta(load_tool, tmp_path):
    tool = load_tool('export_student')
    layer = torch.nn.Linear(2, 2)
    tied = torch.nn.ModuleList([layer, layer])
    tool.write_weights(tmp_path / 'tied.safetensors', tied.state_dict(), {})
    read = load_file(tmp_path / 'tied.safetensors')
    assert torch.equal(read['0.weight'], layer.weight)
    assert torch.equal(read['1.weight'], layer.weight)
    meta = dict(cfg='text', dataset_meta=dict(classes=['a'], palette=object()))
    assert tool.stock_meta(meta) == dict(classes=('a',))
    assert tool.stock_meta({}) == {}
