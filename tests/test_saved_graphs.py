"""Saved graphs load in a new process: `import torch, sasa` in either order is enough, and so is the library alone."""

import pytest
import torch

import sasa
from helpers import NEEDS_KERNELS, normal
from processes import run_python
from sasa.ops import native

ORDERS = {
    "sasa first": "import sasa\nimport torch\n",
    "torch first": "import torch\nimport sasa\n",
    "the library alone": f"import torch\ntorch.ops.load_library({str(native.DIRECTORY / native.LIBRARY)!r})\n",
}
LOADERS = {
    "torch.export": "torch.export.load(file).module()",
    "AOTInductor": "__import__('torch._inductor')._inductor.aoti_load_package(file)",
    "torch.jit": "torch.jit.load(file)",
}
# Python alone knows the shapes of results, which torch.export asks for when it loads.
CASES = [
    (loader, order)
    for loader in LOADERS
    for order in ORDERS
    if (loader, order) != ("torch.export", "the library alone")
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network of convolution, attention and stem, saved in each way; its input and output."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    network = torch.nn.Sequential(sasa.AttentionStem(3, 16, num_heads=2), sasa.LocalAttention2d(16, 8, 3, num_heads=2))
    network.eval().requires_grad_(False)
    x = normal(2, 3, 9, 11, dtype=torch.float32)
    with torch.no_grad():
        program = torch.export.export(network, (x,))
        torch.export.save(program, folder / "torch.export.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "AOTInductor.pt2"))
        torch.jit.trace(network, x).save(folder / "torch.jit.pt2")
        torch.save([x, network(x)], folder / "example.pt")
    return folder


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # checks of shapes are not traced
@NEEDS_KERNELS
@pytest.mark.parametrize(("loader", "order"), CASES)
def test_a_saved_graph_runs_in_a_new_process(saved, loader, order):
    run_python(
        "-c",
        f"{ORDERS[order]}file = {str(saved / f'{loader}.pt2')!r}\n"
        f"x, want = torch.load({str(saved / 'example.pt')!r})\n"
        "with torch.no_grad():\n"
        f"    torch.testing.assert_close({LOADERS[loader]}(x), want)\n",
    )


PRINT_SCHEMAS = """
for name in sorted(torch._C._dispatch_get_all_op_names()):
    if name.startswith("sasa::") and not name.startswith(("sasa::cpu_", "sasa::cuda_")):
        print(getattr(torch.ops.sasa, name[6:]).default._schema)
"""


@NEEDS_KERNELS
def test_the_library_has_the_schemas_of_python():
    alone = run_python("-c", ORDERS["the library alone"] + PRINT_SCHEMAS)
    python = run_python("-c", ORDERS["torch first"] + PRINT_SCHEMAS, SASA_CPU="off")
    assert alone.count("sasa::") == 13
    assert alone == python
