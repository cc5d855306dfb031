"""What the command says of itself."""


def test_help_and_lists(run):
    said = run("extract", "--help").stdout
    assert "Examples:" in said
    assert "extract --model resnet50 --dataset caltech256" in said
    models = run("extract", "--list-models").stdout
    assert "tf_efficientnetv2_m.in21k_ft_in1k" in models
    assert "vit_small_patch14_imgfocus" in models
    assert "caltech256" in run("extract", "--list-datasets").stdout
