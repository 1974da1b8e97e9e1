"""Batches copied ahead on a stream of their own.

The stand-in's streams work as late as they may, so a wait that is missing shows in the numbers: as 0xff bytes where nothing was
copied yet, or as another batch's pixels where page-locked memory was given back too early.
"""

import gc

import numpy as np
import pytest

import minidl
from minidl.backend.transfer import array_module, pinned
from minidl.cuda import Prefetcher, prefetch
from minidl.data import ArrayDataset, DataLoader, transforms
from minidl.data.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    Cutout,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomShift,
    Resize,
    TenCrop,
    ToFloat,
    Transform,
)
from minidl.errors import DataError, DeviceError
from tests.cuda_emulator.conftest import emulator  # noqa: F401 - a fixture
from tests.fake_cupy import fake_cupy


def pictures(n=23, size=8):
    rng = np.random.default_rng(0)
    return ArrayDataset(rng.integers(0, 256, (n, 3, size, size), np.uint8), np.arange(n) % 5, name="pictures")


NORMALIZE = Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
AUGMENT = Compose([RandomHorizontalFlip(), RandomCrop(padding=2, mode="reflect"), Cutout(3), ToFloat(), NORMALIZE])


def make(workers=1, **options):
    return DataLoader(pictures(), 4, shuffle=True, seed=3, workers=workers, **{"transform": AUGMENT, **options})


def assert_same(batches, expected):
    batches, expected = list(batches), list(expected)
    assert len(batches) == len(expected)
    for (x, y), (u, v) in zip(batches, expected, strict=True):
        assert x.dtype == minidl.float32 and y.dtype == minidl.int64
        np.testing.assert_array_equal(x.numpy(), u)
        np.testing.assert_array_equal(y.numpy(), v)


# ---- the same bits


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("options", [{}, {"alternate": True}, {"transform": None}, {"drop_last": True}], ids=str)
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_the_loaders_own_bits(device, options, workers, install):
    install(fake_cupy())
    ahead, plain = Prefetcher(make(workers, **options), device), make(0, **options)
    assert len(ahead) == len(plain)
    for _ in range(2):  # epochs
        batches = list(ahead)
        assert {x.device for pair in batches for x in pair} == {"cuda:0" if device == "cuda" else device}
        assert_same(batches, plain)


def test_on_the_emulator_and_the_cpu(emulator):  # noqa: F811
    plain = list(make(0))
    assert_same(Prefetcher(make(), "emu"), plain)
    assert_same(Prefetcher(make(), "cpu"), plain)


EACH = [
    RandomHorizontalFlip(), RandomCrop(), RandomCrop((5, 6), 2), RandomCrop(padding=3, mode="reflect"), RandomShift(2),
    RandomShift(3, "reflect"), Cutout(4, value=7), NORMALIZE, ToFloat(), CenterCrop(5), TenCrop(5),
    Resize((5, 11)), Resize((11, 5), "bicubic"),
    ColorJitter(0.3, 0, 0.4), AUGMENT,
]  # fmt: skip


@pytest.mark.parametrize("transform", EACH, ids=lambda t: str(t)[:40])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_transforms_on_a_gpu(transform, dtype, install):
    cupy = install(fake_cupy())
    images = pictures().images.astype(dtype) / dtype(1 if dtype == np.uint8 else 255)
    images = images.astype(dtype)
    expected = transform(images, np.random.default_rng(5))
    got = transform(cupy.asarray(images), np.random.default_rng(5))
    assert isinstance(got, cupy.ndarray) and got.dtype == expected.dtype and transform.any_device
    np.testing.assert_array_equal(got.get(), expected)


def test_contrast_on_a_gpu(install):
    cupy = install(fake_cupy())
    images, jitter = pictures().images, ColorJitter(contrast=0.5)
    got = jitter(cupy.asarray(images), np.random.default_rng(5)).get()
    # The mean is summed in another order: its last bit decides how a pixel next to .5 is rounded.
    np.testing.assert_allclose(got, jitter(images, np.random.default_rng(5)), atol=1)


def test_a_users_transform_sees_numpy(install, monkeypatch):
    install(fake_cupy())
    monkeypatch.setitem(transforms.REGISTRY, "Invert", None)  # and gone again after the test
    seen = []

    class Invert(Transform):
        def apply(self, images, rng):
            seen.append(type(images))
            return 255 - images

    def halve(images, rng):
        seen.append(type(images))
        return images // 2

    for transform in (Invert(), Compose([RandomShift(1), Invert(), NORMALIZE]), halve):
        assert_same(Prefetcher(make(transform=transform), "cuda"), make(transform=transform))
    assert set(seen) == {np.ndarray}


def test_any_iterable(install):
    install(fake_cupy())
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((2, 3)).astype(np.float32), np.arange(2)) for _ in range(5)]
    for device in ("cuda", "cpu"):
        assert_same(Prefetcher(batches, device), batches)


# ---- order


def names(calls, streams):
    """The calls that order streams, with events by number."""
    numbers = {}
    return [
        (what, str(streams), *(f"event {numbers.setdefault(id(e), len(numbers))}" for e in rest if not isinstance(e, str)))
        for what, streams, *rest in calls
        if what in ("copy to device", "record", "wait", "synchronize")
    ]


