"""The table: everything in device-suite.json as one page of markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.device_suite.kernels import rate, roof_of
from benchmarks.device_suite.store import TABLE, Store, replace
from benchmarks.device_suite.work import PARTS
from minidl.inspect.speed import TITLES

Entry = dict[str, Any]


def write_table(store: Store) -> Path:
    """Write DIR/device-suite.md; returns its path."""
    path = store.folder / TABLE
    replace(path, "\n".join(page(store)) + "\n")
    return path


def page(store: Store) -> Iterator[str]:
    machine, gpu = store.data["machine"], store.data["machine"].get("gpu", {})
    yield f"# Device suite: {gpu.get('name', 'no device')}\n"
    if not store.data["measurement"]:
        yield f"**This is {store.data['note']}.**\n"
    yield from facts(machine, gpu)
    for part in PARTS:
        entries = [entry for (of, _), entry in store.results.items() if of == part]
        if entries:
            yield f"\n## {part}\n"
            done = [entry for entry in entries if entry["status"] == "measured" or "rows" in entry]
            if done:
                yield from SECTIONS[part](done, store)
            yield from others(entries)


def facts(machine: Entry, gpu: Entry) -> Iterator[str]:
    if gpu:
        told = [f"{name.replace('_', ' ')} {value}" for name, value in gpu.items() if name != "name"]
        yield f"- GPU: {gpu['name']}; {', '.join(told)}"
    if machine:
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        yield f"- Host: {machine['processor']}, {machine['cores']} cores, {machine['system']}; {versions}"
        yield f"- Commit {machine['commit'] or 'unknown'}, {machine['date']}"


def others(entries: list[Entry]) -> Iterator[str]:
    """Cases without figures, and contenders that did not take part, once for each reason."""
    why: dict[str, list[str]] = {}
    for entry in entries:
        if entry["status"] != "measured":
            why.setdefault(f"{entry['status']}: {entry.get('why', '')}", []).append(entry["case"])
        for name, reason in entry.get("missing", {}).items():
            why.setdefault(f"without {name}: {reason}", []).append(entry["case"])
    if why:
        yield ""
    for reason, cases in why.items():
        yield f"- {reason} ({', '.join(cases[:6])}{f' and {len(cases) - 6} more' if len(cases) > 6 else ''})"


def rows(head: list[str], lines: list[list[str]]) -> Iterator[str]:
    """A table; all columns but the first are numbers."""
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'--:|' * (len(head) - 1)}"
    for line in lines:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in line)} |"


def milliseconds(timing: dict[str, float] | None) -> str:
    """Median and quartiles."""
    if timing is None:
        return "-"
    median, low, high = (1e3 * timing[name] for name in ("median", "low", "high"))
    return f"{median:.4g} ({low:.4g}-{high:.4g})"


def contenders(entries: list[Entry]) -> list[str]:
    return list(dict.fromkeys(name for entry in entries for name in entry["timings"]))


def environment(entries: list[Entry], _: Store) -> Iterator[str]:
    for entry in entries:
        if "versions" in entry:
            yield ", ".join(f"{name} {version or '-'}" for name, version in entry["versions"].items()) + "\n"
    roofs = [entry for entry in entries if "rate" in entry]
    if roofs:
        yield from rows(["roof", "what", "rate", "ms (quartiles)"], [
            [e["case"].removeprefix("roof "), e["what"], f"{e['rate']:.4g} {e['unit']}", milliseconds(e["timings"]["roof"])]
            for e in roofs])  # fmt: skip


def compilation(entries: list[Entry], _: Store) -> Iterator[str]:
    lines = []
    for entry in entries:
        needs = entry["kernels"].values()
        most = max((k["registers"] for k in needs), default=0)
        spills = sum(k["spill_bytes"] for k in needs)
        lines.append([entry["case"], str(len(entry["kernels"])), f"{entry['seconds']:.2f}", str(most), str(spills)])
    yield from rows([f"file ({entries[0]['arch']})", "kernels", "s", "registers, at most", "bytes spilled"], lines)


def testing(entries: list[Entry], _: Store) -> Iterator[str]:
    names = ["passed", "failed", "skipped", "crashed"]
    yield from rows(["file", *names, "s"], [[e["case"], *(str(e[n]) for n in names), f"{e['seconds']:.0f}"] for e in entries])
    bad = [(b["id"], b["outcome"], b["lines"]) for entry in entries for b in entry["bad"]]
    if bad:
        yield ""
    for name, outcome, lines in bad:
        yield f"- {outcome}: `{name}` {lines[0] if lines else ''}"


def sanitizer(entries: list[Entry], _: Store) -> Iterator[str]:
    yield from rows(["tool", "errors", "what"], [[e["case"], str(e["errors"]), e["what"]] for e in entries])
    for entry in entries:
        for line in (*entry["raised"], *entry["report"][:10]):
            yield f"- {entry['case']}: `{line.strip()}`"


def kernels(entries: list[Entry], store: Store) -> Iterator[str]:
    lines = []
    for entry in entries:
        for variant, timing in entry["timings"].items():
            speed, unit = rate(entry, variant)
            roof = store.roof(roof_of(entry, variant))
            share = f"{speed / roof:.0%} of {roof_of(entry, variant)}" if roof else "-"
            lines.append([entry["case"], variant, milliseconds(timing), f"{speed:.4g} {unit}", share, entry["what"]])
    yield from rows(["kernel", "variant", "ms (quartiles)", "rate", "of the roof", "arguments"], lines)


def layers(entries: list[Entry], _: Store) -> Iterator[str]:
    names = contenders(entries)
    lines = []
    for entry in entries:
        ours, theirs = entry["timings"].get("minidl"), [t["median"] for n, t in entry["timings"].items() if n != "minidl"]
        speed = f"{entry['flop'] / ours['median'] / 1e12:.3g}" if ours and entry["flop"] else "-"
        ratio = f"{ours['median'] / min(theirs):.2f}" if ours and theirs else "-"
        lines.append([entry["case"], *(milliseconds(entry["timings"].get(n)) for n in names), speed, ratio])
    yield from rows(["layer", *(f"{n}, ms" for n in names), "TFLOP/s", "ratio"], lines)


def steps(entries: list[Entry], _: Store) -> Iterator[str]:
    names = contenders(entries)
    lines = []
    for entry in entries:
        ratio = entry["ratio"]
        said = f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"
        ours = entry["timings"].get(entry["contender"])
        images = f"{entry['images'] / ours['median']:.0f}" if ours else "-"
        times = (milliseconds(entry["timings"].get(name)) for name in names)
        lines.append([entry["case"], *times, images, said, f"{entry['contender']} / {entry['reference']}"])
    yield from rows(["case", *(f"{n}, ms" for n in names), "images/s", "ratio", "of"], lines)


def speedup(entries: list[Entry], _: Store) -> Iterator[str]:
    for entry in entries:
        names = list(dict.fromkeys(name for row in entry["rows"] for name in row["cells"]))
        cpus = [name for name in names if name != "gpu"]
        lines = []
        for row in entry["rows"]:
            times = [f"{row['cells'][name]['seconds'] * 1e3:.4g}" if name in row["cells"] else "-" for name in names]
            ratios = [f"{row['times_gpu'][name]:.1f}" if name in row["times_gpu"] else "-" for name in cpus]
            more = f" (and {row['like']} like it)" if row["like"] else ""
            shape = "x".join(map(str, row["shape"]))
            lines.append([row["name"] + more, shape, *times, *ratios, f"{row['difference']:.1e}"])
        yield f"{entry['case']}: {entry['what']}.\n"
        heads = [*(f"{TITLES[n]}, ms" for n in names), *(f"{TITLES[n]} / GPU" for n in cpus)]
        yield from rows(["layer", "input", *heads, "difference"], lines)


def overhead(entries: list[Entry], _: Store) -> Iterator[str]:
    yield from rows(["what", "microseconds each", "how"],
                    [[e["case"], f"{e['microseconds']:.2f}", e["what"]] for e in entries])  # fmt: skip


SECTIONS: dict[str, Callable[[list[Entry], Store], Iterator[str]]] = {
    "environment": environment, "compile": compilation, "tests": testing, "sanitizer": sanitizer, "kernels": kernels,
    "layers": layers, "steps": steps, "speedup": speedup, "overhead": overhead,
}  # fmt: skip
