"""Looking at nets: tables of their layers, and what their units see."""
from minidl.inspect.field import Axis, Field, box, fields
from minidl.inspect.table import Row, Table, table
from minidl.inspect.trace import Trace, trace
