"""From the name of a foreign tokenizer to the tokenizer; files are found and checked here."""

from pathlib import Path

from reeltok.files.checkpoints import find_file
from reeltok.hub import fetch_repository, has_weights, is_repository, model_folder
from reeltok.models.foreign.diffusers import Diffusers, DiffusersConfig, read_config, with_state
from reeltok.models.foreign.function import Function, FunctionConfig
from reeltok.models.foreign.names import HOW, ForeignName
from reeltok.models.foreign.network import Foreign
from reeltok.models.foreign.torchscript import TorchScript, TorchScriptConfig
from reeltok.tokenizer.rows import read_packed


def open_foreign(
    name: ForeignName,
    *,
    weights: str | Path | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> Foreign:
    """The tokenizer that a name asks for, in evaluation mode on the CPU.

    `weights` are those of a file, or "random", for a class of diffusers. Where nothing has any it
    runs with random ones of seed 0, and is not `trained`. ValueError, or an OSError, for what
    cannot be opened.
    """
    if name.kind == "diffusers":
        return open_diffusers(name, weights=weights, revision=revision, variant=variant)
    if weights is not None:
        raise ValueError(f"{name.text} has its own weights: leave out weights={str(weights)!r}")
    if name.kind == "torchscript":
        encoder, decoder = map(str, name.files)
        config = TorchScriptConfig(encoder=encoder, decoder=decoder)
        made: Foreign = TorchScript(config, name.files[0].parent.name or "torchscript")
    else:
        made = Function(FunctionConfig(name=name.text), name.text)
    return made.eval()


def open_diffusers(
    name: ForeignName,
    *,
    weights: str | Path | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> Diffusers:
    """An autoencoder of diffusers: a class, with the weights of a folder or of a hub repository.

    Either may be a pipeline with its `vae`, or hold half precision or shards.
    """
    folder = None if name.place is None else find_model(name.place, revision, variant)
    if folder is None:
        assert name.cls is not None
        config = DiffusersConfig(class_name=name.cls)
    else:
        config = read_config(folder, name.cls)
    cls = config.class_name
    called = cls if name.place is None else f"{cls} ({Path(name.place).name})"
    source: Path | None = folder if folder is not None and has_weights(folder, variant) else None
    if weights is not None:
        source = None if str(weights) == "random" else Path(weights)
    if source is not None and source.is_dir():
        source = find_file(source, variant)
    state = None if source is None else read_packed(source)
    return with_state(config, called, state, source=str(source or name.text))


def find_model(name: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of a model by its own name, that of a pipeline, or that of a hub repository.

    FileNotFoundError where there is none.
    """
    if not Path(name).is_dir():
        if is_repository(name):
            return fetch_repository(name, revision=revision, variant=variant)
        raise FileNotFoundError(f"there is no folder {name}: {HOW}")
    folder = model_folder(Path(name))
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{name} has no config.json: give a folder that diffusers' save_pretrained wrote"
        )
    return folder
