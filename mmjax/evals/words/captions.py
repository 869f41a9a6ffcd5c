"""Caption metrics of COCO's evaluation in plain Python: BLEU-1 … 4, ROUGE-L, CIDEr-D.

All take texts that are tokenized already (`treebank.tokenize`) and agree with pycocoevalcap 1.2, constants and
conventions included. METEOR is not among them: its scores need the table of English paraphrases (62 MB) that
comes with its Java program alone, and other numbers should not carry its name.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmjax.core.errors import UserError
from mmjax.evals.words import treebank

ORDERS = (1, 2, 3, 4)
ROUGE_BETA = 1.2  # weight of recall
CIDER_SIGMA, CIDER_SCALE = 6.0, 10.0
# A precision of 0/0 or 0/n becomes tiny, not an error, so that the score of one short caption exists.
_NO_HIT, _NO_GUESS = 1e-15, 1e-9

Ngrams = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class Scores:
    """A metric over a corpus, and of each of its captions."""

    corpus: float
    each: list[float]


def ngrams(text: str) -> Ngrams:
    """How often each sequence of one to four words stands in a text."""
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in ORDERS for i in range(len(words) - n + 1))


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[Scores]:
    """BLEU-1 … BLEU-4 with the closest reference length.

    BLEU-n = min(1, exp(1 - r / c)) * (prod_{k <= n} p_k)^(1/n), p_k = clipped matches / candidate k-grams; of the
    corpus, matches, k-grams and lengths are summed first.

    Source: Papineni et al., BLEU, §2; the closest length, ties to the shorter, as in COCO's evaluation.
    """
    correct, guessed, ours, theirs = np.zeros(4), np.zeros(4), 0, 0
    each: list[list[float]] = [[] for _ in ORDERS]
    for candidate, several in zip(candidates, references, strict=True):
        counts, ceiling = ngrams(candidate), Counter[tuple[str, ...]]()
        for reference in several:
            ceiling |= ngrams(reference)
        length = len(candidate.split())
        closest = min((abs(len(r.split()) - length), len(r.split())) for r in several)[1]
        hits = np.zeros(4)
        for words, count in counts.items():
            hits[len(words) - 1] += min(count, ceiling[words])
        guesses = np.array([max(0, length - n + 1) for n in ORDERS], float)
        for scores, value in zip(each, _bleu(hits, guesses, length, closest), strict=True):
            scores.append(value)
        correct, guessed, ours, theirs = correct + hits, guessed + guesses, ours + length, theirs + closest
    corpus = _bleu(correct, guessed, ours, theirs)
    return [Scores(value, scores) for value, scores in zip(corpus, each, strict=True)]


def _bleu(correct: np.ndarray, guessed: np.ndarray, ours: int, theirs: int) -> list[float]:
    precision, out = 1.0, []
    ratio = (ours + _NO_HIT) / (theirs + _NO_GUESS)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    for n in ORDERS:
        precision *= (correct[n - 1] + _NO_HIT) / (guessed[n - 1] + _NO_GUESS)
        out.append(float(precision ** (1 / n) * brevity))
    return out


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """ROUGE-L: F_beta of the longest common subsequence, beta = 1.2, with the best precision and the best recall.

    F = (1 + b²) P R / (R + b² P); precision and recall may come from different references, as in COCO's evaluation.

    Source: Lin, ROUGE, §3.1.
    """
    each = []
    for candidate, several in zip(candidates, references, strict=True):
        ours = candidate.split(" ")
        common = [(longest_common(ours, reference.split(" ")), len(reference.split(" "))) for reference in several]
        precision = max(length for length, _ in common) / len(ours)
        recall = max(length / size for length, size in common)
        both = recall + ROUGE_BETA**2 * precision
        each.append((1 + ROUGE_BETA**2) * precision * recall / both if precision and recall else 0.0)
    return Scores(float(np.mean(each)), each)


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Example:
      >>> longest_common("a b c d".split(), "b x d".split())
      2
    """
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """CIDEr-D: clipped tf-idf cosine of n-grams with a Gaussian penalty for length, mean over n and references.

    10/4 Σ_n mean_j exp(-(l_c - l_j)² / (2 · 6²)) · Σ_w min(g_c(w), g_j(w)) g_j(w) / (|g_c| |g_j|),
    g(w) = count(w) · (ln N - ln max(1, df(w))), df(w) = in the references of how many of the N images w stands.
    Lengths are counted in bigrams, as in the published code.

    With one image every idf is zero, and so is the score.

    Source: Vedantam et al., CIDEr, §3 and §7 (CIDEr-D).
    """
    cooked = [[ngrams(reference) for reference in several] for several in references]
    images = Counter(words for several in cooked for words in set().union(*several))
    total = math.log(len(cooked)) if cooked else 0.0

    def vector(counts: Ngrams) -> tuple[dict[tuple[str, ...], float], np.ndarray, int]:
        weights = {words: count * (total - math.log(max(1, images[words]))) for words, count in counts.items()}
        norms, length = np.zeros(4), 0
        for words, weight in weights.items():
            norms[len(words) - 1] += weight**2
            length += counts[words] if len(words) == 2 else 0
        return weights, np.sqrt(norms), length

    each = []
    for candidate, several in zip(candidates, cooked, strict=True):
        ours, our_norms, our_length = vector(ngrams(candidate))
        score = 0.0
        for reference in several:
            theirs, norms, length = vector(reference)
            similar = np.zeros(4)
            for words, weight in ours.items():
                other = theirs.get(words, 0.0)
                similar[len(words) - 1] += min(weight, other) * other
            both = our_norms * norms
            similar = np.divide(similar, both, out=similar, where=both != 0)
            score += similar.mean() * math.exp(-((our_length - length) ** 2) / (2 * CIDER_SIGMA**2))
        each.append(CIDER_SCALE * score / len(several))
    return Scores(float(np.mean(each)), each)


def caption_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Mapping[str, Scores]:
    """All caption metrics of raw texts, one candidate and at least one reference an image.

    Returns:
      Bleu_1 … Bleu_4, ROUGE_L and CIDEr (not times 100).

    Raises:
      UserError: no captions, or an image without a reference.
    """
    if not candidates or len(candidates) != len(references) or not all(references):
        raise UserError(
            f"caption metrics need a caption and at least one reference an image, not {len(candidates)} captions, "
            f"{len(references)} images and {sum(not several for several in references)} images without a reference"
        )
    ours = treebank.tokenize(candidates)
    theirs = [treebank.tokenize(several) for several in references]
    return tokenized_scores(ours, theirs)


def tokenized_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Mapping[str, Scores]:
    """`caption_scores` of tokenized texts."""
    scores = {f"Bleu_{n}": score for n, score in zip(ORDERS, bleu(candidates, references), strict=True)}
    return scores | {"ROUGE_L": rouge_l(candidates, references), "CIDEr": cider_d(candidates, references)}
