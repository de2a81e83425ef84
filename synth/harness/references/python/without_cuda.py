"""Lets PyPI's torch, which is linked against CUDA, be imported where no CUDA is.

    venv/bin/python without_cuda.py

torch finds CUDA's libraries by name, and needs each of their functions to exist when it is loaded. Here every one of
them exists and answers 100, CUDA's code for "there is no device"; torch then says that CUDA is not available, and
computes on the CPU with the same kernels as its CPU build. Saves 3 GB of downloads. Needs a C compiler and binutils.
"""

import pathlib
import re
import subprocess
import sysconfig

# Where torch's libraries look first.
LIBRARIES = pathlib.Path(sysconfig.get_paths()["purelib"]) / "torch/lib"

# How the functions of CUDA and its libraries begin.
FUNCTION = re.compile(r"(cu|nv|nccl|__cuda)\w*")

# Holds all functions. No symbol's version names it, so the loader is content with functions that have none.
ANSWERS = "libcuda_is_absent.so"


def main():
    torch = [path for path in LIBRARIES.glob("*.so") if path.name != ANSWERS]
    present = {path.name for path in torch}
    wanted = {name for path in torch for name in needed(path)} - present
    missing = sorted(name for name in wanted if FUNCTION.fullmatch(name.removeprefix("lib").split(".")[0]))
    functions = sorted({name for path in torch for name in undefined(path) if FUNCTION.fullmatch(name)})
    # One body under all names: what is asked for is never looked at.
    aliases = "".join(f'int {name}(void) __attribute__((alias("absent")));\n' for name in functions)
    link(ANSWERS, f"int absent(void) {{ return 100; }}\n{aliases}", [])
    for name in missing:
        link(name, "", ["-Wl,--no-as-needed", f"-L{LIBRARIES}", f"-l:{ANSWERS}", "-Wl,-rpath,$ORIGIN"])
    import torch as imported

    assert not imported.cuda.is_available()
    print(f"torch {imported.__version__} without {len(missing)} libraries of CUDA")


def needed(library):
    """The names of the libraries that this one is linked against."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", subprocess.check_output(["readelf", "-d", library], text=True))


def undefined(library):
    """The symbols that this library expects others to have, without their versions."""
    lines = subprocess.check_output(["nm", "-D", "--undefined-only", library], text=True).splitlines()
    return [line.split()[-1].split("@")[0] for line in lines]


def link(name, source, options):
    command = ["cc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", LIBRARIES / name, f"-Wl,-soname,{name}"]
    subprocess.run([*command, *options], input=source, text=True, check=True)


if __name__ == "__main__":
    main()
