"""emoji_scenes: scenes of several objects, generated from emoji sprites and a seed.

One scene graph gives the image at any size, captions, boxes, depth order, questions, referring expressions and short
conversations. It is generated data, and is called so. Read in this order: world, graph, facts, captions, source.
"""

from mmjax.data.scenes.source import Scene, Scenes, open

__all__ = ["Scene", "Scenes", "open"]
