"""NumPy and DLPack: whose memory it is, dtypes, copies, and what is refused."""

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.errors import DTypeError, GraphError


def test_numpy_shares_memory():
    t = minidl.zeros(3)
    a = t.numpy()
    a[0] = 5
    t[1] = 7
    assert t.tolist() == a.tolist() == [5, 7, 0] and np.shares_memory(np.asarray(t), t.data)
    with pytest.raises(GraphError, match=r"numpy: this tensor needs a gradient.*\.detach\(\)\.numpy\(\)"):
        minidl.ones(2, requires_grad=True).numpy()
    with pytest.raises(GraphError):
        np.asarray(minidl.ones(2, requires_grad=True) * 2)


def test_array_protocol():
    t = minidl.tensor([1.5, 2.5])
    assert np.asarray(t, dtype=np.float64).dtype == np.float64 and np.asarray(t).dtype == np.float32
    assert not np.shares_memory(np.array(t), t.data) and not np.shares_memory(np.array(t, copy=True), t.data)
    assert np.shares_memory(np.asarray(t, copy=False), t.data)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(t, dtype=np.int64, copy=False)
    assert np.array([minidl.tensor(1.0), minidl.tensor(2.0)]).tolist() == [1, 2]
    assert np.concatenate([t, t]).tolist() == [1.5, 2.5, 1.5, 2.5] and np.allclose(t, [1.5, 2.5])
    assert np.arange(5)[minidl.tensor([0, 2])].tolist() == [0, 2] and np.asarray(minidl.tensor(3)).shape == ()


def test_arithmetic_with_arrays_gives_tensors():
    t, a = minidl.ones(2, dtype=minidl.float64, requires_grad=True), np.array([2.0, 3.0])
    for r in (t + a, a + t, a - t, t * a, a * t, a / t, t / a, np.float64(2) * t, t * np.float32(2)):
        assert isinstance(r, minidl.Tensor) and r.requires_grad and r.dtype == minidl.float64
    (a * t).sum().backward()
    assert t.grad.tolist() == [2, 3]
    with pytest.raises(TypeError):
        np.sin(t)  # would lose the graph; use t.sin()
    with pytest.raises(TypeError):
        a += t


def test_read_only_arrays_can_be_read():
    a = np.arange(3.0)
    a.flags.writeable = False
    t = minidl.from_numpy(a)
    assert (t * 2).tolist() == [0, 2, 4] and not t.numpy().flags.writeable


def test_dlpack_with_numpy():
    t = minidl.arange(6).reshape(2, 3)
    a = np.from_dlpack(t.T)
    assert a.tolist() == t.T.tolist() and np.shares_memory(a, t.data)
    back = minidl.from_dlpack(np.arange(3.0))
    assert back.tolist() == [0, 1, 2] and back.device == "cpu" and t.__dlpack_device__() == (1, 0)
    with pytest.raises(DTypeError, match="from_dlpack: complex64 is no dtype of minidl"):
        minidl.from_dlpack(np.ones(2, np.complex64))
    with pytest.raises(GraphError, match=r"__dlpack__: .*\.detach\(\)"):
        np.from_dlpack(minidl.ones(2, requires_grad=True))
    with pytest.raises(BufferError, match=r"backwards.*\.contiguous\(\)"):
        np.from_dlpack(t[::-1])


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
def test_dlpack_with_torch_shares_both_ways(torch, dtype):
    theirs = torch.zeros(2, 3, dtype=getattr(torch, dtype))
    ours = minidl.from_dlpack(theirs)
    assert ours.dtype == dtype and ours.shape == (2, 3)
    theirs[0, 1] = 1
    ours[1, 2] = 1
    assert ours.tolist() == theirs.tolist() and sum(map(sum, ours.tolist())) == 2
    again = torch.from_dlpack(ours.T)
    again[0, 0] = 1
    assert ours[0, 0].item() == theirs[0, 0].item() == 1 and again.shape == (3, 2)


@pytest.mark.parity
def test_dlpack_with_torch_at_the_edges(torch):
    for x in (minidl.tensor(3.0), minidl.zeros(0, 3), minidl.arange(6)[::2], minidl.arange(4).reshape(2, 2).T):
        assert torch.from_dlpack(x).tolist() == x.tolist()
    x = minidl.from_dlpack(torch.arange(6.0).reshape(2, 3).T)
    x.requires_grad_()
    x.square().sum().backward()
    assert x.grad.tolist() == (2 * x.detach()).tolist()
    with pytest.raises(DTypeError, match="from_dlpack: cannot take torch's torch.bfloat16"):
        minidl.from_dlpack(torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises((DTypeError, BufferError), match="grad"):
        minidl.from_dlpack(torch.ones(2, requires_grad=True))
    assert torch.as_tensor(np.asarray(minidl.ones(2))).tolist() == [1, 1]


def test_a_write_through_shared_memory_counts_once_it_is_told():
    a = np.ones(3)
    t = minidl.from_numpy(a)
    w = minidl.ones(3, dtype=minidl.float64, requires_grad=True)
    y = (w * t).sum()
    minidl.from_numpy(a).add_(1)  # another tensor on the same memory
    with pytest.raises(minidl.errors.InplaceError, match="Mul"):
        y.backward()


@pytest.mark.parity
def test_a_tensor_of_torch_is_called_by_its_name(torch):
    F = nn.functional
    for call in (lambda x: nn.Conv2d(3, 4, 3)(x), lambda x: F.cross_entropy(x, x), lambda x: F.softmax(x, 0)):
        with pytest.raises(TypeError, match="found a torch.Tensor; convert it with minidl.from_dlpack"):
            call(torch.ones(1, 3, 8, 8))
