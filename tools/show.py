"""Draw what a student predicts beside the labels, the student alone and the teacher.

One sheet for each image, with the errors that distilling mended and made.

Examples:
    ``python tools/show.py CONFIG CHECKPOINT --alone CHECKPOINT_ALONE --index 0 3 7 --out sheets``
    ``python tools/show.py CONFIG CHECKPOINT --image street.jpg --exits --taps backbone[2]``
"""

import argparse
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import mmcv
import torch
from _common import add_shared_arguments, load_config, run_tool
from _show_boxes import Boxes
from _show_depths import MAPS, Seen, exit_panels, tap_panels
from _show_pixels import Pixels
from _show_sheet import Panel, distinct_colours, draw_sheet, fit
from _student import trained_student
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from torch import nn

from mmkd.distillers.checkpoint import Checkpoint, load_strict, read_checkpoint
from mmkd.hooks.distill import student_config
from mmkd.hooks.teacher_visualization import predicting_teachers
from mmkd.registry import build_in_scope


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Draw predictions side by side')
    parser.add_argument('config', help='config file of a distillation or of a stock model')
    parser.add_argument('checkpoint', help='checkpoint of the student')
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument('--index', nargs='+', type=int, help='images of the data, by number; or')
    chosen.add_argument('--image', nargs='+', metavar='FILE', help='images without labels')
    parser.add_argument(
        '--split', choices=['test', 'val'], default='test', help='which data of the config'
    )
    parser.add_argument('--alone', metavar='CHECKPOINT', help='of the student trained alone')
    parser.add_argument('--exits', action='store_true', help='what each exit predicts')
    parser.add_argument(
        '--taps', nargs='+', default=[], metavar='ADDRESS', help='feature maps to draw'
    )
    parser.add_argument('--out', default='sheets', help='folder of the sheets')
    parser.add_argument('--format', choices=['png', 'jpg'], default='png')
    parser.add_argument('--side', type=int, default=480, help="a panel's longer side in pixels")
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='detections with a lower score are left out'
    )
    parser.add_argument('--device', default=get_device())
    add_shared_arguments(parser)
    return parser.parse_args(argv)


