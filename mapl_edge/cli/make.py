"""Commands that make a bundle: train, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mapl_edge.bundle import MANIFEST, MODEL_JSON, Bundle, open_bundle
from mapl_edge.cli.app import JsonFlag, Overwrite, SkipBad, app, people
from mapl_edge.cli.common import bars, extra, numbers, one_of, print_json, tell_skipped
from mapl_edge.config import TrainConfig, config_from_dict, config_from_yaml
from mapl_edge.engine_record import Backend, Graph, Precision, engine_names
from mapl_edge.errors import ConfigError, OptionError, TrainingError
from mapl_edge.files import check_absent, new_folder


@app.command(epilog="Example: mapl-edge train data/bottle --out models/bottle")
def train(
    data: Annotated[Path, typer.Argument(help="Folder of good parts, or a data set with train/good.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    seed: Annotated[int | None, typer.Option(help="Same seed, same model (default 0).")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps at most (default 1000).")] = None,
    size: Annotated[
        str | None, typer.Option(help="Model input, HEIGHTxWIDTH (default: the pictures' shape, as large as 256x256).")
    ] = None,
    roi: Annotated[str | None, typer.Option(help="Crop of the camera picture: LEFT,TOP,WIDTH,HEIGHT.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder by name (default efficientnet_lite0).")] = None,
    weights: Annotated[Path | None, typer.Option(help="File with the encoder's weights.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Compare with whole pictures or patches: auto, image, patch.")
    ] = None,
    textures: Annotated[Path | None, typer.Option(help="Folder of texture pictures, such as DTD.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with any of the training settings.")] = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a model on pictures of good parts, and of real defects in train/<defect> if there are any.

    A run that was killed goes on where it was when it is started again with the same pictures and settings.
    """
    from mapl_edge.dataset import BadPictures, defect_samples, good_samples

    check_absent(out, MODEL_JSON, overwrite=overwrite)
    flags = {"seed": seed, "steps": steps, "encoder": encoder, "weights": weights, "memory": memory}
    settings = _train_config(config, size=size, roi=roi, textures=textures, **flags)
    samples, defects, bad = good_samples(data), defect_samples(data), BadPictures(skip_bad)
    with extra("train"):  # torch takes seconds to load: a wrong path should not wait for it
        from mapl_edge.model.curves import curves_png, simulations_jpg
        from mapl_edge.model.train import train as train_model
    state = out.with_name(f".{out.name}.state")
    if state.exists():
        people.print(
            f"{state}: left by a run that was stopped; with the same pictures and settings this one goes on there"
        )
    with bars() as progress:
        checkpoint = train_model(samples, settings, bad, progress, defects=defects, state=state)
    with new_folder(out, MODEL_JSON, overwrite=overwrite) as work:
        checkpoint.save(work)
        curves_png(checkpoint.record.history, work / "training.png")
        simulations_jpg(checkpoint.simulated_pictures, work / "simulations.jpg")
    state.unlink(missing_ok=True)
    tell_skipped(bad.errors)
    summary = checkpoint.record.summary
    for note in summary["notes"]:
        people.print(note)
    if summary["failure"]:
        raise TrainingError(f"{summary['failure']}; {out} holds the model of step {summary['best_step']}")
    people.print(
        f"{out}: trained on {summary['pictures']['train']} good parts in {summary['seconds']:.0f} s, best step "
        f"{summary['best_step']} of {summary['steps']}; next: mapl-edge export {out} --out part.mapl"
    )
    print_json(as_json, {"model": str(out), **summary})


