"""`minidl convert` and `minidl export`."""

import hashlib

import numpy as np
import pytest
from click.testing import CliRunner

from minidl import models
from minidl.cli import cli
from minidl.io.safetensors import load_file
from minidl.train.weights import ModelCard, save_model
from tests.io.torch_files import Call, Global, tensor, zip_file


def minidl(*arguments, code=0):
    done = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_convert(tmp_path):
    (tmp_path / "a.pth").write_bytes(zip_file({"state_dict": {"module.w": tensor(np.ones((2, 3), np.float32))}}))
    said = minidl("convert", tmp_path / "a.pth", tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    assert f"1 tensors (1 float32), 6 numbers, {len(content)} bytes" in said and hashlib.sha256(content).hexdigest() in said
    assert "torch.entry: state_dict" in said and "torch.prefix: module." in said
    assert list(load_file(tmp_path / "a.safetensors")[0]) == ["w"]


def test_convert_refuses_a_hostile_file_in_one_line(tmp_path):
    (tmp_path / "a.pth").write_bytes(zip_file({"w": Call(Global("os", "system"), ("true",))}))
    said = minidl("convert", tmp_path / "a.pth", tmp_path / "a.safetensors", code=2)
    assert "os.system" in said and "Traceback" not in said and said.count("\n") <= 2
    assert not (tmp_path / "a.safetensors").exists()


def test_export(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[onnx]'")
    said = minidl("export", "convnetjs", tmp_path / "a.onnx", "--num-classes", 7)
    assert "convnetjs" in said and "input (N, 3, 32, 32)" in said and "onnxruntime" in said
    net = models.create("lenet5", num_classes=2)
    card = ModelCard("lenet5", {"num_classes": 2}, (1, 32, 32), ("cat", "dog"), {"name": "ToFloat"})
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "model.safetensors", net, card)
    assert "input (N, 1, 32, 32)" in minidl("export", tmp_path / "run", tmp_path / "b.onnx")
    notes = {p.key: p.value for p in onnx.load(tmp_path / "b.onnx").metadata_props}
    assert notes["minidl.model"] == "lenet5" and notes["minidl.class_names"] == '["cat", "dog"]'
    said = minidl("export", tmp_path / "run", tmp_path / "c.onnx", "--num-classes", 3, code=2)
    assert "leave these options out" in said


def test_export_of_an_unknown_net(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[onnx]'")
    assert "did you mean 'lenet5'" in minidl("export", "lenet", tmp_path / "a.onnx", code=2)
