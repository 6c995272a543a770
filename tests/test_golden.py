"""Five steps of every method, against values that were written down once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models import save_for_hf

from muscle_zoo import create_model, get_recipe
from muscle_zoo.methods import base_of, default_options, learns_from_teacher, method_names, takes_steps
from tests.test_engine import run

# Five steps of each method: the losses, then the averaged weights' negative log-likelihood; without a classifier the
# accuracy of their nearest neighbors. A change of code that changes the training fails here: then the recipe's version
# goes up and these are written anew. Measured with torch 2.15 on an x86-64 CPU; from distillation on with 2.14.
GOLDEN = {
    "supervised": [2.2989, 1.9221, 1.4647, 1.2689, 1.0713, 2.1877],
    "pi_model": [2.3001, 1.9699, 1.6037, 1.4566, 1.2871, 2.1902],
    "temporal_ensembling": [2.2982, 1.8959, 1.4821, 1.271, 1.0683, 2.1818],
    "mean_teacher": [2.2989, 1.9691, 1.6091, 1.4835, 1.2853, 2.1929],
    "vat": [2.4307, 2.0627, 1.6186, 1.423, 1.2415, 2.1872],
    "mixmatch": [2.2876, 2.2908, 2.153, 2.1146, 2.0437, 2.1906],
    "uda": [2.3073, 1.9406, 1.5595, 1.347, 1.1811, 2.188],
    "fixmatch": [2.3218, 1.9442, 1.7216, 1.7223, 1.644, 2.1837],
    "freematch": [3.7806, 2.8197, 2.2428, 2.0056, 1.7043, 2.1913],
    "muscle": [2.3072, 1.9404, 1.5589, 1.345, 1.1808, 2.1876],
    "muscle_pi_model": [2.3, 1.9697, 1.6029, 1.4559, 1.2862, 2.1897],
    "muscle_temporal_ensembling": [2.2981, 1.8957, 1.48, 1.2664, 1.0569, 2.1823],
    "muscle_mean_teacher": [2.2988, 1.9689, 1.6071, 1.4764, 1.281, 2.1922],
    "muscle_vat": [2.4306, 2.0624, 1.6175, 1.421, 1.2416, 2.1866],
    "muscle_mixmatch": [2.2884, 2.2886, 2.1733, 2.1211, 2.124, 2.1883],
    "muscle_uda": [2.3072, 1.9404, 1.5589, 1.345, 1.1808, 2.1876],
    "muscle_fixmatch": [2.3217, 1.9441, 1.7207, 1.7219, 1.6466, 2.1835],
    "muscle_freematch": [3.7805, 2.8196, 2.2431, 2.002, 1.7356, 2.1917],
    "distillation": [4.1083, 3.1438, 2.3713, 2.0608, 2.001, 2.2427],
    "muscle_distillation": [4.1082, 3.1435, 2.371, 2.0567, 1.9921, 2.2428],
    "noisy_student": [2.8251, 2.8891, 2.9419, 2.6691, 2.4394, 2.261],
    "muscle_noisy_student": [2.8279, 2.8533, 2.968, 2.65, 2.4968, 2.2679],
    "robust_self_training": [4.4381, 3.5754, 2.6936, 2.3895, 2.1943, 2.2029],
    "muscle_robust_self_training": [4.438, 3.5753, 2.6937, 2.3857, 2.2051, 2.2036],
    "simclr": [5.6035, 5.4677, 5.5245, 5.4993, 5.4938, 0.475],
    "vicreg": [22.7258, 22.3846, 22.1029, 21.9306, 21.9684, 0.4639],
    "mi_only": [-0.096, -0.1018, -0.1107, -0.1234, -0.1238, 0.4722],
    "pseudo_label": [2.2982, 1.8959, 1.5862, 1.5304, 1.3125, 2.1714],
    "flexmatch": [4.2749, 3.565, 2.9641, 2.8499, 2.7375, 2.1927],
    "softmatch": [4.2749, 3.5642, 2.9584, 2.823, 2.6302, 2.1926],
    "adamatch": [2.3398, 2.5203, 2.6949, 2.4454, 2.0711, 2.2149],
    "remixmatch": [3.078, 5.1709, 7.466, 7.2077, 7.0019, 2.2602],
    "s4l": [3.7894, 3.2778, 2.7954, 2.5195, 2.2617, 2.1836],
    "mp_ssl": [3.7714, 3.4105, 2.9707, 2.7581, 2.5495, 2.1794],
    "simmatch": [4.6918, 4.2368, 3.9482, 3.9909, 3.9041, 2.1869],
    "comatch": [7.2196, 6.7938, 6.5661, 6.741, 6.5719, 2.1777],
    "interpolation_contrastive": [7.6733, 7.1517, 6.5298, 6.0221, 5.5141, 2.1827],
    "neighbor_consistency": [2.2982, 1.3333, 1.0864, 0.9675, 0.8626, 2.2056],
    "uncertainty_mean_teacher": [2.3839, 2.0846, 1.6335, 3.0495, 2.6439, 2.2132],
    "self_meta_pseudo_labels": [2.3218, 1.9442, 1.7216, 1.7224, 1.6444, 2.1837],
    "muscle_pseudo_label": [2.2981, 1.8957, 1.5934, 1.5147, 1.2877, 2.1722],
    "muscle_flexmatch": [4.2748, 3.5649, 2.9633, 2.87, 2.7538, 2.1929],
    "muscle_softmatch": [4.2748, 3.5641, 2.9705, 2.8314, 2.6597, 2.1934],
    "muscle_adamatch": [2.3397, 2.5202, 2.6947, 2.4459, 2.0871, 2.215],
    "muscle_remixmatch": [3.0769, 5.1712, 7.4827, 7.2125, 7.0133, 2.2638],
    "muscle_s4l": [3.7957, 3.2744, 2.7858, 2.4987, 2.2784, 2.1831],
    "muscle_mp_ssl": [3.7778, 3.4106, 2.985, 2.7154, 2.5412, 2.1793],
    "muscle_simmatch": [4.6917, 4.2367, 3.9477, 3.9893, 3.9221, 2.1869],
    "muscle_comatch": [7.2196, 6.7937, 6.5653, 6.7578, 6.516, 2.1766],
    "muscle_interpolation_contrastive": [7.6732, 7.1515, 6.5283, 6.0137, 5.5092, 2.1812],
    "muscle_neighbor_consistency": [2.2981, 1.3331, 1.0849, 0.9638, 0.8554, 2.2051],
    "muscle_uncertainty_mean_teacher": [2.3835, 2.084, 1.6319, 3.0438, 2.6419, 2.2111],
    "muscle_self_meta_pseudo_labels": [2.3217, 1.9441, 1.7207, 1.7219, 1.6464, 2.1834],
}


# At thresholds of 0.95 no pseudo-label would count in so few steps, and with slow averages all would count alike.
THRESHOLDS = ("fixmatch", "pseudo_label", "flexmatch", "simmatch", "comatch", "self_meta_pseudo_labels")
EAGER = {name: {f"{name}.threshold": 0.3} for name in THRESHOLDS} | {
    "softmatch": {"softmatch.momentum": 0.5},
    "robust_self_training": {"robust_self_training.threshold": 0.1, "robust_self_training.start": 0.0},
}


def random_teacher(path: Path) -> str:
    """A classifier with opinions of its own: no published checkpoint, for those are made anew now and then."""
    torch.manual_seed(0)
    network = create_model("cnn4.supervised_digits_10")
    with torch.no_grad():
        network.get_classifier().weight *= 30
    save_for_hf(network, str(path), safe_serialization=True)
    return f"local-dir:{path}"


def trajectory(method: str, path: Path) -> list[float]:
    parts = default_options(method)  # the methods' own values, for those of the recipes may change
    own = {f"{part}.{key}": value for part, options in parts.items() for key, value in options.items()}
    taught = {"teacher": random_teacher(path.with_name("teacher"))} if learns_from_teacher(method) else {}
    overrides = {**own, "seed": 3, "steps": 5, "eval_every": 5, **EAGER.get(base_of(method), {}), **taught}
    folder, _ = run(get_recipe(f"cnn4.{method}_digits_10", overrides), path)
    return [row.get("loss", row.get("nll_ema", row.get("knn_ema"))) for row in folder.read_log()]


@pytest.mark.parametrize("method", [name for name in method_names() if takes_steps(name)])
def test_golden_trajectories(method: str, tmp_path: Path) -> None:
    assert trajectory(method, tmp_path / "run") == pytest.approx(GOLDEN[method], rel=2e-3)