def test_the_order_of_copies_and_waits(install):
    cupy = install(fake_cupy())
    batches = iter(Prefetcher(make(0, transform=None), "cuda"))
    keep = cupy.calls[:]  # events keep their identity while they are referred to
    next(batches)
    one = [("wait", "side"), ("copy to device", "side"), ("copy to device", "side"), ("record", "side")]
    found = [call[:2] for call in names(cupy.calls[len(keep) :], cupy)]
    first, second = [("record", "null"), *one], [("record", "null"), *one]
    assert found[:11] == [*first, *second, ("wait", "null")]
    calls = [c for c in cupy.calls if c[0] in ("record", "wait")]
    recorded = [c[2] for c in calls if c[0] == "record"]
    waited = [c[2] for c in calls if c[0] == "wait"]
    # Both copies wait for the computing stream as it was before; that stream for the first copy, not for the second.
    assert [recorded.index(e) for e in waited] == [0, 2, 1]
    assert {c[2] for c in cupy.calls if c[0] == "copy to device" and str(c[1]) == "side"} == {"pinned"}
    batches.close()


def test_the_next_batch_is_on_its_way_while_one_is_used(install):
    """Its copy is asked for before the first is given, and not done before somebody waits for it."""
    cupy = install(fake_cupy())
    batches = iter(Prefetcher(make(), "cuda"))
    next(batches)
    copies = [c for c in cupy.calls if c[0] == "copy to device" and str(c[1]) == "side"]
    assert len(copies) == 4 and len(copies[0][1].queue) == 4  # of the second batch: wait, two copies, an event
    batches.close()
    assert not copies[0][1].queue


def test_each_mistake_shows(install, monkeypatch):
    """Without the wait, or with memory given back early, batches differ: the tests above could fail."""

    def differs():
        install(fake_cupy())
        try:
            assert_same(Prefetcher(make(0), "cuda"), make(0))
        except AssertionError:
            return True
        return False

    assert not differs()
    finished = Prefetcher._finished
    with monkeypatch.context() as m:  # the computing stream does not wait
        m.setattr(Prefetcher, "_finished", lambda self, s: self._tensors(s.images, s.labels, s.finish))
        assert differs()
    with monkeypatch.context() as m:  # page-locked memory is not kept until the copy is made
        start = Prefetcher._start
        m.setattr(Prefetcher, "_start", lambda self, *a: (s := start(self, *a)) and s._replace(source=()))
        m.setattr(prefetch, "deque", lambda: type("Nothing", (list,), {"append": lambda *_: None, "popleft": list.pop})())
        assert differs()
    assert finished is Prefetcher._finished and not differs()


def test_leaving_early_waits_for_the_copies(install):
    cupy = install(fake_cupy())
    for _ in Prefetcher(make(), "cuda"):
        break
    gc.collect()
    assert cupy.calls[-1][0] == "synchronize" and str(cupy.calls[-1][1]) == "side"
    assert not cupy.calls[-1][1].queue


def test_memory_is_given_back(install):
    cupy = install(fake_cupy())
    for batch in Prefetcher(make(), "cuda"):
        batch = None
    assert batch is None and minidl.cuda.memory_allocated() == 0
    assert cupy.get_default_pinned_memory_pool().n_free_blocks() <= 12  # a few batches' worth, not all


# ---- epochs, resuming, errors


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_goes_on_with_the_next_batch(workers, install):
    install(fake_cupy())
    expected = list(make(0))
    loader = make(workers)
    for number, _ in enumerate(Prefetcher(loader, "cuda")):
        if number == 1:
            state = loader.state_dict()
            break
    assert state["batch"] == 2, "the one copied ahead was not given"
    again = make(workers)
    again.load_state_dict(state)
    assert_same(Prefetcher(again, "cuda"), expected[2:])
    assert again.epoch == 1


def test_an_error_of_the_data_arrives(install):
    install(fake_cupy())

    class Torn(ArrayDataset):
        def batch(self, indices):
            if 9 in indices:
                raise DataError("picture 9 is torn")
            return super().batch(indices)

    data = Torn(pictures().images, pictures().labels, name="torn")
    with pytest.raises(DataError, match="picture 9 is torn"):
        list(Prefetcher(DataLoader(data, 4), "cuda"))


def test_no_gpu(install):
    install(None)
    with pytest.raises(DeviceError, match="cuda: CuPy is not installed"):
        Prefetcher(make(), "cuda")


# ---- pin_memory


def test_pin_memory(install):
    cupy = install(fake_cupy())
    loader = make(pin_memory=True)
    plain = list(make(0))
    for (x, y), (u, v) in zip(loader, plain, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)
        cupy.empty(x.shape, x.dtype).set(x, stream=cupy.cuda.Stream(non_blocking=True))
        assert cupy.calls[-1][2] == "pinned"


def test_pin_memory_without_a_gpu(install):
    install(None)
    with pytest.warns(UserWarning, match="DataLoader: pin_memory is of no use without a GPU: CuPy is not installed"):
        loader = make(pin_memory=True)
    assert len(list(loader)) == len(loader)


def test_no_page_locked_memory_left(install, monkeypatch):
    cupy = install(fake_cupy())

    def refuse(size):
        raise cupy.cuda.runtime.CUDARuntimeError(2)

    monkeypatch.setattr(cupy.cuda, "alloc_pinned_memory", refuse)
    assert_same(Prefetcher(make(), "cuda"), make(0))
    x = np.arange(3)
    assert pinned(x) is x and pinned(np.empty((0, 3))).size == 0
    assert array_module(x) is np and array_module(cupy.zeros(2)) is cupy
