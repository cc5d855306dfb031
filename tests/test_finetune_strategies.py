"""Which weights train at which rate, for all eleven architectures and a step of each strategy."""

import pytest
import timm
import torch

from backbench.extract.names import STUDY
from backbench.finetune import strategies
from backbench.finetune.recipe import STRATEGIES, make

STEPS = [0.1 ** (1 - i / 5) for i in range(6)]
"""Six stages, each with 10^(1/5) times the learning rate below it: 0.1, 0.158, 0.251, 0.398, 0.631, 1.

The head has ten times that."""

STAGES = {
    # stem | body, four stages | what comes last, beside the classifier
    "efficientnetv2_m": ("conv_stem", ["blocks.0", "blocks.2", "blocks.4", "blocks.5"], "bn2"),
    "regnety_040": ("stem", ["s1", "s2", "s3", "s4"], "s4"),
    "resnet50": ("conv1", ["layer1", "layer2", "layer3", "layer4"], "layer4"),
    "convnext_base": ("stem", ["stages.0", "stages.1", "stages.2", "stages.3"], "head.norm"),
    "resnet152": ("conv1", ["layer1", "layer2", "layer3", "layer4"], "layer4"),
    "pvt_v2_b3": ("patch_embed", ["stages.0", "stages.1", "stages.2", "stages.3"], "stages.3"),
    "resnet18": ("conv1", ["layer1", "layer2", "layer3", "layer4"], "layer4"),
    "swin_base": ("patch_embed", ["layers.0", "layers.1", "layers.2", "layers.3"], "norm"),
    "vit_base": ("patch_embed", ["blocks.0", "blocks.3", "blocks.6", "blocks.9"], "norm"),
    "deit3_base": ("patch_embed", ["blocks.0", "blocks.3", "blocks.6", "blocks.9"], "norm"),
    "mlp_mixer": ("stem", ["blocks.0", "blocks.3", "blocks.6", "blocks.9"], "norm"),
}


@pytest.fixture(scope="module")
def eleven():
    """All of the study's architectures, without the memory of their weights."""
    with torch.device("meta"):
        return {name: timm.create_model(weights.split(".")[0], num_classes=7) for name, weights in STUDY.items()}


@pytest.mark.parametrize("name", STUDY)
def test_stages_run_from_stem_to_head(name, eleven):
    model, (stem, body, last) = eleven[name], STAGES[name]
    found = strategies.stages(model)
    assert len(found) == 6
    assert sorted(name for stage in found for name in stage) == sorted(dict(model.named_parameters()))
    assert any(one.startswith(f"{stem}.") for one in found[0])
    for stage, prefix in zip(found[1:5], body, strict=True):
        assert any(one.startswith(f"{prefix}.") for one in stage), (prefix, stage[:3])
    assert any(one.startswith(f"{last}.") for one in found[4])
    assert {parameter.shape for one, parameter in model.named_parameters() if one in found[5]} == {
        (7, model.num_features), (7,),
    }  # fmt: skip


@pytest.mark.parametrize("name", STUDY)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_group_gets_the_rate_it_should(name, strategy, eleven):
    model = eleven[name]
    recipe = make("simple", strategy=strategy, lr=1e-3)
    stage_of = {one: i for i, stage in enumerate(strategies.stages(model)) for one in stage}
    groups = strategies.groups(model, recipe)
    parameters = dict(model.named_parameters())
    assert sorted(one for group in groups for one in group["names"]) == sorted(parameters)
    for group in groups:
        for one in group["names"]:
            scale = STEPS[stage_of[one]] if strategy == "discriminative" else 1.0
            scale *= 10 if stage_of[one] == 5 else 1  # the head
            assert group["lr"] == pytest.approx(1e-3 * scale)
            exempt = parameters[one].ndim <= 1 or one in ("cls_token", "pos_embed", "dist_token")
            if "relative_position" not in one:
                assert group["weight_decay"] == (0 if exempt else 0.05), one


def test_layer_decay_is_timms():
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("test_vit", num_classes=3)
    recipe = make("full", lr=1.0, head_scale=1.0)
    theirs = param_groups_layer_decay(model, recipe.weight_decay, model.no_weight_decay(), layer_decay=0.8)
    expected = {id(p): (group["lr_scale"], group["weight_decay"]) for group in theirs for p in group["params"]}
    for group in strategies.groups(model, recipe):
        for parameter in group["params"]:
            assert expected[id(parameter)] == (pytest.approx(group["lr"]), group["weight_decay"])


SMALL = {
    "efficientnetv2_m": "test_efficientnet", "regnety_040": "test_byobnet", "resnet50": "test_resnet",
    "convnext_base": "test_convnext", "vit_base": "test_vit",
}  # fmt: skip
"""timm's tiny models of the same families."""


