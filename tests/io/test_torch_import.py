"""Weights out of PyTorch's files, from bytes built by hand: no torch is needed here."""

import json
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.errors import CheckpointError
from minidl.io.torch_import import load_pth
from tests.io.torch_files import (
    Call,
    Global,
    Object,
    Persistent,
    Storage,
    bfloat16,
    legacy_file,
    module,
    ordered,
    parameter,
    storage,
    tensor,
    view,
    zip_file,
)

# The standard library's disassembler warns of odd escapes in texts; a damaged file has them.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape")

WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7
BIAS = np.array([-1.5, np.inf, 2.0**-149], np.float32)
FORMATS = {"zip": zip_file, "legacy": legacy_file}


@pytest.fixture(params=FORMATS)
def write(request, tmp_path):
    """Writes a value in one of the formats and gives the path."""

    def save(value, **options):
        path = tmp_path / f"{request.param}.pth"
        path.write_bytes(FORMATS[request.param](value, **options))
        return path

    save.format = request.param
    return save


def refuses(path, *words):
    with pytest.raises(CheckpointError) as caught:
        load_pth(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and all(word in message for word in words), message
    return message


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------------------------------------------- contents
def test_a_state_dict(write):
    state = ordered(
        {"fc.weight": tensor(WEIGHT), "fc.bias": parameter(tensor(BIAS))}, {"_metadata": ordered({"": {"version": 1}})}
    )
    arrays, metadata = load_pth(write(state))
    assert list(arrays) == ["fc.weight", "fc.bias"] and metadata == {"torch.format": write.format}
    assert same(arrays["fc.weight"], WEIGHT) and same(arrays["fc.bias"], BIAS)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in arrays.values())


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64"]
)
def test_every_dtype_is_exact(write, dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]] if dtype == "bool" else [[0, 1, 2], [3, 100, 117]], dtype)
    scalar = np.array(1, dtype)
    arrays, _ = load_pth(
        write({"a": tensor(array), "empty": tensor(array[:0]), "scalar": view(storage(scalar), (), ())})
    )
    assert same(arrays["a"], array) and same(arrays["empty"], array[:0]) and same(arrays["scalar"], scalar)
    assert all(type(found) is np.ndarray for found in arrays.values())


def test_bfloat16_is_widened_exactly(write):
    values = np.array([1.0, -2.5, 1.5 * 2.0**127, 2.0**-133, np.inf, -0.0], np.float32)  # every one is a bfloat16
    state = {"b": view(bfloat16(values), (3, 2), (1, 3)), "s": view(bfloat16(values[1:2]), (), ())}
    arrays, metadata = load_pth(write(state))
    assert same(arrays["b"], np.ascontiguousarray(values.reshape(2, 3).T)) and same(arrays["s"], values[1].reshape(()))
    assert metadata["torch.bfloat16"] == "2"


def test_unsigned_integers_come_in_storages_of_bytes(write):
    """uint16, uint32 and uint64 have no storage class; their tensors carry the dtype (since torch 2.3)."""
    values = np.array([1, 2, 65535, 7], "<u2")
    stored = Storage(values.tobytes(), "UntypedStorage", values.nbytes)
    rebuild = Global("torch._utils", "_rebuild_tensor_v3")
    arguments = (stored, 1, (3,), (1,), False, ordered({}), Global("torch", "uint16"))
    arrays, _ = load_pth(write({"u": Call(rebuild, arguments)}))
    assert same(arrays["u"], values[1:].astype("=u2"))


def test_strides_and_offsets(write):
    stored = storage(WEIGHT)
    arrays, _ = load_pth(
        write(
            {
                "part": view(stored, (3, 4), (4, 1), 12),
                "transposed": view(stored, (4, 3, 2), (1, 4, 12)),
                "step": view(stored, (6,), (4,), 3),
            }
        )
    )
    assert same(arrays["part"], WEIGHT[1])
    assert same(arrays["transposed"], np.ascontiguousarray(WEIGHT.T))
    assert same(arrays["step"], WEIGHT.reshape(-1)[3::4])


