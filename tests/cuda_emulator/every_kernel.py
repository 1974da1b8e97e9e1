"""Which CUDA kernels the tests of a process left out: ``pytest -n 0 ... --device emu --every-kernel`` fails if there are any."""
from minidl.kernels.cuda import source
from tests.cuda_emulator.emulator import Emulator
from tests.cuda_emulator.races import Racing

# One dtype of each is enough: the two of 16 bits differ in a conversion.
FAMILIES = {"float32": ("float32",), "float64": ("float64",), "16 bits": ("float16", "bfloat16")}


def depends_on_dtype(file: str, entry: str) -> bool:
    """Whether a kernel computes with the dtype that its file is compiled for."""
    return any(parameter.type in ("T", "A") for parameter in source.entries(file)[entry])


def never_launched() -> list[str]:
    """Kernels that no test launched at all, or not for every family of dtypes that they are made for."""
    found = []
    for file in source.files():
        for entry in source.entries(file):
            seen = {values for f, e, values in Emulator.ever_launched if (f, e) == (file, entry)}
            if not depends_on_dtype(file, entry):
                found += [] if seen else [f"{file}: {entry}"]
                continue
            for family, dtypes in FAMILIES.items():
                made = [f"VALUE={source.DTYPES[d][0]}" for d in dtypes if source.made_for(file, d, Emulator.capability)]
                if made and not seen.intersection(made):
                    found.append(f"{file}: {entry} with {family}")
    return found


def never_watched() -> list[str]:
    """Kernels of which TSan watched no launch."""
    return [f"{file}: {entry}" for file in source.files() for entry in source.entries(file) if not Racing.watched[file, entry]]
