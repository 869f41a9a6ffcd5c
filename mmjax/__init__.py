"""mmjax: multimodal models from CLIP to LLaVA in JAX/Flax, from one set of parts."""

__version__ = "0.1.0"
