"""tools/export_onnx.py: onnxruntime computes what the stock model computes."""

from importlib.util import find_spec

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from toys import lively, plain, query_detector, save, two_stage

from mmkd.testing import toy_distiller, toy_model

ABSENT = find_spec('onnxruntime') is None
needs_onnx = pytest.mark.skipif(ABSENT, reason="the extra 'onnx' is not installed")


@pytest.fixture
def export(load_tool):
    """A function that runs the tool in this process and gives its exit code."""
    tool, common = load_tool('export_onnx'), load_tool('_common')
    return lambda *words: common.run_tool(tool.main, tool.parse_args([str(w) for w in words]))


def written(kind: str, folder, model: dict):
    """A config of a model, a checkpoint of its student, and the student."""
    init_default_scope(f'mm{kind}')
    student = lively(MODELS.build(toy_model(kind))).eval()
    if kind == 'det':  # box deltas of about 1, as a trained head's; anchors are up to 512 wide
        student.bbox_head.retina_reg.weight.data /= 100
    config = folder / 'model.py'
    Config(dict(model=model, default_scope=f'mm{kind}')).dump(str(config))
    return [config, save(student, folder / 'weights.pth')], student


def run(path, images: torch.Tensor) -> dict[str, torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, dict(images=images.numpy()))
    return {name: torch.from_numpy(values) for name, values in zip(names, found)}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(1))


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Up to the rounding of float32, which counts by the largest value where terms cancel."""
    difference = (found - expected).abs().max()
    return found.shape == expected.shape and difference <= 1e-5 * expected.abs().max()


@needs_onnx
def test_detector_of_a_distillation_gives_raw_maps_that_stock_decodes(export, tmp_path, capsys):
    files, student = written('det', tmp_path, toy_distiller('det'))
    out = tmp_path / 'new' / 'detector.onnx'
    assert export(*files, out, '--shape', 64, 96) == 0
    assert 'onnxruntime against torch' in capsys.readouterr().out
    images = noise(64, 96)
    found = run(out, images)
    assert list(found) == [f'{kind}_{level}' for kind in ('cls', 'box') for level in range(5)]
    with torch.no_grad():
        cls, box = student(images, mode='tensor')
    for name, expected in zip(found, [*cls, *box], strict=True):
        assert same(found[name], expected), name

    maps = list(found.values())
    metas = [dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))]
    decode = student.bbox_head.predict_by_feat
    (ours,) = decode(maps[:5], maps[5:], batch_img_metas=metas)
    (theirs,) = decode(cls, box, batch_img_metas=metas)
    assert len(theirs)
    assert same(ours.bboxes, theirs.bboxes) and torch.equal(ours.labels, theirs.labels)
    assert [p.name for p in out.parent.iterdir()] == ['detector.onnx']


@needs_onnx
def test_segmentor_gives_logits_at_the_size_of_the_image(export, tmp_path):
    psp = toy_model('seg')
    # 3 does not divide the 8 cells of a side, which the older exporter refuses
    psp.decode_head = dict(type='PSPHead', pool_scales=(1, 3), num_classes=3, channels=8,
                           in_channels=32, in_index=3, norm_cfg=dict(type='BN'))  # fmt: skip
    init_default_scope('mmseg')
    student = lively(MODELS.build(psp)).eval()
    Config(dict(model=psp, default_scope='mmseg')).dump(str(tmp_path / 'psp.py'))
    files = [tmp_path / 'psp.py', save(student, tmp_path / 'psp.pth')]
    assert export(*files, tmp_path / 'psp.onnx', '--shape', 64, 64) == 0
    images = noise(64, 64)
    (logits,) = run(tmp_path / 'psp.onnx', images).values()
    with torch.no_grad():
        (sample,) = student.predict(images)
    assert same(logits[0], sample.seg_logits.data)
    assert export(*files, tmp_path / 'psp.onnx', '--shape', 64, 64) == 1


@needs_onnx
def test_what_it_cannot_export(export, tmp_path, capsys):
    files, _ = written('det', tmp_path, toy_model('det'))
    assert export(*files, tmp_path / 'x.pth', '--shape', 64, 64) == 1
    assert 'OUT must end in .onnx' in capsys.readouterr().err


@pytest.mark.parametrize('make, name', [(two_stage, 'FasterRCNN'), (query_detector, 'DINO')])
def test_half_a_detector_is_not_written(make, name, load_tool):
    network = load_tool('export_onnx').Network(plain(make()))
    with pytest.raises(ValueError, match=f'{name} cannot be exported'):
        network(noise(64, 64))


@pytest.mark.skipif(not ABSENT, reason="the extra 'onnx' is installed")
def test_without_the_extra_one_line_says_so(export, tmp_path, capsys):
    assert export('c.py', 'w.pth', tmp_path / 'x.onnx', '--shape', 64, 64) == 1
    assert "onnxruntime, onnxscript not installed: pip install -e '.[onnx]'" in (
        capsys.readouterr().err
    )
