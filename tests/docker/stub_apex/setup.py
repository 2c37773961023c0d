"""Stands in for apex where its build stage is tested: a package that remembers the flags it was built with."""

import json
import os
from pathlib import Path

import torch  # as apex's own setup does: it needs the torch it is built for, and no isolated build
from setuptools import setup

FLAGS = ("APEX_CPP_EXT", "APEX_CUDA_EXT", "APEX_PARALLEL_BUILD", "MAX_JOBS", "TORCH_CUDA_ARCH_LIST")
built_with = {flag: os.environ.get(flag) for flag in FLAGS} | {"torch": torch.__version__}
Path("apex/built_with.json").write_text(json.dumps(built_with), encoding="utf-8")
setup(name="apex", version="0.1", packages=["apex"], package_data={"apex": ["built_with.json"]})
