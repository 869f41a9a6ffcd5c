"""Scores of generated pictures and of features, as tables of arrays: FID, Inception score, CLIP score, mAP.

Everything is float64 on the host: these are a few matrices, and differences of large numbers.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.special
from jaxtyping import Bool, Float, Float64, Int, Integer

from mmjax.core.errors import UserError

CLIP_SCORE_WEIGHT = 2.5  # CLIPScore, §3


class Moments(NamedTuple):
    """Mean float64[D] and covariance float64[D, D] of features."""

    mean: Float64[np.ndarray, " D"]
    covariance: Float64[np.ndarray, "D D"]


def moments(features: Float[np.ndarray, "N D"]) -> Moments:
    """Mean and covariance (divisor N - 1) of features.

    Raises:
      UserError: fewer than two rows.
    """
    if len(features) < 2:
        raise UserError(f"a covariance needs at least two rows of features, not {len(features)}")
    features = features.astype(np.float64)
    return Moments(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(first: Moments, second: Moments) -> float:
    """FID of two Gaussians: |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½).

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, §3.
    """
    # The trace of (C1 C2)^1/2 is that of (A C2 A)^1/2 with A = C1^1/2, a symmetric matrix: no complex root, and
    # covariances of fewer samples than dimensions need no special care.
    half = _root(first.covariance)
    mixed = np.sqrt(np.clip(np.linalg.eigvalsh(half @ second.covariance @ half), 0, None)).sum()
    apart = first.mean - second.mean
    return float(apart @ apart + np.trace(first.covariance) + np.trace(second.covariance) - 2 * mixed)


def _root(matrix: Float64[np.ndarray, "D D"]) -> Float64[np.ndarray, "D D"]:
    values, vectors = scipy.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))[None, :]) @ vectors.T


def inception_score(logits: Float[np.ndarray, "N C"], splits: int = 1) -> Float64[np.ndarray, " S"]:
    """exp(mean KL(p(y|x) || p(y))) of each of S consecutive parts of the samples.

    Source: Salimans et al., Improved Techniques for Training GANs, §4.

    Raises:
      UserError: more parts than samples, or no part.
    """
    if not 1 <= splits <= len(logits):
        raise UserError(f"{splits} splits of {len(logits)} samples; valid: 1 to {len(logits)}")
    chances = scipy.special.softmax(logits.astype(np.float64), axis=1)
    scores = []
    for part in np.array_split(chances, splits):
        whole = part.mean(axis=0, keepdims=True)
        scores.append(np.exp(scipy.special.rel_entr(part, whole).sum(axis=1).mean()))
    return np.array(scores)


def unit(features: Float[np.ndarray, "... D"]) -> Float64[np.ndarray, "... D"]:
    """Rows of length one, float64."""
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def paired_cosine(images: Float[np.ndarray, "N D"], captions: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, " N"]:
    """Cosine of each image with its own caption."""
    return (unit(images) * unit(captions)).sum(axis=-1)


def clip_score(cosine: Float64[np.ndarray, " N"], weight: float = CLIP_SCORE_WEIGHT) -> Float64[np.ndarray, " N"]:
    """weight · max(cos, 0). Source: Hessel et al., CLIPScore, §3."""
    return weight * np.maximum(cosine, 0)


def reference_clip_score(
    score: Float64[np.ndarray, " N"], captions: Float[np.ndarray, "N D"], references: Float[np.ndarray, "N R D"]
) -> Float64[np.ndarray, " N"]:
    """RefCLIPScore: harmonic mean of the CLIP score and max(0, best cosine of caption and reference); 0 where one is.

    Source: Hessel et al., CLIPScore, §3.
    """
    best = np.maximum(np.einsum("ND,NRD->NR", unit(captions), unit(references)).max(axis=1), 0)
    both = score + best
    return np.divide(2 * score * best, both, out=np.zeros_like(both), where=both > 0)


def strict_ranks(scores: Float[np.ndarray, "Q G"], right: Bool[np.ndarray, "Q G"]) -> Int[np.ndarray, " Q"]:
    """Number of entries strictly above the best right answer of each row, from 0; a tie counts for the query.

    That is how published retrieval tables count. `ranking.best_ranks` counts ties against the query.

    Args:
      scores: float[Q, G].
      right: bool[Q, G].
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return (scores > best).sum(axis=1)


def average_precision(scores: Float[np.ndarray, " N"], targets: Integer[np.ndarray, " N"]) -> float:
    """Σ_t (R_t - R_{t-1}) P_t over descending thresholds, equal scores taken together; 0 without a positive.

    Source: the step-wise average precision of information retrieval, without interpolation.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], targets[order].astype(bool)
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # the last of each run of equal scores
    found = np.cumsum(hits)[ends]
    if not found[-1]:
        return 0.0
    recall, precision = found / found[-1], found / (ends + 1)
    return float((np.diff(recall, prepend=0.0) * precision).sum())
