"""Resolves NAME/wanted.txt into NAME/requirements.txt: every package, pinned by version and by hash.

    python3 lock.py NAME PYTHON...

For people who raise a version; nothing that is built or raced runs it. The first PYTHON decides the versions, the
others have to take them, so the oldest comes first. One file serves all of them, wheels for Linux on x86-64 alone.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent

# What PyPI's torch wants and a CPU has no use for: some 3 GB. `without_cuda.py` stands in for it.
CUDA = ("nvidia-", "cuda-", "triton")

# What vLLM's CPU build wants of torch under a version that PyPI does not have, or for pictures and sound.
TORCH = ("torch", "torchaudio", "torchvision", "torchcodec")


def main(name, pythons):
    folder = HERE / name
    with tempfile.TemporaryDirectory() as scratch:
        pips = [pip_of(python, pathlib.Path(scratch) / str(idx)) for idx, python in enumerate(pythons)]
        wanted = [line for line in lines(folder / "wanted.txt") for line in expanded(line, pips[0], scratch)]
        resolved = []
        constraints = pathlib.Path(scratch) / "constraints.txt"
        constraints.write_text("")
        for pip in pips:
            found = resolve(pip, wanted, constraints)
            resolved.append(found)
            if not constraints.read_text():
                constraints.write_text("".join(f"{it}=={version}\n" for it, (version, _) in found.items()))
    versions = [subprocess.check_output([p, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True).strip() for p in pythons]
    (folder / "requirements.txt").write_text(locked(name, resolved, versions))


def pip_of(python, venv):
    """The newest pip of an environment of its own: older ones report differently."""
    subprocess.check_call([python, "-m", "venv", venv])
    pip = [venv / "bin/python", "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.check_call([*pip, "install", "--upgrade", "pip"])
    return pip


def lines(path):
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def expanded(line, pip, scratch):
    """`alone: X` is X and its requirements without those on torch; pip would refuse the whole for them."""
    if not line.startswith("alone: "):
        return [line]
    package = line.removeprefix("alone: ")
    subprocess.check_call([*pip, "download", "--no-deps", "--only-binary", ":all:", "-d", scratch, package])
    wheel = next(pathlib.Path(scratch).glob(package.split("==")[0].replace("-", "_") + "-*.whl"))
    metadata = subprocess.check_output(["unzip", "-p", wheel, "*.dist-info/METADATA"], text=True)
    requirements = [l.removeprefix("Requires-Dist: ") for l in metadata.splitlines() if l.startswith("Requires-Dist: ")]
    is_torch = lambda requirement: requirement.split("=")[0].split(">")[0].split(";")[0].strip() in TORCH
    kept = [it for it in requirements if "extra ==" not in it and not is_torch(it)]
    # A wheel by its path is taken without asking the index, and so without its requirements being looked at twice.
    return [*kept, f"self: {package}"]


def resolve(pip, wanted, constraints):
    """Name → (version, SHA-256) of everything that the wanted packages take."""
    alone = [it.removeprefix("self: ") for it in wanted if it.startswith("self: ")]
    others = [it for it in wanted if not it.startswith("self: ")]
    report = ["install", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", "-"]
    found = {}
    for arguments in ([*report, "-c", constraints, *others], [*report, "--no-deps", *alone] if alone else None):
        if arguments is None:
            continue
        for item in json.loads(subprocess.check_output([*pip, *arguments], text=True))["install"]:
            package = item["metadata"]["name"].lower().replace("_", "-")
            if not package.startswith(CUDA):
                digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
                found[package] = (item["metadata"]["version"], digest)
    return found


def locked(name, resolved, versions):
    out = [f"# Made by `python/lock.py` from `{name}/wanted.txt`, for CPython {' and '.join(versions)}.\n"]
    for package in sorted({package for found in resolved for package in found}):
        having = [idx for idx, found in enumerate(resolved) if package in found]
        (version,) = {resolved[idx][package][0] for idx in having}
        marker = "" if len(having) == len(resolved) else f' ; python_version == "{versions[having[0]]}"'
        digests = sorted({resolved[idx][package][1] for idx in having})
        out.append(f"{package}=={version}{marker}" + "".join(f" \\\n    --hash=sha256:{it}" for it in digests) + "\n")
    return "".join(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
