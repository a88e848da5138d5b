"""minirlhf.engine.backbone: roles share one base, and what is done to one reaches no other."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from minirlhf.engine.backbone import Backbone, LoRA, position_ids
from minirlhf.engine.decoder import Dropout
from tests.engine.backbone_setup import ROLES, disturb, outputs, with_all_roles

# Starting and copying ---------------------------------------------------------------------------


def test_a_new_role_changes_nothing(backbone, ids, everywhere):
    before = backbone.logits("base", ids, everywhere)
    backbone.add_role("policy")
    assert torch.equal(backbone.logits("policy", ids, everywhere), before)
    assert torch.equal(backbone.logits("base", ids, everywhere), before)


def test_a_copy_is_exact_and_then_goes_its_own_way(backbone, ids, everywhere):
    backbone.add_role("reference")
    disturb(backbone, "reference")
    said = outputs(backbone, "reference", ids, everywhere)
    backbone.add_role("policy", copy_of="reference")
    assert torch.equal(outputs(backbone, "policy", ids, everywhere), said)
    assert not torch.equal(outputs(backbone, "base", ids, everywhere), said)
    disturb(backbone, "policy", 1)
    assert not torch.equal(outputs(backbone, "policy", ids, everywhere), said)
    assert torch.equal(outputs(backbone, "reference", ids, everywhere), said)


def test_value_starts_as_reward_with_head_and_bias(backbone, ids, everywhere):
    backbone.add_role("reward")
    disturb(backbone, "reward")
    backbone.heads["reward"].bias.data.fill_(3.25)
    backbone.add_role("value", copy_of="reward")
    assert backbone.heads["value"].bias.item() == 3.25
    for one, other in zip(backbone.parameters("value"), backbone.parameters("reward"), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()
    scores = backbone.scores("reward", ids, everywhere)
    assert torch.equal(backbone.values("value", ids, everywhere)[:, -1], scores)


def test_new_heads_have_the_published_spread():
    """Stiennon et al.: variance 1 / (d + 1); over 511 draws the estimate is good to 3 %."""
    config = GPT2Config(vocab_size=50, n_embd=4096, n_layer=1, n_head=1, n_inner=8)
    with torch.device("meta"):
        shell = GPT2LMHeadModel(config)
    backbone = Backbone.__new__(Backbone)
    backbone.model, backbone._seed = shell, 0
    backbone.__class__ = type("OnCpu", (Backbone,), {"device": torch.device("cpu")})
    head = backbone._new_head()
    assert head.bias.item() == 0
    assert head.weight.std().item() == pytest.approx(1 / math.sqrt(4097), rel=0.05)


def test_seeds_decide_and_the_global_generator_is_left_alone(new_backbone, lora):
    state = torch.get_rng_state()
    made = []
    for seed in (0, 0, 1):
        backbone = new_backbone(lora, seed)
        backbone.add_role("reward")
        made.append([p.clone() for p in backbone.parameters("reward")])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(made[0], made[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(made[0], made[2], strict=True))


# Living together --------------------------------------------------------------------------------


def test_base_stays_the_pretrained_model_bit_for_bit(new_backbone, lora, ids, everywhere):
    pure = new_backbone(lora)
    theirs = pure.model(input_ids=ids).logits.detach()
    before = pure.logits("base", ids, everywhere)
    backbone = with_all_roles(pure)
    for role in ROLES:
        outputs(backbone, role, ids, everywhere)
    assert torch.equal(backbone.logits("base", ids, everywhere), before)
    with backbone.active("base") as model:
        assert torch.equal(model(input_ids=ids).logits, theirs)
    assert torch.allclose(before, theirs, atol=1e-5)


def test_roles_do_not_reach_each_other(backbone, ids, everywhere):
    with_all_roles(backbone)
    said = {role: outputs(backbone, role, ids, everywhere) for role in backbone.roles}
    kept = {role: [p.clone() for p in backbone.parameters(role)] for role in ROLES}
    backbone.add_role("another", copy_of="policy")
    disturb(backbone, "another", 9)
    backbone.add_role("value", copy_of="reward")  # made anew
    disturb(backbone, "value", 10)
    for role in ("policy", "another", "reference", "value", "base", "reward"):
        backbone.switch(role)
    for role in ("base", "reference", "policy", "reward"):
        assert torch.equal(outputs(backbone, role, ids, everywhere), said[role]), role
    for role in ("reference", "policy", "reward"):
        for now, then in zip(backbone.parameters(role), kept[role], strict=True):
            assert torch.equal(now, then), role


def test_all_roles_differ_once_they_are_trained(backbone, ids, everywhere):
    """Else the tests above would hold for a backbone that ignores its roles."""
    with_all_roles(backbone)
    said = [backbone.logits(role, ids, everywhere).detach() for role in backbone.roles]
    for i, one in enumerate(said):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in said[i + 1 :])


@pytest.mark.parametrize("active", ["base", "policy", "reference"])
def test_a_role_made_anew_is_the_one_that_is_trained(backbone, ids, everywhere, active):
    """As in a run: PPO makes `policy`, PPO-ptx makes it again, whatever was switched on."""
    backbone.add_role("reference")
    disturb(backbone, "reference")
    backbone.add_role("policy", copy_of="reference")
    backbone.train_role("policy")
    disturb(backbone, "policy", 1)
    backbone.switch(active)
    backbone.add_role("policy", copy_of="reference")
    before = backbone.logits("policy", ids, everywhere)
    assert torch.equal(before, backbone.logits("reference", ids, everywhere))
    parameters = backbone.train_role("policy")
    backbone.logits("policy", ids, everywhere).sum().backward()
    assert sum(p.grad.abs().sum() for p in parameters if p.grad is not None) > 0
    disturb(backbone, "policy", 2)
    assert not torch.equal(backbone.logits("policy", ids, everywhere), before)


def test_the_only_role_can_be_made_anew(backbone, ids, everywhere):
    before = backbone.logits("base", ids, everywhere)
    for _ in range(2):
        backbone.add_role("reference")
        assert torch.equal(backbone.logits("reference", ids, everywhere), before)
        disturb(backbone, "reference")
    assert backbone.roles == ["base", "reference"]


def test_a_role_copied_from_itself_keeps_its_weights(backbone):
    backbone.add_role("reward")
    disturb(backbone, "reward")
    before = [p.clone() for p in backbone.parameters("reward")]
    backbone.add_role("reward", copy_of="reward")
    for now, then in zip(backbone.parameters("reward"), before, strict=True):
        assert torch.equal(now, then)


# One base ---------------------------------------------------------------------------------------


def storages(model):
    """Where the weights that are no adapter's lie, and how large they are."""
    return {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for name, p in model.named_parameters()
        if ".lora_" not in name
    }


