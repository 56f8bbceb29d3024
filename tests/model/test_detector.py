"""Detector: what it answers is what its parts say, one after the other."""

import numpy as np
import pytest
import torch

from mapl_edge.config import TrainConfig
from mapl_edge.model.decoder import upsample
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.model.encoder import pretrained_encoder


@pytest.mark.parametrize("stride", [4, 1])
@pytest.mark.parametrize("distance", [True, False])
def test_the_short_way_answers_as_the_logits_do(distance: bool, stride: int) -> None:
    """Training looks at two logits, the line at their difference alone: the map is the softmax of those logits."""
    config = TrainConfig.model_validate(
        {
            "memory": "patch",
            "position_weight": 0.0,
            "distance": distance,
            "decoder_stride": stride,
            "contract": {"size_hw": (64, 96)},
            "crop": 64,
        }
    )
    encoder = pretrained_encoder("efficientnet_lite0")
    torch.manual_seed(0)
    detector = Detector(encoder, empty_memory(config, encoder.channels, 50), config).eval()
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8))
    with torch.no_grad():
        detector.fill_memory(detector.encoder(pictures[:2]), torch.arange(2))
        compared = detector.compare(detector.encode(pictures))
        logits = detector.decode(compared)

        scores, maps, _ = detector(pictures)

        expected, shown = detector.judge(compared, logits)
    assert maps.std() > 1e-3, "otherwise the test says little"
    assert torch.allclose(scores, expected, atol=1e-4)
    assert torch.allclose(maps, shown, atol=1e-5)
    if not distance:
        assert torch.allclose(maps, upsample(logits, stride).softmax(1)[:, 1], atol=1e-5)
