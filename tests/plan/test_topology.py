import pytest

from mmjax.core.errors import UserError
from mmjax.plan import topology


@pytest.mark.parametrize(
    ("text", "devices"),
    [("cpu:8", 8), ("v5e:16x16", 256), ("v5p:8x8x8", 512), ("tpu7x:2x2x1", 8), ("h100:8", 8), ("l4", 1), ("cpu", 1)],
)
def test_devices(text, devices):
    assert topology.parse(text).devices == devices


@pytest.mark.parametrize("text", ["h101:8", "v5e:16", "v5e", "v5p:8x8", "h100:8x8", "cpu:0", "cpu:", "a100:-1", ""])
def test_a_wrong_topology_is_one_line_with_valid_ones(text):
    with pytest.raises(UserError, match=r"v5e:16x16.*h100:8") as caught:
        topology.parse(text)
    assert "\n" not in str(caught.value)


def test_a_device_of_a_chip_with_two_has_half_of_it():
    chip = topology.parse("tpu7x:2x2x1")
    assert chip.devices == 8 and chip.spec.memory == 96 * topology.GIB and chip.spec.bf16 == 2307e12 / 2
    assert topology.parse("v5e:2x2").spec.within == 200e9  # 400 GB/s both ways
