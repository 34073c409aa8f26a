import copy

import pytest
import torch
from torch import nn

from mmkd.losses.key_queue import KeyQueue


def numbered(*values):
    return torch.tensor([[float(v), 0.0] for v in values])


def contents(queue, kind):
    return queue.keys[kind, :, 0].tolist()


def test_first_in_first_out_by_class():
    queue = KeyQueue(2, 3, 2)
    other = queue.keys[1].clone()
    queue.push(numbered(1, 2), torch.tensor([0, 0]))
    assert contents(queue, 0)[:2] == [1, 2]
    queue.push(numbered(10, 3, 4), torch.tensor([1, 0, 0]))
    assert contents(queue, 0) == [4, 2, 3]
    assert contents(queue, 1)[0] == 10 and torch.equal(queue.keys[1, 1:], other[1:])
    queue.push(numbered(5, 6, 7, 8, 9), torch.zeros(5, dtype=torch.long))  # more than fit
    assert sorted(contents(queue, 0)) == [7, 8, 9]
    queue.push(numbered(11), torch.tensor([0]))
    assert sorted(contents(queue, 0)) == [8, 9, 11]
    queue.push(torch.empty(0, 2), torch.empty(0, dtype=torch.long))
    assert sorted(contents(queue, 0)) == [8, 9, 11]


def test_starts_as_unit_vectors_and_draws_the_same_slots_of_each_class():
    queue = KeyQueue(3, 50, 4)
    torch.testing.assert_close(queue.keys.norm(dim=2), torch.ones(3, 50))
    assert torch.equal(queue.draw(50), queue.keys.flatten(0, 1))
    drawn = queue.draw(20).view(3, 20, 4)
    slots = [(queue.keys[0] == x).all(1).nonzero().item() for x in drawn[0]]
    assert len(set(slots)) == 20
    assert torch.equal(queue.keys[:, slots], drawn)


def test_a_copy_has_none_and_the_original_keeps_its_own():
    parent = nn.Sequential(nn.Linear(2, 2), KeyQueue(2, 3, 2))
    copied = copy.deepcopy(parent)
    assert copied[1].contents == {}
    assert parent[1].keys.shape == (2, 3, 2)
    assert not list(parent[1].parameters()) and not list(parent[1].buffers())
    names = [
        set(dict(m.named_parameters())) | set(dict(m.named_buffers())) for m in (parent, copied)
    ]
    assert names[0] == names[1]
    copied.double()
    assert parent[1].keys.dtype == torch.float32
    copied.load_state_dict(copied.state_dict())
    copied.load_state_dict(nn.Sequential(nn.Linear(2, 2)).state_dict())


def test_it_is_saved_and_moves_with_its_module():
    first, second = (nn.Sequential(KeyQueue(2, 3, 2)) for _ in range(2))
    first[0].push(numbered(1, 2), torch.tensor([0, 1]))
    state = first.state_dict()
    assert set(state) == {'0.keys', '0.next_slot'}
    second.load_state_dict(state)
    assert second[0].contents.keys() == first[0].contents.keys()
    for name, x in first[0].contents.items():
        assert torch.equal(x, second[0].contents[name])
    second[0].push(numbered(5), torch.tensor([0]))
    assert contents(second[0], 0)[1] == 5 and contents(first[0], 0)[1] != 5
    with pytest.raises(RuntimeError, match=r'Missing key.*0.keys'):
        second.load_state_dict({})
    with pytest.raises(RuntimeError, match=r'0.keys: \(2, 1, 2\) instead of \(2, 3, 2\)'):
        second.load_state_dict(nn.Sequential(KeyQueue(2, 1, 2)).state_dict())
    moved = first.to('meta')
    assert {x.device.type for x in moved[0].contents.values()} == {'meta'}
    halved = second.half()[0].contents
    assert halved['keys'].dtype == torch.float16 and halved['next_slot'].dtype == torch.long
