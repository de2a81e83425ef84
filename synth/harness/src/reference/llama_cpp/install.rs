//! Where llama.cpp comes from: a source package on PyPI, built with tools from PyPI.

use crate::reference::install::{Installation, Need};

/// The source package that carries llama.cpp; `references/llama.cpp/source.txt` pins its hash.
const VERSION: &str = "llama-cpp-python 0.3.36";

/// llama.cpp's server, its bench and its quantiser. Takes about ten minutes of CPU.
///
/// It is configured for everything this CPU has, and nothing that needs a network.
pub(super) const INSTALLATION: Installation = Installation {
    name: "llama.cpp",
    version: VERSION,
    files: &[
        ("tools.txt", include_str!("../../../references/llama.cpp/tools.txt")),
        ("source.txt", include_str!("../../../references/llama.cpp/source.txt")),
        ("amx.h", include_str!("../../../references/llama.cpp/amx.h")),
    ],
    route: &[
        ("making a Python environment", "python3 -m venv venv"),
        (
            "fetching cmake and ninja",
            "venv/bin/python -m pip --disable-pip-version-check --no-input install --require-hashes \
             --only-binary :all: -r tools.txt",
        ),
        (
            "fetching the source of llama.cpp (77 MB)",
            "venv/bin/python -m pip --disable-pip-version-check --no-input download --require-hashes --no-deps \
             --no-binary :all: --no-build-isolation -r source.txt -d sdist",
        ),
        ("making room for the source", "mkdir -p source"),
        (
            "unpacking the source",
            "tar -xzf sdist/llama_cpp_python-0.3.36.tar.gz -C source --strip-components=1",
        ),
        (
            "configuring llama.cpp",
            "venv/bin/cmake -S source/vendor/llama.cpp -B build -G Ninja -DCMAKE_BUILD_TYPE=Release \
             -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_CCACHE=OFF -DLLAMA_BUILD_TESTS=OFF \
             -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
             -DLLAMA_OPENSSL=OFF -DCMAKE_CXX_FLAGS=-include{home}/amx.h",
        ),
        (
            "building llama.cpp",
            "venv/bin/cmake --build build --parallel {cores} --target llama-server llama-bench llama-quantize",
        ),
    ],
    program: "build/bin/llama-server",
    needs: &[Need::Python, Need::Cpp],
};
