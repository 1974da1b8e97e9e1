"""The loader: order, randomness, threads, resume."""

import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.data import ArrayDataset, DataLoader, Dataset
from minidl.data.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip
from minidl.errors import ConfigError, DataError


def numbered(n=23, classes=5):
    """Image i is filled with i, so that a batch tells which images it has."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1), (n, 1, 4, 4))
    return ArrayDataset(np.ascontiguousarray(images), np.arange(n) % classes, name="numbered")


def order(loader):
    return np.concatenate([np.rint(images[:, 0, 0, 0] * 255).astype(int) for images, _ in loader]).tolist()


AUGMENT = Compose([RandomCrop(padding=1), RandomHorizontalFlip(), Normalize((0.5,), (0.5,))])


def assert_same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for (x, y), (u, v) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches(workers):
    loader = DataLoader(numbered(), 5, workers=workers)
    batches = list(loader)
    assert [len(y) for _, y in batches] == [5, 5, 5, 5, 3] and len(loader) == 5
    images, labels = batches[0]
    assert images.dtype == np.float32 and labels.dtype == np.int64 and images.shape == (5, 1, 4, 4)
    assert images.max() <= 1, "uint8 images are scaled"
    assert order(loader) == list(range(23)), "unshuffled: in order, every epoch"
    dropped = DataLoader(numbered(), 5, drop_last=True, workers=workers)
    assert len(dropped) == len(list(dropped)) == 4


def test_shuffle_depends_on_seed_and_epoch_only():
    loader = DataLoader(numbered(), 4, shuffle=True, seed=7)
    epochs = [order(loader) for _ in range(3)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != list(range(23))
    again = DataLoader(numbered(), 4, shuffle=True, seed=7)
    again.set_epoch(2)
    assert order(again) == epochs[2]
    assert again.epoch == 3, "a finished epoch moves on"
    assert order(DataLoader(numbered(), 4, shuffle=True, seed=8)) != epochs[0]
    other_batches = DataLoader(numbered(), 6, shuffle=True, seed=7)
    assert order(other_batches) == epochs[0], "the order does not depend on the batch size"


@pytest.mark.parametrize("workers", [1, 4])
def test_threads_change_nothing(workers):
    def make(count):
        return DataLoader(numbered(), 4, shuffle=True, transform=AUGMENT, seed=3, workers=count)

    alone, threaded = make(0), make(workers)
    for _ in range(2):
        assert_same(alone, threaded)


def test_augmentation_differs_between_batches_and_epochs():
    same = ArrayDataset(np.repeat(np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8), 40, axis=0), np.zeros(40, int))
    loader = DataLoader(same, 20, transform=RandomCrop(padding=3))
    first, second = [x for x, _ in loader]
    third, _ = next(iter(loader))
    assert not np.array_equal(first, second) and not np.array_equal(first, third)


@given(st.integers(1, 30), st.integers(1, 12), st.booleans(), st.integers(0, 4), st.integers(0, 40), st.integers(0, 2))
def test_resume_is_bit_identical(n, batch_size, shuffle, epoch, stop, workers):
    def make():
        return DataLoader(numbered(n), batch_size, shuffle, transform=AUGMENT, seed=9, workers=workers)

    whole = make()
    whole.set_epoch(epoch)
    expected = list(whole) + list(whole)

    stop %= len(whole) + 1
    first = make()
    first.set_epoch(epoch)
    iterator = iter(first)
    begun = [next(iterator) for _ in range(stop)]
    state = first.state_dict()
    iterator.close()

    second = make()
    second.load_state_dict(state)
    second.set_epoch(epoch)  # a trainer sets the epoch it resumes in; that must not lose the place
    assert_same(expected, begun + list(second) + list(second))
    assert second.state_dict()["epoch"] == epoch + 2


def test_leaving_early_starts_the_epoch_again():
    loader = DataLoader(numbered(), 4, shuffle=True)
    first = next(iter(loader))
    assert loader.state_dict()["batch"] == 1
    assert_same([first], [next(iter(loader))])
    assert loader.epoch == 0
    loader.set_epoch(1)
    assert loader.state_dict()["batch"] == 0


def test_a_state_of_other_settings_is_refused():
    state = DataLoader(numbered(), 4, shuffle=True).state_dict()
    with pytest.raises(DataError, match="saved state has batch_size=4, this loader 5"):
        DataLoader(numbered(), 5, shuffle=True).load_state_dict(state)
    with pytest.raises(DataError, match="has images=23, this loader 22"):
        DataLoader(numbered(22), 4, shuffle=True).load_state_dict(state)
    with pytest.raises(DataError, match="epoch 0, batch 99 of 6"):
        DataLoader(numbered(), 4, shuffle=True).load_state_dict({**state, "batch": 99})
    with pytest.raises(DataError, match="has seed=None"):
        DataLoader(numbered(), 4).load_state_dict({})


class Failing(Dataset):
    name, class_names = "failing", ("a",)

    def __init__(self, at):
        self.labels, self.at, self.asked = np.zeros(100, np.int64), at, 0

    def batch(self, indices):
        self.asked += 1
        if self.at in indices:
            raise DataError("image_17.jpg: cannot be decoded")
        return np.zeros((len(indices), 1, 2, 2), np.uint8), self.labels[indices]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_reaches_the_caller_as_it_was(workers):
    given_batches = 0
    with pytest.raises(DataError, match="^image_17.jpg: cannot be decoded$"):
        for _ in DataLoader(Failing(17), 5, workers=workers):
            given_batches += 1
    assert given_batches == 3, "the batches before the bad one are still given"


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("minidl-loader")]


def wait_until_gone():
    deadline = time.monotonic() + 5
    while loader_threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    return not loader_threads()


def test_threads_end_with_the_loop():
    dataset = Failing(at=-1)
    for _ in DataLoader(dataset, 1, workers=3):
        break
    assert wait_until_gone()
    asked = dataset.asked
    assert asked <= 1 + 2 * 3, "no more is prepared than the window"
    with pytest.raises(RuntimeError, match="mine"):
        for _ in DataLoader(dataset, 1, workers=3):
            raise RuntimeError("mine")
    assert wait_until_gone()
    iterator = iter(DataLoader(dataset, 1, workers=2))
    next(iterator)
    assert loader_threads()
    del iterator
    gc.collect()
    assert wait_until_gone()
    list(DataLoader(dataset, 10, workers=2))
    assert wait_until_gone()
    iter(DataLoader(dataset, 1, workers=2))
    assert not loader_threads(), "nothing starts before the first batch is asked for"


def test_the_interpreter_ends_at_once_even_if_a_batch_never_comes():
    program = (
        "import sys, time, numpy as np\n"
        "from minidl.data import ArrayDataset, DataLoader\n"
        "class Stuck(ArrayDataset):\n"
        "    def batch(self, indices):\n"
        "        if indices[0] > 0: time.sleep(1000)\n"
        "        return super().batch(indices)\n"
        "data = Stuck(np.zeros((9, 1, 2, 2), np.uint8), np.zeros(9, int))\n"
        "batches = iter(DataLoader(data, 1, workers=2))\n"
        "next(batches)\n"
        "print('done')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_prefetch_overlaps_with_the_callers_work():
    class Slow(Failing):
        def batch(self, indices):
            threads.add(threading.current_thread().name)
            started.append(int(indices[0]))
            return super().batch(indices)

    threads, started = set(), []
    iterator = iter(DataLoader(Slow(-1), 10, workers=1))
    next(iterator)
    deadline = time.monotonic() + 5
    while len(started) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    assert started[:2] == [0, 10], "the second batch is prepared while the caller has the first"
    assert threads == {"minidl-loader-0"}
    iterator.close()


@pytest.mark.parametrize(
    "options, error, reason",
    [
        ({"batch_size": 0}, ConfigError, "batch_size must be a positive integer, got 0"),
        ({"batch_size": 2.5}, ConfigError, "got 2.5"),
        ({"seed": -1}, ConfigError, "seed and workers must be integers of at least 0"),
        ({"workers": -1}, ConfigError, "got 0 and -1"),
        ({"drop_last": True, "batch_size": 50}, DataError, "drop_last leaves no batch: numbered has 23 images"),
    ],
)
def test_bad_settings(options, error, reason):
    with pytest.raises(error, match=reason):
        DataLoader(numbered(), **{"batch_size": 4, **options})
    with pytest.raises(ConfigError, match="epoch must be at least 0"):
        DataLoader(numbered(), 4).set_epoch(-1)


def test_bad_data():
    with pytest.raises(DataError, match="array is empty; there is nothing to load"):
        DataLoader(ArrayDataset(np.zeros((0, 1, 2, 2), np.uint8), []), 4)
    dataset = numbered()
    dataset.labels[7] = 5
    with pytest.raises(DataError, match="numbered: label 5 of image 7 is out of range: expected 0 to 4"):
        DataLoader(dataset, 4)
