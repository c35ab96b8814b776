"""notebooks/publish.py and page/bake.py as modules: scripts, not part of the package. And a small
notebook to publish."""

import importlib.util
import sys

from notebook_build import ROOT, build

sys.modules.setdefault("build", build)  # publish imports its neighbour by this name


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


publish = _load("notebook_publish_script", ROOT / "notebooks" / "publish.py")
bake = _load("notebook_bake_script", ROOT / "notebooks" / "page" / "bake.py")

# A notebook with everything that a page has to show.
SOURCE = """
# %% [markdown] slideshow={"slide_type": "slide"}
# # 77. A small page
#
# **How small can $d_{model}$ be?** See [notebook 1](01-one-head.ipynb).
#
# $$\\mathrm{softmax}(QK^\\top/\\sqrt{d_k})V$$
#
# *To study:* 5 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import ipywidgets

from attnlab.explorers import ShapesExplorer, ShuffleExplorer, StructureExplorer
from attnlab.teach import call, claim, exercise, predict, require


@exercise("7.1", "Double", minutes=1, difficulty=1)
def double(answer):
    require(call(answer, 2) == 4, "not doubled: look again")


def check(number, answer):
    return double(answer)

# %% [markdown] slideshow={"slide_type": "notes"}
# Ask them first.

# %% slideshow={"slide_type": "subslide"}
guess = predict("Is <i>this</i> 2?", ["yes", "no"], id="77")
guess

# %%
guess.reveal("yes", "So it is.")

# %% [markdown]
# Now an exercise.

# %% tags=["exercise"]
def twice(x):
    # BEGIN SOLUTION
    return x + x
    # END SOLUTION

# %%
check("7.1", twice)

# %% [markdown] tags=["hint"]
# Add $x$ to itself.

# %% slideshow={"slide_type": "slide"}
ShapesExplorer(controls=("n_tokens", "n_heads"))

# %%
ShuffleExplorer("<i>cats</i> chase </script> mice", controls=("text", "source", "causal"))

# %%
StructureExplorer("tree", example="binary", controls=("head",))

# %%
ipywidgets.IntSlider(description="n")
"""
