"""Memory that is used again: blocks never overlap, join when they are free, and go back to the system."""
import ctypes
import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl.backend import get_backend
from minidl.kernels.cpu import memory
from minidl.kernels.cpu.arena import ALIGNMENT, Arena
from minidl.nn import functional as F
from tests.kernels.cases import seeds

KB = 1 << 10


def place(buffer):
    return ctypes.addressof(buffer), ctypes.addressof(buffer) + len(buffer)


@pytest.fixture
def arena():
    return Arena(limit=1 << 30, region=1024 * KB)


def test_a_block_comes_back_for_its_size(arena):
    first, other = arena.take(64 * KB), arena.take(64 * KB)
    where = place(first)
    arena.give_back(first)
    assert place(arena.take(128 * KB)) != where and place(arena.take(64 * KB)) == where
    assert place(other)[0] == where[1] and where[0] % ALIGNMENT == 0


def test_free_neighbours_join(arena):
    """Four quarters of a region make room for a block of the whole, in whatever order they come back."""
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [1, 3, 0, 2]):
        quarters = [arena.take(256 * KB) for _ in range(4)]
        region = min(place(q)[0] for q in quarters)
        for i in order:
            arena.give_back(quarters[i])
        whole = arena.take(1024 * KB)
        assert place(whole)[0] == region and arena.idle == 0
        arena.give_back(whole)


def test_the_smallest_free_block_is_cut(arena):
    blocks = [arena.take(n * KB) for n in (300, 64, 200, 64)]
    small = place(blocks[2])
    for i in (0, 2):
        arena.give_back(blocks[i])
    assert place(arena.take(190 * KB))[0] == small[0]


def test_what_is_wholly_free_goes_back_to_the_system():
    arena = Arena(limit=1500 * KB, region=1024 * KB)
    blocks = [arena.take(1024 * KB) for _ in range(3)]
    kept = arena.take(64 * KB)                       # the fourth region is in use
    for block in blocks:
        arena.give_back(block)
    assert arena.idle <= arena.limit
    arena.clear()
    assert arena.idle == 1024 * KB - len(kept)
    arena.give_back(kept)
    arena.clear()
    assert arena.idle == 0


def test_a_request_larger_than_a_region(arena):
    block = arena.take(Arena.round_up(5000 * KB))
    assert len(block) >= 5000 * KB and arena.idle == 0


@given(st.integers(1, 1 << 40))
def test_sizes_are_rounded_up_by_little(size):
    rounded = Arena.round_up(size)
    assert size <= rounded <= max(size * 33 / 32, size + ALIGNMENT) and rounded % ALIGNMENT == 0
    assert Arena.round_up(rounded) == rounded


@settings(max_examples=20)
@given(seed=seeds)
def test_blocks_never_overlap(seed):
    """Against a list: random requests and returns, every block filled with its number as long as it lives."""
    rng, arena, live = np.random.default_rng(seed), Arena(limit=3000 * KB, region=1024 * KB), {}
    for number in range(200):
        if live and rng.random() < 0.5:
            key = int(rng.choice(list(live)))
            block = live.pop(key)
            values = np.frombuffer(block, np.uint8)
            assert (values == key).all()
            del values
            arena.give_back(block)
        else:
            live[number] = arena.take(Arena.round_up(int(rng.integers(1, 400 * KB))))
            np.frombuffer(live[number], np.uint8)[...] = number
    spans = sorted(place(block) for block in live.values())
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
    for block in live.values():
        arena.give_back(block)
    arena.clear()
    assert arena.idle == 0


def test_an_array_gives_its_block_back():
    a = memory.empty((1000, 1000))
    view, address = a[3:, 2:], a.ctypes.data
    assert address % 64 == 0 and a.flags.c_contiguous and a.flags.writeable
    a[...] = 1
    del a
    gc.collect()
    other = memory.empty((1000, 1000))
    assert other.ctypes.data != address and view.sum() == view.size     # the view keeps its block
    del view
    assert memory.empty((1000, 1000)).ctypes.data == address
    assert memory.empty((10, 10)).base is None


def test_a_gradient_is_taken_not_copied():
    """The backend keeps an array as its own if nobody else sees its memory."""
    assert memory.owns(memory.empty((300, 300))) and not memory.owns(memory.empty((300, 300))[1:])
    x = minidl.tensor(np.ones((4, 300), np.float32))
    w = minidl.tensor(np.ones((200, 300), np.float32), requires_grad=True)
    F.linear(x, w).sum().backward()
    assert type(w.grad.data.base).__name__ == "_Lease"
    kept = w.grad.data
    address = kept.ctypes.data
    view = kept[1:]
    assert get_backend("cpu").own(kept).ctypes.data != address and view.base is kept


def test_collected_while_the_arena_works():
    """A lease in a cycle may be collected at any allocation, also one of the arena's own."""
    class Cycle:
        pass

    gc.collect()
    for i in range(300):
        cycle = Cycle()
        cycle.self, cycle.array = cycle, memory.empty((20_000 + 700 * (i % 37),))
        del cycle
        memory.empty((20_000 + 900 * (i % 29),))[...] = i
    gc.collect()
    assert memory.arena.idle >= 0
