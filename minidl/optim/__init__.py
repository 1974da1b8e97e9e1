"""Optimisers, learning-rate schedules and weight averaging, under PyTorch's names."""
from minidl.optim import lr_scheduler, schedule
from minidl.optim.adagrad import Adadelta, Adagrad
from minidl.optim.adam import Adam, AdamW
from minidl.optim.ema import EMA
from minidl.optim.lookahead import Lookahead
from minidl.optim.optimizer import Optimizer
from minidl.optim.rmsprop import RMSprop
from minidl.optim.schedule import ReduceLROnPlateau
from minidl.optim.sgd import SGD
