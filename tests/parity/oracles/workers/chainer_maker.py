"""What tests want of ChainerCV besides ``chainer_worker``'s jobs; Python 3.8 on."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4] / "parity" / "oracles" / "workers"))

import chainer
import numpy as np
from chainer_worker import JOBS, loaded
from serving import serve


def predict(job, arrays):
    """``SSD.predict`` on the RGB uint8 image (H, W, 3) ``image``: boxes yxyx in pixels of the image."""
    model = loaded(job)
    model.use_preset(job.get("preset", "evaluate"))
    image = arrays["image"].transpose(2, 0, 1).astype(np.float32)
    (boxes,), (labels,), (scores,) = model.predict([image])
    return {}, {"boxes": boxes, "labels": labels, "scores": scores}


def save(job, arrays):
    """Load ``npz`` and save the model again to ``out``, by Chainer's own serializers."""
    save = chainer.serializers.save_npz
    save(job["out"], loaded(job), compression=job.get("compression", True))
    return {}, {}


if __name__ == "__main__":
    serve(*JOBS, predict, save)
