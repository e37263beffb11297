"""The package map: each part of the tree is a sub-package of the namespace ``ultraflash``.

Found rather than listed, so that a new sub-package cannot be forgotten. Folders that hold only data
(the page, presets, weights) count as packages too: that is how setuptools takes their files into the wheel.
"""

from setuptools import find_namespace_packages, setup

PARTS = ("kernels", "models", "server", "training")

packages = [
    ".".join(("ultraflash", part, *below))
    for part in PARTS
    for below in [(), *((name,) for name in find_namespace_packages(part) if "__pycache__" not in name)]
]

setup(packages=packages, package_dir={f"ultraflash.{part}": part for part in PARTS})
