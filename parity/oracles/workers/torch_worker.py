"""torchvision's ssd300_vgg16, and the own code of ssd.pytorch and simple-ssd, on the caller's torch and NumPy.

torchvision is this environment's. Its wheel is built for a torch with CUDA; on another torch its compiled operators do not load. SSD needs one of
them, nms, which is defined here in Python.

Of the projects a job names the checkout (``originals``). What today's torch took away is put back from outside, never by editing the checkout:
``Detect`` is a function of the old kind there, which is called here by its ``forward``; its list of COCO's labels, which it opens on import in the user's
home, is given a home of its own.
"""

import os
import shutil
import sys
from pathlib import Path

from serving import serve  # first: it finds the packages that are borrowed

# isort: split
import numpy as np
import torch


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


LIBRARY = _operators()


def _state(job):
    """The weight file's state dict."""
    state = torch.load(job["pth"], map_location="cpu", weights_only=True)
    for key in job.get("wrappers", []):
        state = state[key]
    return {name[len(job.get("prefix", "")) :]: value for name, value in state.items()}


def _watch(net, out):
    """Keep the output of every convolution and of the L2 normalisation."""

    def keep(name):
        return lambda module, given, value: out.__setitem__("modules/" + name, value.detach().clone().numpy())

    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d) or name == "L2Norm":
            module.register_forward_hook(keep(name))


def _model(job):
    from torchvision.models.detection import ssd300_vgg16

    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=job.get("classes", 91)).eval()
    if "pth" in job:
        model.load_state_dict(_state(job))
    return model


@torch.inference_mode()
def activations(job, arrays):
    """Every convolution's output for prepared pixels ``input``, raw heads, default boxes, and final detections."""
    from torchvision.models.detection.image_list import ImageList

    model, out = _model(job), {}
    pixels = torch.from_numpy(arrays["input"])
    _watch(model, out)
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


@torch.inference_mode()
def prepare(job, arrays):
    """The model's own transform on each RGB uint8 array (H, W, 3): (3, 300, 300) float32."""
    model = _model(job)
    out = {}
    for name, image in arrays.items():
        plane = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
        images, _ = model.transform([plane])
        out[name] = images.tensors[0].numpy()
    return {}, out


def _rows(priors, variances):
    """(P, 4) cx, cy, w, h as (1, 2, 4 P): corners, then variances."""
    corners = np.concatenate([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)
    four = np.array([variances[0], variances[0], variances[1], variances[1]], np.float32)
    return np.stack([corners.astype(np.float32).ravel(), np.tile(four, len(priors))])[None]


@torch.no_grad()
def ssd_pytorch(job, arrays):
    """amdegroot/ssd.pytorch: ``ssd.build_ssd`` in phase "test"."""
    sys.path.insert(0, job["checkout"])
    pixels, out = torch.from_numpy(arrays["input"]), {}
    labels = Path(job["checkout"], "data", "coco_labels.txt")
    if labels.is_file():
        home = Path.cwd() / "home"
        (home / "data" / "coco").mkdir(parents=True)
        shutil.copy(labels, home / "data" / "coco")
        os.environ["HOME"] = os.environ["USERPROFILE"] = str(home)
    import ssd

    net = ssd.build_ssd("test", 300, job["classes"])
    net.load_state_dict(_state(job))
    net.eval()
    detect, heads = net.detect, {}

    def call(loc, scores, priors):
        heads["loc"], heads["priors"] = loc.detach(), priors
        return type(detect).forward(detect, loc.detach(), scores.detach(), priors)

    object.__setattr__(net, "detect", call)
    net.softmax.register_forward_pre_hook(lambda module, given: heads.__setitem__("conf", given[0].detach()))
    _watch(net, out)
    found = net(pixels).numpy()  # (N, classes, 200, 5): score, corners
    out["loc"], out["conf"] = heads["loc"].numpy(), heads["conf"].numpy()
    out["priors"] = _rows(net.priors.numpy(), detect.variance)
    for image, classes in enumerate(found):
        labels, places = np.nonzero(classes[:, :, 0] > 0)
        out[f"{image}/detections"] = np.column_stack([labels, classes[labels, places]]).astype(np.float32)
    return {}, out


@torch.no_grad()
def simple_ssd(job, arrays):
    """HosinPrime/simple-ssd-for-beginners, with the thresholds of its eval.py."""
    sys.path.insert(0, job["checkout"])
    pixels, out = torch.from_numpy(arrays["input"]), {}
    from config import opt
    from lib.model import SSD
    from lib.multibox_encoder import MultiBoxEncoder
    from lib.utils import detect

    net = SSD(job["classes"], opt.anchor_num)
    net.load_state_dict(_state(job))
    net.eval()
    _watch(net, out)
    loc, conf = net(pixels)
    encoder = MultiBoxEncoder(opt)
    out["loc"], out["conf"] = loc.numpy(), conf.numpy()
    out["priors"] = _rows(np.asarray(encoder.default_boxes), opt.variance)
    for image in range(len(pixels)):
        scores = torch.nn.functional.softmax(conf[image], dim=1).numpy()
        boxes, best, labels = detect(encoder.decode(loc[image].numpy()), scores, nms_threshold=0.5, gt_threshold=0.01)
        rows = np.column_stack([labels + 1, best, boxes]) if len(labels) else np.zeros((0, 6))
        out[f"{image}/detections"] = rows.astype(np.float32)
    return {}, out


if __name__ == "__main__":
    serve(activations, prepare, **{"ssd.pytorch": ssd_pytorch, "simple-ssd": simple_ssd})
