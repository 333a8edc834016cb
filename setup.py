"""Build the kernels of csrc/ into sasa/_native/. The rest of the package is described in pyproject.toml.

Without a compiler or torch headers, or if compilation fails, the package installs without kernels. The reason is
written to sasa/_native/why_not.txt, which `sasa doctor` and `sasa.backends()` quote (pip hides the output of builds).

Environment: CXX and CXXFLAGS as usual; MAX_JOBS, the number of files to compile at once.
"""

import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

SOURCES = "csrc"
LIBRARY = "libsasa.so"
REASON = "why_not.txt"
OLDEST_TORCH = (2, 11)

COMMON = [f"-I{SOURCES}", "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-Wall"]
# No code that two instruction sets could share. The disabled warnings are those of gcc 12 about its own intrinsics.
KERNELS = ["-fno-exceptions", "-fno-rtti", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
KERNELS += ["-Wno-unknown-warning-option"]  # clang does not know all of them
# These compile, cache and launch the CUDA kernels. They load CUDA at run time, so that no build needs it.
CUDA = ["cuda_api", "cuda_cache", "cuda_compiler", "cuda_driver", "cuda_plans"]
CUDA_WITH_TORCH = ["cuda_calls"]  # this, and csrc/ops, include torch's headers
INSTRUCTION_SETS = {
    "x86_64": {
        "avx512": "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c -mprefer-vector-width=512".split(),
        "avx2": "-mavx2 -mfma -mf16c".split(),
        "portable": [],
    },
    "aarch64": {"neon": [], "portable": []},
}
ARCHITECTURES = {"AMD64": "x86_64", "arm64": "aarch64"}  # other names of the same


class NoKernelsError(Exception):
    """The kernels cannot be built; the message is a sentence for users."""


def find_compiler() -> list[str]:
    """Return CXX of the environment, else the first C++ compiler found."""
    if os.environ.get("CXX"):
        command = shlex.split(os.environ["CXX"])
        if shutil.which(command[0]) is None:
            raise NoKernelsError(f"the C++ compiler that CXX names ({command[0]}) was not found")
        return command
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise NoKernelsError(
        "there was no C++ compiler when sasa was installed (looked for c++, g++ and clang++; or set CXX)"
    )


def torch_directories() -> list[Path]:
    """Return where torch may be: importable, or in the environment that pip's isolated build hides (not sysconfig)."""
    directories = []
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin:
        directories.append(Path(spec.origin).parent)
    prefixes = [{}, {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}]
    for variables in prefixes:
        paths = sysconfig.get_paths(vars=variables)
        directories += [Path(paths[name]) / "torch" for name in ("platlib", "purelib")]
    return directories


def find_headers() -> Path:
    """Return the include directory of a torch that is new enough."""
    too_old = None
    for directory in torch_directories():
        if not (directory / "include/torch/csrc/stable/library.h").is_file():
            continue
        found = re.search(r"__version__ = '((\d+)\.(\d+)[^']*)'", (directory / "version.py").read_text())
        if found and (int(found[2]), int(found[3])) >= OLDEST_TORCH:
            return directory / "include"
        too_old = found[1] if found else "unknown"
    if too_old:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise NoKernelsError(
            f"torch {too_old} was found when sasa was installed, and its kernels need {oldest} or newer"
        )
    raise NoKernelsError(
        "torch was not there when sasa was installed: install torch first, then sasa "
        "(with uv: uv pip install --no-build-isolation)"
    )


def flags_of(variable: str) -> list[str]:
    """Return the compiler flags in an environment variable."""
    return shlex.split(os.environ.get(variable, ""))


def run(command: list[str]) -> None:
    """Run a compiler command; raise NoKernelsError with its first error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stderr:
        print(done.stderr, file=sys.stderr)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        first = errors[0].strip() if errors else f"exit status {done.returncode}"
        raise NoKernelsError(f"the kernels did not compile when sasa was installed ({command[0]}: {first})")


def common_flags() -> list[str]:
    """Return the compiler flags of every file."""
    return [*COMMON, *flags_of("CXXFLAGS"), *flags_of("ARCHFLAGS")]


def object_command(flags: list[str], source: Path, objects: Path, name: str | None = None) -> list[str]:
    """Return the command that compiles a source file to `objects`, as `name`.o (default: the name of the source)."""
    return [*flags, "-c", str(source), "-o", f"{objects}/{name or source.stem}.o"]


def kernel_commands(objects: Path, common: list[str], sets: dict[str, list[str]]) -> list[list[str]]:
    """Return the commands that compile kernels.cpp, once per instruction set."""
    source = Path(SOURCES, "cpu", "kernels.cpp")
    return [
        object_command([*common, *KERNELS, *flags, f"-DSASA_ISA={name}"], source, objects, name)
        for name, flags in sets.items()
    ]


def cuda_sources() -> dict[str, str]:
    """Return the text of each CUDA source, by the name under which the others include it."""
    files = [Path(SOURCES, "kernels.h"), *sorted(Path(SOURCES, "cuda").glob("*.*h"))]
    return {file.name: file.read_text() for file in files}


def embed_cuda_sources(target: Path, sources: dict[str, str]) -> None:
    """Write a C++ file that contains the CUDA sources as strings. They are compiled on users' machines at first use."""
    digest = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()
    files = "".join(f'    {{"{name}", R"sasa({text})sasa"}},\n' for name, text in sources.items())
    target.write_text(
        f"""#include "cuda_sources.h"

namespace sasa::cuda {{
const SourceFile source_files[] = {{
{files}}};
const int source_file_count = {len(sources)};
const char* const sources_digest = "{digest}";
}}  // namespace sasa::cuda
"""
    )


def cuda_commands(objects: Path, common: list[str]) -> list[list[str]]:
    """Return the commands that compile the host side of the CUDA kernels, and their sources as strings."""
    embed_cuda_sources(objects / "cuda_sources.cpp", cuda_sources())
    sources = [*(Path(SOURCES, f"{name}.cpp") for name in CUDA), objects / "cuda_sources.cpp"]
    return [object_command(common, source, objects) for source in sources]


def compile_commands(objects: Path, compiler: list[str], headers: Path, sets: dict[str, list[str]]) -> list[list[str]]:
    """Return one command per file, the slowest first."""
    common = [*compiler, *common_flags()]
    commands = kernel_commands(objects, common, sets)
    # The stable ABI of torch 2.11, so that the library loads in that version and all later ones.
    stable = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-isystem", str(headers)]
    sources = sorted(Path(SOURCES, "ops").glob("*.cpp"))
    sources += [Path(SOURCES, f"{name}.cpp") for name in CUDA_WITH_TORCH]
    commands += [object_command([*common, *stable], source, objects) for source in sources]
    commands.append(object_command(common, Path(SOURCES, "cpu", "dispatch.cpp"), objects))
    return [*commands, *cuda_commands(objects, common)]


def link_command(objects: Path, library: Path, compiler: list[str]) -> list[str]:
    """Return the link command. An empty library stands in for libtorch_cpu: torch loads the real one before ours."""
    command = [*compiler, "-shared", *map(str, sorted(objects.glob("*.o"))), "-o", str(library)]
    command += flags_of("ARCHFLAGS")
    if sys.platform == "darwin":  # not tested
        return [*command, "-undefined", "dynamic_lookup"]
    stand_in = objects / "libtorch_cpu.so"
    run([*compiler, "-shared", "-Wl,-soname,libtorch_cpu.so", "-x", "c++", os.devnull, "-o", str(stand_in)])
    return [*command, "-Wl,--no-as-needed", f"-L{objects}", "-ltorch_cpu"]


def run_together(commands: list[list[str]]) -> None:
    """Run compiler commands in parallel, one per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or cores)) as pool:
        list(pool.map(run, commands))


def instruction_sets(machine: str) -> dict[str, list[str]]:
    """Return the instruction sets of an architecture, with their compiler flags."""
    machine = ARCHITECTURES.get(machine, machine)
    if machine not in INSTRUCTION_SETS:
        known = " and ".join(INSTRUCTION_SETS)
        raise NoKernelsError(f"the CPU kernels are built for {known} only, and this machine is {machine}")
    return INSTRUCTION_SETS[machine]


def build_library(directory: Path) -> None:
    """Build the library in `directory`; raise NoKernelsError if that is not possible."""
    if sys.platform not in ("linux", "darwin"):
        raise NoKernelsError(f"the CPU kernels are built on Linux and macOS only, and this is {sys.platform}")
    sets = instruction_sets(platform.machine())
    compiler, headers = find_compiler(), find_headers()
    with tempfile.TemporaryDirectory() as temporary:
        objects = Path(temporary)
        run_together(compile_commands(objects, compiler, headers, sets))
        run(link_command(objects, objects / LIBRARY, compiler))
        # Replaced in one step: a process may be using the old library.
        fresh = directory / f"{LIBRARY}.{os.getpid()}"
        shutil.copy(objects / LIBRARY, fresh)
        fresh.replace(directory / LIBRARY)


def build_test(program: Path, machine: str, names: list[str], optimize: int) -> None:
    """Build tests/csrc/test_kernels.cpp with the kernels of the instruction sets named (none: all); needs no torch."""
    sets = instruction_sets(machine)
    sets = {name: flags for name, flags in sets.items() if not names or name in names}
    compiler, flags = find_compiler(), [*common_flags(), f"-O{optimize}"]
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        objects = Path(temporary)
        tested = "-DSASA_TEST_SETS=" + " ".join(f"SASA_TEST({name})" for name in sets)
        test = object_command([*compiler, *flags, tested], Path("tests/csrc/test_kernels.cpp"), objects)
        run_together([*kernel_commands(objects, [*compiler, *flags], sets), test])
        run([*compiler, *flags, *map(str, sorted(objects.glob("*.o"))), "-pthread", "-o", str(program)])


def build_cuda_test(program: Path, source: Path) -> None:
    """Build the C++ test of the host side of the CUDA kernels; needs neither torch nor CUDA."""
    compiler = find_compiler()
    common = [*compiler, *common_flags(), "-O1"]
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        objects = Path(temporary)
        run_together([*cuda_commands(objects, common), object_command(common, source, objects)])
        run([*common, *map(str, sorted(objects.glob("*.o"))), "-ldl", "-pthread", "-o", str(program)])


class BuildNative(Command):
    """The step of `build` that compiles csrc/. setuptools sets build_lib and editable_mode."""

    description = "build the CPU kernels"
    user_options = [("inplace", "i", "build into src/")]  # noqa: RUF012 - as setuptools declares it
    boolean_options = ["inplace"]  # noqa: RUF012

    def initialize_options(self) -> None:
        """Called by setuptools."""
        self.build_lib = None
        self.editable_mode = False
        self.inplace = False

    def finalize_options(self) -> None:
        """Called by setuptools."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    @property
    def directory(self) -> Path:
        """sasa/_native: in src/ for an editable install, else in the build directory."""
        return Path("src" if self.editable_mode or self.inplace else str(self.build_lib), "sasa", "_native")

    def run(self) -> None:
        """Build the library, or write the reason why not."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            build_library(self.directory)
            (self.directory / REASON).unlink(missing_ok=True)
        except NoKernelsError as reason:
            print(f"sasa: no CPU kernels: {reason}", file=sys.stderr)
            (self.directory / LIBRARY).unlink(missing_ok=True)
            (self.directory / REASON).write_text(f"{reason}\n")

    def get_source_files(self) -> list[str]:
        """Return the files that a source distribution needs."""
        return sorted(str(path) for path in Path(SOURCES).rglob("*") if path.is_file())

    def get_outputs(self) -> list[str]:
        """Return the files that were built."""
        return [str(path) for path in (self.directory / LIBRARY, self.directory / REASON) if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        """Return nothing: no file is copied from the sources."""
        return {}


class BuildKernelsTest(Command):
    """Builds the C++ test of the kernels: `make test-kernels` and `make test-neon`."""

    description = "build the C++ test of the CPU kernels"
    user_options = [  # noqa: RUF012 - as setuptools declares it
        ("output=", "o", "the program"),
        ("machine=", None, "architecture [default: this machine's]"),
        ("sets=", None, "instruction sets, comma-separated [default: all of the architecture]"),
        ("optimize=", None, "0 to 3 [default: 3, as for the library]"),
    ]

    def initialize_options(self) -> None:
        """Called by setuptools."""
        self.output, self.machine, self.sets, self.optimize = "build/test_kernels", platform.machine(), "", "3"

    def finalize_options(self) -> None:
        """Called by setuptools."""

    def run(self) -> None:
        """Build the program, or exit with the reason."""
        try:
            build_test(Path(self.output), self.machine, self.sets.split(",") if self.sets else [], int(self.optimize))
        except NoKernelsError as reason:
            sys.exit(f"sasa: no test of the kernels: {reason}")


class BuildCudaTest(Command):
    """Builds the C++ program that tests/cuda drives."""

    description = "build the C++ test of the CUDA kernels' host side"
    user_options = [("output=", "o", "the program")]  # noqa: RUF012 - as setuptools declares it

    def initialize_options(self) -> None:
        """Called by setuptools."""
        self.output = "build/test_cuda"

    def finalize_options(self) -> None:
        """Called by setuptools."""

    def run(self) -> None:
        """Build the program, or exit with the reason."""
        try:
            build_cuda_test(Path(self.output), Path("tests/cuda/driver/program.cpp"))
        except NoKernelsError as reason:
            sys.exit(f"sasa: no test of the CUDA kernels: {reason}")


class BuildWithNative(build):
    """`build`, and also the kernels."""

    sub_commands = [*build.sub_commands, ("build_native", None)]  # noqa: RUF012 - as setuptools declares it


class PlatformWheel(bdist_wheel):
    """A wheel for every Python on one platform: the library does not use the Python API."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return tags such as py3-none-linux_x86_64."""
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """A distribution that is not pure Python, although setuptools sees no extension module."""

    def has_ext_modules(self) -> bool:
        """Called by setuptools."""
        return True


setup(
    distclass=PlatformDistribution,
    cmdclass={
        "build": BuildWithNative,
        "build_native": BuildNative,
        "build_kernels_test": BuildKernelsTest,
        "build_cuda_test": BuildCudaTest,
        "bdist_wheel": PlatformWheel,
    },
)
