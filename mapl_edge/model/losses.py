"""Losses of MAPL §2.6: of the map (Eq. 12 and 13) and of the predictor q (Eq. 15 and 16)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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


def labelled_loss(logits: Tensor, y: Tensor) -> Tensor:
    """L_y^l (Eq. 15): binary cross-entropy of q on labelled samples, averaged over them.

    Args:
        logits: q's, float32 (B,), B at least 1.
        y: the labels, (B,) of any type, 1 for defects and 0 for good parts.
    """
    return F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype))


def pseudo_labelled_loss(logits: Tensor, v: Tensor) -> Tensor:
    """L_y^u (Eq. 16): binary cross-entropy of q where the pseudo-labeler knows, averaged over all samples.

    The indicator stands inside the expectation: an unknown sample counts as one that costs nothing. So the fewer are
    known, the less they weigh; if none is, the loss is zero and can still be differentiated.

    Args:
        logits: q's, float32 (B,), B at least 1.
        v: pseudo-labels, integers (B,): 1 anomalous, 0 normal, -1 unknown.
    """
    known = v >= 0
    costs = F.binary_cross_entropy_with_logits(logits[known], v[known].to(logits.dtype), reduction="sum")
    return costs / len(v)
