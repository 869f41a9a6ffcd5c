import pytest

from mmjax.plan import cuda, topology


@pytest.mark.parametrize("kind", cuda.PROCESSORS)
def test_every_processor_is_a_kind_that_can_be_described(kind):
    text = cuda.target(topology.parse(f"{kind}:8"))
    (major, minor), cores, *_ = cuda.PROCESSORS[kind]
    assert f"major: {major} minor: {minor} " in text and f"core_count: {cores} " in text
    assert f"device_memory_size: {topology.KINDS[kind].memory} " in text and text.count("{") == text.count("}")


def test_a_kind_that_is_not_described_has_no_compiler():
    assert not cuda.available("t4")
    assert cuda.workspace("t4") == 4 * 2**20 and cuda.workspace("h100") == 32 * 2**20
