"""Guards over a run's metrics: what goes wrong in RLHF, seen early and said plainly."""

import torch
from torch import Tensor

from minirlhf.engine.rollout import Rollout


def vital_signs(rollout: Rollout, scores: Tensor) -> dict[str, float]:
    """What the guards want to know of a rollout beyond its means.

    Args:    scores (B,), RM units, as the policy is paid.
    Returns: `same_response`, the share of pairs of different prompts with the very same response,
             and `length_score_correlation`; 0 where there is no pair, or nothing varies.
    """
    asked, said = (_labels(ids) for ids in (rollout.prompt_ids, rollout.response_ids))
    different = asked[:, None] != asked
    same = (said[:, None] == said) & different
    both = torch.stack([rollout.lengths.float(), scores])
    return {
        "same_response": (same.sum() / different.sum().clamp(min=1)).item(),
        "length_score_correlation": torch.corrcoef(both)[0, 1].nan_to_num(0.0).item(),
    }


def _labels(rows: Tensor) -> Tensor:
    """A number for each row, equal where the rows are: (B,)."""
    return torch.unique(rows, dim=0, return_inverse=True)[1]
