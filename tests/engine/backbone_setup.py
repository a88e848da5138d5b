"""What the two files of backbone tests share."""

import torch

ROLES = ("reference", "policy", "reward", "value")


def disturb(backbone, role, seed=0, scale=0.1):
    """Move every weight of a role, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters(role):
            parameter += scale * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def outputs(backbone, role, ids, mask):
    """What a role says: its logits, or its values where it has a head."""
    if role in backbone.heads:
        return backbone.values(role, ids, mask)
    return backbone.logits(role, ids, mask)


def with_all_roles(backbone):
    for number, role in enumerate(ROLES):
        backbone.add_role(role, copy_of="reward" if role == "value" else "base")
        disturb(backbone, role, number)
    return backbone