def step(model, recipe, size):
    """One update on noise; the names of the weights that it changed."""
    from timm.optim import create_optimizer_v2

    torch.manual_seed(0)
    gradual = strategies.Gradual(model, recipe)
    strategies.open_stages(model, gradual.opened)
    strategies.train_mode(model, recipe)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = create_optimizer_v2(strategies.groups(model, recipe), opt="adamw", lr=recipe.lr)
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(torch.randn(2, 3, size, size)), torch.tensor([0, 1])).backward()
    optimizer.step()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("architecture", SMALL.values())
def test_a_step_changes_what_is_open_and_nothing_else(strategy, architecture):
    model = timm.create_model(architecture, num_classes=3)
    changed = step(model, make("simple", strategy=strategy, lr=1e-2), model.pretrained_cfg["input_size"][1])
    parameters = set(dict(model.named_parameters()))
    if strategy == "gradual":
        assert changed == set(strategies.stages(model)[-1])
    else:
        assert all(changed & {*stage} for stage in strategies.stages(model))
    assert not changed - parameters  # the running statistics of BatchNorm are pretraining's


@pytest.mark.parametrize("name", STUDY)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_eleven_do_a_step(name, strategy, eleven):
    """Forward, backward and update without their numbers; gradients come to what is open, and to nothing else."""
    from timm.optim import create_optimizer_v2

    model, recipe = eleven[name], make("simple", strategy=strategy)
    strategies.open_stages(model, strategies.Gradual(model, recipe).opened)
    strategies.train_mode(model, recipe)
    optimizer = create_optimizer_v2(strategies.groups(model, recipe), opt=recipe.optimizer, lr=recipe.lr, foreach=False)
    images = torch.randn(2, *model.pretrained_cfg["input_size"], device="meta")
    torch.nn.functional.cross_entropy(model(images), torch.zeros(2, dtype=int, device="meta")).backward()
    optimizer.step()
    moved = {one for one, parameter in model.named_parameters() if parameter.grad is not None}
    found = strategies.stages(model)
    assert moved == {one for stage in (found[-1:] if strategy == "gradual" else found) for one in stage}
    assert all(parameter in optimizer.state for one, parameter in model.named_parameters() if one in moved)
    optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", STUDY)
def test_all_eleven_do_a_step_with_numbers(name):
    """From random weights, in float32: every stage that is open moves and stays finite, no other."""
    model = timm.create_model(STUDY[name].split(".")[0], num_classes=3)
    found, parameters = strategies.stages(model), {*dict(model.named_parameters())}
    for strategy in STRATEGIES:
        changed = step(model, make("simple", strategy=strategy), 224)
        assert changed <= parameters
        assert [bool(changed & {*stage}) for stage in found] == [strategy != "gradual"] * 5 + [True]
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_batchnorm_of_frozen_stages_stays_frozen():
    """With batch_norm=train only the open stages' statistics move."""
    model = timm.create_model("test_resnet", num_classes=3)
    recipe = make("published", strategy="gradual", lr=1e-2)
    names = strategies.stages(model)
    strategies.open_stages(model, 2)
    strategies.train_mode(model, recipe)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model(torch.randn(4, 3, 64, 64))
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved
    opened = {name.rsplit(".", 1)[0] for name in names[-2]}
    assert {name.rsplit(".", 1)[0] for name in moved} <= opened


def test_gradual_opens_by_the_epoch_and_by_patience():
    """Head for 2 epochs, then a stage every 3; with patience 2 also after two epochs without progress."""
    model = timm.create_model("test_resnet", num_classes=3)
    gradual = strategies.Gradual(model, make("simple", ("head_epochs=2", "stage_epochs=3"), strategy="gradual"))
    opened = []
    for epoch in range(9):
        opened.append(gradual.opened)
        gradual.after(epoch, progress=True)
    assert opened == [1, 1, 2, 2, 2, 3, 3, 3, 4]

    settings = ("head_epochs=50", "stage_epochs=50", "patience=2")
    gradual = strategies.Gradual(model, make("simple", settings, strategy="gradual"))
    found = [gradual.after(epoch, progress=False) for epoch in range(12)]
    assert [opens for opens, _ in found] == [False, True] * 5 + [False, False]
    assert [stops for _, stops in found] == [False] * 11 + [True]  # all are open: now patience ends it


def test_the_others_stop_by_patience():
    model = timm.create_model("test_resnet", num_classes=3)
    gradual = strategies.Gradual(model, make("simple", ("patience=3",), strategy="full"))
    progress = [True, False, False, True, False, False, False]
    assert [gradual.after(i, progress=p)[1] for i, p in enumerate(progress)] == [False] * 6 + [True]
