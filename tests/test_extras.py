"""What works with the core dependencies alone."""

import subprocess
import sys

EXTRAS = ("pyarrow", "mujoco", "constriction", "diffusers", "matplotlib", "onnx", "gradio", "ray")
NEEDS = ("reeltok.corpus", "reeltok.export", "reeltok.generate.examples")
NEEDS += (
    "reeltok.generate.own_corpus",
    "reeltok.generate.statistics",
    "reeltok.generate.training",
    "reeltok.evaluate.probe",
)

CODE = f"""
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import reeltok
for module in pkgutil.walk_packages(reeltok.__path__, "reeltok."):
    if not module.name.startswith({NEEDS}) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from reeltok.recipes import find_recipe
print(find_recipe("small").name, find_recipe("reftok_push").name)
"""


def test_all_but_corpora_and_exports_imports_without_extras() -> None:
    """Training a tokenizer once asked for pyarrow, since recipes of generators import corpora."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["small", "reftok_push"]