def test_all_adapters_stand_on_one_base(new_backbone):
    backbone = new_backbone(LoRA(2, 4))
    before = storages(backbone.model)
    with_all_roles(backbone)
    for role in backbone.roles:
        with backbone.active(role) as model:
            assert storages(model) == before, role
    assert backbone.sizes()["base"].bytes == sum(before.values())


def test_sizes_count_every_parameter_once(new_backbone):
    """By hand, rank 2: q, k, v, o are 64 x 64, gate and up 64 -> 128, down 128 -> 64, 2 layers."""
    backbone = with_all_roles(new_backbone(LoRA(2, 4)))
    sizes = backbone.sizes()
    adapter = 2 * (4 * 2 * (64 + 64) + 3 * 2 * (64 + 128))
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    base = len(backbone.tokenizer) * 64 + 2 * layer + 64  # embeddings tied
    assert sizes["base"] == (base, 4 * base)
    assert sizes["policy"] == sizes["reference"] == (adapter, 4 * adapter)
    assert sizes["reward"] == sizes["value"] == (adapter + 65, 4 * (adapter + 65))
    whole = sum(p.numel() for p in backbone.model.parameters()) + 2 * 65
    assert whole == sum(size.parameters for size in sizes.values())


def test_full_mode_gives_each_role_its_own_weights(new_backbone):
    backbone = with_all_roles(new_backbone(None))
    sizes = backbone.sizes()
    assert sizes["policy"] == sizes["base"]
    assert sizes["value"].parameters == sizes["base"].parameters + 65
    seen = set()
    for role in backbone.roles:
        with backbone.active(role) as model:
            found = set(storages(model))
        assert not found & seen
        seen |= found


# Gradients --------------------------------------------------------------------------------------


def test_gradients_flow_to_the_trained_role_only(backbone, ids, everywhere):
    with_all_roles(backbone)
    for role in ("policy", "value"):
        backbone.train_role(role)
    for role in ("base", "reference", "reward", "policy"):
        outputs(backbone, role, ids, everywhere)
    backbone.logits("policy", ids, everywhere).square().mean().backward()

    def moved(role):
        return sum(p.grad is not None and bool(p.grad.any()) for p in backbone.parameters(role))

    assert moved("policy") > 0
    assert [moved(role) for role in ("reference", "reward", "value")] == [0, 0, 0]
    assert all(p.grad is None for n, p in backbone.model.named_parameters() if ".lora_" not in n)
    backbone.values("value", ids, everywhere).square().mean().backward()
    assert moved("value") == len(backbone.parameters("value"))
    assert [moved(role) for role in ("reference", "reward")] == [0, 0]