def test_tied_tensors_are_one_array(write):
    stored = storage(WEIGHT)
    tied = {"a": view(stored, (24,), (1,)), "b": view(stored, (24,), (1,)), "c": view(stored, (12,), (1,))}
    arrays, _ = load_pth(write(tied))
    assert arrays["a"] is arrays["b"] and not np.shares_memory(arrays["a"], arrays["c"])


def test_the_other_byte_order(write):
    swapped = storage(WEIGHT.astype(">f4"))
    option = {"byteorder": "big"} if write.format == "zip" else {"little_endian": False}
    arrays, _ = load_pth(write({"a": view(swapped, (24,), (1,))}, **option))
    assert same(arrays["a"], WEIGHT.reshape(-1))


def test_a_file_without_a_byte_order_is_little_endian(tmp_path):
    (tmp_path / "a.pth").write_bytes(zip_file({"a": tensor(WEIGHT)}, byteorder=None))
    assert same(load_pth(tmp_path / "a.pth")[0]["a"], WEIGHT)


def test_a_compressed_archive(tmp_path):
    (tmp_path / "a.pth").write_bytes(zip_file({"a": tensor(WEIGHT)}, deflate=True))
    assert same(load_pth(tmp_path / "a.pth")[0]["a"], WEIGHT)


def test_views_of_storages_in_old_files(tmp_path):
    """Before 0.4 a storage could itself be a view: (its key, where it starts, its length)."""
    stored = storage(WEIGHT, view=("other", 4, 8))
    (tmp_path / "a.pth").write_bytes(legacy_file({"a": view(stored, (8,), (1,))}))
    assert same(load_pth(tmp_path / "a.pth")[0]["a"], WEIGHT.reshape(-1)[4:12])


# ------------------------------------------------------------------------------------------------------ where they are
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net", "weights_of_mine"])
def test_wrapped_state_dicts(write, wrapper):
    extra = {"epoch": 12, "best": 0.75, "arch": "resnet18", "optimizer": {"state": {0: {"momentum": tensor(BIAS)}}}}
    arrays, metadata = load_pth(write({**extra, wrapper: ordered({"a": tensor(WEIGHT)})}))
    assert list(arrays) == ["a"] and metadata["torch.entry"] == wrapper
    assert json.loads(metadata["torch.values"]) == {"epoch": 12, "best": 0.75, "arch": "resnet18"}


def test_a_tensor_beside_the_weights_is_not_one_of_them(write):
    arrays, _ = load_pth(write({"rng": tensor(BIAS), "state_dict": {"a": tensor(WEIGHT)}}))
    assert list(arrays) == ["a"]


def test_a_tensor_called_model_does_not_hide_the_others(write):
    assert list(load_pth(write({"model": tensor(BIAS), "a": tensor(WEIGHT)}))[0]) == ["model", "a"]


def test_wrapped_twice(write):
    _, metadata = load_pth(write({"model": {"state_dict": {"a": tensor(WEIGHT)}}}))
    assert metadata["torch.entry"] == "model.state_dict"


def test_several_sets_of_weights_need_a_choice(write):
    path = write({"student": {"a": tensor(WEIGHT)}, "teacher": {"b": tensor(BIAS)}})
    refuses(path, "'student', 'teacher'", "entry='student'")
    assert list(load_pth(path, entry="teacher")[0]) == ["b"]
    with pytest.raises(CheckpointError, match="no weights under 'nobody'.*'student', 'teacher'"):
        load_pth(path, entry="nobody")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapping_modules_go(write, prefix):
    arrays, metadata = load_pth(write({f"{prefix}a": tensor(WEIGHT), f"{prefix}b.c": tensor(BIAS)}))
    assert list(arrays) == ["a", "b.c"] and metadata["torch.prefix"] == prefix


