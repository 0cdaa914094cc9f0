"""`models.yaml`: which models the worker has, read without loading any of them (and without torch).

An entry::

    models:
      - name: plants
        kind: detection              # or sam, instance, semantic, classification, embedding, torchscript
        architecture: fcos_small     # a name of consumer/models/architectures.py
        weights: plants.safetensors  # beside models.yaml, or gs://bucket/path
        sha256: 9f86d08...           # of the weights file; checked before every load
        version: "2025-06-01"        # reported in every result
        classes: [plant]
        threshold: 0.5               # without it, the step's own
        input_size: 640              # longer side, in pixels, of what the model is shown
        precision: exact             # or fast: docs/precision.md
        decoding: full               # or scaled: docs/models.md
        tenants: {acme: plants_acme} # acme's photos use the model `plants_acme` where `plants` is asked for
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline_steps.models import Decoding, ModelKind, ModelSpec, Precision

MANIFEST_FILE = "models.yaml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GS_URL = re.compile(r"gs://[a-z0-9][a-z0-9._-]*/[^\x00-\x1f]+")
_SUFFIXES = (".safetensors", ".pt", ".pth")
_WITH_CLASSES = {ModelKind.DETECTION, ModelKind.INSTANCE, ModelKind.SEMANTIC, ModelKind.CLASSIFICATION}
_WITHOUT_CLASSES = {ModelKind.SAM, ModelKind.EMBEDDING}

ModelName = Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
ComputeDtype = Literal["float32", "float16", "bfloat16"]


class InvalidManifest(Exception):
    """A `models.yaml` that cannot be used; `problems` names everything that is wrong, each with its path."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__("\n".join([f"{source} cannot be used:", *(f"  {problem}" for problem in problems)]))
        self.source = source
        self.problems = tuple(problems)