def test_frozen_roles_need_no_gradient(backbone, ids, everywhere):
    with_all_roles(backbone)
    backbone.train_role("policy")
    backbone.train_role("policy", trainable=False)
    for role in backbone.roles:
        backbone.switch(role)
        assert not any(p.requires_grad for r in ROLES for p in backbone.parameters(r))
        assert not backbone.logits(role, ids, everywhere).requires_grad


# Padding, order, heads --------------------------------------------------------------------------


def padded(rows, width, left):
    ids, mask = torch.ones(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width).bool()
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = row, True
    return ids, mask


@pytest.mark.parametrize("left", [True, False])
def test_padding_and_order_change_nothing(backbone, ids, left):
    with_all_roles(backbone)
    rows = [ids[0], ids[1, :4], ids[2, :7]]
    batch = padded(rows, 16, left)
    order = [2, 0, 1]
    for role in ("policy", "reward"):
        together, mixed = (
            outputs(backbone, role, *b) for b in (batch, [part[order] for part in batch])
        )
        assert torch.allclose(together[order], mixed, atol=1e-6)
        for i, row in enumerate(rows):
            alone = outputs(backbone, role, row[None], torch.ones(1, len(row)).bool())[0]
            assert torch.allclose(together[i][batch[1][i]], alone, atol=2e-6), (role, i)


@pytest.mark.parametrize("left", [True, False])
def test_scores_stand_at_the_last_counted_token(backbone, ids, left):
    with_all_roles(backbone)
    rows = [ids[0], ids[1, :4], ids[2, :1]]
    scores = backbone.scores("reward", *padded(rows, 13, left))
    for row, score in zip(rows, scores, strict=True):
        alone = backbone.values("reward", row[None], torch.ones(1, len(row)).bool())
        assert score.item() == pytest.approx(alone[0, -1].item(), abs=1e-5)


def test_keep_gives_the_last_positions(backbone, ids, everywhere):
    whole = backbone.logits("base", ids, everywhere)
    assert torch.allclose(
        backbone.logits("base", ids, everywhere, keep=3), whole[:, -3:], atol=1e-6
    )
    assert whole.shape == (3, 11, backbone.model.config.vocab_size)


def test_positions_skip_padding():
    assert position_ids(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])).tolist() == [
        [0, 0, 0, 1, 2],
        [0, 1, 2, 2, 2],
    ]


# Dropout ----------------------------------------------------------------------------------------


def test_dropout_zeroes_a_share_and_scales_the_rest():
    dropout = Dropout(0.25, torch.Generator().manual_seed(0))
    plain = torch.rand(3, 11, 64) + 1
    dropped = dropout(plain, dropout.seed())
    kept = dropped != 0
    assert torch.allclose(dropped[kept], plain[kept] / 0.75, atol=1e-7)
    # 3 * 11 * 64 = 2112 draws: the share's standard error is 0.0094
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.04)


def test_dropout_is_on_all_that_blocks_add(backbone, ids, everywhere):
    """With all of it dropped, the embedding alone reaches the last norm."""
    with backbone.dropout(1 - 1e-9, torch.Generator().manual_seed(0)):
        found = backbone.logits("base", ids, everywhere)
    model = backbone.model
    embedded = model.model.norm(model.get_input_embeddings()(ids))
    assert torch.allclose(found, model.lm_head(embedded), atol=1e-5)


def test_dropout_repeats_with_its_generator_and_leaves_no_hook(backbone, ids, everywhere):
    backbone.add_role("policy")

    def noisy(seed, rate=0.2):
        with backbone.dropout(rate, torch.Generator().manual_seed(seed)):
            return backbone.logits("policy", ids, everywhere)

    exact = backbone.logits("policy", ids, everywhere)
    assert torch.equal(noisy(0), noisy(0))
    assert not torch.allclose(noisy(0), noisy(1), atol=1e-3)
    assert torch.equal(noisy(0, rate=0.0), exact)
    with pytest.raises(ZeroDivisionError), backbone.dropout(0.2, torch.Generator()):
        raise ZeroDivisionError
    assert torch.equal(backbone.logits("policy", ids, everywhere), exact)


# Errors -----------------------------------------------------------------------------------------


def test_unknown_roles_are_named(backbone):
    with pytest.raises(ValueError, match="no role 'critic'"):
        backbone.switch("critic")
    with pytest.raises(ValueError, match="cannot make role 'policy' from 'critic'"):
        backbone.add_role("policy", copy_of="critic")
    with pytest.raises(ValueError, match="cannot make role 'base'"):
        backbone.add_role("base")


def test_weights_of_another_shape_are_refused(backbone):
    backbone.add_role("policy")
    weights = backbone.weights("policy")
    name = sorted(weights)[0]
    with pytest.raises(ValueError, match=f"{name} is on one side only"):
        backbone.load_weights("policy", {n: w for n, w in weights.items() if n != name})
