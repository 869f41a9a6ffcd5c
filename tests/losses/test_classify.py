import jax.numpy as jnp
import numpy as np

from mmjax.losses.classify import cross_entropy, soft_answers


def test_by_hand():
    term = cross_entropy(jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]])), jnp.array([1, 0]))
    np.testing.assert_allclose((term.sum, term.count), (-np.log(0.75) - np.log(0.5), 2), rtol=1e-6)
    logits, target = jnp.array([[0.0, 2.0]]), jnp.array([[0.5, 1.0]])
    p = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(soft_answers(logits, target).mean, np.log(2) - np.log(p), rtol=1e-6)
