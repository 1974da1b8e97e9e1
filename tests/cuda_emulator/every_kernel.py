"""Which CUDA kernels the tests of a process left out: ``pytest -n 0 ... --device emu --every-kernel`` fails if there are any."""
from minidl.kernels.cuda import source
from tests.cuda_emulator.emulator import Emulator
from tests.cuda_emulator.races import Racing

# One dtype of each is enough: the two of 16 bits differ in a conversion.
FAMILIES = {"float32": ("float32",), "float64": ("float64",), "16 bits": ("float16", "bfloat16")}

# What no launch asks for: (file, kernel, family) -> why.
NEVER = {
    **{("attention.cu", entry, "float64"): "a head of 128 numbers of eight bytes does not fit"
       for entry in ("attention_128", "attention_grad_queries_128", "attention_grad_keys_128")},
    **{("conv_mma.cu", entry, "float32"): "four channels, to which a group is filled up, are 16 bytes and not narrow"
       for entry in ("conv_tensor_narrow", "conv_input_grad_tensor_narrow", "conv_weight_grad_tensor_narrow")},
    ("layout.cu", "join_parts", "float64"): "only the pipelined products have parts, and none is made for float64",
    ("norm.cu", "running_stats", "16 bits"): "statistics are float32 beside 16-bit images",
}  # fmt: skip


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
                never = (file, entry, family) in NEVER
                if made and bool(seen.intersection(made)) == never:
                    found.append(f"{file}: {entry} with {family}" + " (which is launched: NEVER is wrong)" * never)
    return found


def never_watched() -> list[str]:
    """Kernels of which TSan watched no launch."""
    return [f"{file}: {entry}" for file in source.files() for entry in source.entries(file) if not Racing.watched[file, entry]]