class Gallery:
    """Models, data and colours: all that a sheet is drawn from.

    Args:
        cfg: The config of a distillation or of a stock model.
        checkpoint: File of the student.
        alone: File of the student trained alone, or ``None``.
        device: Where the models run.
        split: ``'test'`` or ``'val'`` data, which tell the classes.
        side: Pixels of a panel's longer side.
        score_thr: Detections with a lower score are left out.

    Raises:
        ValueError: One line for a file or a key that is wrong.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, alone: str | None = None, device: str = 'cpu',
        split: str = 'test', side: int = 480, score_thr: float = 0.3,
    ) -> None:  # fmt: skip
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        key = f'{split}_dataloader'
        if cfg.get(key) is None:
            raise ValueError(f'the config has no {key}: give one, or another --split')
        dataset = cfg[key].dataset
        self.pipeline = dataset.pipeline
        self.dataset = DATASETS.build(dataset)
        self.side = side
        self.distilled = 'student' in cfg.model
        stock = student_config(cfg)
        if stock.get('data_preprocessor') is not None:
            stock.model.setdefault('data_preprocessor', stock.data_preprocessor)
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        weights = read_checkpoint(checkpoint)
        self.model = _build(cfg, weights) if self.distilled else trained_student(stock, weights)
        self.models = {}
        if alone:
            self.models['student alone'] = trained_student(stock, read_checkpoint(alone))
        self.models['distilled' if self.distilled else 'student'] = self.model
        for model in self.models.values():
            model.to(device)
        self.teachers = {}
        self.painter = self._painter(cfg, score_thr)
        if self.distilled:
            self.teachers = predicting_teachers(self.model.distillation.teachers)
            for teacher in self.teachers.values():
                teacher.start(self.dataset.metainfo.get('classes'))

    def _painter(self, cfg: Config, score_thr: float):
        meta = self.dataset.metainfo
        classes, palette = meta.get('classes'), meta.get('palette')
        if not classes:
            raise ValueError('the data set names no classes: add metainfo=dict(classes=(...))')
        if palette is None or len(palette) != len(classes):
            palette = distinct_colours(len(classes))
        scope = cfg.get('default_scope')
        kinds = dict(mmdet='DetLocalVisualizer', mmseg='SegLocalVisualizer')
        if scope not in kinds:
            raise ValueError(f"default_scope={scope!r} must be 'mmdet' or 'mmseg'")
        visualizer = dict(cfg.get('visualizer') or dict(type=kinds[scope]))
        visualizer.update(name=f'show_{uuid.uuid4().hex}', vis_backends=None)
        visualizer.setdefault('alpha', 0.7 if scope == 'mmseg' else 1.0)
        if scope == 'mmdet':
            visualizer.setdefault('line_width', 2)
            return Boxes(VISUALIZERS.build(visualizer), classes, palette, self.side, score_thr)
        return Pixels(
            VISUALIZERS.build(visualizer), classes, palette, self.side,
            getattr(self.dataset, 'ignore_index', 255),
        )  # fmt: skip

    def of_data(self, indices: list[int]) -> Iterator[tuple[str, dict, object]]:
        """Names, items and labels of images of the data set.

        Raises:
            ValueError: There is no such image.
        """
        for index in indices:
            if not -len(self.dataset) <= index < len(self.dataset):
                raise ValueError(f'--index {index}: the data has {len(self.dataset)} images')
            item = self.dataset[index]
            sample = item['data_samples']
            yield sample.img_path, item, self.painter.truth(self.dataset, index, sample)

    def objects(self, index: int) -> int:
        """How many objects, or classes beside the first, the labels of an image hold."""
        return self.painter.count(next(self.of_data([index]))[2])

    def of_files(self, files: list[str]) -> Iterator[tuple[str, dict, None]]:
        """Names and items of images that have no labels.

        Raises:
            ValueError: There is no such file.
        """
        steps = [step for step in self.pipeline if 'Annotations' not in step['type']]
        pipeline = Compose(steps)
        for number, file in enumerate(files):
            if not Path(file).is_file():
                raise ValueError(f'--image {file}: there is no such file')
            yield file, pipeline(dict(img_path=file, img_id=number)), None

    @torch.no_grad()
    def panels(
        self, path: str, item: dict, truth, exits: bool = False, taps: list[str] = ()
    ) -> list[list[Panel]]:
        """Pictures of an image, in groups.

        Args:
            path: The image's file.
            item: What the pipeline made of it.
            truth: Its labels, or ``None``.
            exits: Whether to draw what exits predict.
            taps: Addresses whose feature maps to draw.
        """
        image = mmcv.imread(path, channel_order='rgb')
        batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
        batch = self.model.data_preprocessor(batch, False)
        inputs, samples = batch['inputs'], batch['data_samples']
        found = {
            title: model.predict(inputs, [sample.clone() for sample in samples])[0]
            for title, model in self.models.items()
        }
        for name, teacher in self.teachers.items():
            title = f'teacher {name}' if name else 'teacher'
            found[title] = teacher.predict(inputs, [sample.clone() for sample in samples])[0]
        panels = [Panel('image', fit(image, self.side)[0], Path(path).name)]
        if truth is not None:
            panels.append(Panel('ground truth', *self.painter.draw_truth(image, truth)))
        for title, sample in found.items():
            panels.append(Panel(title, *self.painter.draw(image, sample, truth)))
        if truth is not None:
            *before, after = (found[title] for title in self.models)
            title = 'errors mended and made' if before else 'errors'
            drawn = self.painter.draw_errors(image, truth, after, *before)
            panels.append(Panel(title, *drawn))
        groups = [panels]
        if exits or taps:
            seen = Seen(self.model, self.teachers, inputs, samples, image, self.side)
            parts = [p for p in self.model.distillation.parts if p.kind == 'exit'] if exits else []
            groups += [
                exit_panels(seen, part, lambda s: self.painter.draw(image, s, truth))
                for part in parts
            ]
            groups += [row for address in taps for row in tap_panels(seen, address)]
        return groups

    def legends(self, labelled: bool) -> list:
        """What the colours of the pictures drawn so far mean."""
        errors = ('one', 'two')[len(self.models) - 1] if labelled else None
        return self.painter.legends(errors)


def _build(cfg: Config, checkpoint: Checkpoint) -> nn.Module:
    """A distilled student in eval mode, and its exits as they were trained."""
    model = build_in_scope(cfg.model, 'the distillation')
    load_strict(model, checkpoint, 'the student')
    return revert_sync_batchnorm(model).eval()


def fill_exits(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give exits the weights that lie beside the student's.

    Raises:
        ValueError: The file has none, or not those of this config.
    """
    exits = [part for part in model.distillation.parts if part.kind == 'exit']
    if not exits:
        raise ValueError('--exits: the config has none; leave it out')
    saved = checkpoint.parts or {}
    for part in exits:
        state, name = saved.get(f'exits.{part.name}'), f'exit {part.name!r}'
        shapes = {k: v.shape for k, v in (state or {}).items()}
        if shapes != {k: v.shape for k, v in part.state_dict().items()}:
            raise ValueError(
                f'--exits: {checkpoint.path} holds no weights that fit {name}; give the config '
                'and a checkpoint of one run'
            )
        part.load_state_dict(state)


def main(args: argparse.Namespace) -> list[Path]:
    """Draw the sheets and print where they lie.

    Returns:
        list[Path]: The files.
    """
    cfg = load_config(args)
    if (args.exits or args.taps) and 'student' not in cfg.model:
        raise ValueError('--exits and --taps need the config of a distillation')
    gallery = Gallery(
        cfg, args.checkpoint, args.alone, args.device, args.split, args.side, args.score_thr
    )
    if args.exits:
        fill_exits(gallery.model, read_checkpoint(args.checkpoint))
    images = gallery.of_files(args.image) if args.image else gallery.of_data(args.index or [0])
    files = []
    for path, item, truth in images:
        groups = gallery.panels(path, item, truth, args.exits, args.taps)
        file = Path(args.out) / f'{Path(path).stem}.{args.format}'
        if file in files:
            file = file.with_stem(f'{file.stem}_{len(files)}')
        legends = gallery.legends(truth is not None) + ([MAPS] if args.taps else [])
        files.append(draw_sheet(groups, legends, file))
        print(files[-1], flush=True)
    return files


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
