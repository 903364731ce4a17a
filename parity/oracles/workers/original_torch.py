"""The own code of ssd.pytorch and simple-ssd on today's torch: answers one request by files. See ``originals``.

Called with one folder; ``request.json`` names the checkout, the project, the weight file, and folders to look for torch and NumPy in.
What today's torch took away is put back from outside, never by editing the checkout: ``Detect`` is a function of the old kind there, which
is called here by its ``forward``; its list of COCO's labels, which it opens on import in the user's home, is given a home of its own.
"""

import json
import os
import shutil
import sys
from pathlib import Path


def _state(request):
    """The weight file's state dict."""
    state = torch.load(request["pth"], map_location="cpu", weights_only=True)
    for key in request.get("wrappers", []):
        state = state[key]
    prefix = request.get("prefix", "")
    return {name[len(prefix) :]: value for name, value in state.items()}


def _watch(net, out):
    """Keep the output of every convolution and of the L2 normalisation."""

    def keep(name):
        return lambda module, given, value: out.__setitem__("modules/" + name, value.detach().clone().numpy())

    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d) or name == "L2Norm":
            module.register_forward_hook(keep(name))


def _rows(priors, variances):
    """(P, 4) cx, cy, w, h as (1, 2, 4 P): corners, then variances."""
    corners = np.concatenate([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)
    four = np.array([variances[0], variances[0], variances[1], variances[1]], np.float32)
    return np.stack([corners.astype(np.float32).ravel(), np.tile(four, len(priors))])[None]


def ssd_pytorch(request, pixels, out):
    """amdegroot/ssd.pytorch: ``ssd.build_ssd`` in phase "test"."""
    labels = Path(request["checkout"], "data", "coco_labels.txt")
    if labels.is_file():
        home = Path.cwd() / "home"
        (home / "data" / "coco").mkdir(parents=True)
        shutil.copy(labels, home / "data" / "coco")
        os.environ["HOME"] = os.environ["USERPROFILE"] = str(home)
    import ssd

    net = ssd.build_ssd("test", 300, request["classes"])
    net.load_state_dict(_state(request))
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


def simple_ssd(request, pixels, out):
    """HosinPrime/simple-ssd-for-beginners, with the thresholds of its eval.py."""
    from config import opt
    from lib.model import SSD
    from lib.multibox_encoder import MultiBoxEncoder
    from lib.utils import detect

    net = SSD(request["classes"], opt.anchor_num)
    net.load_state_dict(_state(request))
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


DO = {"ssd.pytorch": ssd_pytorch, "simple-ssd": simple_ssd}


def main(folder, request):
    with np.load(folder / "request.npz") as stored:
        pixels = torch.from_numpy(stored["input"])
    out = {}
    with torch.no_grad():
        DO[request["project"]](request, pixels, out)
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    (folder / "response.json").write_text(json.dumps({"versions": versions}))
    np.savez(folder / "response.npz", **out)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    sys.path += request["path"]
    sys.path.insert(0, request["checkout"])
    import numpy as np
    import torch
    import torch_vision  # the worker beside this one: torchvision's operators, where its own library does not load

    torch_vision.torch = torch
    library = torch_vision._operators()
    main(folder, request)
