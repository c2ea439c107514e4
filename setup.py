"""The packages of a wheel; everything else about the distribution is in setup.cfg.

The commands and the configs are below `mscn` in a wheel, since top-level packages named `tools` and
`configs` would hide those of other projects. In a checkout they stay in `tools/` and `configs/`.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pretrain*", "transfer*"]), "mscn.tools", "mscn.configs"],
    package_dir={"mscn.tools": "tools", "mscn.configs": "configs"},
)
