from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from muscle_zoo import InputError, get_recipe
from muscle_zoo.commands.arguments import parse_overrides
from muscle_zoo.data import dataset_names
from muscle_zoo.data.augment import Flip, parse_policy
from muscle_zoo.errors import Notice
from muscle_zoo.methods import METHODS, default_options, method_names
from muscle_zoo.recipes import Recipe, changes
from muscle_zoo.recipes.defaults import DATASETS, VARIANTS
from muscle_zoo.recipes.names import make_name, parse_name, recipe_names, with_method


@pytest.mark.parametrize("name", recipe_names())
def test_name_and_json_round_trip(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.name == name
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_every_data_set_of_a_recipe_exists() -> None:
    assert set(DATASETS) == set(dataset_names())


def test_longest_method_wins_in_a_name() -> None:
    assert parse_name("wrn_28_2.muscle_fixmatch_digits_40") == {
        "arch": "wrn_28_2",
        "method": "muscle_fixmatch",
        "dataset": "digits",
        "labels": 40,
        "variant": "",
    }


def test_hash_leaves_out_the_seed_and_nothing_else() -> None:
    recipe = get_recipe("cnn4.muscle_fixmatch_digits_10")
    assert get_recipe(recipe.name, {"seed": 7}).sha256 == recipe.sha256
    other = {
        "fold": "dev",
        "schedule": "constant",
        "weak": "none",
        "strong": "none",
        "optimizer": "adamw",
        "variant": "x",
        "bias": "imbalance:10",
        "unlabeled_bias": "imbalance:10",
        "classes": "0+1",
        "split": "mine.json",
        "init": "cnn4.muscle_digits_10",
        "tune": "last:2",
        "global_pool": "avg",
        "teacher": "cnn4.muscle_digits_10",
        "label_noise": "symmetric:0.4",
        "sampling": "balanced",
    }
    for field in dataclasses.fields(Recipe):
        if field.name in ("seed", "arch", "method", "dataset", "options", "classifier"):
            continue
        value = getattr(recipe, field.name)
        changed = other.get(field.name, value * 0.5 if isinstance(value, float) and value else value)
        changed = changed + 1 if isinstance(value, int) else changed
        changed = 0.5 if value == 0.0 and isinstance(value, float) else changed
        assert dataclasses.replace(recipe, **{field.name: changed}).sha256 != recipe.sha256, field.name
    assert get_recipe(recipe.name, {"muscle.weight": 2.0}).sha256 != recipe.sha256


def test_overrides_are_converted_to_the_field_type() -> None:
    overrides = {"steps": "7", "lr": "1e-2", "muscle.weight": "2", "muscle.ramp": "1", "muscle.start": ".5"}
    recipe = get_recipe("cnn4.muscle_digits_10", overrides)
    assert (recipe.steps, recipe.lr) == (7, 0.01)
    assert recipe.options["muscle"] | {"weight": 2.0, "ramp": 1.0, "start": 0.5} == recipe.options["muscle"]
    assert isinstance(recipe.options["muscle"]["weight"], float)


@pytest.mark.parametrize("key", [("muscle", "start"), ("muscle", "ramp"), ("muscle", "end"), ("muscle", "temperature")])
def test_an_option_of_a_later_version_counts_where_it_is_not_neutral(key: tuple[str, str]) -> None:
    neutral = {"muscle.start": 0.0, "muscle.ramp": 0.0, "muscle.end": 1.0, "muscle.temperature": 1.0}
    recipe = get_recipe("cnn4.muscle_digits_10", neutral)
    assert recipe.sha256.startswith("09ed94288381f575")  # as the first edition published it
    old = recipe.to_dict()
    old["options"] = {"muscle": {"weight": 1.0, "lambda_": 1.0, "ramp_steps": 0}}
    assert Recipe.from_dict(old) == recipe
    changed = get_recipe(recipe.name, neutral | {".".join(key): 0.25})
    assert changed.sha256 != recipe.sha256 and Recipe.from_dict(changed.to_dict()) == changed
    assert changes(changed) == [*changes(recipe), f"{'.'.join(key)}=0.25"]


def test_a_ramp_in_steps_becomes_a_share_of_them() -> None:
    old = get_recipe("cnn4.muscle_digits_10", {"steps": 200}).to_dict()
    old["options"] = {"muscle": {"weight": 1.0, "lambda_": 1.0, "ramp_steps": 50}}
    assert Recipe.from_dict(old).options["muscle"]["ramp"] == 0.25


def test_a_preset_sets_options_and_gives_way_to_those_beside_it() -> None:
    recipe = get_recipe("cnn4.muscle_vat_digits_10", {"vat.weight": 2.0, "vat.preset": "paper"})
    options = recipe.options["vat"]
    assert (options["weight"], options["entropy_weight"], options["ramp"]) == (2.0, 1.0, 0.0)
    assert "preset" not in options and "vat.entropy_weight=1.0" in changes(recipe)
    for key, value, says in (
        ("vat.preset", "papr", "'paper'"),
        ("fixmach.preset", "paper", "fixmach.preset=paper"),
        ("fixmatch.preset", "papers", "'paper'"),
    ):
        with pytest.raises(InputError, match=says):
            get_recipe("cnn4.muscle_fixmatch_digits_10" if "fixm" in key else "cnn4.vat_digits_10", {key: value})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_every_method_has_the_values_of_its_paper(method: str, dataset: str) -> None:
    few, many = (get_recipe(f"cnn4.{method}_{name}_40", {f"{method}.preset": "paper"}) for name in (dataset, "cifar10"))
    assert few.options == many.options
    if METHODS[method].presets:
        assert changes(many)
    else:  # a run of 2^20 steps is as in the paper
        assert not changes(many)


def test_short_runs_have_settings_of_their_own() -> None:
    for name, key, short, paper in (
        ("pi_model", "weight", 10.0, 100.0),
        ("vat", "epsilon", 0.4, 0.21),
        ("mixmatch", "weight", 150.0, 75.0),
        ("uda", "threshold", 0.6, 0.8),
        ("freematch", "momentum", 0.99, 0.999),
    ):
        for method in (name, f"muscle_{name}"):
            for dataset in ("digits", "fashion_mnist", "folder"):
                assert get_recipe(f"cnn4.{method}_{dataset}_40").options[name][key] == short
            assert get_recipe(f"cnn4.{method}_cifar10_40").options[name][key] == paper
            assert get_recipe(f"cnn4.{method}_digits_40", {f"{name}.preset": "paper"}).options[name][key] == paper


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar10_jpeg"])
def test_a_method_has_defaults_of_its_own(dataset: str) -> None:
    for method in ("mixmatch", "muscle_mixmatch"):
        recipe = get_recipe(f"wrn_28_2.{method}_{dataset}_40")
        assert (recipe.mu, recipe.version) == (1, 2)
    recipe = get_recipe(f"wrn_28_2.fixmatch_{dataset}_40")
    assert recipe.mu > 1 and recipe.version == 1
    assert get_recipe(f"cnn4.mixmatch_{dataset}_40", {"mu": 3}).mu == 3


def test_overriding_a_part_of_the_name_gives_that_recipe() -> None:
    assert get_recipe("cnn4.muscle_digits_10", {"labels": "20"}) == get_recipe("cnn4.muscle_digits_20")
    assert get_recipe("cnn4.muscle_digits_10", {"method": "fixmatch"}) == get_recipe("cnn4.fixmatch_digits_10")


def test_a_variant_changes_what_it_says_and_nothing_else() -> None:
    main, long = (get_recipe(f"wrn_16_2.muscle_cifar10_jpeg_250{variant}") for variant in ("", "_long"))
    assert (long.variant, long.steps, long.labels) == ("long", 10_486, 250)
    back = {"variant": "", "steps": main.steps, "eval_every": main.eval_every}
    assert dataclasses.replace(long, **back) == main
    assert with_method(long.name, "fixmatch") == "wrn_16_2.fixmatch_cifar10_jpeg_250_long"
    assert get_recipe(main.name, {"variant": "long"}) == long


@pytest.mark.parametrize(
    "name",
    ["cnn4.muscle_digits_10", "wrn_28_2.fixmatch_cifar10_jpeg_40", "wrn_16_2.muscle_fixmatch_cifar10_jpeg_250_long"],
)
def test_an_override_counts_more_than_data_set_architecture_and_variant(name: str) -> None:
    named = get_recipe(name)
    own = {"steps": 7, "eval_every": 3, "batch_size": 5, "mu": 2}
    assert all(getattr(named, key) != value for key, value in own.items())
    assert get_recipe(name, own) == dataclasses.replace(named, **own)


def test_what_was_changed_leads_to_the_same_recipe() -> None:
    name = "cnn4.muscle_fixmatch_digits_10"
    every = {
        "fold": "dev",
        "steps": 7,
        "mu": 1,
        "weak": "none",
        "lr": 0.5,
        "optimizer": "adamw",
        "schedule": "constant",
    }
    every |= {"bias": "imbalance:10", "classes": "0+1", "validation": 0.25}
    every |= {"split": "a b.json", "accumulate": 2, "muscle.weight": 0.5, "fixmatch.threshold": 0.5}
    assert changes(get_recipe(name, {"seed": 3})) == []
    for overrides in (*({key: value} for key, value in every.items()), every):
        recipe = get_recipe(name, overrides)
        words = changes(recipe)
        assert len(words) == len(overrides) and get_recipe(name, parse_overrides(words)) == recipe


@pytest.mark.parametrize("dataset", DATASETS)
def test_digits_are_never_mirrored_and_objects_are(dataset: str) -> None:
    name = "synthetic:3x8x8x2" if dataset == "synthetic" else dataset
    recipe = get_recipe(f"wrn_16_2.fixmatch_{name}_40")
    for policy in (parse_policy("weak", recipe.weak), parse_policy("strong", recipe.strong)):
        of_objects = dataset not in ("digits", "mnist", "svhn", "svhn_extra", "synthetic")
        assert any(isinstance(operation, Flip) for operation in policy.operations) == of_objects


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"stepz": "1"}, "'steps'"),
        ({"muscle.weigth": "1"}, "'muscle.weight'"),
        ({"fixmatch.threshold": "0.5"}, "is an option of fixmatch, and this recipe's method is muscle; leave it out"),
        ({"fixmatch.treshold": "0.5"}, "does not exist"),
        ({"supervised.weight": "0.5"}, "does not exist"),
        ({"muscle.lambda_": "0"}, "muscle.lambda_=0.0 is not above 0"),
        ({"options": "1"}, "does not exist"),
        ({"steps": "1.5"}, "whole number"),
        ({"steps": "0"}, "1 or more"),
        ({"seed": "-1"}, "0 or more"),
        ({"lr": "fast"}, "a number"),
        ({"lr": "nan"}, "a number"),
        ({"lr": "inf"}, "a number"),
        ({"steps": True}, "whole number"),
        ({"ema_decay": "1"}, "less than 1"),
        ({"schedule": "cosin"}, "'cosine'"),
        ({"labels": "many"}, "1pct to 100pct"),
        ({"labels": "9" * 5000}, "1pct to 100pct"),
    ],
)
def test_wrong_overrides_are_named(overrides: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        get_recipe("cnn4.muscle_digits_10", overrides)
    assert next(iter(overrides)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "cnn4.muscle_digits_10"),
        ("cnn4", "cnn4.muscle_digits_10"),
        ("a b", "cnn4.muscle_digits_10"),
        ("cnn4.muscle_digits", "the label budget is missing"),
        ("cnn4.muscle_digitz_10", "data set 'digitz'; did you mean 'digits'"),
        ("cnn44.muscle_digits_10", "arch 'cnn44'; did you mean 'cnn4'"),
        ("wrn16_2.muscle_folder_40", "arch 'wrn16_2'; did you mean 'wrn_16_2'"),
        ("cnn4.musle_digits_10", "method 'musle'; did you mean 'muscle'"),
        ("cnn4.muscle_cifar-10_40", "data set 'cifar-10'; did you mean 'cifar10"),
        ("wrn_16_2.muscle_cifar10_jpg_250", "data set .cifar10_jpg.; did you mean .cifar10_jpeg"),
        ("wrn_16_2.muscle_fixmach_cifar10_jpeg_250", "method 'muscle_fixmach'; did you mean 'muscle_fixmatch'"),
        ("cnn4.musle_digitz_10", "method 'musle'; did you mean 'muscle'"),
        ("cnn4.muscle_digits_ten", "labels 'ten'; give a number"),
        ("cnn4.muscle_digits_" + "9" * 5000, "labels '9+'; give a number"),
        ("cnn4.muscle_digits_10_digits_10", "variant 'digits_10'; known: finetuned, frozen"),
        ("cnn4.muscle", "the data set and the label budget are missing"),
        ("cnn4.muscle_", "data set ''"),
        ("cnn4.mean_teachr_synthetic:3x8x8x2_40", "method 'mean_teachr'; did you mean 'mean_teacher'"),
        ("cnn4.x\ny_digits_10", r"method 'x\\ny'"),
        ("cnn4.muscle_digits_10_", "variant ''; known: finetuned, frozen"),
        ("cnn4.muscle_synthetic_10", "data set 'synthetic'"),
        ("cnn4.muscle_synthetic:1x8x8x10", "the label budget is missing"),
        ("resnet50.muscle_imagenet_10pct_typo", "variant 'typo'; known: finetuned, frozen"),
        ("cnn4.muscle_digits_\u0661\u0660", "labels .*; give a number"),
        ("cnn4.muscle_digits_10_typo", "variant 'typo'; known: finetuned, frozen"),
        ("cnn4.muscle_cifar10_jpeg_250_long", "variant 'long'; known: finetuned, frozen"),
        ("wrn_16_2.muscle_cifar10_jpeg_250_lang", "variant 'lang'; did you mean 'long'"),
    ],
)
def test_unknown_names_say_which_part_is_wrong(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        get_recipe(name)


@pytest.mark.parametrize(
    ("values", "says"),
    [({"steps": "5"}, "whole number"), ({"lr": 1}, "number"), ({"color": 1}, "unknown")],
)
def test_a_recipe_file_is_checked(values: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Recipe.from_dict({**get_recipe("cnn4.muscle_digits_10").to_dict(), **values})


def test_a_recipe_file_without_a_needed_field() -> None:
    values = get_recipe("cnn4.muscle_digits_10").to_dict()
    del values["labels"]
    with pytest.raises(InputError, match="missing: labels"):
        Recipe.from_dict(values)


@pytest.mark.parametrize("method", method_names())
def test_options_of_a_recipe_are_the_methods(method: str) -> None:
    recipe = get_recipe(f"cnn4.{method}_digits_10")
    assert {part: set(options) for part, options in recipe.options.items()} == {
        part: set(options) for part, options in default_options(method).items()
    }


def test_every_name_is_read_as_it_was_made() -> None:
    datasets = [name for name in DATASETS if name != "synthetic"] + ["synthetic:3x32x32x10"]
    for method, dataset, labels in itertools.product(method_names(), datasets, (1, 4000, "10pct")):
        parts = {"arch": "wrn_16_2", "method": method, "dataset": dataset, "labels": labels, "variant": ""}
        assert parse_name(make_name(**parts)) == parts
    for arch, dataset, variant in VARIANTS:
        parts = {"arch": arch, "method": "muscle", "dataset": dataset, "labels": 40, "variant": variant}
        assert parse_name(make_name(**parts)) == parts


FINETUNED = "tf_efficientnet_lite0.supervised_digits_40_finetuned"


@pytest.mark.parametrize(("steps", "probe"), [(1, 0), (50, 25), (100, 50), (101, 100)])
@pytest.mark.filterwarnings("ignore:steps=")
def test_few_steps_shorten_a_probe_that_nobody_asked_for(steps: int, probe: int) -> None:
    recipe = get_recipe(FINETUNED, {"steps": steps})
    assert recipe.probe_steps == probe
    assert get_recipe(recipe.name, parse_overrides(changes(recipe))) == recipe


def test_a_shortened_probe_is_said_and_what_was_typed_is_told_first() -> None:
    with pytest.warns(Notice, match="steps=50: .*=100 would leave no others; probe_steps=25 is taken"):
        get_recipe(FINETUNED, {"steps": 50})
    for overrides, says in (
        ({"steps": 50, "probe_steps": 60}, "probe_steps=60 is out of range; give less than steps=50, or 0"),
        ({"steps": 0}, "steps=0 is out of range"),
        ({"steps": 50, "probe_steps": 60, "ema_decay": 2.0}, "ema_decay=2.0 is out of range"),
        ({"tune": "head"}, "variant finetuned .* does not go with tune=head, .*; take the variant frozen"),
    ):
        with pytest.raises(InputError, match=says):
            get_recipe(FINETUNED, overrides)
