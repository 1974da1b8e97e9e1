"""`minidl gradcheck`: right gradients pass, planted wrong ones are found and described, kinks are not called errors."""

import textwrap

import pytest
from click.testing import CliRunner

from minidl.cli import cli
from minidl.errors import ConfigError
from minidl.train import gradients

SUBJECTS = '''
import minidl
from minidl import nn
from minidl.autograd import Function


class Square(Function):
    """Right: y = x * x."""

    def forward(self, F, x):
        return F.mul(x, x)

    def backward(self, F, gy, x):
        return (F.mul(gy, F.add(x, x)),)


class Halved(Function):
    """Wrong everywhere by one factor: the 2 of 2 x was forgotten."""

    def forward(self, F, x):
        return F.mul(x, x)

    def backward(self, F, gy, x):
        return (F.mul(gy, x),)


class OneInput(Function):
    """Right for a, wrong for b."""

    def forward(self, F, a, b):
        return F.mul(a, b)

    def backward(self, F, gy, a, b):
        return F.mul(gy, b), F.mul(gy, F.add(a, F.sin(a)))


class SecondOnly(Function):
    """Its gradient is right, but the recorded one forgets that the sine depends on x."""

    def forward(self, F, x):
        self.slope = F.cos(x)
        return F.sin(x)

    def backward(self, F, gy, slope):
        return (F.mul(gy, slope),)


class BadShape(Function):
    def forward(self, F, x):
        return F.mul(x, x)

    def backward(self, F, gy, x):
        return (F.sum(F.mul(gy, F.add(x, x)), axis=0),)


class Raises(Function):
    def forward(self, F, x):
        return F.mul(x, x)

    def backward(self, F, gy, x):
        return {}["no such key"]


class Net(nn.Module):
    def __init__(self, hidden=4):
        super().__init__()
        self.a = nn.Linear(3, hidden)
        self.b = nn.Linear(hidden, 2)

    def forward(self, x):
        return self.b(self.a(x).tanh())


def plain(x, y):
    return x * y.exp()


HERE = []


def at_the_kink(x):
    if not HERE:
        HERE.append(x.detach().clone())
    return (x - HERE[0]).relu()


def restless(x):
    return x * minidl.rand(1).item()


NUMBER = 3
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gradcheck") / "subjects.py"
    path.write_text(textwrap.dedent(SUBJECTS))
    return path


def run(target, *arguments):
    result = CliRunner().invoke(cli, ["gradcheck", str(target), *map(str, arguments)])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


@pytest.mark.parametrize("name", sorted({*gradients._operations(), "norm", "log_softmax"}))
def test_every_operation_by_name(name):
    """Whatever minidl and minidl.nn.functional offer is checked without shapes and options, or says that it cannot be."""
    try:
        subject = gradients.find(name)
    except ConfigError as error:
        assert "has no gradient to check" in str(error)
    else:
        verdict = gradients.check(subject)
        assert verdict.ok and not verdict.problem, verdict


@pytest.mark.parametrize("name, names", [("scatter", ["x", "y"]), ("where", ["a", "b"]), ("dropout", ["x"])])
def test_the_inputs_of_an_operation_are_called_as_the_table_calls_them(name, names):
    """Not as the operation's first parameters: between those are numbers and indices, which have no gradient."""
    assert gradients.find(name).names == names


def test_shapes_and_options():
    subject = gradients.find("softmax", [(2, 3, 4)], {"dim": 1})
    assert [tuple(tensor.shape) for tensor in subject.inputs] == [(2, 3, 4)] and gradients.check(subject).ok
    code, output = run("conv2d", "--shape", "1,2,4,4", "--shape", "2x1x3x3", "--option", "groups=2")
    assert code == 0 and "gradient: right (50 elements" in output


@pytest.mark.parametrize("name", ["Square", "Net", "plain"])
def test_what_is_right_passes(file, name):
    code, output = run(f"{file}:{name}")
    assert code == 0 and output.count("right") == 2, output


def test_a_modules_parameters_are_checked_too(file):
    subject = gradients.find(f"{file}:Net", options={"hidden": 5})
    assert subject.names == ["x", "a.weight", "a.bias", "b.weight", "b.bias"]
    assert gradients.check(subject).elements == 6 + 15 + 5 + 10 + 2


def test_a_wrong_factor_is_named(file):
    code, output = run(f"{file}:Halved")
    assert code == 1
    assert "x: 6 of 6 elements are wrong; backward gives 0.5 times the right value" in output
    assert "(0, 0)" in output and output.count("WRONG") == 7


def test_the_wrong_input_is_named(file):
    code, output = run(f"{file}:OneInput")
    assert code == 1 and "b: 6 of 6 elements are wrong" in output and "a: " not in output


def test_a_wrong_second_gradient(file):
    code, output = run(f"{file}:SecondOnly")
    assert code == 1 and "gradient: right" in output and "gradient of the gradient" in output


def test_a_gradient_of_the_wrong_shape(file):
    code, output = run(f"{file}:BadShape")
    assert code != 0 and "shape" in output


def test_a_backward_that_raises(file):
    code, output = run(f"{file}:Raises")
    assert code == 1 and "Raises, gradient: it raised KeyError: 'no such key'" in output


def test_a_kink_is_no_error(file):
    code, output = run(f"{file}:at_the_kink")
    assert code == 0 and "a kink" in output and "6 elements lie at a kink" in output and "WRONG" not in output


def test_a_function_that_does_not_repeat_itself(file):
    code, output = run(f"{file}:restless")
    assert code == 1 and "another result each time" in output


def test_code_that_fails_is_not_a_fault_of_minidl(tmp_path):
    (tmp_path / "mine.py").write_text(textwrap.dedent("""
        from minidl import nn
        class Sized(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.layer = nn.Linear(3, n)
            def forward(self, x):
                return self.layer(x)
        def divides(x):
            return 1 / 0
        def looks_up(x):
            return {}["k"]
    """))
    for name, message in (("divides", "raised ZeroDivisionError: division by zero"), ("looks_up", "raised KeyError: 'k'"),
                          ("Sized", "cannot be made .*missing 1 required positional argument: 'n'.*--option NAME=VALUE")):
        with pytest.raises(ConfigError, match=message):
            gradients.find(f"{tmp_path / 'mine.py'}:{name}")
    assert gradients.check(gradients.find(f"{tmp_path / 'mine.py'}:Sized", options={"n": 2})).ok


@pytest.mark.parametrize("target, message", [
    ("conv2", "no operation is called 'conv2'; did you mean conv2d"),
    ("_hidden", "no operation is called"),
    ("zeros", "no operation is called 'zeros'; it makes tensors or sets a switch"),
    ("no_grad", "no operation is called 'no_grad'; it makes tensors or sets a switch"),
    ("is_autocast_enabled", "no operation is called 'is_autocast_enabled'; it makes tensors or sets a switch"),
    ("bincount", "bincount has no gradient to check: it gives int64"),
    ("argmax", "argmax has no gradient to check: it gives int64"),
    ("isnan", "isnan has no gradient to check: it gives bool"),
    ("allclose", "allclose has no gradient to check: it gives bool"),
    ("mine.py", "say what in that file is to be checked: mine.py:NAME"),
    ("nowhere.py:Net", "there is no file nowhere.py"),
    ("{file}:Nothing", "has nothing called 'Nothing'; it defines: Square, Halved"),
    ("{file}:NUMBER", "NUMBER is a int; expected a Function"),
])  # fmt: skip
def test_bad_targets(file, target, message):
    with pytest.raises(ConfigError, match=message):
        gradients.find(target.format(file=file))


def test_a_file_that_cannot_be_imported(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    with pytest.raises(ConfigError, match="cannot be imported: ModuleNotFoundError"):
        gradients.find(f"{tmp_path}/broken.py:Net")
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not a Python file"):
        gradients.find(f"{tmp_path}/text.txt:Net")


def test_inputs_that_do_not_fit():
    code, output = run("matmul", "--shape", "2,3", "--shape", "2,3")
    assert code == 2 and "matmul does not take inputs of shape (2, 3), (2, 3)" in output and output.count("\n") == 1
    code, output = run("exp", "--shape", "two")
    assert code == 2 and "expected sizes with commas" in output
