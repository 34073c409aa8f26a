"""A hook that draws the teacher's predictions where the stock hook draws the student's."""

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from mmkd.distillers.rehearsal import forked_random_state
from mmkd.distillers.teacher import Teacher
from mmkd.registry import HOOKS

from .distill import unwrap


def predicting_teachers(teachers: dict) -> dict:
    """Those that predict: neither bare backbones nor the student itself."""
    return {n: t for n, t in teachers.items() if type(t) is Teacher and hasattr(t.model, 'predict')}


@HOOKS.register_module()
class TeacherVisualizationHook(Hook):
    """Draws each image of a validation that the stock hook draws once more, with the teacher's
    predictions.

    The stock hook (``DetVisualizationHook``, ``SegVisualizationHook``, or one of your own that
    calls the visualizer's ``add_datasample``) is switched on by its ``draw=True`` and says by its
    ``interval`` which images are drawn. Where it draws ``val_img``, this hook adds
    ``val_img_teacher`` (``val_img_NAME``, where teachers have names) at the same step, in the same
    way, to the same ``vis_backends``. The teacher runs on these images only, by the path that
    teaches and is judged by ``tools/test.py --teacher``; where nothing is drawn nothing runs. No
    random number is drawn::

        default_hooks = dict(
            visualization=dict(draw=True, interval=50),
            teacher_visualization=dict(type='mmkd.TeacherVisualizationHook'))
    """

    # before the hook that draws
    priority = 'HIGH'

    def __init__(self) -> None:
        self._teachers = {}
        self._batch = None
        self._visualizer = None

    def before_train(self, runner) -> None:
        """Looks for teachers to draw, and matches their classes.

        Raises:
            ValueError: if none predicts, or its classes cannot be matched.
        """
        model = unwrap(runner.model)
        teachers = getattr(getattr(model, 'distillation', None), 'teachers', None) or {}
        self._teachers = predicting_teachers(teachers)
        if not self._teachers:
            raise ValueError(
                'TeacherVisualizationHook: there is no teacher that predicts (a bare backbone, the '
                'student itself and its average do not count); drop the hook'
            )
        if runner.val_loop is not None:
            classes = getattr(runner.val_loop.dataloader.dataset, 'metainfo', {}).get('classes')
            for teacher in self._teachers.values():
                teacher.start(classes)

    def before_val_epoch(self, runner) -> None:
        """Stands beside the visualizer until the epoch ends."""
        if not (self._teachers and is_main_process()):
            return
        self._visualizer, model = runner.visualizer, unwrap(runner.model)
        stock = self._visualizer.add_datasample

        def add_datasample(name, image, data_sample=None, *args, **kwargs):
            stock(name, image, data_sample, *args, **kwargs)
            for teacher, sample in self._predict(model, data_sample):
                stock(f'{name}_{teacher}', image, sample, *args, **kwargs)

        # an attribute of the instance stands before the method of its class
        self._visualizer.add_datasample = add_datasample

    def before_val_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Keeps the batch, whose images may be drawn."""
        self._batch = data_batch

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Leaves the visualizer as it was."""
        if self._visualizer is not None:
            del self._visualizer.add_datasample
        self._visualizer = self._batch = None

    def _predict(self, model, drawn):
        """Predictions of each teacher for the image of the batch that was drawn."""
        path = getattr(drawn, 'img_path', None)
        for inputs, sample in zip(self._batch['inputs'], self._batch['data_samples']):
            if path is None or sample.img_path != path:
                continue
            with forked_random_state(0):
                one = dict(inputs=[inputs], data_samples=[sample.clone()])
                one = model.data_preprocessor(one, False)
                for name, teacher in self._teachers.items():
                    samples = [x.clone() for x in one['data_samples']]
                    yield name or 'teacher', teacher.predict(one['inputs'], samples)[0]
            return
