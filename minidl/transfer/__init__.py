"""Using what a net has learnt for something else: features of its layers.

>>> from minidl import data, models
>>> from minidl.transfer import extract
>>> shapes = data.load("shapes10", size=20)
>>> found = extract(models.create("resnet20"), shapes, ["layer2", "layer3"], transform=data.transforms.ToFloat())
>>> {layer: features.shape for layer, features in found.items()}
{'layer2': (20, 8192), 'layer3': (20, 4096)}
"""
from minidl.transfer.features import aliases, extract, layer_paths, model_hash
