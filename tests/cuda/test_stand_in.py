"""The stand-in for CuPy: as strict as it says, and no name in it, or used of CuPy anywhere, that the real one does not have."""

import re

import numpy as np
import pytest

from tests.fake_cupy import ABSENT, fake_cupy
from tests.sources import KERNELS, MINIDL


@pytest.fixture
def real():
    return pytest.importorskip("cupy", reason="CuPy is not installed (pip install 'minidl[cuda13]')")


def used():
    """Every ``xp.name`` in the package; ``xp`` is NumPy or CuPy there."""
    text = "\n".join(file.read_text(encoding="utf-8") for root in (MINIDL, KERNELS) for file in root.rglob("*.py"))
    return sorted(set(re.findall(r"\bxp\.([a-z]\w*(?:\.(?!ndarray)[a-zA-Z]\w*)?)", text)))


def test_cupy_has_what_is_used(real):
    missing = []
    for name in used():
        place, found = real, True
        for part in name.split("."):
            found = found and hasattr(place, part)
            place = getattr(place, part, None)
        if not found:
            missing.append(name)
    assert not missing and len(used()) > 50


def test_cupy_has_what_the_stand_in_has(real):
    fake = fake_cupy()
    assert {name for name in dir(np) if not name.startswith("_") and not hasattr(real, name)} >= ABSENT
    assert all(hasattr(real, name) for name in vars(fake) if not name.startswith("_") and name not in ("calls", "world"))
    for place in ("cuda", "cuda.runtime", "cuda.memory"):
        theirs, ours = real, fake
        for part in place.split("."):
            theirs, ours = getattr(theirs, part), getattr(ours, part)
        assert [name for name in vars(ours) if not hasattr(theirs, name)] == [], place
    own = {"world", "ptr", "device_id", "queue", "pending", "non_blocking", "submit", "run"}
    for name, instance in (("Stream", fake.cuda.Stream()), ("Event", fake.cuda.Event()), ("Device", fake.cuda.Device())):
        public = {n for n in dir(instance) if not n.startswith("_")} - own
        assert [n for n in public - {"id"} if not hasattr(getattr(real.cuda, name), n)] == [], name


def test_arrays_do_not_mix():
    cupy = fake_cupy()
    x = cupy.arange(3.0)
    host = np.ones(3)
    for mix in (lambda: x + host, lambda: host * x, lambda: cupy.add(x, host), lambda: x.__setitem__(0, host[:1])):
        with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
            mix()
    with cupy.cuda.Device(1), pytest.raises(ValueError, match="array device = 0 while current = 1"):
        x + 1
    assert isinstance(x.sum(), cupy.ndarray) and isinstance(x[0], cupy.ndarray) and (x + 1).get().tolist() == [1, 2, 3]


def test_streams_are_late_and_pinned_memory_is_used_again():
    cupy = fake_cupy()
    stream, target = cupy.cuda.Stream(non_blocking=True), cupy.empty(4, np.float32)
    memory = cupy.cuda.alloc_pinned_memory(16)
    source = np.ndarray(4, np.float32, memory)
    source[:] = 7
    target.set(source, stream=stream)
    assert np.isnan(target.get()).all(), "nobody has waited"
    event = stream.record()
    cupy.cuda.get_current_stream().wait_event(event)
    assert event.done and target.get().tolist() == [7] * 4
    target.set(source, stream=stream)
    del source, memory  # too early: the block goes back to the pool
    stream.synchronize()
    assert np.isnan(target.get()).all()
    target.set(np.ones(4, np.float32), stream=stream)  # from pageable memory: read before the call returns
    assert target.get().tolist() == [1] * 4


def test_a_device_waits_for_all_its_streams():
    cupy = fake_cupy()
    stream, target = cupy.cuda.Stream(), cupy.empty(4, np.float32)
    source = np.ndarray(4, np.float32, cupy.cuda.alloc_pinned_memory(16))
    source[:] = 3
    target.set(source, stream=stream)
    cupy.cuda.Device(0).synchronize()
    assert target.get().tolist() == [3] * 4
