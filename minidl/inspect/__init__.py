"""Looking at nets: tables of their layers, and what their units see.

>>> from minidl import models
>>> from minidl.inspect import table
>>> table(models.create("lenet5"), (1, 32, 32)).summary()
'4 hidden layers, 6,518 units, 61,706 parameters, 0.4 million multiply-accumulates per image'
"""
from minidl.inspect.field import Axis, Field, box, fields
from minidl.inspect.table import Row, Table, table
from minidl.inspect.trace import Trace, trace
