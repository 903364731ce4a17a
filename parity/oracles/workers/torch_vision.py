"""torchvision's ssd300_vgg16 as an oracle: answers requests by files. torchvision is this environment's, torch the caller's.

Called with one folder; ``request.json`` there is ``{"path": [...], "jobs": [...]}``: folders to look for torch and NumPy in, and jobs
with ``do`` (a function below) and its arguments. Arrays are named ``<job index>/<name>`` in ``request.npz`` and ``response.npz``.

The wheel of torchvision is built for a torch with CUDA; on another torch its compiled operators do not load. SSD needs one of
them, nms, which is defined here in Python when it is missing.
"""

import importlib.metadata
import json
import sys
from pathlib import Path


def _nms(boxes, scores, threshold):
    """Greedy: a box goes when its IoU with a better kept one exceeds the threshold."""
    order = scores.argsort(descending=True, stable=True).tolist()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for best in order:
        if not left[best]:
            continue
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[:, :2])
        sides = (torch.minimum(boxes[best, 2:], boxes[:, 2:]) - low).clamp(min=0)
        inter = sides[:, 0] * sides[:, 1]
        left &= inter / (areas[best] + areas - inter) <= threshold
    return torch.tensor(kept, dtype=torch.int64)


def _operators():
    """Define the compiled operators that torchvision asks for on import, if its own library does not load."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _nms, "CPU")
    import torchvision.extension
    import torchvision.ops.boxes

    torchvision.extension._assert_has_ops = torchvision.ops.boxes._assert_has_ops = lambda: None
    return library


def _model(job):
    from torchvision.models.detection import ssd300_vgg16

    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=job.get("classes", 91)).eval()
    if "pth" in job:
        state = torch.load(job["pth"], map_location="cpu", weights_only=True)
        for key in job.get("wrappers", []):
            state = state[key]
        prefix = job.get("prefix", "")
        model.load_state_dict({name[len(prefix) :]: value for name, value in state.items()})
    return model


def activations(job, arrays):
    """Every convolution's output for prepared pixels ``input``, raw heads, default boxes, and final detections."""
    from torchvision.models.detection.image_list import ImageList

    model, out = _model(job), {}
    pixels = torch.from_numpy(arrays["input"])

    def keep(name):
        def hook(module, given, value):
            out["modules/" + name] = value.clone().numpy()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(keep(name))
    features = list(model.backbone(pixels).values())
    heads = model.head(features)
    sizes = [(300, 300)] * len(pixels)
    anchors = model.anchor_generator(ImageList(pixels, sizes), features)
    out["loc"], out["conf"] = heads["bbox_regression"].numpy(), heads["cls_logits"].numpy()
    out["anchors"] = anchors[0].numpy()
    for index, found in enumerate(model.postprocess_detections(heads, anchors, sizes)):
        for key in ("boxes", "labels", "scores"):
            out[f"{index}/{key}"] = found[key].numpy()
    return {"names": list(model.state_dict())}, out


def prepare(job, arrays):
    """The model's own transform on each RGB uint8 array (H, W, 3): (3, 300, 300) float32."""
    model = _model(job)
    out = {}
    for name, image in arrays.items():
        plane = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
        images, _ = model.transform([plane])
        out[name] = images.tensors[0].numpy()
    return {}, out


DO = {"activations": activations, "prepare": prepare}


def main(folder, request):
    with np.load(folder / "request.npz") as stored:
        given = {key: stored[key] for key in stored.files}
    answers, arrays = [], {}
    for index, job in enumerate(request["jobs"]):
        head = f"{index}/"
        mine = {key[len(head) :]: value for key, value in given.items() if key.startswith(head)}
        with torch.inference_mode():
            answer, out = DO[job["do"]](job, mine)
        answers.append(answer)
        arrays |= {head + key: value for key, value in out.items()}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    (folder / "response.json").write_text(json.dumps({"jobs": answers, "versions": versions}))
    np.savez(folder / "response.npz", **arrays)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    sys.path += request["path"]
    import numpy as np
    import torch

    library = _operators()
    main(folder, request)
