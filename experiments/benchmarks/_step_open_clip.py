"""One process of train_step.py: times the same step by open_clip. Takes a JSON on the command line, prints one."""

import contextlib
import importlib.metadata
import json
import math
import os
import pathlib
import sys
import time

import _models


def main() -> None:
    """Begins with mmjax's weights, warms up and times forward pass, loss, backward pass and fused AdamW."""
    spec = json.loads(sys.argv[1])
    from mmjax.core import host_memory

    kept = spec["keep_memory"] and host_memory.keep()
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep = operators()  # noqa: F841 - declared as long as it lives
    import safetensors.torch
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    folder = pathlib.Path(spec["weights"])
    model = CLIP(**json.loads((folder / "config.json").read_text()), output_dict=True)
    missing = model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"attn_mask"}, missing
    model = model.to(device).train()
    named = list(model.named_parameters())
    spared = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    decayed = [p for _, p in named if not any(p is other for other in spared)]
    stage = _models.STAGE
    groups = [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": stage["weight_decay"]}]
    optimizer = torch.optim.AdamW(groups, lr=stage["lr"], betas=(0.9, stage["b2"]), eps=stage["eps"], fused=True)
    batch = _models.make_batch(spec["system"], spec["batch"])
    image = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy()).to(device)
    text = torch.from_numpy(batch["ids"]).long().to(device)
    loss = ClipLoss()
    half = spec["dtype"] == "bfloat16"
    cast = torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()

    def objective(image, text):
        with cast:
            return loss(**model(image, text))

    if spec["compile"]:
        objective = torch.compile(objective, mode=spec["compile"])
    everything = [p for _, p in named]

    def step(number):
        rate = stage["lr"] * min(number / stage["warmup"], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value = objective(image, text)
        value.backward()
        norms = [torch.nn.utils.get_total_norm([p.grad for p in everything])] if spec["norms"] else []
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
            norms += [torch.nn.utils.get_total_norm(everything)] if spec["norms"] else []
        if device.type == "cuda":
            torch.cuda.synchronize()
        values = [float(x) for x in (value, *norms)]  # as a log reads them
        return values[0]

    losses, wall, cpu = [], [], []
    for number in range(spec["warmup"] + spec["steps"]):
        start, used = time.perf_counter(), time.process_time()
        losses.append(step(number))
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    found = {"parameters": sum(p.numel() for p in everything), "losses": losses[:3], "wall": wall[spec["warmup"] :]}
    # the first call compiles; what an ordinary step takes is no compiling
    found |= {"compile_s": max(wall[0] - min(wall), 0.0) if spec["compile"] else 0.0, "cpu": cpu[spec["warmup"] :]}
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    print(json.dumps(found | {"device": name, "platform": device.type, "kept_memory": kept}))


def operators():
    """Declares the operators whose absence stops torchvision's import beside a torch that it was not built for."""
    import torch

    if torch.version.cuda is not None or "+cpu" in importlib.metadata.version("torchvision"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


if __name__ == "__main__":
    main()