def test_a_prefix_that_only_some_names_have_stays(write):
    assert list(load_pth(write({"module.a": tensor(WEIGHT), "b": tensor(BIAS)}))[0]) == ["module.a", "b"]


def test_a_whole_module(write):
    layer = module("my_nets.Linear", {"weight": parameter(tensor(WEIGHT)), "bias": None}, in_features=4)
    norm = module(
        "torch.nn.modules.batchnorm.BatchNorm2d",
        None,
        {"mean": tensor(BIAS), "scratch": tensor(BIAS)},
        hidden=("scratch",),
    )
    net = module(
        "__main__.Net",
        {"scale": parameter(tensor(BIAS))},
        None,
        {"fc": layer, "bn": norm, "again": layer, "none": None},
        activation=Global("torch.nn.functional", "relu"),
        factory=Call(Global("functools", "partial"), (Global("my_nets", "f"),)),
    )
    arrays, metadata = load_pth(write({"model": net, "epoch": 1}))
    assert (
        list(arrays) == ["scale", "fc.weight", "bn.mean", "again.weight"] and metadata["torch.class"] == "__main__.Net"
    )
    assert arrays["fc.weight"] is arrays["again.weight"] and same(arrays["bn.mean"], BIAS)


def test_a_whole_module_of_an_old_file(tmp_path):
    """Old files carry the source text of each class; it is ignored."""
    net = module("nets.Net", {"weight": tensor(WEIGHT)})
    cls = Persistent(("module", net.cls, "/home/someone/nets.py", "import os; os.system('boom')"))
    (tmp_path / "a.pth").write_bytes(legacy_file(Object(cls, net.state)))
    assert list(load_pth(tmp_path / "a.pth")[0]) == ["weight"]


@pytest.mark.parametrize("value", [{}, {"lr": 0.1}, [1, 2], 7, {"a": {"b": 1}}, module("my.Net")], ids=repr)
def test_no_weights(write, value):
    refuses(write(value), "holds no weights")


# --------------------------------------------------------------------------------------------------------- hostile files
@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "nt.system",
        "builtins.eval",
        "__builtin__.exec",
        "subprocess.Popen",
        "runpy.run_path",
    ],
)
@pytest.mark.parametrize("how", ["call", "object", "mention", "state"])
def test_a_hostile_file_is_refused_by_name(write, tmp_path, name, how):
    planted = tmp_path / "planted"
    target = Global(*name.rsplit(".", 1))
    value = {
        "call": Call(target, (f"touch {planted}",)),
        "object": Object(target, {}),
        "mention": target,
        "state": Call(
            Global("torch._utils", "_rebuild_parameter"), (tensor(BIAS), True, Call(target, (f"touch {planted}",)))
        ),
    }[how]
    refuses(write({"a": tensor(WEIGHT), "b": value}), f"a call of '{name}'", "nothing in it was run")
    assert not planted.exists()


def test_the_real_thing_is_refused(tmp_path):
    """A pickle that Python itself would run, made by Python itself."""
    planted = tmp_path / "planted"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {planted}",)

    import pickle

    archive = tmp_path / "a.pth"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({"a": Bomb()}, 2))
    refuses(archive, f"{os.system.__module__}.system")
    assert not planted.exists()


@pytest.mark.parametrize(
    "name", ["torch.load", "torch.hub.load", "numpy.load", "evil.run", "torch._utils._rebuild_sparse_tensor"]
)
def test_calls_beyond_the_allow_list(write, name):
    refuses(write({"a": Call(Global(*name.rsplit(".", 1)), ("x",))}), f"a call of '{name}'")


@pytest.mark.parametrize("kind", ["QInt8Storage", "Float8_e4m3fnStorage", "system"])
def test_storages_that_cannot_be_read(write, kind):
    refuses(write({"a": view(Storage(b"1234", kind, 4), (4,), (1,))}), kind)


