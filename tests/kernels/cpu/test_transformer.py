"""What float32 costs a whole training step of a Transformer: its gradients against float64."""
import numpy as np

import minidl
import minidl.models
from minidl.nn import functional as F


def test_gradients_of_a_transformer():
    """Attention, layer norms, GELU and cross-entropy together; nothing in them has a kink: 2e-6 of the length is usual."""
    def step(dtype):
        minidl.manual_seed(0)
        model = minidl.models.create("vit_tiny_cifar", num_layers=2, hidden_dim=96, mlp_dim=200)
        minidl.nn.init.normal_(model.heads.head.weight)              # zeros would let no gradient through
        model = model.to(dtype)
        rng = np.random.default_rng(0)
        images = minidl.tensor(rng.standard_normal((8, 3, 32, 32)).astype(dtype))
        F.cross_entropy(model(images), minidl.tensor(rng.integers(0, 10, 8)), label_smoothing=0.1).backward()
        return {name: p.grad.numpy().astype(np.float64) for name, p in model.named_parameters()}
    exact, got = step("float64"), step("float32")
    for name in list(exact):                         # a key's bias moves all scores of a query alike: its gradient is 0
        if name.endswith("in_proj_bias"):
            exact[name], got[name] = np.delete(exact[name], slice(96, 192)), np.delete(got[name], slice(96, 192))
    errors = {name: np.linalg.norm(got[name] - exact[name]) / np.linalg.norm(exact[name]) for name in exact}
    assert max(errors.values()) <= 1e-5, max(errors.items(), key=lambda item: item[1])