class ModelEntry(BaseModel):
    """What `models.yaml` says of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ModelName
    kind: ModelKind
    architecture: str = ""
    """The builder's name; a TorchScript archive needs none."""
    weights: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    version: str = Field(min_length=1, max_length=64)
    classes: tuple[Annotated[str, Field(min_length=1, max_length=255)], ...] = ()
    threshold: StrictFloat | None = Field(default=None, ge=0, le=1)
    """Score under which an answer is dropped, unless the step says otherwise; unset leaves it to the step."""
    precision: Precision = Precision.EXACT
    """Unset, `dtype` says it: 16 bits are `fast`."""
    dtype: ComputeDtype | None = None
    """The 16 bits that `fast` means on a GPU, where they are not to be the device's best."""
    decoding: Decoding = Decoding.FULL
    input_size: StrictInt = Field(ge=16, le=8192)
    """Longer side, in pixels, of what the model is shown."""
    max_batch: StrictInt = Field(default=8, ge=1, le=1024)
    """Most items that share a forward pass; for `sam`, pictures in the encoder."""
    pinned: StrictBool = True
    """Loaded and warmed up before the worker is ready; `false` loads at the first use."""
    tenants: dict[str, ModelName] = Field(default_factory=dict)
    """Tenants that get another model where this one is asked for."""

    @field_validator("weights")
    @classmethod
    def _inside_the_folder(cls, weights: str) -> str:
        if not weights.endswith(_SUFFIXES):
            raise ValueError(f"expected a file ending in {', '.join(_SUFFIXES)}")
        if "://" in weights:
            parts = weights.removeprefix("gs://").split("/")
            if not _GS_URL.fullmatch(weights) or any(part in {"", ".", ".."} for part in parts):
                raise ValueError("expected gs://bucket/path, or a path beside models.yaml")
            return weights
        path = PurePosixPath(weights)
        if path.is_absolute() or ".." in path.parts or "\\" in weights or not weights.isprintable():
            raise ValueError("expected a path inside the folder of models.yaml")
        return weights

    @field_validator("classes")
    @classmethod
    def _each_class_once(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in classes if classes.count(name) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return classes

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> ModelEntry:
        if self.kind in _WITH_CLASSES and not self.classes:
            raise ValueError(f"classes: a {self.kind} model needs at least one")
        if self.kind in _WITHOUT_CLASSES and self.classes:
            raise ValueError(f"classes: a {self.kind} model has none")
        if self.kind is ModelKind.TORCHSCRIPT:
            if self.weights.endswith(".safetensors"):
                raise ValueError("weights: a torchscript model is an archive ending in .pt or .pth")
            for field in ("precision", "dtype"):
                if getattr(self, field) not in (None, Precision.EXACT, "float32"):
                    raise ValueError(f"{field}: a torchscript model computes as it was made to")
        elif not self.architecture:
            raise ValueError(f"architecture: a {self.kind} model needs one")
        if self.dtype and "precision" in self.model_fields_set and self.profile is not self.precision:
            raise ValueError(f"dtype: {self.dtype} is not what `precision: {self.precision}` computes in")
        return self

    @property
    def profile(self) -> Precision:
        """The precision, by whichever of its two names it is given."""
        if self.dtype is None:
            return self.precision
        return Precision.EXACT if self.dtype == "float32" else Precision.FAST

    @property
    def spec(self) -> ModelSpec:
        """What steps are told of the model."""
        return ModelSpec(
            self.name,
            self.kind,
            self.version,
            self.sha256,
            self.classes,
            self.threshold,
            self.input_size,
            self.profile,
            self.decoding,
        )


class Manifest:
    """The models of one `models.yaml`.

    Attributes:
        base: the folder or `gs://` prefix that relative weights stand in.
        models: the entries, by name, in the file's order.
    """

    def __init__(self, base: str, models: Sequence[ModelEntry]) -> None:
        self.base = base
        self.models: Mapping[str, ModelEntry] = {model.name: model for model in models}

    def specs(self) -> dict[str, ModelSpec]:
        """Return what steps are told of each model."""
        return {name: model.spec for name, model in self.models.items()}

    def location(self, model: ModelEntry) -> str:
        """Return where the model's weights are: a path or a `gs://` url."""
        return model.weights if "://" in model.weights else f"{self.base}/{model.weights}"

    def for_tenant(self, name: str, tenant_id: str) -> str:
        """Return the model that `tenant_id` gets where `name` is asked for."""
        model = self.models.get(name)
        return name if model is None else model.tenants.get(tenant_id, name)


def load_manifest(folder: Path) -> Manifest:
    """Read `models.yaml` in `folder`.

    Raises:
        InvalidManifest: there is none, or something in it is wrong; all problems are named at once.
    """
    path = folder / MANIFEST_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidManifest(str(path), [f"cannot be read: {error.strerror}"]) from error
    manifest = parse_manifest(data, base=str(folder))
    outside = [
        f"models.{index}.weights: {model.weights!r} is a link that leads out of the folder"
        for index, model in enumerate(manifest.models.values())
        if "://" not in model.weights
        and not (folder / model.weights).resolve().is_relative_to(folder.resolve())
    ]
    if outside:
        raise InvalidManifest(str(path), outside)
    return manifest


def parse_manifest(data: bytes, *, base: str) -> Manifest:
    """Read the bytes of a `models.yaml` whose relative weights stand in `base`.

    Raises:
        InvalidManifest: something in it is wrong; all problems are named at once.
    """
    source = f"{base}/{MANIFEST_FILE}"
    try:
        document = yaml.load(data, Loader=_NoDuplicateKeys)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidManifest(source, [f"is not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(document, dict) or not isinstance(document.get("models"), list):
        raise InvalidManifest(source, ["models: expected a list of models"])

    problems = [f"{key}: unknown key; expected only `models`" for key in document if key != "models"]
    models: list[ModelEntry] = []
    for index, item in enumerate(document["models"]):
        try:
            models.append(ModelEntry.model_validate(item))
        except ValidationError as error:
            problems += _problems(error, f"models.{index}")
    problems += _problems_between(document["models"])
    if problems:
        raise InvalidManifest(source, problems)
    return Manifest(base, models)


class _NoDuplicateKeys(yaml.SafeLoader):
    """YAML lets a later key silently replace an earlier one; here that is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _problems(error: ValidationError, path: str) -> list[str]:
    """Say each of pydantic's errors as all our problems are said: path, what was expected, what was got."""
    problems = []
    for detail in error.errors(include_url=False):
        where = ".".join([path, *(str(part) for part in detail["loc"])])
        key, got = str(detail["loc"][-1]) if detail["loc"] else "", detail["input"]
        match detail["type"]:
            case "missing":
                problems.append(f"{where}: missing")
            case "extra_forbidden":
                problems.append(f"{where}: unknown key{_nearest(key, ModelEntry.model_fields)}")
            case "enum":
                known = [*map(str, {"precision": Precision, "decoding": Decoding}.get(key, ModelKind))]
                problems.append(
                    f"{where}: expected one of {', '.join(known)}, got {got!r}{_nearest(got, known)}"
                )
            case "value_error" if not detail["loc"]:
                field, _, rest = str(detail["ctx"]["error"]).partition(": ")
                problems.append(f"{where}.{field}: {rest}")
            case "value_error":
                problems.append(f"{where}: {detail['ctx']['error']}, got {got!r}")
            case "string_type" if not isinstance(got, (dict, list)):
                problems.append(f"{where}: expected text, got {got!r}: put it in quotes")
            case "string_pattern_mismatch" if key == "sha256":
                problems.append(f"{where}: expected 64 lower-case hexadecimal digits, got {got!r}")
            case _:
                problems.append(f"{where}: {detail['msg']}, got {got!r}")
    return problems


def _problems_between(items: list[Any]) -> list[str]:
    """Find what no entry can see by itself: names used twice, overrides that lead nowhere."""
    entries = [item if isinstance(item, dict) else {} for item in items]
    kinds = {entry["name"]: entry.get("kind") for entry in entries if isinstance(entry.get("name"), str)}
    problems, first = [], dict[str, int]()
    for index, entry in enumerate(entries):
        name = entry.get("name")
        if isinstance(name, str) and first.setdefault(name, index) != index:
            problems.append(f"models.{index}.name: {name!r} is models.{first[name]} already")
        overrides = entry.get("tenants")
        for tenant, other in overrides.items() if isinstance(overrides, dict) else ():
            where = f"models.{index}.tenants.{tenant}"
            if not isinstance(other, str):
                continue  # said by the entry itself
            if other not in kinds:
                problems.append(f"{where}: no model is named {other!r}{_nearest(other, kinds)}")
            elif kinds[other] != entry.get("kind"):
                problems.append(
                    f"{where}: {other!r} is a {kinds[other]} model, {name!r} a {entry.get('kind')} model"
                )
    return problems


def _nearest(name: object, known: Mapping[str, Any] | Sequence[str]) -> str:
    close = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