def test_instructions_that_data_does_not_need(tmp_path):
    for program in (b"\x80\x02\x82\x01.", b"\x80\x02(cos\nsystem\no.", b"(S'x'\nios\nsystem\n.", b"\x80\x02P1\n."):
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
            file.writestr("a/data.pkl", program)
        refuses(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "shape, stride, offset",
    [
        ((25,), (1,), 0),
        ((24,), (1,), 1),
        ((2,), (24,), 0),
        ((24,), (-1,), 23),
        ((1,), (1,), -1),
        ((2**40, 2**40), (1, 1), 0),
        ((2,), (1, 1), 0),
        ((True,), (1,), 0),
        ((2**70,), (0,), 0),
        ((1,) * 40, (1,) * 40, 0),
    ],
)
def test_views_that_leave_their_storage(write, shape, stride, offset):
    refuses(write({"a": view(storage(WEIGHT), shape, stride, offset)}), "damaged")


def test_a_view_repeated_without_end_is_a_bomb(write):
    refuses(write({"a": view(storage(WEIGHT), (2**40,), (0,))}), "size bomb")
    stored = storage(np.zeros(100_000, np.float32))
    shifted = {f"a{i}": view(stored, (90_000,), (1,), i) for i in range(200)}  # 72 MB out of 0.4
    refuses(write(shifted), "size bomb")


def test_a_small_expanded_tensor_is_none(write):
    assert same(
        load_pth(write({"a": view(storage(BIAS[:1]), (2, 3), (0, 0))}))[0]["a"], np.full((2, 3), -1.5, np.float32)
    )


@pytest.mark.parametrize("module, name", [("collections", "OrderedDict"), ("__builtin__", "set"), ("torch", "Size")])
def test_a_list_copied_again_and_again_is_a_bomb(tmp_path, module, name):
    """10,000 instructions that each copy a list of 10,000 pairs."""
    pairs = b"(" + b"(X\x01\x00\x00\x00kNt" * 10_000 + b"l\x85q\x00"
    program = b"\x80\x02" + pairs + b"0(" + f"c{module}\n{name}\nh\x00R".encode() * 10_000 + b"l."
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("a/data.pkl", program)
    refuses(tmp_path / "a.pth", "copied again and again")


def test_a_storage_that_lies_about_its_size(write):
    stored = storage(WEIGHT)
    stored.count = 2**50
    refuses(write({"a": view(stored, (24,), (1,))}))


def test_a_zip_bomb(tmp_path):
    (tmp_path / "a.pth").write_bytes(zip_file({"a": tensor(np.zeros(4_000_000, np.uint8))}, deflate=True))
    refuses(tmp_path / "a.pth", "decompression bomb")


def test_modules_that_contain_themselves(tmp_path):
    # {'_modules': memo} of an object that is its own child
    program = b"\x80\x02cmy\nNet\n)\x81q\x00}(X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\x00sX\x0b\x00\x00\x00_parameters}ub."
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("a/data.pkl", program)
    refuses(tmp_path / "a.pth", "contain themselves")


def test_modules_that_double_at_every_level(tmp_path):
    """Thirty levels of twins have a thousand million names."""
    net = module("my.Leaf", {"w": tensor(BIAS)})
    for _ in range(30):
        net = module("my.Net", None, None, {"a": net, "b": net})
    (tmp_path / "a.pth").write_bytes(zip_file(net))
    refuses(tmp_path / "a.pth", "more than")


def test_deep_nesting_is_not_a_crash(tmp_path):
    for program in (b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b".", b"\x80\x02)" + b"\x85" * 100_000 + b"."):
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
            file.writestr("a/data.pkl", program)
        refuses(tmp_path / "a.pth")


# --------------------------------------------------------------------------------------------------------- other files
@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>...", "error page"),
        (b"\x80\x04N.", "plain pickle"),
        (b"\0" * 257 + b"ustar" + b"\0" * 300, "tar archive"),
        ((50).to_bytes(8, "little") + b'{"a"' + b" " * 60, "safetensors"),
        (b"GIF89a", "none of their signatures"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, words):
    (tmp_path / "a.pth").write_bytes(content)
    refuses(tmp_path / "a.pth", "not a file that torch.save wrote", words)


