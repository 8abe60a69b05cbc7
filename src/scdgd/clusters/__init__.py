"""How components of a mixture make clusters: a test of one mode, whether groups of cells are apart, and the tree of merges."""

from ._component_tree import ComponentTree, component_tree
from ._dip_test import DipTest, dip_test
from ._separation import separation

__all__ = ["ComponentTree", "DipTest", "component_tree", "dip_test", "separation"]
