"""The interactive views: Python keeps the state and computes, JavaScript draws and listens.

    from attnlab.explorers import AttentionExplorer
    AttentionExplorer("The cat sat on the mat.")
"""

from attnlab.explorers.attention import AttentionExplorer
from attnlab.explorers.bias import BiasExplorer
from attnlab.explorers.cost import CostExplorer
from attnlab.explorers.heads import HeadsExplorer
from attnlab.explorers.memory import MemoryExplorer
from attnlab.explorers.mixing import MixingExplorer
from attnlab.explorers.pruning import PruningExplorer, PruningTable, pruning_table
from attnlab.explorers.race import RaceExplorer
from attnlab.explorers.rotation import RotationExplorer
from attnlab.explorers.shapes import ShapesExplorer
from attnlab.explorers.sharing import SharingExplorer
from attnlab.explorers.shuffle import ShuffleExplorer
from attnlab.explorers.structure import StructureExplorer
from attnlab.explorers.terms import TermsExplorer
from attnlab.explorers.waves import WavesExplorer

__all__ = [
    "AttentionExplorer",
    "BiasExplorer",
    "CostExplorer",
    "HeadsExplorer",
    "MemoryExplorer",
    "MixingExplorer",
    "PruningExplorer",
    "PruningTable",
    "RaceExplorer",
    "RotationExplorer",
    "ShapesExplorer",
    "SharingExplorer",
    "ShuffleExplorer",
    "StructureExplorer",
    "TermsExplorer",
    "WavesExplorer",
    "pruning_table",
]
