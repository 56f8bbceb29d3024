"""Losses of MAPL §2.6.1."""

from __future__ import annotations

import torch
from torch import Tensor


def l1_loss(anomalous: Tensor, mask: Tensor) -> Tensor:
    """L_l1 (Eq. 12): mean absolute difference of the predicted probability and the mask, both (B, H, W)."""
    return (anomalous - mask).abs().mean()


def focal_loss(logits: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """L_f (Eq. 13) with α = 1, averaged over pixels.

    Args:
        logits: (B, 2, H, W), normal and anomalous.
        mask: (B, H, W), 1 where the anomaly is.
        gamma: how little well-classified pixels count (Table 2: 4).
    """
    log_p = logits.log_softmax(1)
    log_p_true = torch.where(mask > 0.5, log_p[:, 1], log_p[:, 0])  # log p_i
    return (-((1 - log_p_true.exp()) ** gamma) * log_p_true).mean()
