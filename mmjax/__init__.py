"""mmjax: multimodal models from CLIP to LLaVA in JAX/Flax, from one set of parts."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def load(path: Any, **options: Any) -> Any:
    """A checkpoint ready to use, with `embed_image` and `embed_text`: see `mmjax.model.load`, which has the options.

    Example:
      model = mmjax.load("runs/demo")
      similarity = model.embed_image(["cat.jpg"]) @ model.embed_text(["a cat", "a dog"]).T  # float32[1, 2]
    """
    from mmjax import model  # here, so that `import mmjax` stays quick

    return model.load(path, **options)