def test_zip_archives_of_other_kinds(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    refuses(path, "readme.txt", "expected data.pkl")
    path.write_bytes(zip_file({"a": tensor(WEIGHT)}, extra={"constants.pkl": b""}))
    refuses(path, "TorchScript")
    path.write_bytes(zip_file({"a": tensor(WEIGHT)}, byteorder="middle"))
    refuses(path, "byte order")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file .*nothing.pth"):
        load_pth(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="folder"):
        load_pth(tmp_path)


# --------------------------------------------------------------------------------------------------------------- damage
SAMPLE = {
    "epoch": 3,
    "state_dict": ordered(
        {"module.a": tensor(WEIGHT), "module.b": view(bfloat16(BIAS), (3,), (1,)), "module.c": parameter(tensor(BIAS))}
    ),
    "model": module("my.Net", {"w": tensor(BIAS)}, hidden=("x",)),
}
SAMPLES = {name: build(SAMPLE) for name, build in FORMATS.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation_is_noticed(tmp_path, name):
    path = tmp_path / "a.pth"
    for cut in range(0, len(SAMPLES[name]), 7):
        path.write_bytes(SAMPLES[name][:cut])
        refuses(path)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=400)
def test_damaged_files_are_read_or_refused(tmp_path_factory, name, data):
    damaged = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "a.pth"
    path.write_bytes(damaged)
    try:
        load_pth(path)
    except CheckpointError as error:
        assert str(error).startswith(str(path))


@given(data=st.data())
@settings(max_examples=400)
def test_damaged_pickles_are_read_or_refused(tmp_path_factory, data):
    """The archive's checksums would catch most damage; here only the pickle inside of it is damaged."""
    path = tmp_path_factory.mktemp("fuzz") / "a.pth"
    path.write_bytes(SAMPLES["zip"])
    with zipfile.ZipFile(path) as file:
        entries = {info.filename: file.read(info) for info in file.infolist()}
    program = bytearray(entries["archive/data.pkl"])
    for _ in range(data.draw(st.integers(1, 6))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    entries["archive/data.pkl"] = bytes(program)
    with zipfile.ZipFile(path, "w") as file:
        for entry, content in entries.items():
            file.writestr(entry, content)
    try:
        load_pth(path)
    except CheckpointError as error:
        assert str(error).startswith(str(path))


@given(
    st.binary(max_size=120), st.sampled_from([b"", b"ctorch._utils\n_rebuild_tensor_v2\n(((X\x07\x00\x00\x00storage"])
)
@settings(max_examples=300)
def test_random_programs_are_read_or_refused(tmp_path_factory, program, start):
    path = tmp_path_factory.mktemp("fuzz") / "a.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + start + program + b".")
    refuses(path)


def test_a_flipped_bit_in_the_numbers_is_found(tmp_path):
    """The zip format has checksums (the legacy one has none)."""
    damaged = bytearray(SAMPLES["zip"])
    damaged[SAMPLES["zip"].index(WEIGHT.tobytes()) + 5] ^= 1
    (tmp_path / "a.pth").write_bytes(damaged)
    refuses(tmp_path / "a.pth", "CRC")


def test_a_legacy_size_that_is_not_there(tmp_path):
    content = SAMPLES["legacy"].replace(
        struct.pack("<q", 24) + WEIGHT.tobytes(), struct.pack("<q", 2**60) + WEIGHT.tobytes()
    )
    (tmp_path / "a.pth").write_bytes(content)
    refuses(tmp_path / "a.pth", "damaged")


def test_torch_is_not_imported(tmp_path):
    (tmp_path / "a.pth").write_bytes(SAMPLES["zip"])
    code = "import sys; from minidl.io.torch_import import load_pth; load_pth(sys.argv[1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.pth")], timeout=60).returncode == 0
