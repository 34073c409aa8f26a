"""The dry run."""

import torch
import toys

from mmkd.distillers.rehearsal import Rehearsal
from mmkd.families import find_family
from mmkd.terms.feature_kd import FeatureKD


def test_weights_that_nobody_has_initialised_do_no_harm():
    cfg = toys.detector()
    student = toys.plain(cfg)
    weight = student.neck.fpn_convs[0].conv.weight
    with torch.no_grad():
        weight[0, 0, 0, 0] = 4.7e21
        weight[1, 0, 0, 0] = float('nan')
    before = weight.clone()
    term = FeatureKD('neck')
    term.name = 'f'
    rehearsal = Rehearsal.run(student, cfg, find_family(student), {}, [term])
    assert all(x.isfinite().all() for x in rehearsal.student_tensors(term))
    assert torch.equal(weight.nan_to_num(1.5), before.nan_to_num(1.5))