@app.command(epilog="Example: mapl-edge export models/bottle --out bottle.mapl --engine openvino --precision int8")
def export(
    model: Annotated[Path, typer.Argument(help="Model folder that train wrote, or a bundle to add to.")],
    out: Annotated[Path | None, typer.Option(help="Bundle to write, by custom NAME.mapl.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Add an engine: onnxruntime, openvino, tensorrt, tensorrt_rtx.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Of that engine: fp32, fp16, int8.")] = "fp32",
    graph: Annotated[str, typer.Option(help="Of that engine: fused, or split with a FAISS search.")] = "fused",
    target: Annotated[str, typer.Option(help="Device to build it for, such as sm89; any: this one.")] = "any",
    memory_mb: Annotated[int | None, typer.Option(help="Memory that its build may take.", min=64)] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep it though it costs over 0.2 points of AUROC.")] = False,
    sign: Annotated[
        Path | None, typer.Option(help="Ed25519 private key (PEM) to sign bundle and engines with.")
    ] = None,
    into: Annotated[str, typer.Option("--format", help="bundle, or triton: a Triton model repository.")] = "bundle",
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn a model into a bundle, add engines to it, sign it; each graph is proved to answer as the model does."""
    backend, wanted, kind = (
        one_of("engine", engine, Backend),
        one_of("precision", precision, Precision),
        one_of("graph", graph, Graph),
    )
    one_of("format", into, Literal["bundle", "triton"])
    is_bundle = (model / MANIFEST).is_file()
    if into == "triton":
        if out is None or not is_bundle:
            raise typer.BadParameter("--format triton takes a bundle, and --out for the model repository")
        from mapl_edge.export.triton import triton_from_bundle

        placed = triton_from_bundle(open_bundle(model), out, overwrite=overwrite)
        people.print(f"{out}: Triton model repository with {placed}; serve it: tritonserver --model-repository {out}")
        return print_json(as_json, {"repository": str(out), "model": placed})
    if is_bundle == (out is not None):
        raise typer.BadParameter("a model folder needs --out, the bundle to write; a bundle takes none: it is added to")
    if is_bundle and backend is None and sign is None:
        raise typer.BadParameter(f"{model} is a bundle: name an --engine to add to it, or --sign it")
    told: dict[str, Any] = {}
    if out is not None:
        check_absent(out, MANIFEST, overwrite=overwrite)
        with extra("train"):
            from mapl_edge.export import bundle_from_checkpoint
            from mapl_edge.model.checkpoint import checkpoint_from_folder
        from mapl_edge.runtime.engine_choice import engine_of

        checkpoint = checkpoint_from_folder(model)
        with people.status("exporting and proving the graphs"):
            fused, split = bundle_from_checkpoint(checkpoint, out, engine_of, overwrite=overwrite)
        people.print(f"{out}: {fused}; split graphs: score within {split.score_error:.1e}")
        told = {"score_error": fused.score_error, "map_error": fused.map_error, "tolerance": fused.tolerance}
        told["split"] = {"score_error": split.score_error, "map_error": split.map_error}
    path = out or model
    bundle = open_bundle(path)
    if backend is not None:
        with extra("export"):
            from mapl_edge.export.engine_writer import add_engine
        from mapl_edge.runtime.engine_choice import engine_of

        with bars() as progress:
            record = add_engine(
                bundle,
                backend,
                wanted,
                engine_of,
                graph=kind,
                target=target,
                force=force,
                overwrite=overwrite,
                memory_mb=memory_mb,
                progress=progress,
            )
        _tell_cost(path, record)
        told["engine"] = record.model_dump(mode="json") | {"name": record.name}
    if sign is not None:
        _sign(bundle, sign)
    if out is not None:
        people.print(f"next: mapl-edge calibrate {path} --good FOLDER")
    return print_json(as_json, {"bundle": str(path), "digest": bundle.digest, **told})


def _train_config(path: Path | None, *, size: str | None, roi: str | None, **flags: Any) -> TrainConfig:
    """Settings from a YAML file, overruled by flags."""
    base = config_from_yaml(path, TrainConfig).model_dump(mode="json") if path else {}
    base |= {key: str(value) if isinstance(value, Path) else value for key, value in flags.items() if value is not None}
    contract = dict(base.get("contract", {}))
    if size is not None:
        base["fit_aspect"] = False
        contract["size_hw"] = numbers(size, "x", 2, "--size", "HEIGHTxWIDTH such as 256x256")
    if roi is not None:
        contract["roi_xywh"] = numbers(roi, ",", 4, "--roi", "LEFT,TOP,WIDTH,HEIGHT such as 0,0,640,480")
    try:
        return config_from_dict({**base, "contract": contract}, TrainConfig, where="train")
    except ConfigError as exc:  # of a flag: the file is right by itself
        raise OptionError(str(exc)) from exc


def _tell_cost(path: Path, record: Any) -> None:
    cost = record.cost
    parts = [f"score within {cost.score_error:.1e}, map within {cost.map_error:.1e} of the reference"]
    if cost.auroc is not None:
        parts.append(f"image AUROC {cost.auroc:.4f} (fp32: {cost.auroc_fp32:.4f})")
    if cost.ms is not None:
        parts.append(f"{cost.ms:.1f} ms a frame (fp32: {cost.ms_fp32:.1f})")
    people.print(f"{path}: engine {record.name} added, measured with {cost.measured_with}: {', '.join(parts)}")


def _sign(bundle: Bundle, key: Path) -> None:
    from mapl_edge.engine_record import engine_files
    from mapl_edge.signature import sign_bundle, sign_engine

    names = engine_names(bundle)
    for name in names:
        sign_engine(engine_files(bundle, name), key)
    sign_bundle(bundle, key)
    people.print(f"{bundle.path}: signed, with its engines {', '.join(names)}")
