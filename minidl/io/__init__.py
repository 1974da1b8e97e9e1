"""Files: checkpoints and weights, written whole or not at all and checked when read.

- :mod:`minidl.io.atomic`: replace a file so that a crash leaves the old one or the new one, never half of each;
- :mod:`minidl.io.safetensors`: named arrays and text, in the format other frameworks read;
- :mod:`minidl.io.checkpoint`: nested trees of arrays, numbers and strings in one such file;
- :mod:`minidl.io.torch_import`: weights out of PyTorch's files, without PyTorch and without running anything in them;
- :mod:`minidl.io.convert`: from these to safetensors;
- :mod:`minidl.io.onnx_export`: models as ONNX files.
"""
